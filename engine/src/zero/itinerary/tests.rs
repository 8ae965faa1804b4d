use super::{Bounds, Direction, Route, Visit};

const NOTHING_AHEAD: Bounds = Bounds { prefetch: 0, max_live: usize::MAX, max_reuse: 0 };

fn training(needs: &[&[usize]], lens: &[usize], bounds: Bounds) -> Vec<Visit> {
    let needs: Vec<Vec<usize>> = needs.iter().map(|buckets| buckets.to_vec()).collect();
    Route { needs: &needs, lens, first_trained: 0, bounds }.training()
}

/// `F0 fetch [0] free [0]` and so on, without what is empty.
fn words(visits: &[Visit]) -> Vec<String> {
    let list = |word: &str, buckets: &[usize]| match buckets {
        [] => String::new(),
        buckets => format!(" {word} {buckets:?}"),
    };
    let letter = |direction| if direction == Direction::Forward { 'F' } else { 'B' };
    visits
        .iter()
        .map(|visit| {
            let (fetch, frees) = (list("fetch", &visit.fetch), list("free", &visit.frees));
            format!("{}{}{fetch}{frees}", letter(visit.direction), visit.unit)
        })
        .collect()
}

#[test]
fn a_unit_is_gathered_for_its_forward_and_again_for_its_backward() {
    let visits = training(&[&[0], &[1], &[2]], &[10, 20, 30], NOTHING_AHEAD);
    assert_eq!(
        words(&visits),
        [
            "F0 fetch [0] free [0]",
            "F1 fetch [1] free [1]",
            "F2 fetch [2] free [2]",
            "B2 fetch [2] free [2]",
            "B1 fetch [1] free [1]",
            "B0 fetch [0] free [0]",
        ]
    );
}

#[test]
fn gathers_run_ahead_in_the_order_of_the_visits_within_both_bounds() {
    let needs: [&[usize]; 3] = [&[0], &[1], &[2]];
    let one_ahead = Bounds { prefetch: 1, ..NOTHING_AHEAD };
    let visits = training(&needs, &[10, 20, 30], one_ahead);
    assert_eq!(
        words(&visits),
        [
            "F0 fetch [0, 1] free [0]",
            "F1 fetch [2] free [1]",
            // It cannot come again before it has gone.
            "F2 free [2]",
            "B2 fetch [2, 1] free [2]",
            "B1 fetch [0] free [1]",
            "B0 free [0]",
        ]
    );
    // 45 elements do not hold the second and the third at once.
    let visits = training(&needs, &[10, 20, 30], Bounds { max_live: 45, ..one_ahead });
    assert_eq!(words(&visits)[1..3], ["F1 free [1]", "F2 fetch [2] free [2]"]);
    let all = Bounds { prefetch: 1000, ..NOTHING_AHEAD };
    assert_eq!(words(&training(&needs, &[10, 20, 30], all))[0], "F0 fetch [0, 1, 2] free [0]");
}

#[test]
fn weights_that_are_used_again_soon_stay() {
    let reuse = |max_reuse| Bounds { max_reuse, ..NOTHING_AHEAD };
    let needs: [&[usize]; 2] = [&[0], &[1]];
    let last_stays = training(&needs, &[10, 20], reuse(1));
    assert_eq!(
        words(&last_stays),
        ["F0 fetch [0] free [0]", "F1 fetch [1]", "B1 free [1]", "B0 fetch [0] free [0]"]
    );
    // Between the two visits of unit 0 lie 20 + 20 elements.
    assert_eq!(words(&training(&needs, &[10, 20], reuse(40))), words(&last_stays));
    assert_eq!(
        words(&training(&needs, &[10, 20], reuse(41))),
        ["F0 fetch [0]", "F1 fetch [1]", "B1 free [1]", "B0 free [0]"]
    );
}

#[test]
fn a_bucket_of_two_units_comes_and_goes_for_each() {
    let visits = training(&[&[0], &[], &[1, 0]], &[10, 20], NOTHING_AHEAD);
    assert_eq!(
        words(&visits),
        [
            "F0 fetch [0] free [0]",
            "F1",
            "F2 fetch [1, 0] free [1, 0]",
            "B2 fetch [1, 0] free [1, 0]",
            "B1",
            "B0 fetch [0] free [0]",
        ]
    );
}

#[test]
fn units_before_the_first_trained_have_no_backward() {
    let needs = [vec![0], vec![1]];
    let route = Route { needs: &needs, lens: &[4, 4], first_trained: 1, bounds: NOTHING_AHEAD };
    let words = words(&route.training());
    assert_eq!(words[2..], ["B1 fetch [1] free [1]"]);
    assert_eq!(route.evaluation().len(), 2);
}

/// Whatever the sizes and bounds: what a visit needs is here, nothing is fetched twice or freed
/// when it is not here, and a pass leaves nothing behind.
#[test]
fn every_plan_is_consistent() {
    let mut stream = crate::rng::Stream::new("itineraries", &[1]);
    for _ in 0..500 {
        let buckets = 1 + stream.below(5) as usize;
        let lens: Vec<usize> = (0..buckets).map(|_| 1 + stream.below(50) as usize).collect();
        let needs: Vec<Vec<usize>> = (0..1 + stream.below(6))
            .map(|_| (0..buckets).filter(|_| stream.below(3) == 0).collect())
            .collect();
        let mut bound = || stream.below(120) as usize;
        let bounds = Bounds { prefetch: bound(), max_live: bound(), max_reuse: bound() };
        let first_trained = stream.below(needs.len() as u32) as usize;
        let route = Route { needs: &needs, lens: &lens, first_trained, bounds };
        let mut here = vec![false; buckets];
        for visit in route.training() {
            for bucket in visit.fetch {
                assert!(!std::mem::replace(&mut here[bucket], true), "{route:?}");
            }
            assert!(visit.needs.iter().all(|bucket| here[*bucket]), "{route:?}");
            for bucket in visit.frees {
                assert!(std::mem::replace(&mut here[bucket], false), "{route:?}");
            }
        }
        assert!(here.iter().all(|is_here| !is_here), "{route:?}");
    }
}

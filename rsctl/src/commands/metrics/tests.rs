//! Claims about metrics as table and CSV.

use super::*;

fn points(of: &[(&str, &[(u64, f64)])]) -> Points {
    let point = |(step, value): &(u64, f64)| MetricPoint {
        step: *step,
        samples: step * 32,
        value: *value,
        time: 1_700_000_000_000 + step,
    };
    of.iter().map(|(tag, list)| ((*tag).to_owned(), list.iter().map(point).collect())).collect()
}

#[test]
fn csv_has_a_row_for_each_point_with_all_digits() {
    let points = points(&[("train/loss", &[(1, 0.1 + 0.2)]), ("val/loss", &[(2, 1e-9)])]);
    assert_eq!(
        csv(&points),
        "tag,step,samples,value,time\n\
         train/loss,1,32,0.30000000000000004,1700000000001\n\
         val/loss,2,64,0.000000001,1700000000002\n"
    );
}

#[test]
fn a_table_has_a_row_for_each_step() {
    let points = points(&[("train/loss", &[(1, 0.5), (2, 0.25)]), ("val/loss", &[(2, 0.125)])]);
    assert_eq!(
        as_table(&points),
        "STEP  train/loss  val/loss\n   1    0.500000         -\n   2    0.250000  0.125000\n"
    );
}

#[test]
fn the_tail_counts_steps_over_all_metrics() {
    let mut points =
        points(&[("train/loss", &[(1, 1.0), (2, 2.0), (3, 3.0)]), ("val/loss", &[(1, 9.0)])]);
    keep_last_steps(&mut points, 2);
    assert_eq!(points[0].1.iter().map(|p| p.step).collect::<Vec<_>>(), [2, 3]);
    assert!(points[1].1.is_empty());
}

#[test]
fn an_unknown_tag_names_the_nearest() {
    assert_eq!(known_tag("train/loss").unwrap(), "train/loss");
    let error = known_tag("train/los").unwrap_err();
    assert_eq!(error, "no such metric; the nearest is train/loss");
}

#[test]
fn a_follower_loses_no_point_of_a_place_whose_clock_is_behind_and_prints_none_twice() {
    let of = |generation, time| Series {
        name: "train/loss".to_owned(),
        rank: 0,
        generation,
        points: (0..3)
            .map(|n| MetricPoint {
                step: generation * 3 + n,
                samples: 1,
                value: 0.5,
                time: time + n,
            })
            .collect(),
    };
    let mut shown = Shown::default();
    assert_eq!(shown.news(of(1, 100_000)).len(), 3);
    assert_eq!(shown.news(of(2, 70_000)).len(), 3, "30 s behind");
    // The stream begins anew.
    assert_eq!(shown.news(of(1, 100_000)), []);
    assert_eq!(shown.news(of(2, 70_000)), []);
    assert_eq!(shown.news(of(2, 70_001)).len(), 1);
}

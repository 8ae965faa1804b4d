use super::*;

const POLICY: Policy = Policy {
    min: Duration::from_millis(100),
    max: Duration::from_secs(5),
    jitter: 0.5,
    budget: Budget::Unbounded,
};

#[test]
fn waits_double_from_min_to_max() {
    let waits: Vec<u128> = (1..=8)
        .map(|failed| POLICY.wait_after(failed, Duration::ZERO, 0.0).unwrap().as_millis())
        .collect();
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
}

#[test]
fn chance_only_shortens_a_wait_and_by_no_more_than_the_jitter() {
    for failed in [1, 2, 7, 1000, u32::MAX] {
        let full = POLICY.wait_after(failed, Duration::ZERO, 0.0).unwrap();
        let half = POLICY.wait_after(failed, Duration::ZERO, 1.0).unwrap();
        assert_eq!(half, full.mul_f64(0.5));
        let between = POLICY.wait_after(failed, Duration::ZERO, 0.3).unwrap();
        assert!(half < between && between < full);
    }
}

#[test]
fn a_number_of_tries_includes_the_first() {
    let policy = Policy { budget: Budget::Tries(3), ..POLICY };
    assert!(policy.wait_after(1, Duration::ZERO, 0.0).is_some());
    assert!(policy.wait_after(2, Duration::ZERO, 0.0).is_some());
    assert_eq!(policy.wait_after(3, Duration::ZERO, 0.0), None);
}

#[test]
fn a_wait_that_would_end_after_the_limit_is_not_begun() {
    let policy = Policy { budget: Budget::Within(Duration::from_secs(1)), ..POLICY };
    assert!(policy.wait_after(1, Duration::from_millis(900), 0.0).is_some());
    assert_eq!(policy.wait_after(1, Duration::from_millis(901), 0.0), None);
}

#[test]
fn foolish_jitter_and_chance_stay_within_the_bounds() {
    let policy = Policy { jitter: 7.0, ..POLICY };
    assert_eq!(policy.wait_after(1, Duration::ZERO, 9.0), Some(Duration::ZERO));
    assert_eq!(policy.wait_after(1, Duration::ZERO, -1.0), Some(POLICY.min));
}

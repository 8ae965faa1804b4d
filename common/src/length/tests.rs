use super::*;
use crate::spec::WarmupShape;

#[test]
fn parts_cover_all_rows_in_order() {
    for rows in [0, 1, 7, 2284, 20_000] {
        for split in [[0.7, 0.15, 0.15], [0.8, 0.2, 0.0], [1.0, 0.0, 0.0], [0.333, 0.333, 0.334]] {
            let parts = split_rows(rows, split);
            assert_eq!(parts.iter().sum::<u64>(), rows, "{rows} {split:?}");
            for (part, wanted) in parts.iter().zip(split) {
                assert!((*part as f64 - rows as f64 * wanted).abs() <= 1.5, "{rows} {split:?}");
            }
        }
    }
    assert_eq!(split_rows(2284, [0.7, 0.15, 0.15]), [1599, 342, 343]);
    assert_eq!(split_rows(100, [0.8, 0.2, 0.0]), [80, 20, 0]);
}

#[test]
fn a_window_and_its_horizon_fit_or_do_not() {
    assert_eq!(windows(51, 50, 1), 1);
    assert_eq!(windows(50, 50, 1), 0);
    assert_eq!(windows(0, 50, 1), 0);
    assert_eq!(windows(100, 10, 5), 86);
}

#[test]
fn a_short_last_batch_is_dropped_or_kept() {
    assert_eq!(steps_per_epoch(8000, 128, true), 62);
    assert_eq!(steps_per_epoch(8000, 128, false), 63);
    assert_eq!(steps_per_epoch(127, 128, true), 0);
}

#[test]
fn a_warm_up_is_compared_with_the_shorter_of_run_and_schedule() {
    let warmup =
        Schedule::WarmupLr { min_lr: 0.0, max_lr: 1.0, warmup_steps: 100, shape: WarmupShape::Log };
    assert_eq!(schedule_warning(&warmup, 100), None);
    assert!(schedule_warning(&warmup, 99).unwrap().contains("100 steps"));
    let cosine = |total_steps| Schedule::WarmupCosineLr {
        warmup_min_ratio: 0.0,
        cos_min_ratio: 0.0,
        warmup_steps: 100,
        shape: WarmupShape::Log,
        total_steps,
    };
    assert_eq!(schedule_warning(&cosine(None), 200), None);
    assert!(schedule_warning(&cosine(Some(50)), 200).unwrap().contains("the run of 50"));
    assert_eq!(schedule_warning(&Schedule::Constant, 0), None);
}

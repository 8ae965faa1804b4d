use super::{Error, Plan};
use crate::tests::spec;
use crate::train::State;

fn plan(batch_size: u64, micro: u64, world: u32, samples: u64, drop_last: bool) -> Plan {
    let spec = spec::job().batch(batch_size, micro).epochs(3).drop_last(drop_last).build();
    Plan::new(&spec, world, samples).unwrap()
}

/// Every sample of a batch goes to exactly one rank in exactly one micro-step, in order, whatever
/// the world: any world sees the same global batches (A12).
#[test]
fn runs_partition_every_batch() {
    for world in 1..=4 {
        for (batch_size, micro) in [(32, 8), (10, 3), (7, 7), (64, 5)] {
            let plan = plan(batch_size, micro, world, 100, false);
            let mut from = 0;
            while let Some(batch) = plan.batch_at(from) {
                let runs: Vec<usize> = (0..batch.micro_steps)
                    .flat_map(|m| (0..world).flat_map(move |r| [(m, r)]))
                    .flat_map(|(m, r)| batch.run(m, r))
                    .collect();
                let expected: Vec<usize> = (from as usize..(from + batch.len()) as usize).collect();
                assert_eq!(runs, expected, "world {world}, batch {batch_size}, micro {micro}");
                from += batch.len();
            }
            assert_eq!(from, 100);
        }
    }
}

#[test]
fn a_short_batch_is_dropped_or_cut_anew() {
    let dropped = plan(32, 8, 2, 70, true);
    assert_eq!((dropped.steps_per_epoch, dropped.total_steps), (2, 6));
    assert_eq!(dropped.batch_at(64), None);
    let kept = plan(32, 8, 2, 70, false);
    assert_eq!((kept.steps_per_epoch, kept.total_steps), (3, 9));
    let last = kept.batch_at(64).unwrap();
    assert_eq!((last.len(), last.micro_steps), (6, 1));
    assert_eq!(kept.batch_at(70), None);
}

#[test]
fn the_shorter_of_epochs_and_max_steps_ends_the_run() {
    let spec = spec::job().batch(10, 10).epochs(3).max_steps(17).build();
    assert_eq!(Plan::new(&spec, 1, 100).unwrap().total_steps, 17);
    let spec = spec::job().batch(10, 10).epochs(1).max_steps(17).build();
    assert_eq!(Plan::new(&spec, 1, 100).unwrap().total_steps, 10);
}

#[test]
fn continuing_counts_the_same_steps_unless_the_batch_size_changed() {
    for drop_last in [true, false] {
        let fresh = plan(32, 8, 2, 100, drop_last);
        let mut state = State::default();
        while let Some(batch) = fresh.batch_at(state.epoch_samples) {
            state.on_step(batch.len(), 1.0, 1.0);
            let mut continued = fresh.clone();
            continued.continue_from(&state);
            assert_eq!(continued.total_steps, fresh.total_steps, "after {state:?}");
        }
    }
    // 2 of 3 epochs are left whole, and 36 samples of the first.
    let mut larger = plan(50, 50, 1, 100, true);
    let state = State { step: 2, epoch_samples: 64, ..State::default() };
    larger.continue_from(&state);
    assert_eq!(larger.total_steps, 2 + 2 * 2);
}

#[test]
fn less_data_than_a_batch_is_refused_with_both_numbers() {
    let spec = spec::job().batch(64, 32).drop_last(true).build();
    let error = Plan::new(&spec, 2, 40).unwrap_err();
    assert_eq!(error, Error::NoFullBatch { samples: 40, batch_size: 64 });
}

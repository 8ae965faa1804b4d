//! Batches of jobs whose world may change.

use proptest::prelude::*;

use super::{batch, sourced};
use crate::batch::{Error, pin, plan, worlds};
use crate::spec::Batch;
use crate::spec::BatchMismatch::{Adapt, Error as Strict};

#[test]
fn what_is_not_given_is_what_the_largest_world_would_take() {
    let pinned = pin(&batch(Some(48), None, None, Adapt), Some(3)).unwrap();
    let micro = sourced(16, "inferred from batch-size and resources.max-ranks");
    let given = batch(Some(48), None, None, Adapt);
    assert_eq!(pinned, Batch { micro_batch_size: Some(micro), ..given });
    let pinned = pin(&batch(None, Some(8), Some(2), Adapt), Some(3)).unwrap();
    let from = "inferred from micro-batch-size, gradient-accumulation and resources.max-ranks";
    let total = sourced(48, from);
    assert_eq!(pinned, Batch { batch_size: Some(total), ..batch(None, Some(8), None, Adapt) });
}

#[test]
fn without_a_largest_world_the_batch_must_be_given() {
    let given = batch(Some(48), None, None, Adapt);
    assert_eq!(pin(&given, None), Ok(given));
    let error = pin(&batch(None, Some(8), None, Adapt), None).unwrap_err();
    assert_eq!(error, Error::Unbounded(sourced(8, "ds.json:3")));
}

#[test]
fn worlds_are_those_for_which_the_batch_can_be_cut() {
    let all = |given, least, most| worlds(&given, least, most).collect::<Vec<u32>>();
    assert_eq!(all(batch(Some(4), Some(2), None, Adapt), 2, None), [2, 3, 4]);
    assert_eq!(all(batch(Some(48), Some(8), None, Strict), 1, Some(5)), [1, 2, 3]);
    assert_eq!(all(batch(Some(48), Some(8), None, Strict), 4, Some(5)), [0; 0]);
}

proptest! {
    /// Every world of a pinned batch sees the same global batch, and no rank more at once.
    #[test]
    fn the_batch_is_the_same_in_every_world(
        t in 1u64..5000, m in prop::option::of(1u64..300), most in 1u32..40, world in 1u32..40,
    ) {
        prop_assume!(world <= most && u64::from(world) <= t);
        let pinned = pin(&batch(Some(t), m, None, Adapt), Some(most)).unwrap();
        let here = plan(&pinned, world).unwrap();
        prop_assert_eq!(here.batch_size.value, t);
        prop_assert!(here.largest_run() <= pinned.micro_batch_size.unwrap().value);
    }
}

//! What stays, and that removal survives a crash.

use std::path::PathBuf;

use proptest::prelude::*;

use super::fixture::{Fixture, names, shard_path};
use crate::retention::{Keep, plan};
use crate::{Found, MANIFEST_FILE, tag};
use common::ids::Generation;

fn found(step: u64, loss: Option<f64>, val_loss: Option<f64>) -> Found {
    Found {
        path: PathBuf::from(tag(step)),
        tag: tag(step),
        job_id: "job-a".parse().unwrap(),
        generation: Generation(1),
        step,
        epoch: 0,
        samples: 0,
        world_size: 1,
        stage: 0,
        loss,
        val_loss,
        bytes: 0,
    }
}

fn check(found: &[Found], keep: (u32, u32), expected: &[u64]) {
    let plan = plan(found, Keep { last: keep.0, best: keep.1 });
    let kept: Vec<_> = plan.keep.iter().map(|kept| kept.tag.clone()).collect();
    assert_eq!(kept, expected.iter().copied().map(tag).collect::<Vec<_>>());
    assert!(kept.iter().all(|tag| plan.is_pinned(tag) && !plan.remove.contains(tag)));
    assert_eq!(plan.remove.len() + kept.len(), found.len());
}

#[test]
fn the_last_and_the_best_stay() {
    let all = [
        found(10, Some(0.9), Some(0.5)),
        found(20, Some(0.5), Some(0.1)),
        found(30, Some(0.1), Some(0.3)),
        found(40, Some(0.2), Some(0.4)),
    ];
    check(&all, (2, 1), &[40, 30, 20]);
    check(&all, (1, 2), &[40, 30, 20]);
    check(&all, (1, 0), &[40]);
    check(&all, (9, 9), &[40, 30, 20, 10]);
    check(&all, (0, 0), &[40]);
    check(&[], (2, 1), &[]);
}

#[test]
fn validation_loss_decides_what_is_best_and_training_loss_where_there_is_none() {
    let validated = found(10, Some(0.9), Some(0.8));
    let trained = found(20, Some(0.001), None);
    let not_finite = found(30, None, Some(f64::NAN));
    let newest = found(40, None, None);
    let all = [validated, trained.clone(), not_finite.clone(), newest.clone()];
    check(&all, (1, 1), &[40, 10]);
    check(&[trained, not_finite, newest], (1, 1), &[40, 20]);
}

#[test]
fn of_equals_the_newer_is_better() {
    check(
        &[found(1, Some(0.5), None), found(2, Some(0.5), None), found(3, None, None)],
        (1, 1),
        &[3, 2],
    );
}

proptest! {
    #[test]
    fn the_newest_always_stays(
        steps in prop::collection::btree_set(0_u64..50, 1..20),
        losses in prop::collection::vec(prop::option::of(any::<f64>()), 20),
        keep in (0_u32..4, 0_u32..4),
    ) {
        let all: Vec<_> =
            steps.iter().zip(losses).map(|(step, loss)| found(*step, None, loss)).collect();
        let plan = plan(&all, Keep { last: keep.0, best: keep.1 });
        let newest = tag(*steps.last().unwrap());
        prop_assert!(plan.is_pinned(&newest));
        prop_assert!(!plan.remove.contains(&newest));
        prop_assert!(plan.keep.len() <= (keep.0.max(1) + keep.1) as usize);
        prop_assert_eq!(plan.keep.len() + plan.remove.len(), all.len());
    }
}

#[test]
fn pruning_removes_what_the_plan_says_and_nothing_else() {
    let fixture = Fixture::new();
    for (step, val_loss) in [(1, 0.1), (2, 0.3), (3, 0.2), (4, 0.4)] {
        fixture.save_with(step, None, Some(val_loss));
    }
    fs_err::write(fixture.root.folder(2).join("notes.txt"), "mine").unwrap();
    let plan = plan(&fixture.root.list().unwrap().whole, Keep { last: 1, best: 1 });
    let removed = fixture.root.prune(&plan, Some(&fixture.fence)).unwrap();
    assert_eq!(removed, [tag(2), tag(3)]);
    assert_eq!(fixture.tags(), [tag(4), tag(1)]);
    assert!(!fixture.root.folder(3).exists());
    assert_eq!(names(&fixture.root.folder(2)), ["notes.txt"], "not ours, so it stays");
    assert!(fixture.root.prune(&plan, None).unwrap().is_empty(), "again: nothing to do");
}

#[test]
fn a_removal_that_crashed_after_the_manifest_is_finished_by_the_next_attempt() {
    let mut fixture = Fixture::new();
    let first = fixture.save(1, 2);
    fixture.save(2, 2);
    fs_err::remove_file(first.path.join(MANIFEST_FILE)).unwrap();
    fs_err::remove_file(shard_path(&first, 1)).unwrap();
    assert_eq!(fixture.tags(), [tag(2)]);
    let incomplete = fixture.root.list().unwrap().incomplete;
    assert!(!incomplete[0].is_damaged(), "{incomplete:?}");
    fixture.raise(2);
    fixture.root.sweep(&fixture.fence).unwrap();
    assert!(!first.path.exists());
    assert_eq!(fixture.tags(), [tag(2)]);
}

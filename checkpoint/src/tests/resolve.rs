//! From where a run resumes.

use common::spec::Resume;

use super::fixture::{Fixture, shard_path};
use crate::{Error, MANIFEST_FILE, Root, Selected, tag};

fn selected(root: &Root, resume: &Resume) -> Result<Selected, Error> {
    root.resolve(resume)?.select()
}

fn chosen(root: &Root, resume: &Resume) -> Option<String> {
    let selected = selected(root, resume).unwrap();
    assert!(selected.skipped.is_empty(), "{selected:?}");
    selected.checkpoint.map(|found| found.tag)
}

fn flip_last_byte(path: &std::path::Path) {
    let mut bytes = fs_err::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs_err::write(path, bytes).unwrap();
}

#[test]
fn every_way_to_ask_finds_its_checkpoint() {
    let fixture = Fixture::new();
    for (step, val_loss) in [(5, 0.3), (12, 0.1), (15, 0.2), (20, 0.4)] {
        fixture.save_with(step, None, Some(val_loss));
    }
    let root = &fixture.root;
    assert_eq!(chosen(root, &Resume::Auto), Some(tag(20)));
    assert_eq!(chosen(root, &Resume::Latest), Some(tag(20)));
    assert_eq!(chosen(root, &Resume::Best), Some(tag(12)));
    assert_eq!(chosen(root, &Resume::Step(5)), Some(tag(5)));
    assert_eq!(chosen(root, &Resume::Epoch(1)), Some(tag(15)), "the newest of the epoch");
    assert_eq!(chosen(root, &Resume::Path(root.folder(5))), Some(tag(5)));
    assert_eq!(chosen(root, &Resume::Never), None);
}

#[test]
fn auto_starts_anew_where_nothing_is_and_the_others_say_so() {
    let fixture = Fixture::new();
    let missing = Root::at(&fixture.root.path().join("nowhere"));
    for root in [&fixture.root, &missing] {
        assert_eq!(chosen(root, &Resume::Auto), None);
        for resume in [Resume::Latest, Resume::Best, Resume::Epoch(0), Resume::Step(1)] {
            let error = selected(root, &resume).unwrap_err();
            let expected = matches!(error, Error::NoSuchCheckpoint { .. } | Error::NoFolder { .. });
            assert!(expected, "{resume:?}: {error}");
        }
    }
    // An unfinished save is not a checkpoint, and no news either.
    fixture.write(3, 1);
    assert_eq!(chosen(&fixture.root, &Resume::Auto), None);
    let error = selected(&fixture.root, &Resume::Step(3)).unwrap_err();
    assert!(matches!(error, Error::NoSuchCheckpoint { .. }), "{error}");
}

#[test]
fn what_is_there_is_named_when_what_was_asked_is_not() {
    let fixture = Fixture::new();
    fixture.save(5, 1);
    fixture.save(15, 1);
    let said = selected(&fixture.root, &Resume::Step(6)).unwrap_err().to_string();
    assert!(said.contains("step-00000006") && said.contains("step-00000015, step-00000005"));
    let said = selected(&fixture.root, &Resume::Epoch(7)).unwrap_err().to_string();
    assert!(said.contains("epoch-7") && said.contains("step-00000015 (epoch 1)"), "{said}");
    let root = Resume::Path(fixture.root.path().to_owned());
    let said = selected(&fixture.root, &root).unwrap_err().to_string();
    assert!(said.contains("step-00000015"), "a root in place of a checkpoint: {said}");
}

#[test]
fn auto_passes_over_damage_with_a_reason_each_and_takes_the_next_older() {
    let fixture = Fixture::new();
    let saved = [1, 2, 3, 4].map(|step| fixture.save(step, 2));
    flip_last_byte(&shard_path(&saved[3], 1));
    fs_err::remove_file(shard_path(&saved[2], 0)).unwrap();
    fs_err::write(saved[1].path.join(MANIFEST_FILE), "{").unwrap();
    let selected = selected(&fixture.root, &Resume::Auto).unwrap();
    assert_eq!(selected.checkpoint.unwrap().tag, tag(1));
    assert_eq!(selected.skipped.len(), 3);
    let reason = |step| {
        let path = fixture.root.folder(step);
        &selected.skipped.iter().find(|skipped| skipped.path == path).unwrap().reason
    };
    assert!(reason(4).contains("rank-00001-of-00002.g1.safetensors` is corrupt"), "{}", reason(4));
    assert!(reason(3).contains("rank-00000-of-00002.g1.safetensors` is missing"), "{}", reason(3));
    assert!(reason(2).contains(MANIFEST_FILE), "{}", reason(2));
}

#[test]
fn damage_to_what_was_asked_for_is_an_error() {
    let fixture = Fixture::new();
    fixture.save(1, 1);
    let newest = fixture.save(2, 1);
    flip_last_byte(&shard_path(&newest, 0));
    let explicit = [Resume::Latest, Resume::Step(2), Resume::Path(newest.path.clone())];
    for resume in &explicit {
        assert!(selected(&fixture.root, resume).unwrap_err().is_defect(), "{resume:?}");
    }
    // Also where the damage shows before any hash is taken.
    fs_err::remove_file(shard_path(&newest, 0)).unwrap();
    for resume in &explicit {
        assert!(selected(&fixture.root, resume).unwrap_err().is_defect(), "{resume:?}");
    }
    assert_eq!(chosen(&fixture.root, &Resume::Step(1)), Some(tag(1)));
}

/// The other job may be running, and its catalogue counts on what it saved.
#[test]
fn a_start_that_would_set_another_jobs_checkpoints_aside_is_refused_and_changes_nothing() {
    let fixture = Fixture::new();
    for (step, val_loss) in [(1, 0.5), (2, 0.1), (3, 0.9)] {
        fixture.save_with(step, None, Some(val_loss));
    }
    let (root, other) = (&fixture.root, super::fixture::fence("job-b", 1).job_id);
    for resume in [Resume::Best, Resume::Step(1), Resume::Never] {
        let error = root.check_history(&resume, &other).unwrap_err();
        assert!(matches!(error, Error::OtherHistory { .. }), "{resume:?}: {error}");
        let said = error.to_string();
        assert!(said.contains("job-a") && said.contains("step-00000003"), "{said}");
        root.check_history(&resume, &fixture.fence.job_id).unwrap();
    }
    let newest = Resume::Path(fixture.root.folder(3));
    for resume in [Resume::Auto, Resume::Latest, Resume::Step(3), newest] {
        root.check_history(&resume, &other).unwrap();
    }
    let elsewhere = Fixture::new();
    elsewhere.save(9, 1);
    let resume = Resume::Path(elsewhere.root.folder(9));
    let error = root.check_history(&resume, &other).unwrap_err();
    assert!(error.to_string().contains("starting anew"), "{error}");
    assert_eq!(root.generation().unwrap().as_ref(), Some(&fixture.fence));
    assert_eq!(fixture.tags().len(), 3);
}

//! A4, A6: at most one generation of a job can commit, and a checkpoint is never replaced.

use std::sync::Barrier;
use std::thread;

use super::fixture::{Fixture, cut, fence, manifest, names, shard_path, write};
use crate::shard::{Encoded, Incoming, ShardName};
use crate::{Error, Manifest};

#[test]
fn an_older_generation_is_superseded_and_changes_nothing() {
    let mut fixture = Fixture::new();
    let late = fixture.write(10, 2);
    fixture.raise(2);
    let error = fixture.root.commit(&late).unwrap_err();
    assert!(error.is_superseded(), "{error}");
    assert!(error.to_string().contains("generation 2 of job job-a"), "{error}");
    assert!(fixture.tags().is_empty());
    let shards: Vec<_> = late.shards.iter().map(|entry| entry.file.to_string()).collect();
    assert_eq!(names(&fixture.root.folder(10)), shards, "nothing temporary is left");

    let old = fence("job-a", 1);
    assert!(fixture.root.raise_generation(&old).unwrap_err().is_superseded());
    assert!(fixture.root.sweep(&old).unwrap_err().is_superseded());
    assert!(fixture.root.discard(10, &old).unwrap_err().is_superseded());
    assert!(fixture.root.set_aside_newer(None, &old).unwrap_err().is_superseded());
    let found = fixture.save(11, 1);
    let plan = crate::retention::Plan { keep: Vec::new(), remove: vec![found.tag] };
    assert!(fixture.root.prune(&plan, Some(&old)).unwrap_err().is_superseded());
    assert_eq!(fixture.tags(), ["step-00000011"]);
    assert_eq!(fixture.root.generation().unwrap(), Some(fence("job-a", 2)));
}

#[test]
fn both_generations_shards_lie_side_by_side_and_the_newer_commits() {
    let mut fixture = Fixture::new();
    fixture.write(10, 2);
    fixture.raise(2);
    let found = fixture.save(10, 2);
    assert_eq!(names(&found.path).len(), 5);
    assert!(crate::verify(&found.path).unwrap().is_sound());
}

#[test]
fn a_commit_before_the_generation_was_raised_is_refused() {
    let fixture = Fixture::new();
    let next = fence("job-a", 2);
    let error = write(&fixture.root, &next, 1, 1).unwrap_err();
    assert!(matches!(error, Error::NotRaised { .. }), "{error}");
    let manifest = Manifest { generation: next.generation, ..fixture.write(1, 1) };
    let manifest = Manifest { shards: renamed(manifest.shards, 2), ..manifest };
    fs_err::copy(
        fixture.root.folder(1).join("rank-00000-of-00001.g1.safetensors"),
        fixture.root.folder(1).join("rank-00000-of-00001.g2.safetensors"),
    )
    .unwrap();
    let error = fixture.root.commit(&manifest).unwrap_err();
    assert!(matches!(error, Error::NotRaised { .. }), "{error}");
}

#[test]
fn another_job_takes_a_root_over() {
    let fixture = Fixture::new();
    fixture.save(1, 1);
    let late = fixture.write(2, 1);
    let other = fence("job-b", 1);
    fixture.root.raise_generation(&other).unwrap();
    assert!(fixture.root.commit(&late).unwrap_err().is_superseded());
    let too_late = write(&fixture.root, &fixture.fence, 2, 1);
    assert!(too_late.unwrap_err().is_superseded());
    let own = write(&fixture.root, &other, 3, 1).unwrap();
    fixture.root.commit(&own).unwrap();
    assert_eq!(fixture.tags(), ["step-00000003", "step-00000001"]);
}

#[test]
fn raising_twice_to_the_same_generation_is_harmless() {
    let fixture = Fixture::new();
    fixture.root.raise_generation(&fixture.fence).unwrap();
    assert_eq!(fixture.root.generation().unwrap().as_ref(), Some(&fixture.fence));
}

#[test]
fn a_broken_fence_is_named_and_nothing_commits() {
    let fixture = Fixture::new();
    let manifest = fixture.write(1, 1);
    fs_err::write(fixture.root.path().join("generation"), "7\n").unwrap();
    let error = fixture.root.commit(&manifest).unwrap_err();
    assert!(error.chain().contains("`generation`"), "{}", error.chain());
    assert!(fixture.tags().is_empty());
}

#[test]
fn of_two_racing_commits_exactly_one_is_the_checkpoint() {
    for round in 0..20 {
        let fixture = Fixture::new();
        let shards = fixture.write(1, 1).shards;
        let barrier = Barrier::new(2);
        let attempt = |seed: u64| {
            let manifest = Manifest { seed, ..manifest(&fixture.fence, 1, shards.clone()) };
            barrier.wait();
            fixture.root.commit(&manifest).map(|_| seed)
        };
        let results = thread::scope(|scope| {
            let racers = [1, 2].map(|seed| scope.spawn(move || attempt(seed)));
            racers.map(|racer| racer.join().unwrap())
        });
        let winners: Vec<_> = results.iter().flatten().collect();
        assert_eq!(winners.len(), 1, "round {round}: {results:?}");
        let lost = results.iter().find_map(|result| result.as_ref().err()).unwrap();
        assert!(matches!(lost, Error::AlreadyCommitted { .. }), "{lost}");
        let folder = fixture.root.folder(1);
        assert_eq!(Manifest::read(&folder).unwrap().seed, *winners[0]);
        assert_eq!(names(&folder).len(), 2, "no temporary file is left");
    }
}

#[test]
fn a_raise_racing_a_commit_leaves_it_whole_or_refused() {
    for _ in 0..20 {
        let fixture = Fixture::new();
        let manifest = fixture.write(1, 1);
        let barrier = Barrier::new(2);
        let (committed, seen) = thread::scope(|scope| {
            let commit = scope.spawn(|| {
                barrier.wait();
                fixture.root.commit(&manifest)
            });
            barrier.wait();
            fixture.root.raise_generation(&fence("job-a", 2)).unwrap();
            // What the new generation sees once it has raised is final.
            let seen = fixture.tags();
            (commit.join().unwrap(), seen)
        });
        match committed {
            Ok(_) => assert_eq!(seen, ["step-00000001"]),
            Err(error) => {
                assert!(error.is_superseded(), "{error}");
                assert!(seen.is_empty());
            }
        }
        assert_eq!(fixture.tags(), seen);
    }
}

#[test]
fn racing_raises_end_at_the_highest() {
    for _ in 0..10 {
        let fixture = Fixture::new();
        let barrier = Barrier::new(3);
        thread::scope(|scope| {
            for generation in [4, 2, 3] {
                let (root, barrier) = (&fixture.root, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    match root.raise_generation(&fence("job-a", generation)) {
                        Err(error) if !error.is_superseded() => panic!("{error}"),
                        _ => {}
                    }
                });
            }
        });
        assert_eq!(fixture.root.generation().unwrap(), Some(fence("job-a", 4)));
    }
}

#[test]
fn a_committed_step_cannot_be_committed_again() {
    let mut fixture = Fixture::new();
    let found = fixture.save(1, 1);
    let bytes = fs_err::read(shard_path(&found, 0)).unwrap();
    let again = manifest(&fixture.fence, 1, Manifest::read(&found.path).unwrap().shards);
    assert!(matches!(fixture.root.commit(&again), Err(Error::AlreadyCommitted { .. })));
    fixture.raise(2);
    let error = write(&fixture.root, &fixture.fence, 1, 1).unwrap_err();
    assert!(matches!(error, Error::AlreadyCommitted { .. }));
    assert_eq!(fs_err::read(shard_path(&found, 0)).unwrap(), bytes);
}

fn renamed(mut shards: Vec<crate::ShardEntry>, generation: u64) -> Vec<crate::ShardEntry> {
    for shard in &mut shards {
        shard.file.generation = common::ids::Generation(generation);
    }
    shards
}

/// Both jobs are at their first generation, so their shards have the same names: the job before
/// renames its shard between the next job's vote and its commit.
#[test]
fn a_shard_of_the_job_before_does_not_replace_one_that_the_next_job_has_voted_for() {
    let fixture = Fixture::new();
    let owned = cut(1, 0);
    let slices: Vec<_> = owned.iter().map(|(meta, data)| (meta.clone(), &data[..])).collect();
    let file = ShardName { rank: 0, world: 1, generation: fixture.fence.generation };
    let folder = fixture.root.folder(5);
    let late = Encoded::new(file, &slices[1..]).unwrap();
    let mut incoming = Incoming::create(&folder, late.entry(), &fixture.fence).unwrap();
    late.chunks().for_each(|chunk| incoming.write(chunk).unwrap());

    let other = fence("job-b", 1);
    fixture.root.raise_generation(&other).unwrap();
    let voted = write(&fixture.root, &other, 5, 1).unwrap();
    assert!(incoming.finish().unwrap_err().is_superseded());
    assert!(late.write(&folder, &fixture.fence).unwrap_err().is_superseded());
    let found = fixture.root.commit(&voted).unwrap();
    assert!(crate::verify(&found.path).unwrap().is_sound());
    assert_eq!(names(&found.path).len(), 2, "nothing temporary is left");
}

#[test]
fn a_shard_of_the_job_before_does_not_replace_one_that_the_next_job_committed() {
    let fixture = Fixture::new();
    let owned = cut(1, 0);
    let slices: Vec<_> = owned.iter().map(|(meta, data)| (meta.clone(), &data[..])).collect();
    let file = ShardName { rank: 0, world: 1, generation: fixture.fence.generation };
    let late = Encoded::new(file, &slices[1..]).unwrap();
    let mut incoming =
        Incoming::create(&fixture.root.folder(5), late.entry(), &fixture.fence).unwrap();
    late.chunks().for_each(|chunk| incoming.write(chunk).unwrap());

    let other = fence("job-b", 1);
    fixture.root.raise_generation(&other).unwrap();
    let manifest = write(&fixture.root, &other, 5, 1).unwrap();
    let found = fixture.root.commit(&manifest).unwrap();
    assert!(incoming.finish().unwrap_err().is_superseded());
    assert!(crate::verify(&found.path).unwrap().is_sound());
    assert_eq!(names(&found.path).len(), 2, "nothing temporary is left");
}

#[test]
fn a_save_that_begins_behind_the_fence_makes_no_folder() {
    let mut fixture = Fixture::new();
    let old = fixture.fence.clone();
    fixture.raise(2);
    assert!(write(&fixture.root, &old, 10, 2).unwrap_err().is_superseded());
    assert!(!fixture.root.folder(10).exists());
    // Nor does it say of a step that its successor has saved that it was committed: it must end.
    fixture.save(11, 1);
    assert!(write(&fixture.root, &old, 11, 1).unwrap_err().is_superseded());
    let next = fence("job-a", 3);
    assert!(matches!(write(&fixture.root, &next, 12, 1), Err(Error::NotRaised { .. })));
    assert_eq!(names(fixture.root.path()), [".lock", "generation", "step-00000011"]);
}

/// A shard that is all written but has no name yet.
fn unnamed(fixture: &Fixture, step: u64, rank: u32, world: u32) -> Incoming {
    let owned = cut(world, rank);
    let slices: Vec<_> = owned.iter().map(|(meta, data)| (meta.clone(), &data[..])).collect();
    let file = ShardName { rank, world, generation: fixture.fence.generation };
    let encoded = Encoded::new(file, &slices).unwrap();
    let folder = fixture.root.folder(step);
    let mut incoming = Incoming::create(&folder, encoded.entry(), &fixture.fence).unwrap();
    encoded.chunks().for_each(|chunk| incoming.write(chunk).unwrap());
    incoming
}

/// The next job's sweep knows its own generation's files from others' by their names, so it leaves
/// these to who wrote them.
#[test]
fn the_last_rank_of_a_save_that_the_fence_overtook_takes_the_folder_away() {
    let fixture = Fixture::new();
    let ranks = [0, 1].map(|rank| unnamed(&fixture, 5, rank, 2));
    let other = fence("job-b", 1);
    fixture.root.raise_generation(&other).unwrap();
    fixture.root.sweep(&other).unwrap();
    let folder = fixture.root.folder(5);
    for (rank, files_left) in ranks.into_iter().zip([1, 0]) {
        assert_eq!(names(&folder).len(), files_left + 1);
        assert!(rank.finish().unwrap_err().is_superseded());
    }
    assert!(!folder.exists());
}

#[test]
fn a_save_that_the_fence_overtook_never_takes_its_successors_folder_away() {
    for round in 0..50 {
        let mut fixture = Fixture::new();
        let late = [0, 1].map(|rank| unnamed(&fixture, 5, rank, 2));
        fixture.raise(2);
        let barrier = Barrier::new(3);
        let manifest = thread::scope(|scope| {
            for rank in late {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    assert!(rank.finish().unwrap_err().is_superseded());
                });
            }
            barrier.wait();
            fixture.write(5, 2)
        });
        let found = fixture.root.commit(&manifest).unwrap();
        assert!(crate::verify(&found.path).unwrap().is_sound(), "round {round}");
        assert_eq!(names(&found.path).len(), 3, "round {round}");
    }
}

//! Roots: how they are named, shared, listed, swept and rewound.

use std::path::{Path, PathBuf};

use super::fixture::{Fixture, fence, names, write};
use crate::{Error, Found, ProbeToken, Root, local_path, tag};

#[test]
fn paths_and_file_urls_name_the_same_folder() {
    for text in ["/a/b c", "file:///a/b c", "file:///a/b%20c", "FILE://localhost/a/b%20c"] {
        assert_eq!(local_path(text).unwrap(), Path::new("/a/b c"), "{text}");
    }
    let here = std::env::current_dir().unwrap();
    assert_eq!(local_path("runs/x").unwrap(), here.join("runs/x"));
    assert_eq!(local_path("/a/odd://name").unwrap(), Path::new("/a/odd://name"));
}

#[test]
fn other_urls_are_refused_by_name() {
    for scheme in ["s3", "gs", "az", "http", "S3"] {
        let error = local_path(&format!("{scheme}://bucket/x")).unwrap_err();
        assert!(matches!(error, Error::UnsupportedScheme { .. }));
        let said = error.to_string();
        assert!(said.contains(&scheme.to_lowercase()) && said.contains("not supported yet"));
    }
    for text in ["", "file://host/a", "file://a/b", "file:///a%2", "file:///a%zz", "file:///%00"] {
        let error = local_path(text).unwrap_err();
        assert!(matches!(error, Error::InvalidUrl { .. }), "{text}: {error}");
    }
}

#[test]
fn a_list_is_newest_first_with_unfinished_saves_apart() {
    let fixture = Fixture::new();
    for step in [3, 100_000_000, 20] {
        fixture.save(step, 2);
    }
    fixture.write(21, 2);
    for noise in ["step-7", "step-000000008", "step-", "other", "step-99999999999999999999999"] {
        fs_err::create_dir(fixture.root.path().join(noise)).unwrap();
    }
    let listing = fixture.root.list().unwrap();
    let steps: Vec<_> = listing.whole.iter().map(|found| found.step).collect();
    assert_eq!(steps, [100_000_000, 20, 3]);
    let unfinished: Vec<_> = listing.incomplete.iter().map(|folder| folder.step).collect();
    assert_eq!(unfinished, [21]);

    let row = listing.whole[1].row(true, Some("node-1".to_owned()));
    assert_eq!(
        (row.tag.as_str(), row.step, row.world_size, row.zero_stage),
        ("step-00000020", 20, 2, 2)
    );
    assert!(row.durable && row.pinned);
    assert_eq!(PathBuf::from(row.path), fixture.root.folder(20));
    let on_disk = names(&fixture.root.folder(20));
    let shards = on_disk.iter().filter(|name| name.starts_with("rank-"));
    let sizes = shards.map(|n| fs_err::metadata(fixture.root.folder(20).join(n)).unwrap().len());
    assert_eq!(row.bytes, sizes.sum::<u64>());
}

#[test]
fn a_root_that_is_not_there_is_an_error() {
    let fixture = Fixture::new();
    let root = Root::at(&fixture.root.path().join("nowhere"));
    assert!(matches!(root.list(), Err(Error::NoFolder { .. })));
    assert!(matches!(crate::verify(root.path()), Err(Error::NoFolder { .. })));
}

#[test]
fn a_probe_tells_a_shared_root_from_another_disk() {
    let shared = Fixture::new();
    let other = Fixture::new();
    let token = ProbeToken([7; 16]);
    shared.root.write_probe(token).unwrap();
    assert!(shared.root.read_probe(token, 1).unwrap());
    assert!(!other.root.read_probe(token, 1).unwrap());
    assert!(!Root::at(Path::new("/nowhere/at/all")).read_probe(token, 1).unwrap());
    assert!(!shared.root.read_probe(ProbeToken([8; 16]), 1).unwrap());
    shared.root.remove_probe(token).unwrap();
    assert!(!shared.root.read_probe(token, 1).unwrap());
    let left = names(shared.root.path());
    assert!(left.iter().all(|name| !name.contains("probe")), "{left:?}");
}

#[test]
fn a_sweep_removes_what_other_generations_left_and_keeps_the_rest() {
    let mut fixture = Fixture::new();
    let committed = fixture.save(1, 2);
    // Generation 1 died in step 2, and left temporary files in several places.
    fixture.write(2, 2);
    let shard = "rank-00000-of-00002.g1.safetensors";
    let temporary = format!(".{shard}.0123456789abcdef.tmp");
    for folder in [fixture.root.folder(1), fixture.root.folder(2)] {
        fs_err::write(folder.join(&temporary), "torn").unwrap();
    }
    let manifest_temporary = ".manifest.json.0123456789abcdef.tmp";
    fs_err::write(fixture.root.folder(2).join(manifest_temporary), "{").unwrap();
    fs_err::write(fixture.root.path().join(".generation.0123456789abcdef.tmp"), "{").unwrap();
    fixture.root.write_probe(ProbeToken([1; 16])).unwrap();
    // A folder with a damaged manifest, one with a foreign file.
    fs_err::create_dir(fixture.root.folder(4)).unwrap();
    fs_err::write(fixture.root.folder(4).join("manifest.json"), "{").unwrap();
    fs_err::write(fixture.root.folder(4).join(shard), "evidence").unwrap();
    fs_err::create_dir(fixture.root.folder(5)).unwrap();
    fs_err::write(fixture.root.folder(5).join("notes.txt"), "mine").unwrap();
    // Generation 2 has begun step 3.
    fixture.raise(2);
    fixture.write(3, 2);
    let current = names(&fixture.root.folder(3));

    fixture.root.sweep(&fixture.fence).unwrap();
    assert!(!fixture.root.folder(2).exists());
    assert_eq!(names(&fixture.root.folder(3)), current, "never of the current generation");
    assert!(crate::verify(&committed.path).unwrap().is_sound());
    assert_eq!(names(&committed.path).len(), 3);
    assert_eq!(names(&fixture.root.folder(4)).len(), 2);
    assert_eq!(names(&fixture.root.folder(5)), ["notes.txt"]);
    let top = names(fixture.root.path());
    assert!(top.iter().all(|name| !name.ends_with(".tmp") && !name.contains("probe")), "{top:?}");
    assert_eq!(fixture.root.sweep(&fixture.fence).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn a_failed_save_is_discarded_and_a_committed_one_is_not() {
    let fixture = Fixture::new();
    fixture.save(1, 2);
    fixture.write(2, 2);
    for step in [1, 2, 3] {
        fixture.root.discard(step, &fixture.fence).unwrap();
    }
    assert!(!fixture.root.folder(2).exists());
    assert!(crate::verify(&fixture.root.folder(1)).unwrap().is_sound());
}

#[test]
fn a_rewound_run_saves_the_same_steps_again_and_auto_follows_it() {
    let mut fixture = Fixture::new();
    for step in [5, 10, 15] {
        fixture.save(step, 1);
    }
    fixture.raise(2);
    let moved = fixture.root.set_aside_newer(Some(5), &fixture.fence).unwrap();
    assert_eq!(fixture.tags(), [tag(5)]);
    assert_eq!(fixture.root.list().unwrap().set_aside, moved);
    assert!(moved.iter().all(|path| crate::verify(path).unwrap().is_sound()), "nothing is lost");
    fixture.save(10, 2);
    assert_eq!(fixture.tags(), [tag(10), tag(5)]);

    // Twice in one generation, and from the start.
    assert_eq!(fixture.root.set_aside_newer(None, &fixture.fence).unwrap().len(), 2);
    assert!(fixture.tags().is_empty());
    assert_eq!(fixture.root.list().unwrap().set_aside.len(), 4);
}

#[test]
fn a_root_knows_its_own_checkpoints_by_any_path() {
    let fixture = Fixture::new();
    fixture.save(5, 1);
    let link = fixture.root.path().join("link");
    std::os::unix::fs::symlink(fixture.root.path(), &link).unwrap();
    let other = Fixture::new();
    other.save(5, 1);
    for path in [fixture.root.folder(5), link.join(tag(5)), link.join("link").join(tag(5))] {
        let found = Found::at(&path).unwrap();
        assert!(fixture.root.holds(&found).unwrap(), "{}", path.display());
        assert!(!other.root.holds(&found).unwrap());
    }
    let found = Found::at(&fixture.root.folder(5)).unwrap();
    fs_err::remove_dir_all(fixture.root.folder(5)).unwrap();
    assert!(!fixture.root.holds(&found).unwrap(), "gone");
}

#[test]
fn what_was_set_aside_can_be_removed_and_nothing_else_can() {
    let fixture = Fixture::new();
    fixture.save(5, 1);
    fixture.save(10, 1);
    let moved = fixture.root.set_aside_newer(Some(5), &fixture.fence).unwrap();
    assert!(fixture.root.remove_set_aside(&moved[0]).unwrap());
    assert!(!fixture.root.remove_set_aside(&moved[0]).unwrap());
    let above = fixture.root.path().join("aside-x/../step-00000005");
    for path in [fixture.root.folder(5), above, PathBuf::from("/")] {
        fixture.root.remove_set_aside(&path).unwrap_err();
    }
    assert_eq!(fixture.tags(), [tag(5)]);
}

#[test]
fn another_jobs_leftovers_with_the_same_generation_are_replaced() {
    let fixture = Fixture::new();
    fixture.write(1, 2);
    let other = fence("job-b", 1);
    fixture.root.raise_generation(&other).unwrap();
    fixture.root.sweep(&other).unwrap();
    let manifest = write(&fixture.root, &other, 1, 2).unwrap();
    let found = fixture.root.commit(&manifest).unwrap();
    assert!(crate::verify(&found.path).unwrap().is_sound());
}

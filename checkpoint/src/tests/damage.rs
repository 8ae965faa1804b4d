//! Torn, damaged and foreign files: each is told by name, none is believed, none panics.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::fixture::{Fixture, bytes_of, cut, manifest, names, shard_path, slice, write_shard};
use crate::shard::{self, ShardName};
use crate::{Defect, Error, Found, MANIFEST_FILE, Reader, TensorKind, verify};

/// What opening for training says: manifest, sizes, headers, tiling.
fn open_defect(folder: &Path) -> Defect {
    match Reader::open(folder) {
        Err(Error::Defective { defect, .. }) => defect,
        other => panic!("{other:?}"),
    }
}

fn edit_manifest(folder: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join(MANIFEST_FILE);
    let mut value: serde_json::Value =
        serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    change(&mut value);
    fs_err::write(&path, value.to_string()).unwrap();
}

/// Makes the manifest agree with a shard that was changed, so that only its inside is wrong.
fn bless(found: &Found, rank: u32) {
    let bytes = fs_err::read(shard_path(found, rank)).unwrap();
    edit_manifest(&found.path, |value| {
        let entry = &mut value["shards"][rank as usize];
        entry["bytes"] = bytes.len().into();
        entry["blake3"] = blake3::hash(&bytes).to_hex().as_str().into();
    });
}

#[test]
fn a_flipped_byte_anywhere_names_its_shard() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 2);
    let path = shard_path(&found, 1);
    let whole = fs_err::read(&path).unwrap();
    for place in [0, 7, 8, 30, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        fs_err::write(&path, bytes).unwrap();
        let report = verify(&found.path).unwrap();
        assert_eq!(report.findings.len(), 1, "byte {place}: {report:?}");
        let finding = &report.findings[0];
        assert_eq!(finding.file.as_deref(), path.file_name().unwrap().to_str());
        assert!(finding.problem.contains("corrupt"), "{finding:?}");
    }
    fs_err::write(&path, whole).unwrap();
    assert!(verify(&found.path).unwrap().is_sound());
}

#[test]
fn a_shard_torn_at_any_length_is_noticed_even_if_the_manifest_agrees() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 1);
    let path = shard_path(&found, 0);
    let whole = fs_err::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let places = (0..16).chain([header - 1, header, header + 1, whole.len() - 1]);
    for length in places {
        fs_err::write(&path, &whole[..length]).unwrap();
        assert!(matches!(open_defect(&found.path), Defect::Size { .. }), "{length}");
        bless(&found, 0);
        let defect = open_defect(&found.path);
        assert!(matches!(defect, Defect::Header { .. }), "{length}: {defect}");
        assert!(!verify(&found.path).unwrap().is_sound());
        fs_err::write(&path, &whole).unwrap();
        bless(&found, 0);
    }
    Reader::open(&found.path).unwrap();
}

#[test]
fn a_header_that_claims_too_much_is_not_believed() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 1);
    let path = shard_path(&found, 0);
    for claim in [u64::MAX, u64::MAX - 8, 1 << 40, 1 << 27] {
        fs_err::write(&path, [&claim.to_le_bytes()[..], &[b' '; 64]].concat()).unwrap();
        bless(&found, 0);
        assert!(matches!(open_defect(&found.path), Defect::Header { .. }), "{claim}");
    }
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

#[test]
fn a_header_and_its_slices_must_agree() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 1);
    let slices = |name: &str, shape: &str, offset: u64, len: u64| {
        format!(
            r#"[{{\"name\":\"{name}\",\"kind\":\"parameter\",\"dtype\":\"F32\",\"global_shape\":{shape},\"offset\":{offset},\"len\":{len}}}]"#
        )
    };
    let file = |slices: &str, key: &str, tensor: &str| {
        format!(r#"{{"__metadata__":{{"rustspeed.slices":"{slices}"}},"{key}":{tensor}}}"#)
    };
    let tensor = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let good = file(&slices("w", "[2]", 0, 2), "parameter/w", tensor);
    let cases = [
        ("{}".to_owned(), "rustspeed.slices"),
        (good.replace("F32\\\"", "F64\\\""), "differ"),
        (good.replace("parameter/w", "parameter/v"), "no tensor"),
        (file("[]", "parameter/w", tensor), "lists 0 slices"),
        (file("{", "parameter/w", tensor), "rustspeed.slices"),
        (file(&slices("w", "[3]", 0, 2), "parameter/w[0..2]", tensor), "lacks elements 2 to 3"),
        (file(&slices("w", "[2]", 1, 2), "parameter/w[1..3]", tensor), "leave `w`"),
        (
            file(&slices("w", "[18446744073709551615,9]", 0, 2), "parameter/w[0..2]", tensor),
            "more bytes",
        ),
        (file(&slices("", "[2]", 0, 2), "parameter/", tensor), "printable"),
        (good.replace("[0,8]", "[0,9]"), "no safetensors"),
        (good.replace("[0,8]", "[8,16]"), "no safetensors"),
    ];
    let put = |header: &str| {
        // The 8 bytes of data that an empty header has no tensor for are left out.
        let data = if header == "{}" { &[][..] } else { &[0; 8][..] };
        fs_err::write(shard_path(&found, 0), with_header(header, data)).unwrap();
        bless(&found, 0);
    };
    put(&good);
    assert_eq!(Reader::open(&found.path).unwrap().tensors().len(), 1);
    for (header, problem) in cases {
        put(&header);
        let said = open_defect(&found.path).chain();
        assert!(said.contains(problem), "`{problem}` in `{said}`");
        assert!(!verify(&found.path).unwrap().is_sound());
    }
}

#[test]
fn a_missing_shard_is_named_and_the_folder_is_no_whole_checkpoint() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 2);
    fs_err::remove_file(shard_path(&found, 0)).unwrap();
    let listing = fixture.root.list().unwrap();
    assert!(listing.whole.is_empty());
    let said = listing.incomplete[0].defect.to_string();
    assert!(said.contains("rank-00000-of-00002.g1.safetensors"), "{said}");
    assert!(listing.incomplete[0].is_damaged());
    assert_eq!(verify(&found.path).unwrap().findings.len(), 1);
}

#[test]
fn an_extra_file_changes_nothing_and_is_mentioned() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 1);
    fs_err::write(found.path.join("rank-00000-of-00001.g9.safetensors"), "foreign").unwrap();
    let report = verify(&found.path).unwrap();
    assert!(report.is_sound());
    assert_eq!(report.unlisted, ["rank-00000-of-00001.g9.safetensors"]);
    assert_eq!(fixture.tags(), ["step-00000001"]);
}

#[test]
fn links_pipes_and_folders_in_place_of_files_are_refused() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 1);
    let path = shard_path(&found, 0);
    let elsewhere = found.path.join("elsewhere");
    fs_err::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(matches!(open_defect(&found.path), Defect::NotPlain { .. }));
    fs_err::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(open_defect(&found.path), Defect::NotPlain { .. }));
    fs_err::remove_file(&path).unwrap();
    fs_err::create_dir(&path).unwrap();
    assert!(matches!(open_defect(&found.path), Defect::NotPlain { .. }));
    fs_err::remove_dir(&path).unwrap();

    let manifest = found.path.join(MANIFEST_FILE);
    fs_err::rename(&manifest, found.path.join("other.json")).unwrap();
    symlink("other.json", &manifest).unwrap();
    assert!(matches!(open_defect(&found.path), Defect::NotPlain { .. }));
}

#[test]
fn a_linked_step_folder_is_listed_as_none_and_never_written_or_removed() {
    let mut fixture = Fixture::new();
    let found = fixture.save(1, 1);
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("kept");
    fs_err::rename(&found.path, &target).unwrap();
    symlink(&target, &found.path).unwrap();
    assert!(matches!(fixture.root.list().unwrap().incomplete[0].defect, Defect::Link));
    let before = names(&target);
    fixture.raise(2);
    fixture.root.sweep(&fixture.fence).unwrap();
    let plan = crate::retention::Plan { keep: Vec::new(), remove: vec![found.tag.clone()] };
    fixture.root.prune(&plan, None).unwrap_err();
    let name = ShardName { rank: 0, world: 1, generation: fixture.fence.generation };
    write_shard(&found.path, name, &cut(1, 0)).unwrap_err();
    assert_eq!(names(&target), before);
}

#[test]
fn a_manifest_cannot_point_outside_or_at_odd_names() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 2);
    let outside = fixture.root.path().join("rank-00000-of-00002.g1.safetensors");
    fs_err::copy(shard_path(&found, 0), outside).unwrap();
    for name in [
        "../rank-00000-of-00002.g1.safetensors",
        "/etc/passwd",
        "manifest.json",
        "rank-00001-of-00002.g1.safetensors",
        "rank-00000-of-00003.g1.safetensors",
        "rank-00000-of-00002.g2.safetensors",
        "rank-00000-of-00002.g1.safetensors\0",
    ] {
        edit_manifest(&found.path, |value| value["shards"][0]["file"] = name.into());
        let defect = open_defect(&found.path);
        assert!(matches!(defect, Defect::Syntax { .. } | Defect::Field { .. }), "{name}: {defect}");
    }
}

#[test]
fn a_foreign_manifest_is_refused_with_its_reason() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 1);
    let path = found.path.join(MANIFEST_FILE);
    let good = fs_err::read_to_string(&path).unwrap();
    let step = "\"step\": 1";
    assert!(good.contains(step));
    let cases = [
        (String::new(), "not the JSON"),
        ("[1, 2".to_owned(), "not the JSON"),
        ("[".repeat(100_000), "not the JSON"),
        (good[..good.len() / 2].to_owned(), "not the JSON"),
        (good.replace("\"schema_version\": 1", "\"schema_version\": 2"), "reads 1 to 1"),
        (good.replace("\"world_size\": 1", "\"world_size\": 0"), "world_size is 0"),
        (good.replace("\"world_size\": 1", "\"world_size\": 4000000000"), "world_size is 4"),
        (good.replace("\"world_size\": 1", "\"world_size\": 2"), "must be 2, one per rank"),
        (good.replace("\"blake3\": \"", "\"blake3\": \"\\u001b"), "64 hex digits"),
        (good.replace(step, "\"step\": -1"), "not the JSON"),
        (good.replace("job-a", "../job"), "not the JSON"),
        (" ".repeat(33 * 1024 * 1024), "larger than"),
    ];
    for (text, reason) in cases {
        fs_err::write(&path, text).unwrap();
        let said = open_defect(&found.path).chain();
        assert!(said.contains(reason), "`{reason}` in `{said}`");
        assert!(fixture.tags().is_empty());
    }
    // Another step than its folder: whole by itself, but not under this name.
    fs_err::write(&path, good.replace(step, "\"step\": 2")).unwrap();
    Reader::open(&found.path).unwrap();
    let listing = fixture.root.list().unwrap();
    assert!(listing.whole.is_empty());
    assert!(listing.incomplete[0].defect.to_string().contains("step is 2"));
    // Fields of a later build with the same schema are no reason to refuse.
    fs_err::write(&path, good.replace(step, "\"new\": 5, \"step\": 1")).unwrap();
    assert_eq!(fixture.tags(), ["step-00000001"]);
}

#[test]
fn slices_that_do_not_tile_a_tensor_are_told_with_the_place() {
    let cases: [(&[(u64, u64)], &str); 4] = [
        (&[(0, 4), (6, 4)], "lacks elements 4 to 6"),
        (&[(0, 4), (4, 5)], "lacks elements 9 to 10"),
        (&[(0, 6), (5, 5)], "element 5 is in two slices"),
        (&[(0, 10), (3, 2)], "element 3 is in two slices"),
    ];
    for (runs, problem) in cases {
        let fixture = Fixture::new();
        let folder = fixture.root.folder(1);
        let world = u32::try_from(runs.len()).unwrap();
        let entries = runs.iter().zip(0..).map(|(run, rank)| {
            let meta = slice(TensorKind::Parameter, "w", &[2, 5], *run);
            let bytes = bytes_of(meta.kind, "w", meta.range());
            let generation = fixture.fence.generation;
            write_shard(&folder, ShardName { rank, world, generation }, &vec![(meta, bytes)])
                .unwrap()
        });
        let manifest = manifest(&fixture.fence, 1, entries.collect());
        fixture.root.commit(&manifest).unwrap();
        let report = verify(&folder).unwrap();
        assert!(report.findings[0].problem.contains(problem), "{report:?}");
        assert!(open_defect(&folder).to_string().contains(problem));
    }
}

#[test]
fn shards_that_disagree_about_a_tensor_are_told() {
    let fixture = Fixture::new();
    let folder = fixture.root.folder(1);
    let generation = fixture.fence.generation;
    let entries = [[4, 2], [2, 4]].iter().zip(0..).map(|(shape, rank)| {
        let meta = slice(TensorKind::Parameter, "w", shape, (u64::from(rank) * 4, 4));
        let bytes = bytes_of(meta.kind, "w", meta.range());
        write_shard(&folder, ShardName { rank, world: 2, generation }, &vec![(meta, bytes)])
            .unwrap()
    });
    let manifest = manifest(&fixture.fence, 1, entries.collect());
    fixture.root.commit(&manifest).unwrap();
    assert!(matches!(open_defect(&folder), Defect::Disagreement { .. }));
}

#[test]
fn a_shard_changed_after_it_was_written_is_not_committed_unseen() {
    let fixture = Fixture::new();
    let manifest = fixture.write(1, 2);
    let path = fixture.root.folder(1).join(manifest.shards[1].file.to_string());
    let bytes = fs_err::read(&path).unwrap();
    fs_err::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(fixture.root.commit(&manifest).unwrap_err().is_defect());
    fs_err::remove_file(&path).unwrap();
    assert!(fixture.root.commit(&manifest).unwrap_err().is_defect());
    assert!(fixture.tags().is_empty());
}

#[test]
fn a_manifest_that_no_reader_would_take_is_not_committed() {
    let fixture = Fixture::new();
    let good = fixture.write(1, 2);
    let mut swapped = good.clone();
    swapped.shards.swap(0, 1);
    let long = crate::Manifest { model: "x".repeat(33 * 1024 * 1024).into(), ..good.clone() };
    let nested = (0..200).fold(serde_json::Value::Null, |inner, _| serde_json::json!([inner]));
    let deep = crate::Manifest { train_state: nested, ..good.clone() };
    let newer = crate::Manifest { schema_version: 2, ..good.clone() };
    for manifest in [swapped, long, deep, newer] {
        assert!(fixture.root.commit(&manifest).unwrap_err().is_defect());
        assert!(fixture.tags().is_empty());
    }
    // A loss that JSON cannot say is none.
    let diverged = crate::Manifest { loss: Some(f64::NAN), ..good };
    fixture.root.commit(&diverged).unwrap();
    assert_eq!(fixture.root.list().unwrap().whole[0].loss, None);
}

#[test]
fn a_shard_is_not_written_into_a_committed_checkpoint() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 1);
    let before = fs_err::read(shard_path(&found, 0)).unwrap();
    let name = ShardName { rank: 0, world: 1, generation: fixture.fence.generation };
    let error = shard::write(&found.path, name, &fixture.fence, &[]).unwrap_err();
    assert!(matches!(error, Error::AlreadyCommitted { .. }));
    assert_eq!(fs_err::read(shard_path(&found, 0)).unwrap(), before);
}

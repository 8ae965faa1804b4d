//! Checkpoints that DeepSpeed 0.19.8 made (`tools/fixtures/make_deepspeed_checkpoints.py`), against
//! what DeepSpeed itself said of them.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::fixture::names;
use crate::import::{self, Error, Imported, ImportedState};
use crate::{Manifest, Reader, Root, TensorKind};

fn fixture(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/deepspeed").join(case)
}

fn imported(from: &Path) -> (tempfile::TempDir, Imported) {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::at(&folder.path().join("imported"));
    let imported = import::deepspeed(from, &root).unwrap();
    assert_eq!(root.list().unwrap().whole[0].path, imported.path);
    assert!(crate::verify(&imported.path).unwrap().is_sound());
    (folder, imported)
}

/// A copy of a case, to be changed.
fn copied(case: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tag = "global_step5";
    fs_err::create_dir(folder.path().join(tag)).unwrap();
    fs_err::copy(fixture(case).join("latest"), folder.path().join("latest")).unwrap();
    for name in names(&fixture(case).join(tag)) {
        let to = folder.path().join(tag).join(&name);
        fs_err::copy(fixture(case).join(tag).join(name), to).unwrap();
    }
    folder
}

fn refused(from: &Path) -> String {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let error = import::deepspeed(from, &Root::at(&out)).unwrap_err();
    assert!(!out.exists(), "nothing is left: {error}");
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}

#[test]
fn every_stage_and_precision_comes_over_bit_for_bit() {
    let cases = [
        ("stage0", 0),
        ("stage0-bf16", 0),
        ("stage1", 1),
        ("stage2-bf16", 2),
        ("stage3", 3),
        ("stage3-bf16", 3),
    ];
    for (case, stage) in cases {
        let (_folder, imported) = imported(&fixture(case));
        assert_eq!((imported.step, imported.samples, imported.stage), (5, 80, stage), "{case}");
        assert_eq!((imported.parameters, imported.elements), (6, 192), "{case}");
        assert_eq!(imported.optimizer_states, ["exp_avg", "exp_avg_sq"], "{case}");
        assert_eq!((imported.world_size, imported.deepspeed_version.as_str()), (2, "0.19.8"));
        assert!(imported.notes.is_empty(), "{case}: {:?}", imported.notes);
        let reader = Reader::open(&imported.path).unwrap();
        let expected = fs_err::read(fixture(case).join("expected.safetensors")).unwrap();
        let expected = SafeTensors::deserialize(&expected).unwrap();
        // What DeepSpeed has no accessor for (bf16 at stage 0) is not in the file.
        assert_eq!(expected.len(), if case == "stage0-bf16" { 0 } else { 18 }, "{case}");
        for (key, tensor) in expected.tensors() {
            let (kind, name) = key.split_once('/').unwrap();
            let kind =
                reader.tensors().into_iter().map(|row| row.kind).find(|k| k.as_str() == kind);
            let row = reader.tensor(kind.unwrap(), name).unwrap();
            let shape: Vec<u64> = tensor.shape().iter().map(|size| *size as u64).collect();
            assert_eq!(row.shape, shape, "{case}: {key}");
            let found = reader.read(row.kind, name, 0..row.elements).unwrap();
            assert_eq!(found, tensor.data(), "{case}: {key}");
        }
    }
}

#[test]
fn the_steps_and_samples_are_told_to_who_resumes() {
    let (_folder, imported) = imported(&fixture("stage2-bf16"));
    let manifest = Manifest::read(&imported.path).unwrap();
    let state: ImportedState = serde_json::from_value(manifest.train_state).unwrap();
    assert_eq!(
        state,
        ImportedState {
            imported_from: "deepspeed 0.19.8".to_owned(),
            steps: 5,
            skipped_steps: 0,
            samples: 80
        }
    );
}

#[test]
fn the_folder_of_a_tag_does_as_well_as_the_one_above() {
    let (_a, above) = imported(&fixture("stage3"));
    let (_b, tag) = imported(&fixture("stage3").join("global_step5"));
    let hash = |imported: &Imported| Manifest::read(&imported.path).unwrap().shards;
    assert_eq!(hash(&above), hash(&tag));
}

#[test]
fn a_missing_rank_is_named() {
    let copy = copied("stage1");
    let tag = copy.path().join("global_step5");
    fs_err::remove_file(tag.join("zero_pp_rank_1_mp_rank_00_optim_states.pt")).unwrap();
    let said = refused(copy.path());
    assert!(said.contains("optimizer states of rank 1 of 2 are missing"), "{said}");
    let copy = copied("stage3");
    let tag = copy.path().join("global_step5");
    fs_err::remove_file(tag.join("zero_pp_rank_1_mp_rank_00_model_states.pt")).unwrap();
    let said = refused(copy.path());
    assert!(said.contains("model states of rank 1 of 2 are missing"), "{said}");
}

#[test]
fn other_ways_of_being_parallel_are_refused_by_name() {
    for (file, word) in [
        ("mp_rank_01_model_states.pt", "tensor parallelism"),
        ("layer_00-model_00-model_states.pt", "pipeline parallelism"),
        ("layer_1_expert_2_mp_rank_00_model_states.pt", "mixture of experts"),
    ] {
        let copy = copied("stage1");
        fs_err::write(copy.path().join("global_step5").join(file), "").unwrap();
        let said = refused(copy.path());
        assert!(said.contains(word) && said.contains(file), "{said}");
    }
}

#[test]
fn what_is_no_checkpoint_of_deepspeed_is_told() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refused(folder.path()).contains("neither a file `latest`"));
    fs_err::write(folder.path().join("latest"), "../elsewhere\n").unwrap();
    assert!(refused(folder.path()).contains("no folder of it"));
    assert!(refused(&folder.path().join("missing")).contains("No such file"));
}

/// Every file, cut at many places and with single bytes changed: an error, never a panic, and
/// never other values in silence.
#[test]
fn damaged_files_are_refused_or_give_the_same_values() {
    let whole = |from: &Path| {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::at(&folder.path().join("out"));
        import::deepspeed(from, &root)
            .ok()
            .map(|imported| Manifest::read(&imported.path).unwrap().shards)
    };
    let expected = whole(&fixture("stage1")).unwrap();
    let copy = copied("stage1");
    let path = copy.path().join("global_step5/zero_pp_rank_1_mp_rank_00_optim_states.pt");
    let good = fs_err::read(&path).unwrap();
    let (mut refusals, mut tries) = (0, 0);
    for at in (0..good.len()).step_by(97) {
        let mut flipped = good.clone();
        flipped[at] ^= 0x55;
        for bytes in [&good[..at], &flipped] {
            fs_err::write(&path, bytes).unwrap();
            tries += 1;
            match whole(copy.path()) {
                Some(shards) => assert_eq!(shards, expected, "byte {at}"),
                None => refusals += 1,
            }
        }
    }
    assert!(refusals > tries / 2, "{refusals} of {tries}");
}

#[test]
fn a_root_that_a_job_has_is_not_taken() {
    let fixture_root = super::fixture::Fixture::new();
    fixture_root.save(1, 1);
    let error = import::deepspeed(&fixture("stage0"), &fixture_root.root).unwrap_err();
    assert!(matches!(error, Error::RootTaken { .. }), "{error}");
    assert_eq!(fixture_root.tags().len(), 1);
}

#[test]
fn imported_kinds_are_those_of_our_own_checkpoints() {
    let (_folder, imported) = imported(&fixture("stage3-bf16"));
    let reader = Reader::open(&imported.path).unwrap();
    let row = reader.tensor(TensorKind::Parameter, "lstm.weight_hh_l0").unwrap();
    assert_eq!((row.shape, row.dtype), (vec![20, 5], crate::DataType::F32));
}

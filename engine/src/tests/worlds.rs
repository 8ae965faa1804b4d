//! Any world, stage and precision loads what any other saved, bit for bit; and what DeepSpeed
//! saved goes on as it does there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use checkpoint::{Manifest, Reader, TensorKind, import};
use common::spec::{
    JobSpec, Model, Precision, PrecisionKind, Recurrent, RecurrentKernel, Resume, Schedule,
};
use serde::Deserialize;

use super::ranks::{Attempt, Heard};
use super::spec;
use crate::fixture;

/// How a run is cut, and what it trains in.
#[derive(Debug, Clone, Copy)]
struct Shape {
    world: u32,
    stage: u8,
    kind: PrecisionKind,
}

const fn shape(world: u32, stage: u8, kind: PrecisionKind) -> Shape {
    Shape { world, stage, kind }
}

use PrecisionKind::{Bf16, Fp16, Fp32};

/// Every stage, precision and world at least once.
const SHAPES: [Shape; 5] =
    [shape(2, 3, Bf16), shape(1, 0, Fp32), shape(3, 1, Fp32), shape(2, 2, Fp16), shape(4, 3, Fp32)];

fn job(shape: Shape) -> JobSpec {
    let Shape { stage, kind, .. } = shape;
    spec::job()
        .stage(stage)
        .with(|spec| {
            spec.training.precision = Precision {
                asked: kind,
                effective: kind,
                grad_accumulation: kind,
                communication: kind,
                ..Precision::FP32
            };
        })
        .build()
}

type Tensors = BTreeMap<(TensorKind, String), Vec<u8>>;

/// Everything that a checkpoint holds.
fn tensors(folder: &Path) -> Tensors {
    let reader = Reader::open(folder).unwrap();
    let read = |row: checkpoint::TensorRow| {
        let bytes = reader.read(row.kind, &row.name, 0..row.elements).unwrap();
        ((row.kind, row.name), bytes)
    };
    reader.tensors().into_iter().map(read).collect()
}

fn newest(run_dir: &Path) -> PathBuf {
    let root = checkpoint::Root::at(&run_dir.join("checkpoints"));
    root.list().unwrap().whole[0].path.clone()
}

fn notes(heard: &Heard) -> String {
    heard.notes.lock().unwrap().join("\n")
}

/// Loads `from` in a shape, makes no step, and saves under `dir`.
fn loaded_and_saved(from: &Path, shape: Shape, dir: &Path) -> (PathBuf, String) {
    let mut spec = job(shape);
    spec.checkpoint.resume = Resume::Path(from.to_owned());
    let (outcome, heard) = Attempt::new(spec, shape.world, dir).run().unwrap();
    assert_eq!(outcome.summary.unwrap().attempt_steps, 0);
    (newest(dir), notes(&heard))
}

#[test]
fn every_shape_loads_what_every_other_saved_bit_for_bit() {
    for saved in SHAPES {
        let dir = tempfile::tempdir().unwrap();
        Attempt::new(job(saved), saved.world, dir.path()).run().unwrap();
        let original = newest(dir.path());
        let expected = tensors(&original);
        assert!(expected.keys().any(|(kind, _)| *kind == TensorKind::ExpAvgSq));
        let manifest = Manifest::read(&original).unwrap();
        assert_eq!(manifest.precision.as_deref(), Some(saved.kind.word()));
        for loaded in SHAPES {
            let dir = tempfile::tempdir().unwrap();
            let (again, said) = loaded_and_saved(&original, loaded, dir.path());
            let found = tensors(&again);
            assert!(found == expected, "saved as {saved:?}, loaded as {loaded:?}");
            let is_told = said.contains("the checkpoint was trained in");
            assert_eq!(is_told, saved.kind != loaded.kind, "{saved:?} {loaded:?}: {said}");
        }
    }
}

/// The way to more ranks in fp32 and on to a single one: each goes on from where the last was.
#[test]
fn a_run_in_bf16_goes_on_at_other_worlds_in_fp32() {
    let dir = tempfile::tempdir().unwrap();
    let way =
        [(shape(2, 3, Bf16), Some(4)), (shape(3, 1, Fp32), Some(8)), (shape(1, 0, Fp32), None)];
    let mut losses: Vec<f64> = Vec::new();
    for (generation, (shape, stop)) in (1..).zip(way) {
        let attempt = Attempt::new(job(shape), shape.world, dir.path());
        let mut attempt = attempt.generation(generation);
        attempt.stop_after = stop;
        let (_, heard) = attempt.run().unwrap();
        losses.extend(heard.losses.lock().unwrap().iter());
    }
    let whole = tempfile::tempdir().unwrap();
    let (_, heard) = Attempt::new(job(shape(1, 0, Fp32)), 1, whole.path()).run().unwrap();
    let expected = heard.losses.lock().unwrap().clone();
    assert_eq!(losses.len(), expected.len());
    for (step, (ours, fp32)) in losses.iter().zip(&expected).enumerate() {
        // bf16 keeps eight bits of the weights for a third of the way.
        assert!((ours - fp32).abs() < 2e-2 * fp32, "step {}: {ours}, {fp32}", step + 1);
    }
}

#[derive(Deserialize)]
struct Expected {
    steps: u64,
    batch: u64,
    hidden: u32,
    learning_rate: f64,
    losses: Vec<f64>,
}

fn deepspeed(case: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../checkpoint/fixtures/deepspeed");
    fixtures.join(case)
}

/// The job of tools/fixtures/make_deepspeed_checkpoints.py.
fn deepspeeds_job(expected: &Expected, kind: PrecisionKind) -> JobSpec {
    let sourced = |value| Some(common::spec::Sourced { value, origin: "test".to_owned() });
    let mut spec = fixture::load("lstm").spec;
    spec.model = Model::Lstm(Recurrent {
        hidden_size: expected.hidden,
        num_layers: 1,
        dropout: 0.0,
        head_dropout: 0.0,
        bidirectional: false,
        kernel: RecurrentKernel::Auto,
        init_from: None,
    });
    spec.training.batch.batch_size = sourced(expected.batch);
    spec.training.optimizer.learning_rate = expected.learning_rate;
    spec.training.schedule = Schedule::Constant;
    spec.training.max_steps = Some(expected.steps + expected.losses.len() as u64);
    spec.training.precision.effective = kind;
    spec
}

#[test]
fn what_deepspeed_saved_goes_on_as_it_does_there() {
    let cases = [("stage0", Fp32, 1e-5), ("stage3", Fp32, 1e-5), ("stage2-bf16", Bf16, 3e-2)];
    for (case, kind, tolerance) in cases {
        let text = fs_err::read_to_string(deepspeed(case).join("expected.json")).unwrap();
        let expected: Expected = serde_json::from_str(&text).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = checkpoint::Root::at(&dir.path().join("imported"));
        let imported = import::deepspeed(&deepspeed(case), &root).unwrap();
        for (world, stage) in [(1, 0), (3, 2)] {
            let mut spec = deepspeeds_job(&expected, kind);
            spec.zero.stage = stage;
            spec.checkpoint.resume = Resume::Path(imported.path.clone());
            let run_dir = dir.path().join(format!("run-{world}"));
            let (outcome, heard) = Attempt::new(spec, world, &run_dir).run().unwrap();
            let losses = heard.losses.lock().unwrap();
            assert_eq!(losses.len(), expected.losses.len(), "{case}");
            for (ours, theirs) in losses.iter().zip(&expected.losses) {
                let error = (ours - theirs).abs() / theirs;
                assert!(error < tolerance, "{case}, world {world}: {ours} is not {theirs}");
            }
            let said = notes(&heard);
            assert!(said.contains("80 samples are epoch 0 and 80 samples"), "{said}");
            assert_eq!(outcome.summary.unwrap().resumed_at_step, Some(expected.steps));
        }
    }
}

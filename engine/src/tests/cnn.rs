//! A convolutional network on the digits: against PyTorch, over stages, resumed.

use std::io::Read;
use std::path::{Path, PathBuf};

use checkpoint::{Reader, TensorKind};
use common::spec::{Cnn, DataSource, JobSpec, Model, UpdateRule};
use common::status::Summary;
use serde::Deserialize;

use super::ranks::{Attempt, Heard};
use super::spec;
use crate::data::{self, Task};
use crate::model::{Pass, Plain, build};
use crate::{fixture, loss};

const TOLERANCE: f64 = 1e-5;

/// The data set of the project.
pub(crate) fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/digits.csv.gz")
}

/// Its first lines, unpacked.
pub(crate) fn lines(count: usize) -> String {
    let mut text = String::new();
    let file = fs_err::File::open(digits()).unwrap();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    text.split_inclusive('\n').take(count).collect()
}

/// A small network on all digits.
pub(crate) fn job() -> spec::Builder {
    spec::job().batch(64, 32).with(|spec| {
        spec.model = Model::Cnn(Cnn {
            channels: vec![12, 24],
            kernel_size: 3,
            hidden_size: 48,
            dropout: 0.1,
            init_from: None,
        });
        spec.data.source = DataSource::Digits { path: digits(), split: [0.7, 0.15, 0.15] };
        (spec.data.window, spec.data.horizon) = (None, None);
        spec.training.optimizer.learning_rate = 3e-3;
    })
}

/// What PyTorch computed for `cnn.json`.
#[derive(Deserialize)]
struct Expected {
    channels: Vec<u32>,
    kernel_size: u32,
    hidden: u32,
    batch: u64,
    accumulation: u64,
    learning_rate: f64,
    weight_decay: f64,
    steps: u64,
    images: usize,
    train_images: usize,
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
    held_out: HeldOut,
}

#[derive(Deserialize)]
struct HeldOut {
    loss: f64,
    accuracy: f64,
}

fn expected() -> Expected {
    serde_json::from_str(&fs_err::read_to_string(fixture::path("cnn.json")).unwrap()).unwrap()
}

fn model(expected: &Expected, weights: &str) -> Model {
    Model::Cnn(Cnn {
        channels: expected.channels.clone(),
        kernel_size: expected.kernel_size,
        hidden_size: expected.hidden,
        dropout: 0.0,
        init_from: Some(fixture::path(weights)),
    })
}

fn torch_job(expected: &Expected, path: PathBuf) -> JobSpec {
    spec::job()
        .batch(expected.batch, expected.batch / expected.accumulation)
        .epochs(1000)
        .max_steps(expected.steps)
        .with(|spec| {
            spec.model = model(expected, "cnn.initial.safetensors");
            spec.data.source = DataSource::Digits { path, split: [1.0, 0.0, 0.0] };
            (spec.data.window, spec.data.horizon, spec.data.shuffle) = (None, None, false);
            spec.training.optimizer.learning_rate = expected.learning_rate;
            spec.training.optimizer.weight_decay = expected.weight_decay;
            let (betas, eps) = ([0.9, 0.999], 1e-8);
            spec.training.optimizer.rule = UpdateRule::AdamW { betas, eps, bias_correction: true };
        })
        .build()
}

fn relative(ours: f64, theirs: f64) -> f64 {
    (ours - theirs).abs() / theirs.abs().max(1e-3)
}

#[test]
fn thirty_steps_of_a_cnn_equal_torch_running_statistics_included() {
    let expected = expected();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("digits.csv");
    fs_err::write(&path, lines(expected.train_images)).unwrap();
    for stage in [0, 3] {
        let mut job = torch_job(&expected, path.clone());
        job.zero.stage = stage;
        let run = tempfile::tempdir().unwrap();
        let (_, heard) = Attempt::new(job, 1, run.path()).run().unwrap();
        let losses = heard.losses.lock().unwrap().clone();
        assert_eq!(losses.len(), expected.losses.len());
        for (step, (ours, theirs)) in losses.iter().zip(&expected.losses).enumerate() {
            assert!(relative(*ours, *theirs) < TOLERANCE, "step {}: {ours} {theirs}", step + 1);
        }
        let rows = fs_err::read_to_string(run.path().join("metrics/steps.csv")).unwrap();
        for (row, theirs) in rows.lines().skip(1).zip(&expected.grad_norms) {
            let ours: f64 = row.split(',').nth(5).unwrap().parse().unwrap();
            assert!(relative(ours, *theirs) < TOLERANCE, "norm {ours} is not {theirs}");
        }
        check_final(&Reader::open(&run.path().join("checkpoints/step-00000030")).unwrap());
    }
}

fn check_final(reader: &Reader) {
    let bytes = fs_err::read(fixture::path("cnn.final.safetensors")).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let buffers = reader.tensors().iter().filter(|row| row.kind == TensorKind::Buffer).count();
    assert_eq!((theirs.len(), buffers), (10 + 6, 6));
    for (name, view) in theirs.tensors() {
        let is_buffer = name.contains("running") || name.contains("tracked");
        let kind = if is_buffer { TensorKind::Buffer } else { TensorKind::Parameter };
        let row = reader.tensor(kind, &name).unwrap_or_else(|| panic!("no {kind} {name}"));
        let shape: Vec<u64> = view.shape().iter().map(|d| *d as u64).collect();
        assert_eq!(row.shape, shape, "{name}");
        let ours = reader.read(kind, &name, 0..shape.iter().product()).unwrap();
        if name.ends_with("num_batches_tracked") {
            assert_eq!(ours, view.data(), "{name}");
            continue;
        }
        let floats = |bytes: &[u8]| -> Vec<f32> {
            bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
        };
        let (ours, theirs) = (floats(&ours), floats(view.data()));
        let scale = theirs.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let error = f64::from((ours - theirs).abs() / scale);
            assert!(error < TOLERANCE, "{name}: {ours} is not {theirs}");
        }
    }
}

/// Batch norm uses what it remembered, the loss is the cross-entropy, classes are counted.
#[test]
fn an_evaluation_equals_torchs() {
    let expected = expected();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("digits.csv");
    let all = lines(expected.images);
    let held_out: String = all.split_inclusive('\n').skip(expected.train_images).collect();
    fs_err::write(&path, held_out).unwrap();
    let job = torch_job(&expected, path);
    let dataset = data::load(&job.data, 1).unwrap();
    let trained = model(&expected, "cnn.final.safetensors");
    let model = build(&trained, dataset.input, dataset.output_features, 1).unwrap();
    let indices: Vec<u32> = (0..dataset.train.len() as u32).collect();
    let (x, y) = dataset.train.batch(&indices).unwrap();
    let predicted = model.forward(&x, Pass::Evaluate, &Plain).unwrap();
    let ours = loss::mean(Task::Classification, &predicted, &y).unwrap().double_value(&[]);
    assert!(relative(ours, expected.held_out.loss) < TOLERANCE, "{ours}");
    let accuracy = loss::correct(&predicted, &y).unwrap() / indices.len() as f64;
    assert_eq!(accuracy, expected.held_out.accuracy);
}

fn run(spec: JobSpec, world: u32) -> (Summary, Vec<f64>) {
    let dir = tempfile::tempdir().unwrap();
    let (outcome, heard) = Attempt::new(spec, world, dir.path()).run().unwrap();
    (outcome.summary.unwrap(), losses(&heard))
}

fn losses(heard: &Heard) -> Vec<f64> {
    heard.losses.lock().unwrap().clone()
}

#[test]
fn a_cnn_learns_to_read_digits_with_the_same_bits_at_every_stage() {
    let (first, first_losses) = run(job().epochs(6).build(), 2);
    let test = first.test.clone().unwrap();
    assert_eq!((test.samples, test.mae, test.naive_mae), (269, None, None));
    assert!(test.accuracy.unwrap() >= 0.96, "{test:?}");
    assert!(first.best_val_accuracy.unwrap() >= 0.96, "{first:?}");
    assert_eq!(first.quality, None, "words for squared errors");
    for stage in [1, 2, 3] {
        let (summary, losses) = run(job().epochs(6).stage(stage).build(), 2);
        assert_eq!(losses, first_losses, "stage {stage}");
        assert_eq!(summary.test, first.test, "stage {stage}");
        assert_eq!(summary.best_val_loss, first.best_val_loss, "stage {stage}");
    }
}

/// The best weights are judged with the running statistics that they had.
#[test]
fn a_resumed_cnn_is_the_uninterrupted_one_bit_for_bit() {
    let job = || job().epochs(3).stage(2).batch(150, 38).with(|s| s.data.drop_last = false).build();
    let whole = tempfile::tempdir().unwrap();
    let (outcome, heard) = Attempt::new(job(), 2, whole.path()).run().unwrap();
    let expected = outcome.summary.unwrap();
    let parts = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut seen = Vec::new();
    for (generation, stop) in [(1, Some(5)), (2, Some(12)), (3, None)] {
        let mut attempt = Attempt::new(job(), 2, parts.path()).generation(generation);
        // Rank 1 sees no checkpoint: it gets the buffers from rank 0.
        attempt.run_dirs[1] = elsewhere.path().join("run");
        attempt.stop_after = stop;
        let (outcome, heard) = attempt.run().unwrap();
        seen.extend(losses(&heard));
        if stop.is_none() {
            let summary = outcome.summary.unwrap();
            assert_eq!(summary.test, expected.test);
            assert_eq!(summary.best_val_loss, expected.best_val_loss);
            assert_eq!(summary.best_val_accuracy, expected.best_val_accuracy);
        }
    }
    assert_eq!(seen, losses(&heard));
    let last = format!("checkpoints/step-{:08}", expected.steps);
    let buffers = |dir: &Path| {
        let reader = Reader::open(&dir.join(&last)).unwrap();
        let rows = reader.tensors().into_iter().filter(|row| row.kind == TensorKind::Buffer);
        rows.map(|row| reader.read(row.kind, &row.name, 0..row.shape.iter().product()).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(buffers(parts.path()), buffers(whole.path()));
    assert_eq!(buffers(whole.path()).len(), 6);
}

/// A mean that each rank computes of its own images; what counts is rank 0's.
#[test]
fn every_rank_evaluates_with_rank_0s_running_statistics() {
    let mut job = job().epochs(1).build();
    // Each rank judges half the validation part: different statistics would give another mean than
    // one rank's judging of all with the saved ones.
    let dir = tempfile::tempdir().unwrap();
    let (outcome, _) = Attempt::new(job.clone(), 2, dir.path()).run().unwrap();
    let expected = outcome.summary.unwrap();
    let folder = dir.path().join(format!("checkpoints/step-{:08}", expected.steps));
    let exported = dir.path().join("weights.safetensors");
    checkpoint::export(&folder, &exported, Default::default()).unwrap();
    let Model::Cnn(cnn) = &mut job.model else { panic!() };
    cnn.init_from = Some(exported);
    let dataset = data::load(&job.data, job.job.seed).unwrap();
    let model = build(&job.model, dataset.input, dataset.output_features, 1).unwrap();
    let validation = dataset.validation.unwrap();
    let indices: Vec<u32> = (0..validation.len() as u32).collect();
    let (x, y) = validation.batch(&indices).unwrap();
    let predicted = model.forward(&x, Pass::Evaluate, &Plain).unwrap();
    let ours = loss::mean(Task::Classification, &predicted, &y).unwrap().double_value(&[]);
    assert!(relative(ours, expected.best_val_loss.unwrap()) < TOLERANCE, "{ours} {expected:?}");
}

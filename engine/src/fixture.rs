//! The training fixtures that `tools/fixtures/make_training_fixtures.py` makes with PyTorch: jobs
//! as this engine sees them, and what PyTorch computed for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::spec;
use safetensors::SafeTensors;
use serde::Deserialize;
use tch::{Kind, Tensor};

pub(crate) const ALL: [&str; 3] = ["lstm", "gru", "bilstm"];

/// One case.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) name: &'static str,
    /// The whole job: no shuffling, no dropout, no monitors, no resume, world open.
    pub(crate) spec: spec::JobSpec,
    pub(crate) expected: Expected,
}

/// What PyTorch computed. Norms are those before clipping.
#[derive(Debug, Deserialize)]
pub(crate) struct Expected {
    pub(crate) steps: u64,
    pub(crate) losses: Vec<f64>,
    pub(crate) learning_rates: Vec<f64>,
    pub(crate) grad_norms: Vec<f64>,
    /// After each epoch: step and loss.
    pub(crate) validation: Vec<(u64, f64)>,
}

#[derive(Deserialize)]
struct File {
    kind: String,
    hidden: u32,
    layers: u32,
    bidirectional: bool,
    batch: u64,
    accumulation: u64,
    gradient_clipping: f64,
    optimizer: Optimizer,
    schedule: serde_json::Value,
    data: Data,
    #[serde(flatten)]
    expected: Expected,
}

#[derive(Deserialize)]
struct Optimizer {
    learning_rate: f64,
    weight_decay: f64,
    rule: serde_json::Value,
}

#[derive(Deserialize)]
struct Data {
    columns: Vec<String>,
    targets: Vec<String>,
    window: u32,
    horizon: u32,
    split: [f64; 3],
}

impl Fixture {
    /// The same job on each code that can run its layers.
    pub(crate) fn on_each_kernel(&self) -> Vec<(spec::RecurrentKernel, spec::JobSpec)> {
        let kernels = match &self.spec.model {
            spec::Model::Lstm(_) => {
                &[spec::RecurrentKernel::Libtorch, spec::RecurrentKernel::Native][..]
            }
            _ => &[spec::RecurrentKernel::Auto],
        };
        let on = |kernel: &spec::RecurrentKernel| {
            let mut spec = self.spec.clone();
            if let spec::Model::Lstm(model) = &mut spec.model {
                model.kernel = *kernel;
            }
            (*kernel, spec)
        };
        kernels.iter().map(on).collect()
    }
}

pub(crate) fn load(name: &'static str) -> Fixture {
    let text = fs_err::read_to_string(path(&format!("{name}.json"))).unwrap();
    let file: File = serde_json::from_str(&text).unwrap();
    let spec = job(name, &file, path(&format!("{name}.initial.safetensors")));
    Fixture { name, spec, expected: file.expected }
}

/// Thirty steps with one optimizer, by `tools/fixtures/make_optimizer_fixtures.py`.
#[derive(Debug)]
pub(crate) struct OptimizerCase {
    pub(crate) name: String,
    pub(crate) spec: spec::JobSpec,
    pub(crate) expected: Expected,
    pub(crate) final_weights: BTreeMap<String, Tensor>,
}

pub(crate) fn optimizers() -> Vec<OptimizerCase> {
    let text = fs_err::read_to_string(path("optimizers.json")).unwrap();
    let files: BTreeMap<String, File> = serde_json::from_str(&text).unwrap();
    let finals = tensors("optimizers.final.safetensors");
    let case = |(name, file): (String, File)| {
        let of_case = |(key, tensor): (&String, &Tensor)| {
            let key = key.strip_prefix(&format!("{name}/"))?;
            Some((key.to_owned(), tensor.shallow_clone()))
        };
        let final_weights = finals.iter().filter_map(of_case).collect();
        let mut spec = job(&name, &file, path("optimizers.initial.safetensors"));
        spec.training.validate = spec::Validate::Never;
        OptimizerCase { spec, final_weights, expected: file.expected, name }
    };
    files.into_iter().map(case).collect()
}

fn job(name: &str, file: &File, initial: PathBuf) -> spec::JobSpec {
    spec::JobSpec {
        command: None,
        job: spec::Job {
            name: name.to_owned(),
            seed: 1,
            priority: 0,
            output_dir: std::env::temp_dir(),
            labels: BTreeMap::new(),
            env: BTreeMap::new(),
            collective_timeout: Duration::from_secs(30),
            hang_timeout: spec::Job::HANG_TIMEOUT,
            time_limit: None,
        },
        resources: spec::Resources { device: spec::Device::Cpu, ..Default::default() },
        model: model(file, initial),
        data: file.data.spec(),
        training: training(file),
        zero: spec::Zero {
            stage: 0,
            overlap_comm: false,
            reduce_bucket_size: 500_000_000,
            offload_optimizer: None,
            stage3: spec::Stage3::default(),
        },
        checkpoint: spec::Checkpoint {
            dir: None,
            every_steps: None,
            every_epochs: None,
            keep_last: 1,
            keep_best: 0,
            asynchronous: false,
            resume: spec::Resume::Never,
            layout: spec::Layout::Auto,
        },
        monitor: spec::Monitor {
            tensorboard: false,
            csv: false,
            deepspeed_tensorboard_dir: None,
            deepspeed_csv_dir: None,
            diagnostics: Default::default(),
        },
        restart: spec::Restart::NEVER,
        notes: Vec::new(),
    }
}

impl Fixture {
    /// The weights after the last step, by torch's names, in torch's order of names.
    pub(crate) fn final_weights(&self) -> BTreeMap<String, Tensor> {
        tensors(&format!("{}.final.safetensors", self.name))
    }

    /// A fixed batch: `x`, `y`, `output`, `loss` and `grad.*`, for the initial weights.
    pub(crate) fn batch(&self) -> BTreeMap<String, Tensor> {
        tensors(&format!("{}.gradients.safetensors", self.name))
    }
}

/// A file of the fixtures.
pub(crate) fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(file)
}

impl Data {
    fn spec(&self) -> spec::Data {
        spec::Data {
            source: spec::DataSource::Csv {
                path: path("series.csv"),
                columns: self.columns.clone(),
                targets: self.targets.clone(),
                header: true,
                split: self.split,
                normalization: spec::Normalization::Standard,
                missing: spec::Missing::Error,
            },
            window: Some(self.window),
            horizon: Some(self.horizon),
            shuffle: false,
            drop_last: true,
        }
    }
}

fn model(file: &File, initial: PathBuf) -> spec::Model {
    let recurrent = spec::Recurrent {
        hidden_size: file.hidden,
        num_layers: file.layers,
        dropout: 0.0,
        head_dropout: 0.0,
        bidirectional: file.bidirectional,
        kernel: spec::RecurrentKernel::Auto,
        init_from: Some(initial),
    };
    match file.kind.as_str() {
        "lstm" => spec::Model::Lstm(recurrent),
        "gru" => spec::Model::Gru(recurrent),
        other => panic!("no model `{other}`"),
    }
}

fn training(file: &File) -> spec::Training {
    let sourced = |value| Some(spec::Sourced { value, origin: "fixture".to_owned() });
    let optimizer = &file.optimizer;
    spec::Training {
        epochs: 1000,
        max_steps: Some(file.expected.steps),
        max_eval_steps: None,
        validate: spec::Validate::EveryEpochs(1),
        early_stopping: None,
        batch: spec::Batch {
            batch_size: sourced(file.batch),
            micro_batch_size: None,
            gradient_accumulation: sourced(file.accumulation),
            mismatch: spec::BatchMismatch::Adapt,
        },
        optimizer: spec::Optimizer {
            learning_rate: optimizer.learning_rate,
            weight_decay: optimizer.weight_decay,
            rule: in_kebab_case(&optimizer.rule),
        },
        schedule: in_kebab_case(&file.schedule),
        gradient_clipping: file.gradient_clipping,
        precision: spec::Precision::FP32,
        gradient_compression: Default::default(),
        freeze: Vec::new(),
        activation_checkpointing: false,
        steps_per_print: None,
    }
}

/// The scripts write snake_case, the specification reads kebab-case.
pub(crate) fn in_kebab_case<T: serde::de::DeserializeOwned>(written: &serde_json::Value) -> T {
    fn renamed(written: &serde_json::Value) -> serde_json::Value {
        let Some(fields) = written.as_object() else { return written.clone() };
        let fields = fields.iter().map(|(key, value)| (key.replace('_', "-"), renamed(value)));
        serde_json::Value::Object(fields.collect())
    }
    serde_json::from_value(renamed(written)).unwrap()
}

fn tensors(file: &str) -> BTreeMap<String, Tensor> {
    let bytes = fs_err::read(path(file)).unwrap();
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let to_tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        assert_eq!(view.dtype(), safetensors::Dtype::F32, "{file}: {name}");
        let dims: Vec<i64> = view.shape().iter().map(|&d| d as i64).collect();
        (name, Tensor::from_data_size(view.data(), &dims, Kind::Float))
    };
    parsed.tensors().into_iter().map(to_tensor).collect()
}

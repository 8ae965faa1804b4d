//! A checkpoint of ours from one that DeepSpeed saved: its folder of `.pt` files, any stage.
//!
//! Promise: parameters (the fp32 masters where there are any) and optimizer states bit for bit;
//! what is left out is told in a note. Nothing of the files is executed. Refusal: tensor and
//! pipeline parallelism, mixtures of experts, files of DeepSpeed before 0.7.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use common::ids::{Generation, JobId};

use crate::fence::Fence;
use crate::manifest::{Manifest, SCHEMA_VERSION};
use crate::root::{Found, Root};
use crate::shard::{self, ShardName};
use crate::tensor::{DataType, SliceMeta, TensorKind};
use crate::torch::TorchError;

mod files;
mod states;
mod zero;

use files::Files;

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{}` is no checkpoint of DeepSpeed: {problem}", path.display())]
    NotDeepSpeed { path: PathBuf, problem: String },
    #[error("`{}`: {what} cannot be imported", path.display())]
    Unsupported { path: PathBuf, what: String },
    #[error("`{}`", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: TorchError,
    },
    #[error("`{}`: parameter `{name}`: {problem}", path.display())]
    Parameter { path: PathBuf, name: String, problem: String },
    #[error(
        "`{}` is already the checkpoint root of job {job}; give --out a folder that is not there",
        path.display()
    )]
    RootTaken { path: PathBuf, job: JobId },
    #[error(transparent)]
    Checkpoint(#[from] crate::Error),
}

/// What [`deepspeed`] made.
#[derive(Debug, Clone, Serialize)]
pub struct Imported {
    pub path: PathBuf,
    pub tag: String,
    pub step: u64,
    pub samples: u64,
    /// ZeRO stage and ranks of the run that was imported.
    pub stage: u8,
    pub world_size: u32,
    pub deepspeed_version: String,
    pub parameters: usize,
    pub elements: u64,
    /// Kinds of optimizer state that came along.
    pub optimizer_states: Vec<String>,
    pub bytes: u64,
    pub notes: Vec<String>,
}

/// The `train_state` of an imported checkpoint: DeepSpeed keeps no position in the data, so the
/// engine derives it from the samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImportedState {
    /// What made it: `deepspeed 0.19.8`.
    pub imported_from: String,
    /// Optimizer steps, skipped ones included.
    pub steps: u64,
    /// Of `steps`, those that an overflow skipped.
    pub skipped_steps: u64,
    pub samples: u64,
}

/// One tensor of the model, put together.
#[derive(Debug, Default)]
struct Assembled {
    shape: Vec<u64>,
    /// Flattened, by kind.
    values: BTreeMap<TensorKind, Vec<f32>>,
}

/// All that is taken over from the files.
#[derive(Debug, Default)]
struct Contents {
    /// By name, in the model's order.
    parameters: Vec<(String, Assembled)>,
    buffers: Vec<(SliceMeta, Vec<u8>)>,
    notes: Vec<String>,
}

/// Imports a folder of DeepSpeed's (the one with `latest`, or the one of a tag) as the only
/// checkpoint of a new root.
pub fn deepspeed(from: &Path, out: &Root) -> Result<Imported, Error> {
    let files = Files::open(from)?;
    let mut contents = match files.stage() {
        0 => states::replicated(&files)?,
        _ => zero::sharded(&files)?,
    };
    states::add_rest(&mut contents, &files)?;
    check(&contents, &files)?;
    if let Some(fence) = out.generation()? {
        return Err(Error::RootTaken { path: out.path().to_owned(), job: fence.job_id });
    }
    write(contents, &files, out)
}

/// Every parameter is whole, and all have the same states but those without any.
fn check(contents: &Contents, files: &Files) -> Result<(), Error> {
    for (name, parameter) in &contents.parameters {
        let problem = |problem: String| Error::Parameter {
            path: files.folder().to_owned(),
            name: name.clone(),
            problem,
        };
        let elements = parameter.shape.iter().try_fold(1_u64, |n, size| n.checked_mul(*size));
        let elements = elements.ok_or_else(|| problem("its shape cannot be".to_owned()))?;
        for (kind, values) in &parameter.values {
            if values.len() as u64 != elements {
                let (found, shape) = (values.len(), &parameter.shape);
                return Err(problem(format!(
                    "{kind} has {found} elements, its shape is {shape:?}"
                )));
            }
        }
        if !parameter.values.contains_key(&TensorKind::Parameter) {
            return Err(problem("its values are not there".to_owned()));
        }
    }
    if contents.parameters.is_empty() {
        let path = files.folder().to_owned();
        return Err(Error::NotDeepSpeed { path, problem: "it has no parameters".to_owned() });
    }
    Ok(())
}

/// As values of our kinds, with their bytes.
fn slices(contents: Contents) -> Vec<(SliceMeta, Vec<u8>)> {
    let mut slices = contents.buffers;
    for (name, Assembled { shape, values }) in contents.parameters {
        for (kind, values) in values {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            slices.push((slice(&name, kind, DataType::F32, &shape), bytes));
        }
    }
    slices
}

fn write(contents: Contents, files: &Files, out: &Root) -> Result<Imported, Error> {
    let notes = contents.notes.clone();
    let slices = slices(contents);
    let facts = files.facts();
    let job_id = JobId::from_name("deepspeed-import", &suffix(&slices))
        .expect("a fixed name and hex digits");
    let fence = Fence { job_id: job_id.clone(), generation: Generation(1) };
    out.create()?;
    out.raise_generation(&fence)?;
    let name = ShardName { rank: 0, world: 1, generation: fence.generation };
    let parts: Vec<_> = slices.iter().map(|(meta, bytes)| (meta.clone(), &bytes[..])).collect();
    let entry = shard::write(&out.folder(facts.steps), name, &fence, &parts)?;
    let imported_from = format!("deepspeed {}", facts.version);
    let state = ImportedState {
        imported_from: imported_from.clone(),
        steps: facts.steps,
        skipped_steps: facts.skipped_steps,
        samples: facts.samples,
    };
    let manifest = Manifest {
        schema_version: SCHEMA_VERSION,
        job_id,
        generation: fence.generation,
        world_size: 1,
        stage: facts.stage,
        precision: None,
        step: facts.steps,
        epoch: 0,
        samples: facts.samples,
        seed: 0,
        threads_per_rank: 1,
        instruction_set: "unknown".to_owned(),
        loss: None,
        val_loss: None,
        model: serde_json::json!({ "imported_from": imported_from }),
        train_state: serde_json::to_value(&state).expect("a state has only plain fields"),
        shards: vec![entry],
    };
    let Found { path, tag, bytes, .. } = out.commit(&manifest)?;
    let of = |kind: TensorKind| slices.iter().filter(move |(meta, _)| meta.kind == kind);
    let states = TensorKind::OPTIMIZER_STATES.into_iter();
    Ok(Imported {
        path,
        tag,
        step: facts.steps,
        samples: facts.samples,
        stage: facts.stage,
        world_size: facts.world,
        deepspeed_version: facts.version.clone(),
        parameters: of(TensorKind::Parameter).count(),
        elements: of(TensorKind::Parameter).map(|(meta, _)| meta.len).sum(),
        optimizer_states: states
            .filter(|kind| of(*kind).next().is_some())
            .map(|kind| kind.to_string())
            .collect(),
        bytes,
        notes,
    })
}

fn slice(name: &str, kind: TensorKind, dtype: DataType, shape: &[u64]) -> SliceMeta {
    let (name, global_shape) = (name.to_owned(), shape.to_vec());
    let len = shape.iter().product();
    SliceMeta { name, kind, dtype, global_shape, offset: 0, len }
}

/// The same files give the same id.
fn suffix(slices: &[(SliceMeta, Vec<u8>)]) -> String {
    let mut hasher = blake3::Hasher::new();
    slices.iter().for_each(|(_, bytes)| {
        hasher.update(bytes);
    });
    hasher.finalize().to_hex()[..6].to_owned()
}

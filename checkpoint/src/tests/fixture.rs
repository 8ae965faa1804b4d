//! A root in a folder of its own, and checkpoints whose every byte is known.

use std::path::{Path, PathBuf};

use common::ids::{Generation, JobId};

use crate::shard::{self, ShardName};
use crate::{
    DataType, Error, Fence, Found, Manifest, Root, SCHEMA_VERSION, ShardEntry, SliceMeta,
    TensorKind,
};

pub(super) const TENSORS: [(TensorKind, &str, &[u64]); 7] = [
    (TensorKind::Parameter, "lstm.weight_ih_l0", &[12, 5]),
    (TensorKind::Parameter, "lstm.bias_ih_l0", &[12]),
    (TensorKind::Parameter, "fc.bias", &[1]),
    (TensorKind::Parameter, "scale", &[]),
    (TensorKind::Parameter, "empty", &[0, 3]),
    (TensorKind::ExpAvg, "lstm.weight_ih_l0", &[12, 5]),
    (TensorKind::Buffer, "mean", &[3]),
];

/// A rank's slices, with their bytes.
pub(super) type Owned = Vec<(SliceMeta, Vec<u8>)>;

/// Values that differ from tensor to tensor and from element to element.
pub(super) fn bytes_of(kind: TensorKind, name: &str, range: std::ops::Range<u64>) -> Vec<u8> {
    let salt = blake3::hash(format!("{kind}{name}").as_bytes());
    let salt = u32::from(salt.as_bytes()[0]) * 1000;
    range.flat_map(|element| (salt as f32 + element as f32 / 8.0).to_le_bytes()).collect()
}

pub(super) fn slice(kind: TensorKind, name: &str, shape: &[u64], run: (u64, u64)) -> SliceMeta {
    let (offset, len) = run;
    let global_shape = shape.to_vec();
    SliceMeta { name: name.to_owned(), kind, dtype: DataType::F32, global_shape, offset, len }
}

/// Cuts all tensors, one after another, into `world` runs of about the same size, as ZeRO does
/// with a flat buffer: slices begin and end anywhere.
pub(super) fn cut(world: u32, rank: u32) -> Owned {
    let sizes = TENSORS.map(|(_, _, shape)| shape.iter().product::<u64>());
    let total: u64 = sizes.iter().sum();
    let bound = |rank: u32| total * u64::from(rank) / u64::from(world);
    let (first, last) = (bound(rank), bound(rank + 1));
    let mut owned = Vec::new();
    let mut start = 0;
    for ((kind, name, shape), size) in TENSORS.iter().zip(sizes) {
        let from = first.max(start).min(start + size) - start;
        let to = last.min(start + size).max(start) - start;
        // The empty tensor belongs to rank 0, as a slice of nothing.
        if from < to || (size == 0 && rank == 0) {
            let meta = slice(*kind, name, shape, (from, to - from));
            owned.push((meta, bytes_of(*kind, name, from..to)));
        }
        start += size;
    }
    owned
}

pub(super) struct Fixture {
    _folder: tempfile::TempDir,
    pub(super) root: Root,
    pub(super) fence: Fence,
}

impl Fixture {
    /// An empty root at generation 1 of a job.
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::at(&folder.path().join("checkpoints"));
        root.create().unwrap();
        let fence = fence("job-a", 1);
        root.raise_generation(&fence).unwrap();
        Self { _folder: folder, root, fence }
    }

    pub(super) fn raise(&mut self, generation: u64) {
        self.fence.generation = Generation(generation);
        self.root.raise_generation(&self.fence).unwrap();
    }

    /// The shards of a world, written, and the manifest that would commit them.
    pub(super) fn write(&self, step: u64, world: u32) -> Manifest {
        write(&self.root, &self.fence, step, world).unwrap()
    }

    pub(super) fn save(&self, step: u64, world: u32) -> Found {
        self.root.commit(&self.write(step, world)).unwrap()
    }

    /// Saves with these losses.
    pub(super) fn save_with(&self, step: u64, loss: Option<f64>, val_loss: Option<f64>) -> Found {
        let manifest = Manifest { loss, val_loss, ..self.write(step, 1) };
        self.root.commit(&manifest).unwrap()
    }

    pub(super) fn tags(&self) -> Vec<String> {
        self.root.list().unwrap().whole.into_iter().map(|found| found.tag).collect()
    }
}

pub(super) fn fence(job: &str, generation: u64) -> Fence {
    Fence { job_id: job.parse::<JobId>().unwrap(), generation: Generation(generation) }
}

pub(super) fn write(root: &Root, fence: &Fence, step: u64, world: u32) -> Result<Manifest, Error> {
    let folder = root.folder(step);
    let shards = (0..world)
        .map(|rank| {
            let name = ShardName { rank, world, generation: fence.generation };
            write_shard_as(fence, &folder, name, &cut(world, rank))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(manifest(fence, step, shards))
}

/// By the job of [`Fixture::new`].
pub(super) fn write_shard(
    folder: &Path,
    name: ShardName,
    owned: &Owned,
) -> Result<ShardEntry, Error> {
    write_shard_as(&fence("job-a", name.generation.0), folder, name, owned)
}

fn write_shard_as(
    fence: &Fence,
    folder: &Path,
    name: ShardName,
    owned: &Owned,
) -> Result<ShardEntry, Error> {
    let slices: Vec<_> = owned.iter().map(|(meta, bytes)| (meta.clone(), &bytes[..])).collect();
    shard::write(folder, name, fence, &slices)
}

pub(super) fn manifest(fence: &Fence, step: u64, shards: Vec<ShardEntry>) -> Manifest {
    Manifest {
        schema_version: SCHEMA_VERSION,
        job_id: fence.job_id.clone(),
        generation: fence.generation,
        world_size: u32::try_from(shards.len()).unwrap(),
        stage: 2,
        precision: None,
        step,
        epoch: step / 10,
        samples: step * 64,
        seed: 7,
        threads_per_rank: 1,
        instruction_set: "avx2".to_owned(),
        loss: Some(1.0 / (step + 1) as f64),
        val_loss: None,
        model: serde_json::json!({"kind": "lstm"}),
        train_state: serde_json::json!({"position": [step, 0.1]}),
        shards,
    }
}

pub(super) fn shard_path(found: &Found, rank: u32) -> PathBuf {
    let Found { world_size: world, generation, .. } = *found;
    found.path.join(ShardName { rank, world, generation }.to_string())
}

/// Names in a folder, sorted.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

//! How fast a shard is saved, against writing and syncing the same bytes with nothing else.
//!
//! `cargo run --release -p checkpoint --example bandwidth -- FOLDER [MIB] [RUNS]` prints one JSON
//! line: medians of interleaved runs in GiB/s, and the ratio of saving to plain writing. Reading
//! is measured from the page cache, so its limit is memory and not the disk.
#![expect(clippy::print_stdout, reason = "the result is this program's output")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use checkpoint::shard::ShardName;
use checkpoint::{
    DataType, Fence, Manifest, Reader, Root, SCHEMA_VERSION, SliceMeta, TensorKind, shard,
};
use common::ids::Generation;

type Failure = Box<dyn std::error::Error>;

const MIB: u64 = 1024 * 1024;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let mib: u64 = arguments.next().map_or(Ok(256), |text| text.parse())?;
    let runs: usize = arguments.next().map_or(Ok(5), |text| text.parse())?;

    let folder = folder.join(format!("checkpoint-bandwidth-{}", std::process::id()));
    let root = Root::at(&folder);
    root.create()?;
    let result = measure(&root, mib * MIB, runs);
    std::fs::remove_dir_all(&folder)?;
    println!("{}", result?);
    Ok(())
}

fn measure(root: &Root, bytes: u64, runs: usize) -> Result<serde_json::Value, Failure> {
    let fence = Fence { job_id: "bandwidth-000000".parse()?, generation: Generation(1) };
    root.raise_generation(&fence)?;
    // Not constant: some file systems and disks compress.
    let mut random = blake3::Hasher::new().finalize_xof();
    let mut data = vec![0; usize::try_from(bytes)?];
    random.fill(&mut data);

    let (mut plain, mut hash, mut save, mut load) = (vec![], vec![], vec![], vec![]);
    for run in 0..runs as u64 {
        plain.push(timed(|| plain_write(&root.path().join("plain"), &data))?);
        hash.push(timed(|| {
            std::hint::black_box(blake3::hash(&data));
            Ok(())
        })?);
        save.push(timed(|| save_whole(root, &fence, run, &data))?);
        load.push(timed(|| load_whole(&root.folder(run), &data))?);
        std::fs::remove_dir_all(root.folder(run))?;
    }
    let rate = |seconds: &mut Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        bytes as f64 / seconds[seconds.len() / 2] / (1024.0 * MIB as f64)
    };
    let (plain, hash, save, load) =
        (rate(&mut plain), rate(&mut hash), rate(&mut save), rate(&mut load));
    Ok(serde_json::json!({
        "bytes": bytes,
        "runs": runs,
        "plain_write_fsync_gib_per_second": plain,
        "blake3_gib_per_second": hash,
        "save_gib_per_second": save,
        "save_over_plain": save / plain,
        "load_gib_per_second": load,
    }))
}

fn timed(work: impl FnOnce() -> Result<(), Failure>) -> Result<f64, Failure> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

fn plain_write(path: &Path, data: &[u8]) -> Result<(), Failure> {
    let mut file = File::create(path)?;
    file.write_all(data)?;
    file.sync_all()?;
    std::fs::remove_file(path)?;
    Ok(())
}

/// Everything that a save does: shard, hash, syncs, fence, manifest.
fn save_whole(root: &Root, fence: &Fence, step: u64, data: &[u8]) -> Result<(), Failure> {
    let name = ShardName { rank: 0, world: 1, generation: fence.generation };
    let len = data.len() as u64 / 4;
    let slice = SliceMeta {
        name: "weight".to_owned(),
        kind: TensorKind::Parameter,
        dtype: DataType::F32,
        global_shape: vec![len],
        offset: 0,
        len,
    };
    let entry = shard::write(&root.folder(step), name, fence, &[(slice, data)])?;
    root.commit(&Manifest {
        schema_version: SCHEMA_VERSION,
        job_id: fence.job_id.clone(),
        generation: fence.generation,
        world_size: 1,
        stage: 0,
        precision: None,
        step,
        epoch: 0,
        samples: 0,
        seed: 0,
        threads_per_rank: 1,
        instruction_set: String::new(),
        loss: None,
        val_loss: None,
        model: serde_json::Value::Null,
        train_state: serde_json::Value::Null,
        shards: vec![entry],
    })?;
    Ok(())
}

fn load_whole(folder: &Path, data: &[u8]) -> Result<(), Failure> {
    let read =
        Reader::open(folder)?.read(TensorKind::Parameter, "weight", 0..data.len() as u64 / 4)?;
    if read == data { Ok(()) } else { Err("read something else than was written".into()) }
}

//! The environment of what a job runs here.

use std::collections::BTreeMap;
use std::ffi::OsString;

use common::spec::Command;

use crate::network::Network;

/// glibc's allocator returns and re-faults libtorch's workspaces on every step; kept, a recurrent
/// model's step takes up to a quarter less. Above 2 GiB only the environment can say it: `mallopt`
/// takes an int.
const ALLOCATOR: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "4000000000"),
    ("MALLOC_TRIM_THRESHOLD_", "8000000000"),
    ("MALLOC_TOP_PAD_", "268435456"),
];

/// CUDA counts the fastest GPU first otherwise, while NVML, the driver's files and `rsctl workers` count by
/// the bus: a slot must be the GPU that was told.
const GPU_ORDER: (&str, &str) = ("CUDA_DEVICE_ORDER", "PCI_BUS_ID");

/// What other launchers leave behind would be misread inside a trainer.
const LAUNCHER_LEFTOVERS: [&str; 8] = [
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
];

/// Of our own variables the one that is for trainers.
const NCCL_LIBRARY: &str = "RUSTSPEED_NCCL_LIB";

/// The worker's environment without its own and other launchers' settings, then ours, then the
/// job's, which wins.
pub(super) fn of_trainers(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    job: &BTreeMap<String, String>,
    threads_per_rank: u32,
    network: &Network,
) -> Vec<(OsString, OsString)> {
    let is_kept = |key: &str| {
        (key == NCCL_LIBRARY || !key.starts_with("RUSTSPEED_"))
            && !LAUNCHER_LEFTOVERS.contains(&key)
    };
    let mut env: BTreeMap<OsString, OsString> =
        inherited.filter(|(key, _)| key.to_str().is_some_and(is_kept)).collect();
    let threads = threads_per_rank.to_string();
    let ours = [("OMP_NUM_THREADS", threads.as_str()), ("MKL_NUM_THREADS", &threads)];
    env.extend(ours.map(|(key, value)| (key.into(), value.into())));
    // A choice that the user made for the worker is the user's choice for its trainers.
    let unset = ALLOCATOR.iter().chain(&[("RUST_BACKTRACE", "1"), GPU_ORDER]);
    for (key, value) in unset {
        env.entry(key.into()).or_insert_with(|| value.into());
    }
    choose_interface(&mut env, network);
    env.extend(job.iter().map(|(key, value)| (key.into(), value.into())));
    env.into_iter().collect()
}

/// Left by a launcher that the worker itself was started with.
const LAUNCHERS: [&str; 3] = ["MASTER_ADDR", "MASTER_PORT", "ROLE_NAME"];

/// The worker's environment without our settings and without what another launcher has left, then the
/// job's. Threads stay as whoever started the worker set them, as under torchrun.
pub(super) fn of_command(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    job: &BTreeMap<String, String>,
    network: &Network,
) -> Vec<(OsString, OsString)> {
    let is_left = |key: &str| {
        key.starts_with("RUSTSPEED_")
            || key.starts_with("TORCHELASTIC_")
            || LAUNCHERS.contains(&key)
            || Command::OWN_VARIABLES.contains(&key)
    };
    let mut env: BTreeMap<OsString, OsString> =
        inherited.filter(|(key, _)| key.to_str().is_some_and(|key| !is_left(key))).collect();
    choose_interface(&mut env, network);
    env.extend(job.iter().map(|(key, value)| (key.into(), value.into())));
    env.into_iter().collect()
}

/// NCCL and Gloo use the interface that the worker was told to use, unless somebody told them.
fn choose_interface(env: &mut BTreeMap<OsString, OsString>, network: &Network) {
    for (key, value) in network.variables() {
        env.entry(key.into()).or_insert_with(|| value.into());
    }
}

#[cfg(test)]
mod tests;

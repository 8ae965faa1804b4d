//! What a node has to train with, as `worker inspect` tells it and `rsctl doctor` judges it. Says what was
//! found and why something was not; whether that will do is for others to say.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::status::Gpus;

/// A node, as the user sees it who asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeFacts {
    pub hostname: String,
    /// Of this build.
    pub version: String,
    pub trainer: Trainer,
    pub gpus: Gpus,
    pub nccl: Nccl,
    /// Instruction sets that kernels look for, of those that the CPU has.
    pub cpu_features: Vec<String>,
    /// That processes here may use: affinity and quota count.
    pub cores: u32,
    /// The machine's, or the limit of the cgroup where that is lower; 0: unknown.
    pub memory_bytes: u64,
    /// Size of /dev/shm; None: there is none.
    pub shm_bytes: Option<u64>,
    /// The most open files of a process, which the daemons raise their limit to; None: no limit.
    pub open_files: Option<u64>,
    /// Networks that it is in, in the kernel's order; empty: the worker is too old to say.
    #[serde(default)]
    pub interfaces: Vec<NodeInterface>,
}

/// A network interface that is up, with addresses that others can connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInterface {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

/// The trainer and what it would run on here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trainer {
    pub path: String,
    /// What it says when it is started; None: it could not be.
    pub version: Option<String>,
    /// Which libtorch, in words.
    pub libtorch: String,
    /// Whether one was found that fits.
    pub has_libtorch: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nccl {
    /// Such as 2.28.9; None: it was not found.
    pub version: Option<String>,
    /// Which library, or where it was looked for.
    pub place: String,
}

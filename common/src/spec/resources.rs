//! `[resources]`: how many ranks a job has, where they run and how they reach each other.

use serde::{Deserialize, Serialize};

use super::Hosts;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Resources {
    /// None: all idle slots at placement, as far as the next two allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world_size: Option<u32>,
    /// An attempt starts with no fewer ranks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ranks: Option<u32>,
    /// An attempt has no more ranks; None: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ranks: Option<u32>,
    /// At most this many workers take part; None: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u32>,
    /// Where ranks may be; None: on any worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Hosts>,
    pub device: Device,
    /// Slots (cores) that one rank takes.
    pub threads_per_rank: u32,
    pub transport: Transport,
}

/// What a job that says nothing has: all idle slots of any worker, a slot for each rank.
impl Default for Resources {
    fn default() -> Self {
        Self {
            world_size: None,
            min_ranks: None,
            max_ranks: None,
            workers: None,
            hosts: None,
            device: Device::Auto,
            threads_per_rank: 1,
            transport: Transport::Auto,
        }
    }
}

impl Resources {
    /// Whether the world may change from attempt to attempt while the global batch stays.
    pub fn is_elastic(&self) -> bool {
        self.world_size.is_none() && (self.min_ranks.is_some() || self.max_ranks.is_some())
    }

    pub fn smallest_world(&self) -> u32 {
        self.world_size.or(self.min_ranks).unwrap_or(1)
    }

    /// None: as large as what is idle.
    pub fn largest_world(&self) -> Option<u32> {
        self.world_size.or(self.max_ranks)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    Auto,
    Cpu,
    Cuda,
}

/// How ranks reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Shared memory where two ranks can reach each other by it, else TCP; between GPUs NCCL.
    Auto,
    /// These two carry what is on GPUs through the hosts' memory.
    SharedMemory,
    Tcp,
}

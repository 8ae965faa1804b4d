//! What a node has.

use common::status::{Gpu, Gpus};

use crate::v1;

impl From<v1::Gpus> for Gpus {
    fn from(gpus: v1::Gpus) -> Self {
        let device =
            |gpu: v1::Gpu| Gpu { name: gpu.name, uuid: gpu.uuid, memory_bytes: gpu.memory_bytes };
        Self { devices: gpus.devices.into_iter().map(device).collect(), source: gpus.source }
    }
}

impl From<Gpus> for v1::Gpus {
    fn from(gpus: Gpus) -> Self {
        let device =
            |gpu: Gpu| v1::Gpu { name: gpu.name, uuid: gpu.uuid, memory_bytes: gpu.memory_bytes };
        Self { devices: gpus.devices.into_iter().map(device).collect(), source: gpus.source }
    }
}

//! The GPUs of a node, as its worker found them. Says what is there, not that anything computes on it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The GPUs that processes of a node may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpus {
    /// In the order of their places on the bus, or in that of `CUDA_VISIBLE_DEVICES`.
    pub devices: Vec<Gpu>,
    /// Who told of them, or why nobody did; empty: the worker has not said.
    pub source: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// Empty: unknown.
    pub uuid: String,
    /// 0: unknown.
    pub memory_bytes: u64,
}

/// Models with their numbers: `2 x NVIDIA A, NVIDIA B`; `none`.
impl fmt::Display for Gpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.devices.is_empty() {
            return f.write_str("none");
        }
        let mut separator = "";
        for alike in self.devices.chunk_by(|a, b| a.name == b.name) {
            f.write_str(separator)?;
            if alike.len() > 1 {
                write!(f, "{} x ", alike.len())?;
            }
            f.write_str(&alike[0].name)?;
            separator = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_alike_are_counted() {
        let gpus = |names: &[&str]| {
            let gpu = |name: &&str| Gpu {
                name: (*name).to_owned(),
                uuid: String::new(),
                memory_bytes: 0,
            };
            Gpus { devices: names.iter().map(gpu).collect(), source: String::new() }.to_string()
        };
        assert_eq!(gpus(&[]), "none");
        assert_eq!(gpus(&["NVIDIA A"]), "NVIDIA A");
        assert_eq!(gpus(&["NVIDIA A", "NVIDIA A", "NVIDIA B"]), "2 x NVIDIA A, NVIDIA B");
    }
}

//! The vocabulary of RustSpeed: ids, the effective job, the DeepSpeed configuration, states, exit
//! codes and units. Knows nothing of sockets, clocks, async or tensors.

pub mod batch;
pub mod cores;
mod deepspeed;
pub mod exit;
pub mod explain;
pub mod help;
mod hjson;
pub mod hostfile;
pub mod ids;
pub mod jobfile;
pub mod length;
pub mod memory;
pub mod metric;
pub mod node;
pub mod ports;
pub mod position;
pub mod process;
pub mod report;
pub mod retry;
mod section;
pub mod slurm;
pub mod spec;
pub mod status;
mod tree;
pub mod units;

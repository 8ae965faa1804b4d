//! The vocabulary of RustSpeed: ids, the effective job, the DeepSpeed configuration, states, exit
//! codes and units. Knows nothing of sockets, clocks, async or tensors.

pub mod batch;
pub mod exit;
pub mod explain;
pub mod ids;
pub mod jobfile;
pub mod metric;
pub mod report;
pub mod retry;
pub mod spec;
pub mod status;
pub mod units;

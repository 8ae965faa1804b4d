//! The vocabulary of RustSpeed: ids, the effective job, the DeepSpeed configuration, states, exit
//! codes and units. Knows nothing of sockets, clocks, async or tensors.

pub mod exit;
pub mod ids;
pub mod metric;
pub mod spec;
pub mod status;
pub mod units;

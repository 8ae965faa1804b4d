//! Helpers for system tests: real binaries, real processes, real sockets, real files. Every wait
//! has a deadline, every process that a test starts ends with it.

pub mod binaries;
pub mod cluster;
pub mod history;
pub mod job;
pub mod mount;
pub mod network;
pub mod ports;
pub mod process;
pub mod rsctl;
pub mod slurm;
pub mod soak;
pub mod ssh;
pub mod wait;

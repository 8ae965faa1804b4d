//! The room through its public surface: whole runs with the ranks as threads of one process.

pub(crate) mod cnn;
mod diagnostics;
mod failures;
mod matrix;
mod memory;
mod mirrored;
mod numerics;
mod optimizers;
mod precision;
pub(crate) mod ranks;
mod resident;
mod resume;
mod seeds;
mod sharded;
mod soak;
pub(crate) mod spec;
mod stages;
mod worlds;

//! How SLURM writes things, and what we write for it. Text to values and values to text: asks no
//! SLURM, reads no environment.

pub mod allocation;
pub mod counts;
pub mod nodelist;
pub mod pool;
pub mod queue;
pub mod request;
pub mod script;
pub mod step;

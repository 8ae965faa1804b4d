//! How SLURM writes lists. Text to values and nothing else: asks no SLURM, reads no environment.

pub mod counts;
pub mod nodelist;

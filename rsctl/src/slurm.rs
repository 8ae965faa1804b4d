//! A job inside an allocation of SLURM: what the allocation is, whether the job fits it, a
//! coordinator on this node and a worker on each by one `srun`. Submits nothing to SLURM.

pub(crate) mod allocation;
pub(crate) mod fit;
pub(crate) mod folder;
pub(crate) mod follow;
pub(crate) mod signals;
pub(crate) mod site;
mod step;

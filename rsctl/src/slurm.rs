//! A job inside an allocation of SLURM: what the allocation is, whether the job fits it, a
//! coordinator on this node and a worker on each by one `srun`. And what a job asks for that is to get
//! an allocation of its own (`ask`), which the coordinator then submits. Submits nothing itself.

pub(crate) mod allocation;
pub(crate) mod ask;
pub(crate) mod fit;
pub(crate) mod folder;
pub(crate) mod follow;
pub(crate) mod signals;
pub(crate) mod site;
mod step;

//! System tests: real binaries, real trainers, real sockets and files; each test in its own folder
//! on port 0, every process accounted for at the end. Modules are stories.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod bad_input;
mod chaos;
mod chaos_demo;
mod checkpoints;
mod contracts;
mod detection;
mod devices;
mod doctor;
mod elastic;
mod elsewhere;
mod hostfiles;
mod kills;
mod launch;
mod migrating;
mod monitors;
mod network_cut;
mod nodes;
mod nonsense;
mod observe;
mod power_cut;
mod preemption;
mod queue;
mod run;
mod separate_disks;
mod slurm;
mod slurm_faults;
mod slurm_nodes;
mod slurm_pool;
mod slurm_site;
mod slurm_submit;
mod slurm_time;
mod ssh;
mod submit;
mod troubleshooting;

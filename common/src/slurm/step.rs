//! What every `srun` of ours has in common: one task on each node that becomes a worker.

/// Options of `slurm.conf` that would end workers early are said anew: `WaitTime` (--wait).
pub const OPTIONS: &[&str] = &[
    // Beside another step: `srun --pty bash`, or the one that `salloc` itself started.
    "--overlap",
    "--ntasks-per-node=1",
    "--cpu-bind=none",
    "--mpi=none",
    "--export=ALL",
    "--label",
    "--wait=0",
    "--job-name=rustspeed",
];

/// Options of the job that a step would inherit from the environment, and that would give its one
/// task per node less than the whole allocation.
pub const NOT_INHERITED: &[&str] = &[
    "SLURM_CPUS_PER_TASK",
    "SRUN_CPUS_PER_TASK",
    "SLURM_TRES_PER_TASK",
    "SLURM_GPUS_PER_TASK",
    "SLURM_NTASKS_PER_GPU",
    "SLURM_NTASKS_PER_SOCKET",
    "SLURM_NTASKS_PER_CORE",
    "SLURM_EXACT",
    "SLURM_STEP_GRES",
];

//! A job that runs a program of the user's own, as `torchrun` and `deepspeed` do, in place of our
//! trainer.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cores::CoreList;

use super::{
    Batch, BatchMismatch, Checkpoint, Data, DataSource, Diagnostics, Job, JobSpec, Layout, Model,
    Monitor, Optimizer, Precision, Recurrent, RecurrentKernel, Resources, Restart, Resume,
    Schedule, Sourced, Stage3, Training, UpdateRule, Validate, Zero,
};

/// What every rank runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Command {
    /// Program and arguments; no shell reads them. Never empty.
    pub line: Vec<String>,
    /// Absolute; it is started there.
    pub working_dir: PathBuf,
    /// DeepSpeed's `--local_rank=N` becomes its argument of this number, counted from the program,
    /// which is 0; None: it gets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_rank_at: Option<u32>,
    /// Whether every rank has cores of its own; None: as the worker has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<CoreBinding>,
}

/// DeepSpeed's `--bind_cores_to_rank`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CoreBinding {
    /// Of each node, split evenly among its ranks; None: each rank's part of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<CoreList>,
}

impl Command {
    /// Variables that are each rank's own: a job cannot set them for all.
    pub const OWN_VARIABLES: [&str; 13] = [
        "RANK",
        "LOCAL_RANK",
        "NODE_RANK",
        "GROUP_RANK",
        "CROSS_RANK",
        "ROLE_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "LOCAL_SIZE",
        "GROUP_WORLD_SIZE",
        "CROSS_SIZE",
        "ROLE_WORLD_SIZE",
        "TORCHELASTIC_RESTART_COUNT",
    ];

    /// Why nobody sees a command hang.
    pub const UNWATCHED: &str = "a command tells no steps, so that it hangs is not seen; \
                                 job.time-limit bounds it";

    /// The program, as written.
    pub fn program(&self) -> &str {
        self.line.first().map_or("", String::as_str)
    }

    /// What follows the program, for one rank of a node.
    pub fn arguments(&self, local_rank: u32) -> Vec<String> {
        let mut line = self.line.clone();
        if let Some(at) = self.local_rank_at {
            line.insert((at as usize).clamp(1, line.len()), format!("--local_rank={local_rank}"));
        }
        line.split_off(1.min(line.len()))
    }
}

/// Whether whatever is started with this variable loads a library that its value names: by the dynamic
/// linker's rules, or those of libraries that trainers have or may load.
fn names_a_library(variable: &str) -> bool {
    const OTHERS: [&str; 5] = [
        "CUDA_INJECTION64_PATH",
        "GCONV_PATH",
        "NVTX_INJECTION64_PATH",
        "OMP_TOOL_LIBRARIES",
        "RUSTSPEED_NCCL_LIB",
    ];
    let is_plugin = variable.starts_with("NCCL_") && variable.ends_with("_PLUGIN");
    variable.starts_with("LD_") || is_plugin || OTHERS.contains(&variable)
}

impl JobSpec {
    /// A variable by which our trainer would run code of the submitter's. It is no less than a command.
    pub fn library_variable(&self) -> Option<&str> {
        let names = self.job.env.keys().map(String::as_str);
        names.into_iter().find(|name| names_a_library(name))
    }

    /// Whether code of the submitter's runs, by a command or by a variable.
    pub fn brings_code(&self) -> bool {
        self.command.is_some() || self.library_variable().is_some()
    }

    /// The key of the job that brings it, for messages.
    pub fn code_key(&self) -> Option<String> {
        let variable = || self.library_variable().map(|name| format!("job.env.{name}"));
        self.command.as_ref().map(|_| "job.command".to_owned()).or_else(variable)
    }

    /// A job that runs a command. What only our trainer reads has values that mean nothing: there is
    /// no model, no data and no checkpoint of ours.
    pub fn of_command(command: Command, job: Job, resources: Resources, restart: Restart) -> Self {
        let one = Sourced { value: 1, origin: "a command has no batch".to_owned() };
        Self {
            command: Some(command),
            job,
            resources,
            model: Model::Lstm(Recurrent {
                hidden_size: 1,
                num_layers: 1,
                dropout: 0.0,
                head_dropout: 0.0,
                bidirectional: false,
                kernel: RecurrentKernel::Auto,
                init_from: None,
            }),
            data: Data {
                source: DataSource::Sine { samples: 1, validation_samples: 1, noise: 0.0 },
                window: Some(1),
                horizon: Some(1),
                shuffle: false,
                drop_last: false,
            },
            training: Training {
                // Of any world: each rank has one sample.
                batch: Batch {
                    batch_size: None,
                    micro_batch_size: Some(one),
                    gradient_accumulation: None,
                    mismatch: BatchMismatch::Adapt,
                },
                ..no_training()
            },
            zero: Zero {
                stage: 0,
                overlap_comm: false,
                reduce_bucket_size: 1,
                stage3: Stage3::default(),
                offload_optimizer: None,
            },
            checkpoint: Checkpoint {
                dir: None,
                every_steps: None,
                every_epochs: None,
                keep_last: 1,
                keep_best: 0,
                asynchronous: false,
                resume: Resume::Never,
                layout: Layout::Auto,
            },
            monitor: Monitor {
                tensorboard: false,
                csv: false,
                deepspeed_tensorboard_dir: None,
                deepspeed_csv_dir: None,
                diagnostics: Diagnostics::default(),
            },
            restart,
            notes: vec![Command::UNWATCHED.to_owned()],
        }
    }
}

fn no_training() -> Training {
    Training {
        epochs: 1,
        max_steps: None,
        max_eval_steps: None,
        validate: Validate::Never,
        early_stopping: None,
        batch: Batch {
            batch_size: None,
            micro_batch_size: None,
            gradient_accumulation: None,
            mismatch: BatchMismatch::Adapt,
        },
        optimizer: Optimizer {
            learning_rate: 0.0,
            weight_decay: 0.0,
            rule: UpdateRule::Sgd { momentum: 0.0, dampening: 0.0, nesterov: false },
        },
        schedule: Schedule::Constant,
        gradient_clipping: 0.0,
        precision: Precision::FP32,
        gradient_compression: Default::default(),
        freeze: Vec::new(),
        activation_checkpointing: false,
        steps_per_print: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &[&str], local_rank_at: Option<u32>) -> Command {
        let line = line.iter().map(|word| (*word).to_owned()).collect();
        Command { line, working_dir: "/home/ada".into(), local_rank_at, binding: None }
    }

    #[test]
    fn the_local_rank_stands_right_behind_the_script_as_deepspeed_puts_it() {
        let line = ["python", "-u", "train.py", "--lr", "1"];
        assert_eq!(command(&line, None).arguments(1), line[1..]);
        let injected = command(&line, Some(3)).arguments(1);
        assert_eq!(injected, ["-u", "train.py", "--local_rank=1", "--lr", "1"]);
        assert_eq!(command(&["a.sh"], Some(9)).arguments(0), ["--local_rank=0"]);
    }

    #[test]
    fn variables_that_load_a_library_are_told_from_those_that_tune() {
        for name in ["LD_PRELOAD", "LD_LIBRARY_PATH", "NCCL_NET_PLUGIN", "RUSTSPEED_NCCL_LIB"] {
            assert!(names_a_library(name), "{name}");
        }
        for name in ["NCCL_DEBUG", "OMP_NUM_THREADS", "PATH", "MALLOC_ARENA_MAX", "OLD_"] {
            assert!(!names_a_library(name), "{name}");
        }
    }
}

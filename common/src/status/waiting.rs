//! Why a job waits for its start, in numbers for programs and in words for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::JobId;
use crate::spec::Device;
use crate::status::UnixMillis;

/// A job that waits for its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    #[serde(flatten)]
    pub reason: WaitReason,
    /// Jobs that are served before it.
    pub ahead: u64,
    /// As far as running jobs have said when they end; it can start no earlier only if they keep
    /// their word. None: `estimate` says why.
    pub earliest_start: Option<UnixMillis>,
    /// What the estimate rests on, or why there is none.
    pub estimate: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WaitReason {
    /// It has its turn: slots are kept for it as they become idle.
    Slots(SlotShortage),
    /// The workers that are connected could not hold it; it holds nobody up.
    TooLarge(SlotShortage),
    /// This job has its turn first.
    Behind { job_id: JobId },
    /// As many jobs of its group run as may.
    GroupLimit { group: String, running: u32, max: u32 },
    /// It was submitted to run after these.
    After { jobs: Vec<JobId> },
    /// It broke off, and its wait before the next attempt is not over.
    Backoff,
    /// It broke off, and trainers of its last attempt may still run.
    Stragglers { worker: String },
    /// It has an allocation of SLURM to itself, and that one's workers are not there yet.
    Allocation {
        /// SLURM's number, once it has one.
        slurm_job: Option<u64>,
        /// SLURM's word for its state, as far as it is known.
        state: Option<String>,
        text: String,
    },
    /// It came after the last decision. A newer coordinator may have reasons that we do not know.
    #[serde(other)]
    Undecided,
}

/// What a job needs and what there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotShortage {
    /// None: any number of ranks would do.
    pub ranks: Option<u32>,
    /// More ranks would do too: of an elastic job.
    #[serde(default)]
    pub or_more: bool,
    pub slots_per_rank: u32,
    pub max_workers: Option<u32>,
    pub device: Device,
    /// Ranks that fit now, and that would fit on an idle cluster.
    pub fits_now: u32,
    pub fits_idle: u32,
    pub idle_slots: u32,
    pub slots: u32,
    pub workers: u32,
    /// Workers that could help it and were taken out of service.
    #[serde(default)]
    pub drained: u32,
    /// Of a job that runs a command: workers that could help it and run none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub without_commands: u32,
    /// The worker that has the checkpoint: rank 0 must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Of a job that names its hosts; what is counted above is on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<HostLack>,
}

/// What a job's hosts lack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLack {
    /// How many the job names.
    pub named: u32,
    /// Some of those on which no worker is in service, in the order of the job.
    pub missing: Vec<String>,
    /// All of those.
    pub missing_count: u32,
    /// Some of those that have fewer slots than the job names.
    pub small: Vec<SmallHost>,
}

/// A host whose worker lacks slots that a job names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmallHost {
    pub host: String,
    pub slots: u32,
    /// The highest slot that is named, and one.
    pub named: u32,
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slots(shortage) | Self::TooLarge(shortage) => shortage.fmt(f),
            Self::Behind { job_id } => write!(f, "behind job `{job_id}`, which has its turn"),
            Self::GroupLimit { group, running, max } => {
                let jobs = count(*running, "job");
                write!(f, "group `{group}` runs {jobs}, and {max} may run at once")
            }
            Self::After { jobs } => {
                let names: Vec<String> = jobs.iter().map(|job| format!("`{job}`")).collect();
                write!(f, "runs after job {}", names.join(", "))
            }
            Self::Backoff => f.write_str("its wait is not over"),
            Self::Stragglers { worker } => write!(
                f,
                "worker `{worker}` has not confirmed that its trainers of the last attempt are dead"
            ),
            Self::Allocation { text, .. } => f.write_str(text),
            Self::Undecided => f.write_str("submitted"),
        }
    }
}

impl fmt::Display for SlotShortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ranks {
            Some(world) if self.or_more => write!(f, "needs at least {}", count(world, "rank"))?,
            Some(world) => write!(f, "needs {}", count(world, "rank"))?,
            None => f.write_str("needs at least 1 rank")?,
        }
        write!(f, " of {}", count(self.slots_per_rank, "slot"))?;
        if let Some(max) = self.max_workers {
            write!(f, " on at most {}", count(max, "worker"))?;
        }
        self.tell_room(f)?;
        match self.drained {
            0 => {}
            1 => f.write_str("; 1 worker is drained")?,
            drained => write!(f, "; {drained} workers are drained")?,
        }
        if self.without_commands > 0 {
            let (workers, run) = match self.without_commands {
                1 => ("worker", "runs"),
                _ => ("workers", "run"),
            };
            let number = self.without_commands;
            write!(f, "; {number} {workers} {run} no commands: they need --allow-commands")?;
        }
        if let Some(hosts) = &self.hosts {
            hosts.fmt(f)?;
        }
        match &self.home {
            Some(home) => {
                write!(f, "; rank 0 must be on worker `{home}`, which has its checkpoint")
            }
            None => Ok(()),
        }
    }
}

impl SlotShortage {
    fn tell_room(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Then the hosts' names say it.
        if self.hosts.as_ref().is_some_and(HostLack::is_everything) {
            return Ok(());
        }
        let kind = match self.device {
            Device::Auto => "",
            Device::Cpu => "CPU ",
            Device::Cuda => "CUDA ",
        };
        let (slots, workers) = (count(self.slots, "slot"), count(self.workers, "worker"));
        let fits = |ranks| count(ranks, "such rank");
        if self.workers == 0 {
            let lacks = match (self.drained, &self.hosts) {
                (1.., _) => "in service",
                (0, Some(_)) => "on its hosts",
                (0, None) => "connected",
            };
            write!(f, "; no {kind}worker is {lacks}")
        } else if self.fits_idle < self.ranks.unwrap_or(1) {
            let room = fits(self.fits_idle);
            let whose = if self.hosts.is_some() { "its hosts have" } else { "the cluster has" };
            write!(f, "; {whose} {slots} on {workers}, room for {room}")
        } else {
            let (idle, room) = (self.idle_slots, fits(self.fits_now));
            write!(f, "; {idle} of {slots} on {workers} are idle, room for {room}")
        }
    }
}

impl HostLack {
    fn is_everything(&self) -> bool {
        self.missing_count == self.named
    }
}

impl fmt::Display for HostLack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { named, missing, missing_count, small } = self;
        if *missing_count > 0 {
            let shown: Vec<String> = missing.iter().map(|host| format!("`{host}`")).collect();
            let hosts = count(*named, "host");
            write!(f, "; no worker is in service on {missing_count} of its {hosts}: ")?;
            f.write_str(&shown.join(", "))?;
            if missing.len() < *missing_count as usize {
                f.write_str(", ...")?;
            }
        }
        for SmallHost { host, slots, named } in small {
            write!(f, "; `{host}` has {}, slot {} is named", count(*slots, "slot"), named - 1)?;
        }
        Ok(())
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn count(number: u32, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

//! Where checkpoints go, and which ranks reach that place themselves.
//!
//! Promise: found out once, at the start, by a probe that rank 0 leaves; every rank knows of every
//! rank. Refusal: writes no state.

use std::path::Path;
use std::sync::Arc;

use checkpoint::{Fence, ProbeToken};
use collectives::Communicator;
use common::ids::{Generation, JobId};
use common::spec::{JobSpec, Layout, Resume};
use serde::{Deserialize, Serialize};

use crate::Reporter;
use crate::error::{Error, chain};
use crate::save::wire;

/// The newest of a job that are told at the start: as many as the coordinator catalogues.
const MAX_TOLD: usize = 1000;

/// What a rank knows of its job at the start.
pub(crate) struct Start<'a> {
    pub(crate) spec: &'a JobSpec,
    pub(crate) job_id: JobId,
    pub(crate) generation: Generation,
    pub(crate) run_dir: &'a Path,
    /// Of this rank.
    pub(crate) worker: &'a str,
    pub(crate) model: serde_json::Value,
    pub(crate) instruction_set: String,
    pub(crate) reporter: Arc<dyn Reporter>,
}

/// The root of a job's checkpoints, as one rank of an attempt sees it.
pub(crate) struct Root {
    pub(super) root: checkpoint::Root,
    pub(super) fence: Fence,
    pub(super) rank: u32,
    /// By rank.
    pub(super) sights: Vec<Sight>,
    pub(super) facts: Facts,
    pub(super) reporter: Arc<dyn Reporter>,
}

/// What every manifest of the attempt says.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) stage: u8,
    pub(super) precision: &'static str,
    pub(super) seed: u64,
    pub(super) threads_per_rank: u32,
    pub(super) instruction_set: String,
    pub(super) model: serde_json::Value,
    pub(super) keep: checkpoint::retention::Keep,
}

/// How one rank stands to the root.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Sight {
    pub(super) worker: String,
    /// It sees what rank 0 wrote, and can write beside it.
    pub(super) reaches: bool,
    /// Why not, where it is the same folder and yet of no use.
    problem: Option<String>,
}

/// Makes this attempt the one that may commit, and finds out who reaches the root. Collective.
pub(crate) fn open(start: Start<'_>, communicator: &mut Communicator) -> Result<Root, Error> {
    let spec = start.spec;
    let root = match &spec.checkpoint.dir {
        Some(dir) => checkpoint::Root::open(dir).map_err(Error::checkpoint("open the root"))?,
        None => checkpoint::Root::at(&start.run_dir.join("checkpoints")),
    };
    let fence = Fence { job_id: start.job_id, generation: start.generation };
    let rank = communicator.rank();
    let token =
        if rank == 0 { Some(prepare(&root, &fence, &spec.checkpoint.resume)?) } else { None };
    let token = ProbeToken(wire::broadcast(communicator, token.as_ref())?);
    let (reaches, problem) = match root.read_probe(token, rank) {
        // Another job that takes the same root sweeps probes away; rank 0's disk it is all the same.
        Ok(reaches) => (reaches || rank == 0, None),
        // Nor could it keep the shards of others.
        Err(error) if rank == 0 => return Err(Error::checkpoint("write under the root")(error)),
        Err(error) => (false, Some(chain(&error))),
    };
    let mine = Sight { worker: start.worker.to_owned(), reaches, problem };
    let sights = wire::gather(communicator, &mine)?;
    if rank == 0 {
        root.remove_probe(token).map_err(Error::checkpoint("remove the probe"))?;
    }
    let facts = Facts {
        stage: spec.zero.stage,
        precision: spec.training.precision.effective.word(),
        seed: spec.job.seed,
        threads_per_rank: spec.resources.threads_per_rank,
        instruction_set: start.instruction_set,
        model: start.model,
        keep: checkpoint::retention::Keep {
            last: spec.checkpoint.keep_last,
            best: spec.checkpoint.keep_best,
        },
    };
    let root = Root { root, fence, rank, sights, facts, reporter: start.reporter };
    root.check(spec.checkpoint.layout)?;
    Ok(root)
}

/// Rank 0's part; returns the probe's secret.
fn prepare(root: &checkpoint::Root, fence: &Fence, resume: &Resume) -> Result<[u8; 16], Error> {
    root.create().map_err(Error::checkpoint("create the root"))?;
    let resume = root
        .continued(resume, fence)
        .map_err(Error::checkpoint("find the checkpoint to resume"))?;
    root.check_history(&resume, &fence.job_id)
        .map_err(Error::checkpoint("find the checkpoint to resume"))?;
    root.raise_generation(fence).map_err(Error::checkpoint("take the root"))?;
    root.sweep(fence).map_err(Error::checkpoint("sweep unfinished saves"))?;
    let token: [u8; 16] = rand::random();
    root.write_probe(ProbeToken(token)).map_err(Error::checkpoint("write the probe"))?;
    Ok(token)
}

impl Root {
    fn check(&self, layout: Layout) -> Result<(), Error> {
        match (layout, self.blind()) {
            (Layout::Shared, Some(ranks)) => {
                Err(Error::RootNotShared { root: self.root.path().to_owned(), ranks })
            }
            _ => Ok(()),
        }
    }

    /// The ranks that do not reach the root, in words.
    fn blind(&self) -> Option<String> {
        let blind: Vec<String> = (0_u32..)
            .zip(&self.sights)
            .filter(|(_, sight)| !sight.reaches)
            .map(|(rank, Sight { worker, problem, .. })| {
                let why = problem.as_ref().map(|p| format!(": {p}")).unwrap_or_default();
                format!("rank {rank} on worker `{worker}`{why}")
            })
            .collect();
        (!blind.is_empty()).then(|| blind.join(", "))
    }

    /// Tells what lies there of this job, on rank 0: an attempt that was killed may have told
    /// neither its last commit nor what it removed for it.
    pub(super) fn tell_what_is_there(&self) -> Result<(), Error> {
        if self.rank != 0 {
            return Ok(());
        }
        let whole =
            self.root.list().map_err(Error::checkpoint("look at the checkpoint root"))?.whole;
        let plan = checkpoint::retention::plan(&whole, self.facts.keep);
        let own = whole.iter().filter(|found| found.job_id == self.fence.job_id).take(MAX_TOLD);
        let rows = own.map(|found| found.row(plan.is_pinned(&found.tag), self.holder()));
        let mut rows: Vec<_> = rows.collect();
        rows.reverse();
        self.reporter.found(rows);
        Ok(())
    }

    /// What a person should know.
    pub(crate) fn note(&self) -> Option<String> {
        self.blind().map(|ranks| {
            format!(
                "checkpoint root `{}` is not shared: {ranks} cannot use it; shards go to worker \
                 `{}`, which then holds the checkpoints",
                self.root.path().display(),
                self.sights[0].worker
            )
        })
    }

    /// The worker whose disk holds the checkpoints; None where several are known to share it.
    pub(super) fn holder(&self) -> Option<String> {
        let first = &self.sights[0].worker;
        let is_shared = self.sights.iter().all(|sight| sight.reaches)
            && self.sights.iter().any(|sight| sight.worker != *first);
        (!is_shared).then(|| first.clone())
    }
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root").field("root", &self.root).finish_non_exhaustive()
    }
}

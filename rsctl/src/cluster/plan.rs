//! How large the private cluster is. Pure: the machine's cores are passed in.

use common::exit::ExitCode;
use common::spec::{Device, Resources};
use service::exit::Failure;

/// What the user asked of `run`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    pub(crate) workers: u32,
    /// Of each worker.
    pub(crate) slots: Option<u32>,
    /// What says so: `--slots`, or the job's hosts.
    pub(crate) origin: &'static str,
}

/// How many slots each worker offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slots {
    /// All of its cores, or of its GPUs where the job is for those: the worker looks.
    Auto,
    Exactly(u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) workers: u32,
    pub(crate) slots: Slots,
    /// A slot is a GPU.
    pub(crate) is_cuda: bool,
    /// For a person: what was chosen and why.
    pub(crate) choice: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "the job wants {world} ranks of {threads} slot{}, and {workers} worker{} with {slots} slot{}{} can take {room}",
        plural(.threads), plural(.workers), plural(.slots), if *.workers > 1 { " each" } else { "" }
    )]
    TooSmall { world: u32, threads: u32, workers: u32, slots: u32, room: u32 },
    #[error("resources.workers = {bound} allows fewer workers than `--workers {asked}`")]
    TooManyWorkers { asked: u32, bound: u32 },
    #[error(
        "{workers} workers with one rank of {threads} slot{} each want more than the {cores} core{} \
         of this machine, and nothing says that they shall share them",
        plural(.threads), plural(.cores)
    )]
    CoresExceeded { workers: u32, threads: u32, cores: u32 },
    #[error("{workers} workers of this machine would offer the same GPUs")]
    SharedGpus { workers: u32 },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = match &error {
            Error::TooSmall { world, threads, workers, .. } => {
                let per_worker = ranks_per_worker(*world, *workers) * threads;
                format!("give each worker more: --slots {per_worker}, or leave --slots out")
            }
            Error::TooManyWorkers { bound, .. } => format!("use --workers {bound}"),
            Error::SharedGpus { .. } => "use --workers 1".to_owned(),
            Error::CoresExceeded { threads, cores, .. } => format!(
                "use --workers {}, or share the cores: --slots {threads}",
                (cores / threads).max(1)
            ),
        };
        Self::new(ExitCode::BadConfiguration, error).hint(hint)
    }
}

fn plural(count: &u32) -> &'static str {
    if *count == 1 { "" } else { "s" }
}

fn ranks_per_worker(world: u32, workers: u32) -> u32 {
    world.div_ceil(workers.max(1))
}

/// Decides workers and slots for a job on a machine with `cores`.
pub(crate) fn plan(resources: &Resources, asked: Asked, cores: u32) -> Result<Plan, Error> {
    let Asked { workers, slots, origin } = asked;
    if let Some(bound) = resources.workers
        && workers > bound
    {
        return Err(Error::TooManyWorkers { asked: workers, bound });
    }
    let is_cuda = resources.device == Device::Cuda;
    if is_cuda && workers > 1 {
        return Err(Error::SharedGpus { workers });
    }
    // A rank has one GPU, whatever its threads.
    let threads = if is_cuda { 1 } else { resources.threads_per_rank };
    let cluster = |slots: u32| {
        let each = if workers > 1 { " each" } else { "" };
        format!("{workers} worker{} with {slots} slot{}{each}", plural(&workers), plural(&slots))
    };
    if let Some(slots) = slots {
        let room = workers.saturating_mul(slots / threads.max(1));
        let least = resources.world_size.or(resources.min_ranks);
        if let Some(world) = least.filter(|least| room < *least) {
            return Err(Error::TooSmall { world, threads, workers, slots, room });
        }
    }
    let (slots, choice) = match (resources.largest_world(), slots) {
        (Some(world), Some(slots)) => {
            let world = world.min(workers.saturating_mul(slots / threads.max(1)));
            (Slots::Exactly(slots), format!("{world} ranks on {} ({origin})", cluster(slots)))
        }
        (Some(most), None) => {
            // More ranks than cores only where the job insists on them.
            let world = match resources.world_size {
                Some(world) => world,
                None => most.min(cores / threads.max(1)).max(resources.min_ranks.unwrap_or(1)),
            };
            let slots = ranks_per_worker(world, workers).saturating_mul(threads);
            (Slots::Exactly(slots), format!("{world} ranks on {}", cluster(slots)))
        }
        (None, Some(slots)) => {
            (Slots::Exactly(slots), format!("all of {} ({origin})", cluster(slots)))
        }
        (None, None) if workers == 1 => {
            (Slots::Auto, "all local devices: the job gives no world-size".to_owned())
        }
        (None, None) => {
            let slots = cores / workers;
            if slots < threads {
                return Err(Error::CoresExceeded { workers, threads, cores });
            }
            let why = "the job gives no world-size";
            (Slots::Exactly(slots), format!("all of {}: {why}", cluster(slots)))
        }
    };
    let room = match slots {
        Slots::Exactly(slots) => workers.saturating_mul(slots / threads.max(1)),
        Slots::Auto => 0,
    };
    let ranks = resources.largest_world().map_or(room, |world| world.min(room));
    let cores = if is_cuda { u32::MAX } else { cores };
    let choice = choice + &crowding(ranks, workers, threads, cores);
    Ok(Plan { workers, slots, is_cuda, choice })
}

/// What a person should know who asks for more than the machine has.
fn crowding(ranks: u32, workers: u32, threads: u32, cores: u32) -> String {
    let wanted = u64::from(ranks) * u64::from(threads);
    let mut text = String::new();
    if wanted > u64::from(cores) {
        let s = plural(&cores);
        text += &format!("; they share {cores} core{s} and take turns: expect it to be slow");
    }
    if ranks > 0 && workers > ranks {
        let idle = workers - ranks;
        text += &format!("; {idle} worker{} will have nothing to do", plural(&idle));
    }
    text
}

#[cfg(test)]
mod tests;

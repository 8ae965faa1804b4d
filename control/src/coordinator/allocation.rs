//! Allocations of SLURM. Of a job's own: when one is asked for, when its workers take the job, when it
//! is given back; for those of a pool see `pools`. Asks SLURM nothing itself: the shell makes
//! [`AllocationOrder`]s true and brings [`AllocationNews`].
//!
//! Promise: whatever dies when, no allocation is asked for twice and none is kept by a job that has
//! ended. That it is wanted is durable before SLURM hears of it, under a name by which it is found again.

use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use common::batch;
use common::ids::JobId;
use common::slurm::allocation::AllocationName;
use common::slurm::request::Request;
use common::status::{Failure, FailureKind, JobState, WaitReason};
use common::units::count;

use crate::coordinator::Machine;
use crate::coordinator::event::{AllocationNews, Chance, Now};
use crate::coordinator::floor::offer;
use crate::coordinator::hosts::place_on_hosts;
use crate::coordinator::ledger::{Allocation, Attempt, Job};
use crate::coordinator::live::LiveWorker;
use crate::coordinator::placement::{Offer, Verdict, Wish};
use crate::coordinator::record::Record;
use crate::coordinator::restart::Class;
use crate::coordinator::submit::Ending;

/// From the start of an allocation until a worker on each of its nodes has joined. Starting a step on
/// a thousand nodes takes SLURM seconds; binaries on a cold network disk as long.
pub(super) const JOIN_WITHIN: Duration = Duration::from_secs(120);

/// Allocations in a row that ended before the job could start on them.
const MAX_FAILURES: u32 = 3;

/// The wait after the first of those; each further one adds as much.
const WAIT_AFTER_FAILURE: Duration = Duration::from_secs(10);

/// What the shell makes true of one allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocationOrder {
    pub name: AllocationName,
    /// None: SLURM has not told its number, or has not been asked.
    pub slurm_job: Option<u64>,
    /// What to ask for; None: it is to be given back.
    pub wanted: Option<Wanted>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub request: Request,
    pub output_dir: PathBuf,
    pub is_elastic: bool,
}

/// What is known of an allocation for the moment.
#[derive(Debug, Default)]
pub(super) struct LiveAllocation {
    /// SLURM's word; empty: it has not been seen yet.
    state: String,
    reason: String,
    nodes: String,
    /// Why SLURM could not be asked the last time.
    trouble: Option<String>,
    /// When its workers must have joined.
    join_by: Option<Duration>,
    /// That moment has passed.
    is_late: bool,
    /// Of a pool's: all of its workers have joined once.
    is_whole: bool,
}

impl Machine {
    /// A job that is to start on an allocation of its own waits for that.
    pub(super) fn await_allocation(&mut self, job_id: &JobId, now: Now) {
        self.live.allocating.insert(job_id.clone(), None);
        if let Some((name, _)) = self.allocation_of(job_id) {
            let name = name.clone();
            if let Some(live) = self.live.allocations.get_mut(&name) {
                (live.join_by, live.is_late) = (None, false);
            }
            self.await_workers_of(&name, now);
        }
        self.out.is_schedule_due = true;
    }

    /// The job's present one.
    fn allocation_of(&self, job_id: &JobId) -> Option<(&AllocationName, &Allocation)> {
        let first = AllocationName::of_job(job_id.clone(), 0);
        let own = self.ledger.allocations.range(first..);
        let own = own.take_while(|(name, _)| name.job() == Some(job_id));
        own.into_iter().find(|(_, allocation)| !allocation.is_released)
    }

    /// Asks for, uses and gives back what the waiting jobs need.
    pub(super) fn serve_allocations(&mut self, now: Now, chance: &mut dyn Chance) {
        let waiting: Vec<JobId> = self.live.allocating.keys().cloned().collect();
        for job_id in waiting {
            if self.must_rest(&job_id).is_some() {
                continue;
            }
            match self.allocation_of(&job_id).map(|(name, of)| (name.clone(), of.is_used)) {
                Some((name, is_used)) if is_used && self.left_it(&job_id) => {
                    let why = "the job was made to leave its nodes";
                    self.release_allocation(&name, why.to_owned(), now);
                    self.ask_for_allocation(&job_id, now);
                }
                Some((name, _)) => self.start_on(&job_id, &name, now, chance),
                None => self.ask_for_allocation(&job_id, now),
            }
        }
    }

    /// Whether its last attempt had to make room: on the same nodes it would not.
    fn left_it(&self, job_id: &JobId) -> bool {
        let attempt = self.ledger.jobs.get(job_id).and_then(|job| job.attempt());
        let over = attempt.and_then(|attempt| attempt.over.as_ref());
        over.is_some_and(|over| over.class == Class::Preemption)
    }

    fn ask_for_allocation(&mut self, job_id: &JobId, now: Now) {
        let is_early = self.live.allocating.get(job_id).is_some_and(Option::is_some);
        if is_early || self.is_at_group_limit(job_id) || self.are_allocations_at_their_bound() {
            return;
        }
        let Some(job) = self.ledger.jobs.get(job_id) else { return };
        let name = AllocationName::of_job(job_id.clone(), job.allocations + 1);
        self.record(Record::AllocationAsked { name, nodes: None, at: now.unix });
        self.out.are_allocations_changed = true;
    }

    /// Who submits spends what SLURM grants the coordinator's user: a sweep of thousands asks for some at
    /// a time.
    fn are_allocations_at_their_bound(&self) -> bool {
        let of_jobs = self.ledger.allocations.keys().filter(|name| name.job().is_some());
        of_jobs.count() >= self.config.max_allocations as usize
    }

    fn is_at_group_limit(&self, job_id: &JobId) -> bool {
        self.group_limit(job_id).is_some()
    }

    fn group_limit(&self, job_id: &JobId) -> Option<WaitReason> {
        let group = self.ledger.jobs.get(job_id)?.submission.group.as_ref()?;
        let (max, running) = (group.max_running?, self.running_groups());
        let running = running.get(&group.name).copied().unwrap_or(0);
        let group = group.name.clone();
        (running >= max).then_some(WaitReason::GroupLimit { group, running, max })
    }

    /// Jobs that wait on an allocation that they have asked for: its nodes will run them.
    pub(super) fn allocated_jobs(&self) -> impl Iterator<Item = &JobId> {
        let has_one = move |job_id: &&JobId| self.allocation_of(job_id).is_some();
        self.live.allocating.keys().filter(has_one)
    }

    /// Starts the job once the workers of all nodes are there, or, when it is time, on those that are.
    fn start_on(
        &mut self,
        job_id: &JobId,
        name: &AllocationName,
        now: Now,
        chance: &mut dyn Chance,
    ) {
        let Some(job) = self.ledger.jobs.get(job_id) else { return };
        let Some(request) = &job.submission.slurm else { return };
        let offers = self.offers_of(name);
        let is_whole = offers.len() >= request.nodes as usize;
        let is_late = self.live.allocations.get(name).is_some_and(|live| live.is_late);
        if !is_whole && !is_late {
            return;
        }
        match place_on_hosts(&Wish::of(job), &offers) {
            Verdict::Place(places) => {
                if let Err(mistake) =
                    batch::plan(&job.submission.spec.training.batch, places.len() as u32)
                {
                    self.refuse_to_start(job_id, &mistake, now);
                    return;
                }
                self.live.allocating.remove(job_id);
                if let Some(live) = self.live.allocations.get_mut(name) {
                    (live.join_by, live.is_late) = (None, false);
                }
                self.start_attempt(job_id, places, now, chance);
            }
            // Something still runs there.
            Verdict::Busy(_) if !is_late => {}
            Verdict::TooLarge(shortage) if is_whole => {
                let message = format!("its allocation is too small: {shortage}");
                self.end_without_start(job_id, message, FailureKind::Configuration, now);
            }
            Verdict::Busy(_) | Verdict::TooLarge(_) => {
                let (joined, nodes) = (offers.len(), count(request.nodes.into(), "node"));
                let within = JOIN_WITHIN.as_secs();
                let why = match is_whole {
                    true => format!("something still ran on its nodes after {within} s"),
                    false => format!("workers of {joined} of its {nodes} joined within {within} s"),
                };
                self.release_allocation(&name.clone(), why.clone(), now);
                self.fail_allocation(job_id, &why, now);
            }
        }
    }

    pub(super) fn workers_in(&self, name: &AllocationName) -> impl Iterator<Item = &LiveWorker> {
        let is_of = move |w: &&LiveWorker| w.allocation.as_ref() == Some(name) && w.is_placeable();
        self.live.workers.values().filter(is_of)
    }

    fn offers_of(&self, name: &AllocationName) -> Vec<Offer> {
        let held = self.held();
        let of = |worker: &LiveWorker| {
            let allows_commands = worker.allows_commands && self.config.allow_commands;
            Offer { allows_commands, ..offer(worker, held.get(&worker.id.uuid)) }
        };
        self.workers_in(name).map(of).collect()
    }

    /// It is not to be used any more; the shell gives it back.
    pub(super) fn release_allocation(&mut self, name: &AllocationName, why: String, now: Now) {
        let is_known = self.ledger.allocations.get(name).is_some_and(|of| !of.is_released);
        if is_known {
            self.record(Record::AllocationReleased { name: name.clone(), why, at: now.unix });
            self.out.are_allocations_changed = true;
        }
    }

    /// The job has ended.
    pub(super) fn release_allocations(&mut self, job_id: &JobId, now: Now) {
        self.live.allocating.remove(job_id);
        if let Some(name) = self.allocation_of(job_id).map(|(name, _)| name.clone()) {
            self.release_allocation(&name, "the job has ended".to_owned(), now);
        }
    }

    pub(super) fn on_allocation(&mut self, name: &AllocationName, news: AllocationNews, now: Now) {
        let Some(known) = self.ledger.allocations.get(name) else { return };
        match news {
            AllocationNews::Accepted { slurm_job } => {
                if known.slurm_job.is_none() {
                    let (name, at) = (name.clone(), now.unix);
                    self.record(Record::AllocationAccepted { name, slurm_job, at });
                    self.out.are_allocations_changed = true;
                }
            }
            AllocationNews::Refused { words } => self.on_refused(name, words, now),
            AllocationNews::Delayed { words } => {
                let live = self.live.allocations.entry(name.clone()).or_default();
                live.trouble = Some(words);
            }
            AllocationNews::Seen { state, reason, nodes } => {
                let live = self.live.allocations.entry(name.clone()).or_default();
                (live.state, live.reason, live.nodes, live.trouble) = (state, reason, nodes, None);
                self.await_workers_of(name, now);
            }
            AllocationNews::Gone { state } => self.on_gone(name, &state, now),
        }
        self.retell(name);
    }

    /// What is said of those that wait for it has changed.
    fn retell(&mut self, name: &AllocationName) {
        match name.job() {
            Some(job_id) => self.touch(&job_id.clone()),
            None => self.out.is_schedule_due = true,
        }
    }

    /// A worker on one of its nodes is there.
    pub(super) fn on_joined_of(&mut self, name: &AllocationName, now: Now) {
        if name.pool().is_some() {
            self.on_joined_pool(name, now);
        }
        self.retell(name);
    }

    /// While the job waits and the allocation runs, its workers have to join in time.
    fn await_workers_of(&mut self, name: &AllocationName, now: Now) {
        let is_waiting = match name.job() {
            Some(job_id) => self.live.allocating.contains_key(job_id),
            None => !self.is_whole(name),
        };
        let Some(live) = self.live.allocations.get_mut(name) else { return };
        if is_waiting && live.state == "RUNNING" && live.join_by.is_none() && !live.is_late {
            live.join_by = Some(now.uptime + JOIN_WITHIN);
        }
    }

    fn forget_allocation(&mut self, name: &AllocationName, why: String, now: Now) {
        self.live.allocations.remove(name);
        self.live.pools.forget(name);
        self.record(Record::AllocationEnded { name: name.clone(), why, at: now.unix });
        self.out.are_allocations_changed = true;
        self.out.is_schedule_due = true;
    }

    /// SLURM will not take it another time either.
    fn on_refused(&mut self, name: &AllocationName, words: String, now: Now) {
        let is_wanted = self.is_waited_for(name);
        let message = format!("SLURM refuses the job's allocation: {words}");
        self.forget_allocation(name, words.clone(), now);
        match name.job() {
            Some(job_id) if is_wanted => {
                self.end_without_start(job_id, message, FailureKind::Configuration, now);
            }
            Some(_) => {}
            None => self.fail_pool(name, format!("SLURM refuses it: {words}"), now),
        }
    }

    fn is_waited_for(&self, name: &AllocationName) -> bool {
        let is_released = self.ledger.allocations.get(name).is_none_or(|of| of.is_released);
        let is_waiting = |job_id| self.live.allocating.contains_key(job_id);
        name.job().is_some_and(is_waiting) && !is_released
    }

    /// SLURM has ended it, or does not know it.
    fn on_gone(&mut self, name: &AllocationName, state: &str, now: Now) {
        let Some(known) = self.ledger.allocations.get(name) else { return };
        let (is_used, is_released) = (known.is_used, known.is_released);
        let is_lost = self.is_waited_for(name) && !is_used;
        let what = called(known.slurm_job);
        let told = if state.is_empty() { "is not known to SLURM any more" } else { state };
        let why = format!("{what} {told}");
        self.forget_allocation(name, why.clone(), now);
        let Some(job_id) = name.job() else {
            if !is_used && !is_released {
                self.fail_pool(name, why, now);
            }
            return;
        };
        if !is_lost {
            return;
        }
        if state.starts_with("CANCELLED") {
            let reason = format!("{why} before the job had started: not by this coordinator");
            let ending = Ending::new(JobState::Cancelled, reason, None);
            self.end_job(job_id, ending, now);
        } else {
            self.fail_allocation(job_id, &why, now);
        }
    }

    /// An allocation ended before the job could start on it.
    fn fail_allocation(&mut self, job_id: &JobId, why: &str, now: Now) {
        let Some(job) = self.ledger.jobs.get(job_id) else { return };
        let failures = job.failed_allocations();
        if failures >= MAX_FAILURES {
            let folder = job.submission.spec.job.output_dir.join(".slurm");
            let message = format!(
                "{failures} allocations in a row ended before the job could start, the last: {why}; \
                 their logs are in {}",
                folder.display()
            );
            return self.end_without_start(job_id, message, FailureKind::Start, now);
        }
        let until = now.uptime + WAIT_AFTER_FAILURE * failures;
        self.live.allocating.insert(job_id.clone(), Some(until));
    }

    fn end_without_start(&mut self, job_id: &JobId, message: String, kind: FailureKind, now: Now) {
        let failure = Failure {
            rank: None,
            worker: None,
            kind: Some(kind),
            message: message.clone(),
            last_lines: Vec::new(),
        };
        self.end_job(job_id, Ending::new(JobState::Failed, message, Some(failure)), now);
    }

    /// Waits that are over.
    pub(super) fn tick_allocations(&mut self, now: Now) {
        for until in self.live.allocating.values_mut() {
            if until.is_some_and(|until| until <= now.uptime) {
                *until = None;
                self.out.is_schedule_due = true;
            }
        }
        let due = |live: &&mut LiveAllocation| live.join_by.is_some_and(|at| at <= now.uptime);
        for live in self.live.allocations.values_mut().filter(due) {
            (live.join_by, live.is_late) = (None, true);
            self.out.is_schedule_due = true;
        }
    }

    /// What the shell has to make true.
    pub fn allocations(&self) -> Vec<AllocationOrder> {
        let order = |(name, allocation): (&AllocationName, &Allocation)| {
            let job = name.job().and_then(|job_id| self.ledger.jobs.get(job_id));
            let wanted = match name.pool() {
                Some(pool) => self.wanted_by_pool(pool, allocation),
                None => job.and_then(|job| wanted(job)),
            };
            AllocationOrder {
                name: name.clone(),
                slurm_job: allocation.slurm_job,
                wanted: wanted.filter(|_| !allocation.is_released),
            }
        };
        self.ledger.allocations.iter().map(order).collect()
    }

    /// Whether a worker that says to be of this allocation has something to do here.
    pub(super) fn is_expected(&self, name: &AllocationName, worker: &Uuid) -> bool {
        let has_ranks =
            |attempt: &Attempt| attempt.unfinished().any(|(_, rank)| rank.worker.uuid == *worker);
        let runs = |job_id| self.open_attempt(job_id).is_some_and(has_ranks);
        let is_busy = || match name.job() {
            Some(job_id) => runs(job_id),
            None => self.live.attempts.keys().any(runs),
        };
        self.ledger.allocations.contains_key(name) || is_busy()
    }

    /// Why a job with an allocation of its own has not started.
    pub(super) fn why_unallocated(&self, job_id: &JobId) -> WaitReason {
        let Some((name, allocation)) = self.allocation_of(job_id) else {
            return self.group_limit(job_id).unwrap_or_else(|| {
                let text = match self.are_allocations_at_their_bound() {
                    true => format!(
                        "{} allocations of jobs are the bound (slurm-max-allocations): one must end first",
                        self.config.max_allocations
                    ),
                    false => "the next allocation is asked for in a moment".to_owned(),
                };
                WaitReason::Allocation { slurm_job: None, state: None, text }
            });
        };
        let job = self.ledger.jobs.get(job_id);
        let nodes = job.and_then(|job| job.submission.slurm.as_ref()).map_or(1, |of| of.nodes);
        let live = self.live.allocations.get(name);
        let state = live.map(|live| live.state.clone()).filter(|state| !state.is_empty());
        let text = self.tell_allocation(name, allocation, nodes);
        WaitReason::Allocation { slurm_job: allocation.slurm_job, state, text }
    }

    /// Where it stands, in a sentence.
    pub(super) fn tell_allocation(
        &self,
        name: &AllocationName,
        allocation: &Allocation,
        nodes: u32,
    ) -> String {
        let what = called(allocation.slurm_job);
        let live = self.live.allocations.get(name);
        let state = live.map(|live| live.state.as_str()).filter(|state| !state.is_empty());
        match (live, state) {
            (Some(LiveAllocation { trouble: Some(words), .. }), _) => {
                format!("{what}: SLURM cannot be asked and is asked again: {words}")
            }
            (Some(live), Some("RUNNING")) => {
                let joined = self.workers_in(name).count();
                let (list, nodes) = (&live.nodes, count(nodes.into(), "worker"));
                format!("{what} runs on {list}: {joined} of {nodes} joined")
            }
            (Some(live), Some(state)) if !live.reason.is_empty() => {
                format!("{what} is {state} ({}){}", live.reason, hint(&live.reason))
            }
            (_, Some(state)) => format!("{what} is {state}"),
            (_, None) if allocation.slurm_job.is_some() => format!("{what} is in SLURM's queue"),
            (_, None) => format!("SLURM is asked for {}", count(nodes.into(), "node")),
        }
    }
}

impl LiveAllocation {
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.join_by
    }

    /// SLURM has not given its nodes, as far as it has said.
    pub(super) fn is_pending(&self) -> bool {
        self.state == "PENDING"
    }

    /// Its workers had their time to join.
    pub(super) fn is_late(&self) -> bool {
        self.is_late
    }

    /// The last of its workers has joined.
    pub(super) fn complete(&mut self) {
        (self.join_by, self.is_whole) = (None, true);
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }
}

fn wanted(job: &Job) -> Option<Wanted> {
    let spec = &job.submission.spec;
    Some(Wanted {
        request: job.submission.slurm.clone()?,
        output_dir: spec.job.output_dir.clone(),
        is_elastic: spec.resources.world_size.is_none(),
    })
}

fn called(slurm_job: Option<u64>) -> String {
    slurm_job.map_or_else(|| "its allocation".to_owned(), |number| format!("SLURM job {number}"))
}

/// What to do where SLURM would let a job wait for ever without saying so.
fn hint(reason: &str) -> &'static str {
    match reason {
        "PartitionNodeLimit" | "PartitionConfig" | "PartitionTimeLimit" | "BadConstraints" => {
            "; the partition never gives this: cancel the job, ask for less or for another partition"
        }
        "AccountNotAllowed" | "QOSNotAllowed" | "InvalidAccount" | "InvalidQOS" => {
            "; cancel the job and submit it with another account or QOS"
        }
        "JobHeldUser" | "JobHeldAdmin" => "; `scontrol release` lets it go",
        _ => "",
    }
}

//! Who is served next: strictly by priority, then by submission. A job that only has to wait has
//! slots kept for it, so that smaller jobs behind it can neither starve nor delay it; one that is
//! larger than the cluster holds nobody up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::batch;
use common::ids::{AttemptId, Generation, JobId};
use common::status::{Failure, FailureKind, JobState, WaitReason};

use crate::coordinator::Machine;
use crate::coordinator::board::{Blocker, Board, Queued};
use crate::coordinator::event::{Chance, Now};
use crate::coordinator::floor::{Floor, Look, Start};
use crate::coordinator::grow;
use crate::coordinator::ledger::Job;
use crate::coordinator::line::Turn;
use crate::coordinator::live::{LiveAttempt, Phase};
use crate::coordinator::placement::Wish;
use crate::coordinator::record::{Placement, Record};
use crate::coordinator::submit::Ending;

/// Jobs for which slots are kept in one decision; what comes behind them waits with them.
const MAX_BLOCKERS: usize = 64;

/// Different wishes that one decision looks at: it stays within milliseconds, whoever submits what.
const MAX_LOOKS: usize = 4096;

/// A start that was estimated and is this late was estimated wrongly.
const OVERDUE: Duration = Duration::from_secs(30);

/// Estimates follow the progress of running jobs at this pace.
const ESTIMATE_EVERY: Duration = Duration::from_secs(5);

impl Machine {
    /// Puts a job that has no attempt where it waits for slots.
    pub(super) fn enqueue(&mut self, job_id: &JobId, now: Now) {
        let Some(job) = self.ledger.jobs.get(job_id) else { return };
        let spec = &job.submission.spec;
        let (turn, wish) = (Turn::of(job), Wish::of(job));
        // A batch that cannot be cut for the world that the job names will never be.
        let is_named = spec.resources.world_size.is_some() || spec.resources.is_elastic();
        let checked = is_named.then(|| check_batch(job, wish.worlds.smallest()));
        if let Some(Err(mistake)) = checked {
            self.refuse_to_start(job_id, &mistake, now);
            return;
        }
        let has_allocation = job.submission.slurm.is_some();
        if !self.holds_back(job_id, now) {
            match has_allocation {
                true => self.await_allocation(job_id, now),
                false => self.live.line.insert(job_id.clone(), turn, wish),
            }
        }
        self.out.is_schedule_due = true;
    }

    /// Starts every queued job that has its turn and its slots.
    pub(super) fn schedule(&mut self, now: Now, chance: &mut dyn Chance) {
        self.end_rests(now);
        let mut floor = self.floor(now);
        floor.take(&self.promised_to_grow(), None);
        let mut blockers: Vec<Blocker> = Vec::new();
        let (mut last, mut looks) = (None, 0);
        while looks < MAX_LOOKS {
            let is_over =
                blockers.len() == MAX_BLOCKERS || (!blockers.is_empty() && floor.is_empty());
            let next = self.live.line.head_after(last).filter(|_| !is_over);
            let Some((turn, job_id, wish)) = next else { break };
            let (job_id, wish) = (job_id.clone(), Arc::clone(wish));
            last = Some(turn);
            if self.must_rest(&job_id).is_some() {
                // Those behind it that want the same do not wait for it.
                self.live.line.remove(&job_id);
                continue;
            }
            if floor.is_limited(&wish) {
                continue;
            }
            looks += 1;
            match floor.look(&wish) {
                Look::Place(places) => self.start(&job_id, places, &mut floor, (now, chance)),
                Look::Blocked => {
                    let start = self.reserve(&wish, turn, &mut floor, now);
                    blockers.push(Blocker { turn, job_id, wish, start });
                }
                Look::Passed => {}
            }
        }
        self.grow(&mut floor, &blockers, now);
        self.live.promises.retain(|turn, _| blockers.iter().any(|b| b.turn == *turn));
        self.live.estimate_at = now.uptime + ESTIMATE_EVERY;
        self.live.trusted_at = self.next_trusted(now);
        let scene = floor.into_scene();
        self.serve_pools(&scene, now);
        self.show(Board::new(blockers, scene, self.pool_notes()));
        // What ended here had no slots, so nothing else can start because of it.
        self.out.is_schedule_due = false;
        self.serve_allocations(now, chance);
    }

    fn start(
        &mut self,
        job_id: &JobId,
        places: Vec<Placement>,
        floor: &mut Floor,
        (now, chance): (Now, &mut dyn Chance),
    ) {
        let Some(job) = self.ledger.jobs.get(job_id) else { return };
        if let Err(mistake) = check_batch(job, places.len() as u32) {
            self.refuse_to_start(job_id, &mistake, now);
            return;
        }
        let group = job.submission.group.as_ref().map(|group| group.name.as_str());
        floor.take(&places, group);
        self.start_attempt(job_id, places, now, chance);
    }

    fn reserve(&mut self, wish: &Wish, turn: Turn, floor: &mut Floor, now: Now) -> Option<u64> {
        let promised = self.live.promises.get(&turn);
        let is_overdue = promised.is_some_and(|at| *at + OVERDUE < now.uptime);
        match floor.reserve(wish, is_overdue) {
            Start::Within(within) => {
                self.live.promises.entry(turn).or_insert(now.uptime + within);
                Some((now.unix + within.as_millis() as u64).next_multiple_of(1000))
            }
            Start::Unknown | Start::Overdue => None,
        }
    }

    /// Jobs between two attempts stand in line once the next one may start.
    fn end_rests(&mut self, now: Now) {
        let resting: Vec<JobId> = self.live.resting.keys().cloned().collect();
        for job_id in resting {
            let is_in_line =
                self.live.line.get(&job_id).is_some() || self.live.allocating.contains_key(&job_id);
            if !is_in_line && self.must_rest(&job_id).is_none() {
                self.enqueue(&job_id, now);
            }
            // Its reason is told with its state.
            self.touch(&job_id);
        }
    }

    /// Readers see the new decision, where it differs from the last one.
    fn show(&mut self, board: Board) {
        if *self.live.board != board {
            self.live.board = Arc::new(board);
            self.out.is_board_changed = true;
        }
    }

    /// Running jobs have moved on: the estimates do, now and then.
    pub(super) fn refresh_estimates(&mut self, now: Now) {
        if self.live.board.has_blockers() && self.live.estimate_at <= now.uptime {
            self.out.is_schedule_due = true;
        }
    }

    /// Why queued jobs wait, as of the last decision.
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.live.board)
    }

    /// What [`Board::explain`] needs to know about a job that waits; None: it does not.
    pub fn queued(&self, job_id: &JobId) -> Option<Queued> {
        if let Some((turn, wish)) = self.live.line.get(job_id) {
            return Some(Queued { turn: *turn, wish: Arc::clone(wish), apart: None });
        }
        let job = self.ledger.jobs.get(job_id)?;
        let after =
            |open: &BTreeSet<JobId>| WaitReason::After { jobs: open.iter().cloned().collect() };
        let reason = self.live.held.get(job_id).map(after).or_else(|| self.must_rest(job_id));
        let is_allocating = self.live.allocating.contains_key(job_id);
        let reason = reason.or_else(|| is_allocating.then(|| self.why_unallocated(job_id)))?;
        let until = job.restart_at.filter(|_| reason == WaitReason::Backoff);
        let (turn, wish) = (Turn::of(job), Arc::new(Wish::of(job)));
        Some(Queued { turn, wish, apart: Some((reason, until)) })
    }

    /// Where a job's checkpoints lie may have changed, and with it where it wants to run.
    pub(super) fn renew_wish(&mut self, job_id: &JobId) {
        let Some((turn, known)) = self.live.line.get(job_id) else { return };
        let Some(job) = self.ledger.jobs.get(job_id) else { return };
        let (turn, wish) = (*turn, Wish::of(job));
        if **known != wish {
            self.live.line.insert(job_id.clone(), turn, wish);
            self.out.is_schedule_due = true;
        }
    }

    pub(super) fn refuse_to_start(&mut self, job_id: &JobId, mistake: &batch::Error, now: Now) {
        let message = mistake.to_string();
        let failure = Failure {
            rank: None,
            worker: None,
            kind: Some(FailureKind::Configuration),
            message: message.clone(),
            last_lines: Vec::new(),
        };
        self.end_job(job_id, Ending::new(JobState::Failed, message, Some(failure)), now);
    }

    pub(super) fn start_attempt(
        &mut self,
        job_id: &JobId,
        places: Vec<Placement>,
        now: Now,
        chance: &mut dyn Chance,
    ) {
        let Some(job) = self.ledger.jobs.get(job_id) else { return };
        let last = job.attempt();
        let attempt = AttemptId(last.map_or(1, |a| a.attempt.0 + 1));
        let generation = Generation(last.map_or(1, |a| a.generation.0 + 1));
        let of = grow::share(&job.submission.spec, places.len() as u32);
        let reason = format!("{}{of}{}", describe_places(&places), continues(job, &places));
        let world = places.len();
        self.record(Record::AttemptStarted {
            job_id: job_id.clone(),
            attempt,
            generation,
            token: chance.token(),
            ranks: places,
            reason,
            at: now.unix,
        });
        self.live.line.remove(job_id);
        self.live.resting.remove(job_id);
        let until = now.uptime + self.config.rendezvous_timeout;
        let mut live = LiveAttempt::new(generation, world, Phase::Gathering { until });
        live.limit_at = self.limit_at(job_id, now);
        self.live.attempts.insert(job_id.clone(), live);
        self.out.workers_changed = true;
        self.order_starts(job_id);
    }
}

/// Whether the job's batch can be cut for this world.
fn check_batch(job: &Job, world: u32) -> Result<(), batch::Error> {
    let batch = &job.submission.spec.training.batch;
    // A plan is asked for its words only where it is a mistake: a new life asks about every job.
    if batch::is_possible(batch, world) { Ok(()) } else { batch::plan(batch, world).map(drop) }
}

/// Of an attempt after the first: where it goes on.
fn continues(job: &Job, places: &[Placement]) -> String {
    match (job.attempt(), job.latest_checkpoint()) {
        (None, _) => String::new(),
        (Some(_), Some(whole)) => {
            let first = places.first().map(|place| place.worker_name.as_str());
            match whole.worker.as_deref().filter(|holder| Some(*holder) != first) {
                Some(holder) => format!(
                    "; continues {} if it can read that: worker `{holder}` has it and is not here",
                    whole.tag
                ),
                None => format!("; continues {}", whole.tag),
            }
        }
        (Some(_), None) => "; starts anew, as no whole checkpoint was saved".to_owned(),
    }
}

/// `4 ranks: a (0-1), b (2-3)`.
fn describe_places(places: &[Placement]) -> String {
    let mut runs: Vec<(&str, usize, usize)> = Vec::new();
    for (rank, place) in places.iter().enumerate() {
        match runs.last_mut() {
            Some((name, _, last)) if *name == place.worker_name => *last = rank,
            _ => runs.push((&place.worker_name, rank, rank)),
        }
    }
    let runs: Vec<String> = runs
        .into_iter()
        .map(|(name, first, last)| match last - first {
            0 => format!("{name} ({first})"),
            _ => format!("{name} ({first}-{last})"),
        })
        .collect();
    let ranks =
        if places.len() == 1 { "1 rank".to_owned() } else { format!("{} ranks", places.len()) };
    format!("{ranks}: {}", runs.join(", "))
}

//! Who is served next: strictly by priority, then by submission. A job that only has to wait keeps
//! its place at the head, so that smaller jobs behind it cannot starve it; one that is larger than
//! the cluster holds nobody up.

use common::batch;
use common::ids::{AttemptId, Generation, JobId};
use common::status::{Failure, FailureKind, JobState};

use crate::coordinator::Machine;
use crate::coordinator::event::{Chance, Now};
use crate::coordinator::ledger::Job;
use crate::coordinator::live::{LiveAttempt, LiveWorker, Phase, Standing};
use crate::coordinator::placement::{Offer, Verdict, Wish};
use crate::coordinator::record::{Placement, Record};
use crate::coordinator::submit::Ending;

impl Machine {
    /// Starts every queued job that has its turn and its slots; gives each of the others a reason.
    pub(super) fn schedule(&mut self, now: Now, chance: &mut dyn Chance) {
        let queued: Vec<JobId> = self.live.queue.iter().map(|(_, _, id)| id.clone()).collect();
        let mut blocker = None;
        let mut offers = self.offers();
        for job_id in &queued {
            if let Some(reason) = self.must_rest(job_id) {
                self.wait(job_id, reason);
                continue;
            }
            let Some(job) = self.ledger.jobs.get(job_id) else { continue };
            let verdict = self.place_with_care(job, &offers, now);
            if let Err(mistake) = check_batch(job, &verdict) {
                self.refuse_to_start(job_id, &mistake, now);
                continue;
            }
            match verdict {
                Verdict::Place(places) => {
                    self.start_attempt(job_id, places, now, chance);
                    offers = self.offers();
                }
                Verdict::Busy(shortage) => {
                    self.wait(job_id, shortage.to_string());
                    blocker = Some(job_id.clone());
                    break;
                }
                Verdict::TooLarge(shortage) => self.wait(job_id, shortage.to_string()),
            }
        }
        self.set_blocker(blocker, &queued);
        // What ended here had no slots, so nothing else can start because of it.
        self.out.is_schedule_due = false;
    }

    fn wait(&mut self, job_id: &JobId, reason: String) {
        if self.live.waiting.get(job_id) != Some(&reason) {
            self.live.waiting.insert(job_id.clone(), reason);
            self.touch(job_id);
        }
    }

    /// Everything behind the blocker waits for it and has no reason of its own.
    fn set_blocker(&mut self, blocker: Option<JobId>, queued: &[JobId]) {
        if self.live.blocker == blocker {
            return;
        }
        let place = blocker.as_ref().and_then(|b| queued.iter().position(|id| id == b));
        for job_id in place.map_or(&[][..], |place| &queued[place + 1..]) {
            self.live.waiting.remove(job_id);
            self.touch(job_id);
        }
        self.live.blocker = blocker;
    }

    fn refuse_to_start(&mut self, job_id: &JobId, mistake: &batch::Error, now: Now) {
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

    /// What live workers have. A worker that is only out of reach counts for what the cluster could
    /// do, and has nothing idle.
    fn offers(&self) -> Vec<Offer> {
        // One that is leaving has nothing to give, now or later.
        let stays = |w: &&LiveWorker| w.standing == Standing::Ready && !w.is_withdrawing;
        let ready = self.live.workers.values().filter(stays);
        ready
            .map(|worker| Offer {
                id: worker.id,
                name: worker.name.clone(),
                is_cuda: worker.device == "cuda",
                slots: worker.slots,
                idle: self.idle_slots(worker),
            })
            .collect()
    }

    /// Slots of a worker that no trainer holds. A slot is held until its trainer is known dead.
    pub(super) fn idle_slots(&self, worker: &LiveWorker) -> Vec<u32> {
        if !worker.is_placeable() {
            return Vec::new();
        }
        let mut is_idle = vec![true; worker.slots as usize];
        for job_id in self.live.attempts.keys() {
            let attempt = self.ledger.jobs.get(job_id).and_then(Job::open_attempt);
            for (_, rank) in attempt.iter().flat_map(|a| a.unfinished()) {
                if rank.worker.uuid == worker.id.uuid {
                    for slot in &rank.slots {
                        if let Some(idle) = is_idle.get_mut(*slot as usize) {
                            *idle = false;
                        }
                    }
                }
            }
        }
        (0..).zip(is_idle).filter(|(_, idle)| *idle).map(|(slot, _)| slot).collect()
    }

    fn start_attempt(
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
        let key = (std::cmp::Reverse(job.submission.spec.job.priority), job.number, job_id.clone());
        let reason = format!("{}{}", describe_places(&places), continues(job, &places));
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
        self.live.queue.remove(&key);
        self.live.waiting.remove(job_id);
        self.live.resting.remove(job_id);
        let until = now.uptime + self.config.rendezvous_timeout;
        let live = LiveAttempt::new(generation, world, Phase::Gathering { until });
        self.live.attempts.insert(job_id.clone(), live);
        self.out.workers_changed = true;
        self.order_starts(job_id);
    }
}

/// Whether the job's batch can be cut for its world: the one that it names, else the one that it
/// would get.
fn check_batch(job: &Job, verdict: &Verdict) -> Result<(), batch::Error> {
    let spec = &job.submission.spec;
    let placed = match verdict {
        Verdict::Place(places) => Some(places.len() as u32),
        Verdict::Busy(_) | Verdict::TooLarge(_) => None,
    };
    match spec.resources.world_size.or(placed) {
        Some(world) => batch::plan(&spec.training.batch, world).map(drop),
        None => Ok(()),
    }
}

pub(super) fn wish(job: &Job) -> Wish<'_> {
    let spec = &job.submission.spec;
    // Where the checkpoint lies on one worker's own disk, rank 0 has to read it there.
    let holder = job.latest_checkpoint().and_then(|whole| whole.worker.as_deref());
    Wish {
        home: holder.filter(|_| job.attempt().is_some()),
        resources: &spec.resources,
        batch_size: spec.training.batch.batch_size.as_ref().map(|sourced| sourced.value),
    }
}

/// Of an attempt after the first: where it goes on.
fn continues(job: &Job, places: &[Placement]) -> String {
    match (job.attempt(), job.latest_checkpoint()) {
        (None, _) => String::new(),
        (Some(_), Some(whole)) => {
            let first = places.first().map(|place| place.worker_name.as_str());
            match whole.worker.as_deref().filter(|holder| Some(*holder) != first) {
                Some(holder) => format!(
                    "; cannot continue {}: it lies on worker `{holder}`, which is not here",
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

//! Jobs that run after others. A job names only jobs that exist when it is submitted, so nothing
//! can wait for itself.

use std::collections::BTreeSet;

use common::ids::JobId;
use common::status::JobState;

use crate::coordinator::Machine;
use crate::coordinator::event::Now;
use crate::coordinator::record::Condition;
use crate::coordinator::submit::Ending;

impl Machine {
    /// Whether a job is not to stand in line: others must end first, or one has ended so that it
    /// will never run. A job that is forgotten ended long ago, and whoever could not run after it
    /// ended with it.
    pub(super) fn holds_back(&mut self, job_id: &JobId, now: Now) -> bool {
        let Some(job) = self.ledger.jobs.get(job_id) else { return true };
        let mut open = BTreeSet::new();
        let mut broken = None;
        for after in &job.submission.after {
            match self.ledger.jobs.get(&after.job_id).map(|other| other.state) {
                Some(state) if !state.is_final() => {
                    open.insert(after.job_id.clone());
                }
                Some(state) if !allows(after.condition, state) => {
                    broken = Some((after.job_id.clone(), state));
                }
                Some(_) | None => {}
            }
        }
        if let Some((other, state)) = broken {
            self.never_run(job_id, &other, state, now);
            return true;
        }
        let is_held = !open.is_empty();
        if is_held {
            for other in &open {
                self.live.dependents.entry(other.clone()).or_default().insert(job_id.clone());
            }
            self.live.held.insert(job_id.clone(), open);
        }
        is_held
    }

    /// A job that waited for others waits no more.
    pub(super) fn release(&mut self, job_id: &JobId) {
        for other in self.live.held.remove(job_id).into_iter().flatten() {
            if let Some(dependents) = self.live.dependents.get_mut(&other) {
                dependents.remove(job_id);
            }
        }
    }

    /// Tells the ones that wait for them that jobs have ended; some end for that reason, which
    /// others wait for in turn.
    pub(super) fn settle_ended(&mut self, now: Now) {
        while let Some((job_id, state)) = self.out.ended.pop() {
            for dependent in self.live.dependents.remove(&job_id).into_iter().flatten() {
                self.settle(&dependent, (&job_id, state), now);
            }
        }
    }

    fn settle(&mut self, dependent: &JobId, (ended, state): (&JobId, JobState), now: Now) {
        let Some(job) = self.ledger.jobs.get(dependent) else { return };
        let after = job.submission.after.iter().filter(|after| after.job_id == *ended);
        if !after.into_iter().all(|after| allows(after.condition, state)) {
            self.never_run(dependent, ended, state, now);
            return;
        }
        let Some(open) = self.live.held.get_mut(dependent) else { return };
        open.remove(ended);
        if open.is_empty() {
            self.live.held.remove(dependent);
            self.enqueue(dependent, now);
        }
        self.touch(dependent);
    }

    fn never_run(&mut self, job_id: &JobId, other: &JobId, state: JobState, now: Now) {
        let reason =
            format!("it was to run after job `{other}` had succeeded, and that one is {state}");
        self.end_job(job_id, Ending::new(JobState::Cancelled, reason, None), now);
    }
}

fn allows(condition: Condition, state: JobState) -> bool {
    match condition {
        Condition::Ok => state == JobState::Succeeded,
        Condition::Any => state.is_final(),
    }
}

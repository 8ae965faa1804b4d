//! Jobs that a user makes leave their slots: their ranks save together and leave, and the job goes
//! on from that step when it has its turn again. It lets those of its priority that wait by then go
//! first, or it would take its slots back at once; and it costs the budget for preemptions.

use common::ids::JobId;
use common::status::Failure;

use crate::coordinator::Machine;
use crate::coordinator::effect::{Answer, Effect, Refusal};
use crate::coordinator::event::{Now, PreemptOrder, Ticket};
use crate::coordinator::record::{StopCause, StopDecision};

impl Machine {
    pub(super) fn on_preempt(
        &mut self,
        ticket: Ticket,
        job_id: &JobId,
        order: PreemptOrder,
        now: Now,
    ) {
        let answer = self.preempt(job_id, order, now);
        self.effect(Effect::Answer { ticket, answer });
    }

    fn preempt(&mut self, job_id: &JobId, order: PreemptOrder, now: Now) -> Answer {
        let Some(job) = self.ledger.jobs.get(job_id) else {
            return Answer::Refused(Refusal::UnknownJob(job_id.clone()));
        };
        let Some(attempt) = job.open_attempt() else {
            return Answer::Refused(Refusal::NotRunning(job_id.clone(), job.state));
        };
        let (number, is_training) = (attempt.attempt, attempt.running_at.is_some());
        // One that is stopping leaves already, and its first reason stays; one that grows comes back.
        if attempt.stop.as_ref().is_none_or(|stop| stop.cause == StopCause::Growth) {
            let PreemptOrder { reason, grace } = order;
            let message = format!("preempted: {reason}");
            let failure =
                Failure { rank: None, worker: None, kind: None, message, last_lines: Vec::new() };
            let stop = StopDecision::preempted(failure, is_training, grace);
            self.stop_attempt(job_id, StopDecision { yields: true, ..stop }, now);
        }
        Answer::Preempted(number)
    }
}

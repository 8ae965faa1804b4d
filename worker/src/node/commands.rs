//! The ranks of a job that runs a command of its own.

use proto::v1::StartTrainers;
use service::tasks;
use tokio::sync::mpsc;

use super::Node;
use super::orders::ORDERS;
use crate::command_process::{self, Plan};
use crate::local_job::Phase;
use crate::prepare::{FoundCommand, Prepared};
use crate::trainer_process::Teller;

impl Node {
    /// Gets them ready: they start when the rank table comes.
    pub(super) fn start_commands(
        &mut self,
        order: &StartTrainers,
        prepared: &Prepared,
        found: &FoundCommand,
    ) {
        let door = self.door;
        let binding = found.command.binding.as_ref();
        let claims = match self.claims_of_command(&order.job_id, prepared.threads, binding) {
            Ok(claims) => claims,
            Err(why) => {
                if let Some(job) = self.jobs.get_mut(&order.job_id) {
                    job.ranks.clear();
                }
                let message = format!("worker `{}`: bind ranks to cores: {why}", self.config.name);
                return self.refuse(order, why.is_for_ever(), message);
            }
        };
        let Some(job) = self.jobs.get_mut(&order.job_id) else { return };
        job.phase = Phase::Started;
        for ((&rank, local), claim) in job.ranks.iter_mut().zip(claims) {
            let (orders, inbox) = mpsc::channel(ORDERS);
            local.orders = Some(orders);
            let plan = Plan {
                key: job.key.clone(),
                rank,
                attempt: order.attempt,
                command: found.command.clone(),
                program: found.program.clone(),
                env: prepared.env.clone(),
                threads: prepared.threads,
                max_restarts: found.max_restarts,
                run_dir: prepared.run_dir.clone(),
                door,
                claim,
                notes: found.notes.clone(),
            };
            let news = Teller::new(job.key.clone(), rank, self.told.clone());
            let running = command_process::run(plan, self.tools.clone(), inbox, news);
            tasks::spawn(tasks::Kind::Finish, "command", running);
        }
    }
}

//! What people do to the simulated cluster.

use std::time::Duration;

use super::super::world::{id, on_hosts, restarting, spec};
use super::Sim;
use common::slurm::pool::Pool;
use common::slurm::request::Request;

use crate::coordinator::{
    After, Answer, CancelMode, Condition, DrainOrder, Effect, Event, Group, PoolOrder,
    PreemptOrder, Requeue, Ticket,
};

/// So many that the bound on remembered jobs is not always far.
const MAX_JOBS: usize = 16;

impl Sim {
    pub(super) fn user(&mut self) {
        if self.jobs.len() < 12 && self.dice.one_in(2) {
            self.submit();
        } else if !self.jobs.is_empty() {
            let name = self.jobs[self.dice.below(self.jobs.len())].clone();
            if self.jobs.len() < MAX_JOBS && self.dice.one_in(4) {
                return self.requeue(&name);
            }
            if self.dice.one_in(2) {
                return self.preempt(&name);
            }
            let mode = if self.dice.one_in(2) { CancelMode::Save } else { CancelMode::Now };
            let effects = self.world.cancel(&name, mode);
            self.route(effects);
        }
    }

    fn submit(&mut self) {
        let name = format!("job{}", self.jobs.len());
        let world = match self.dice.below(4) {
            0 => None,
            ranks => Some(ranks as u32),
        };
        // Most jobs start again.
        let mut spec =
            if self.dice.one_in(4) { spec(&name, world) } else { restarting(&name, world) };
        if world.is_none() && self.dice.one_in(2) {
            spec.resources.min_ranks = Some(1 + self.dice.below(3) as u32);
            spec.resources.max_ranks = Some(3);
            spec.restart.grow_after = Duration::from_millis(500);
        }
        if self.dice.one_in(4) {
            // Every list has room for the largest of these jobs, on whatever the workers have.
            let hosts: [&[&str]; 3] =
                [&["c", "a", "b"], &["b:0,2", "a", "c:0"], &["a", "b", "c:0,1,2"]];
            spec = on_hosts(spec, hosts[self.dice.below(hosts.len())]);
        }
        spec.job.priority = self.dice.below(3) as i32;
        let group = self.dice.one_in(3).then(|| Group {
            name: "group".to_owned(),
            max_running: Some(1 + self.dice.below(2) as u32),
        });
        let mut after = Vec::new();
        while !self.jobs.is_empty() && self.dice.one_in(3) {
            let job_id = id(&self.jobs[self.dice.below(self.jobs.len())]);
            let condition = if self.dice.one_in(2) { Condition::Ok } else { Condition::Any };
            after.push(After { job_id, condition });
        }
        let slurm = (spec.resources.hosts.is_none() && self.dice.one_in(3)).then(|| {
            let nodes = 1 + self.dice.below(2) as u32;
            let rank_room = spec.resources.smallest_world().div_ceil(nodes);
            Request { nodes, cpus_per_task: rank_room, ..Request::of(&spec.resources) }
        });
        let effects = self.world.submit_whole(spec, group, after, slurm);
        self.route(effects);
        self.jobs.push(name);
    }

    fn preempt(&mut self, name: &str) {
        let ticket = Ticket(self.world.number());
        let order = PreemptOrder { reason: "room".to_owned(), grace: None };
        self.step(Event::Preempt { ticket, job_id: id(name), order });
    }

    fn requeue(&mut self, ended: &str) {
        let name = format!("job{}", self.jobs.len());
        let ticket = Ticket(self.world.number());
        let (job_id, request_id) = (id(&name), name.clone());
        let from_start = self.dice.one_in(2);
        let requeue = Requeue { job_id, request_id, from_start, knows_secret: false };
        let effects = self.world.step(Event::Requeue { ticket, ended: id(ended), requeue });
        let is_taken =
            |e: &Effect| matches!(e, Effect::Answer { answer: Answer::Submitted(_), .. });
        if effects.iter().any(is_taken) {
            self.jobs.push(name);
        }
        self.route(effects);
    }

    /// Pools come, stand still and go.
    pub(super) fn pool_operator(&mut self) {
        let name = if self.dice.one_in(2) { "p" } else { "q" };
        let order = match self.dice.below(6) {
            0..=2 => {
                let request = Request {
                    cpus_per_task: 1 + self.dice.below(3) as u32,
                    ..Request::of(&spec("any", None).resources)
                };
                PoolOrder::Add(Box::new(Pool {
                    request,
                    max_workers: 1 + self.dice.below(3) as u32,
                    backlog: 1 + self.dice.below(2) as u32,
                    idle_timeout: Duration::from_secs(1 + self.dice.below(5) as u64),
                    folder: "/shared".into(),
                }))
            }
            3 => PoolOrder::Pause { reason: "maintenance".to_owned() },
            4 => PoolOrder::Resume,
            _ => PoolOrder::Remove { now: self.dice.one_in(2) },
        };
        self.order_pool(name, order);
    }

    pub(super) fn order_pool(&mut self, name: &str, order: PoolOrder) {
        let ticket = Ticket(self.world.number());
        self.step(Event::Pool { ticket, name: name.parse().unwrap(), order });
    }

    pub(super) fn operator(&mut self, worker: &str) {
        let order = match self.dice.one_in(2) {
            true => DrainOrder::Drain { reason: "new kernel".to_owned(), grace: None },
            false => DrainOrder::Undo,
        };
        self.order_drain(worker, order);
    }

    pub(super) fn order_drain(&mut self, worker: &str, order: DrainOrder) {
        let effects = self.world.drain(worker, order);
        self.route(effects);
    }
}

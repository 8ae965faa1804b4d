//! A simulated SLURM and the shell's agent before it: what is wanted is asked for once, found again,
//! given nodes, taken away, given back. Its news come late, twice and about what is long over.

use std::collections::BTreeMap;
use std::time::Duration;

use common::slurm::allocation::AllocationName;

use super::{Sim, SimWorker};
use crate::coordinator::{AllocationNews, AllocationOrder, Event};

#[derive(Debug, Default)]
pub(super) struct SimSlurm {
    /// In the queue or running, by name: SLURM's number and its nodes.
    jobs: BTreeMap<AllocationName, (u64, Vec<String>)>,
    submitted: u64,
    past: Vec<(AllocationName, AllocationNews)>,
}

impl Sim {
    /// The agent looks at one allocation, or SLURM does something to one.
    pub(super) fn slurm_acts(&mut self) {
        if !self.is_calm && self.dice.one_in(8) && !self.slurm.past.is_empty() {
            let place = self.dice.below(self.slurm.past.len());
            let (name, news) = self.slurm.past[place].clone();
            // Numbers are told once; only what squeue said can be told again.
            if matches!(news, AllocationNews::Seen { .. } | AllocationNews::Delayed { .. }) {
                self.tell(name, news);
            }
            return;
        }
        let orders = self.world.machine.allocations();
        if orders.is_empty() {
            return;
        }
        let all = if self.is_calm { orders.len() } else { 1 };
        for _ in 0..all {
            let order = orders[self.dice.below(orders.len())].clone();
            self.serve(&order);
        }
    }

    fn tell(&mut self, name: AllocationName, news: AllocationNews) {
        self.slurm.past.push((name.clone(), news.clone()));
        self.step(Event::Allocation { name, news });
    }

    fn serve(&mut self, order: &AllocationOrder) {
        let name = order.name.clone();
        match (order.slurm_job, self.slurm.jobs.get(&name).cloned(), &order.wanted) {
            // Found again by its name.
            (None, Some((slurm_job, _)), _) => {
                self.tell(name, AllocationNews::Accepted { slurm_job })
            }
            (None, None, None) => self.tell(name, AllocationNews::Gone { state: String::new() }),
            (None, None, Some(_)) if !self.is_calm && self.dice.one_in(20) => {
                let words = "sbatch: error: no".to_owned();
                self.tell(name, AllocationNews::Refused { words });
            }
            (None, None, Some(_)) => {
                self.slurm.submitted += 1;
                let slurm_job = self.slurm.submitted;
                self.slurm.jobs.insert(name.clone(), (slurm_job, Vec::new()));
                // The coordinator may die before it hears of it.
                if self.is_calm || !self.dice.one_in(4) {
                    self.tell(name, AllocationNews::Accepted { slurm_job });
                }
            }
            (Some(_), None, _) => self.tell(name, AllocationNews::Gone { state: String::new() }),
            (Some(_), Some(_), None) => self.take_nodes(name, "COMPLETED"),
            (Some(_), Some(_), Some(_)) if !self.is_calm && self.dice.one_in(10) => {
                let state = if self.dice.one_in(4) { "CANCELLED" } else { "NODE_FAIL" };
                self.take_nodes(name, state);
            }
            (Some(number), Some((_, nodes)), Some(wanted)) => {
                let (count, slots) = (wanted.request.nodes, wanted.request.cpus_per_task);
                if nodes.is_empty() {
                    self.give_nodes(&name, number, count, slots);
                }
                let state = "RUNNING".to_owned();
                let (reason, nodes) = (String::new(), format!("n[1-{count}]"));
                self.tell(name, AllocationNews::Seen { state, reason, nodes });
            }
        }
    }

    fn give_nodes(&mut self, name: &AllocationName, number: u64, count: u32, slots: u32) {
        let names: Vec<String> = (1..=count).map(|node| format!("n{node}-{number}")).collect();
        for node in &names {
            let allocation = Some(name.clone());
            let worker = SimWorker { slots, allocation, ..SimWorker::default() };
            self.workers.insert(node.clone(), worker);
            self.connect(node);
        }
        let held = self.slurm.jobs.get_mut(name).unwrap();
        held.1 = names;
    }

    /// Everything on its nodes is gone at once.
    fn take_nodes(&mut self, name: AllocationName, state: &str) {
        let (_, nodes) = self.slurm.jobs.remove(&name).unwrap();
        for node in nodes {
            self.disconnect(&node);
            self.workers.remove(&node);
        }
        if self.is_calm {
            self.pass(Duration::from_secs(1).as_millis() as u64);
        }
        self.tell(name, AllocationNews::Gone { state: state.to_owned() });
    }
}

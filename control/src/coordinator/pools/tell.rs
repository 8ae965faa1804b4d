//! What is told of pools: to operators, and to those who ask why a job waits.

use common::slurm::allocation::AllocationName;
use common::slurm::pool::{PoolAllocation, PoolName, PoolState, PoolStatus};
use common::units::count;

use super::PoolEntry;
use crate::coordinator::Machine;
use crate::coordinator::demand::could_hold;
use crate::coordinator::ledger::Allocation;
use crate::coordinator::placement::Wish;

/// What readers of a waiting job's reason are told of a pool.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::coordinator) struct PoolNote {
    name: PoolName,
    text: String,
    nodes: u32,
    slots: u32,
}

impl Machine {
    /// Every pool, by name.
    pub fn pools(&self) -> Vec<PoolStatus> {
        self.ledger.pools.keys().filter_map(|name| self.pool_status(name)).collect()
    }

    pub(super) fn pool_status(&self, name: &PoolName) -> Option<PoolStatus> {
        let entry = self.ledger.pools.get(name)?;
        let (state, reason) = self.pool_state(name, entry);
        let held = self.held();
        let row = |(name, of): (&AllocationName, &Allocation)| {
            let nodes = self.nodes_of(name, of);
            let state = match of.is_released {
                true => "is given back".to_owned(),
                false => self.tell_allocation(name, of, nodes),
            };
            PoolAllocation {
                name: name.clone(),
                slurm_job: of.slurm_job,
                nodes,
                workers: self.workers_in(name).count() as u32,
                state,
                is_idle: !self.is_busy(name, &held),
            }
        };
        let allocations: Vec<PoolAllocation> = self.ledger.allocations_of(name).map(row).collect();
        Some(PoolStatus {
            name: name.clone(),
            settings: entry.pool.clone(),
            state,
            reason,
            workers: allocations.iter().map(|of| of.workers).sum(),
            nodes: allocations.iter().map(|of| of.nodes).sum(),
            allocations,
            failures: entry.failures,
            added_at: entry.added_at,
        })
    }

    pub(super) fn pool_state(&self, name: &PoolName, entry: &PoolEntry) -> (PoolState, String) {
        if entry.is_closing {
            return (PoolState::Closing, "it is gone when its nodes are".to_owned());
        }
        if let Some(why) = &entry.paused {
            return (PoolState::Paused, why.clone());
        }
        if self.live.pools.rests.contains_key(name) {
            return (PoolState::Resting, entry.last_failure.clone());
        }
        let reason = match self.live.pools.begin_at {
            Some(_) => "workers of before the coordinator's start may come back first",
            None => "",
        };
        (PoolState::Open, reason.to_owned())
    }

    /// What is told to those who ask why a job waits.
    pub(in crate::coordinator) fn pool_notes(&self) -> Vec<PoolNote> {
        let note = |(name, entry): (&PoolName, &PoolEntry)| PoolNote {
            name: name.clone(),
            text: self.tell_pool(name, entry),
            nodes: entry.pool.max_workers,
            slots: entry.pool.request.cpus_per_task,
        };
        self.ledger.pools.iter().map(note).collect()
    }

    fn tell_pool(&self, name: &PoolName, entry: &PoolEntry) -> String {
        match self.pool_state(name, entry) {
            (PoolState::Paused, why) => {
                return format!("is paused ({why}): rsctl slurm pool resume {name}");
            }
            (PoolState::Resting, why) => return format!("rests before it asks again ({why})"),
            (PoolState::Closing, _) => return "is being removed".to_owned(),
            (PoolState::Open, why) if !why.is_empty() => return format!("asks for nothing: {why}"),
            (PoolState::Open, _) => {}
        }
        let open: Vec<_> = self.ledger.allocations_of(name).collect();
        let coming = open.iter().filter(|(_, of)| !of.is_used && !of.is_released);
        let coming: Vec<String> = coming
            .map(|(name, of)| self.tell_allocation(name, of, self.nodes_of(name, of)))
            .collect();
        if !coming.is_empty() {
            return format!("has asked: {}", coming.join(", "));
        }
        let nodes: u32 = open.iter().map(|(name, of)| self.nodes_of(name, of)).sum();
        let most = count(entry.pool.max_workers.into(), "node");
        format!("has {nodes} of at most {most}")
    }
}

impl PoolNote {
    /// To the owner of this wish.
    pub(in crate::coordinator) fn tell(&self, wish: &Wish) -> String {
        let Self { name, text, nodes, slots } = self;
        if wish.hosts.is_some() {
            return format!("pool `{name}` is no help: the job names its hosts");
        }
        if !could_hold(wish, *nodes, *slots) {
            let of = count((*slots).into(), "slot");
            return format!("pool `{name}` could not hold it: {nodes} nodes of {of} at most");
        }
        format!("pool `{name}` {text}")
    }
}

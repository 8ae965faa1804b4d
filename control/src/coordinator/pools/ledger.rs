//! What is durable of pools and of their allocations: changed by records alone, as all of the ledger.

use common::slurm::allocation::AllocationName;
use common::slurm::pool::{Pool, PoolName};

use super::PoolEntry;
use crate::coordinator::ledger::{Allocation, Ledger};
use crate::coordinator::record::Record;

impl Ledger {
    pub(in crate::coordinator) fn apply_to_pool(&mut self, record: &Record) {
        let name = match record {
            Record::PoolAdded { name, pool, at } => {
                let entry = PoolEntry {
                    pool: Pool::clone(pool),
                    added_at: *at,
                    allocations: 0,
                    failures: 0,
                    last_failure: String::new(),
                    paused: None,
                    is_closing: false,
                };
                self.pools.entry(name.clone()).or_insert(entry);
                return;
            }
            Record::PoolPaused { name, .. }
            | Record::PoolResumed { name, .. }
            | Record::PoolFailed { name, .. }
            | Record::PoolClosed { name, .. } => name,
            _ => return,
        };
        let Some(entry) = self.pools.get_mut(name) else { return };
        match record {
            Record::PoolPaused { why, .. } => entry.paused = Some(why.clone()),
            Record::PoolResumed { .. } => (entry.paused, entry.failures) = (None, 0),
            Record::PoolFailed { why, .. } => {
                entry.failures += 1;
                entry.last_failure.clone_from(why);
            }
            Record::PoolClosed { .. } => entry.is_closing = true,
            _ => {}
        }
        self.drop_closed_pool(&name.clone());
    }

    /// The job is told; one that has ended, or is forgotten, may still have an allocation.
    pub(in crate::coordinator) fn apply_to_allocation(&mut self, record: &Record) {
        match record {
            Record::AllocationAsked { name, nodes, .. } => {
                let allocation = Allocation { nodes: *nodes, ..Allocation::default() };
                self.allocations.insert(name.clone(), allocation);
                if let Some(entry) = name.pool().and_then(|pool| self.pools.get_mut(pool)) {
                    entry.allocations += 1;
                }
            }
            Record::AllocationAccepted { name, slurm_job, .. } => {
                if let Some(allocation) = self.allocations.get_mut(name) {
                    allocation.slurm_job = Some(*slurm_job);
                }
            }
            Record::AllocationServed { name, .. } => {
                if let Some(allocation) = self.allocations.get_mut(name) {
                    allocation.is_used = true;
                }
                if let Some(entry) = name.pool().and_then(|pool| self.pools.get_mut(pool)) {
                    entry.failures = 0;
                }
            }
            Record::AllocationReleased { name, .. } => {
                if let Some(allocation) = self.allocations.get_mut(name) {
                    allocation.is_released = true;
                }
            }
            Record::AllocationEnded { name, .. } => {
                self.allocations.remove(name);
                if let Some(pool) = name.pool() {
                    self.drop_closed_pool(pool);
                }
            }
            _ => {}
        }
    }

    fn drop_closed_pool(&mut self, name: &PoolName) {
        let is_closing = self.pools.get(name).is_some_and(|entry| entry.is_closing);
        if is_closing && self.allocations_of(name).next().is_none() {
            self.pools.remove(name);
        }
    }

    /// Those that are not known to be over.
    pub(super) fn allocations_of<'a>(
        &'a self,
        pool: &'a PoolName,
    ) -> impl Iterator<Item = (&'a AllocationName, &'a Allocation)> {
        let first = AllocationName::of_pool(pool.clone(), 0);
        self.allocations.range(first..).take_while(move |(name, _)| name.pool() == Some(pool))
    }
}

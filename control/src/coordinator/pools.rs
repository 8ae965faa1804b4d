//! Pools of SLURM's nodes: jobs that wait pull nodes in, idle nodes go back, and a pool whose nodes
//! are of no use rests for longer and longer, then pauses and says why. A pool's workers are everybody's.
//!
//! Promise: a pool never has more nodes than it may, counting those that are asked for and those that
//! have not gone back yet; and what it has asked for is known by name over every restart.

mod ledger;
mod tell;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use common::slurm::allocation::AllocationName;
use common::slurm::pool::{MAX_POOLS, Pool, PoolName};
use common::slurm::request::Request;
use common::status::UnixMillis;
use common::units::display_duration;

use crate::coordinator::Machine;
use crate::coordinator::allocation::{JOIN_WITHIN, Wanted};
use crate::coordinator::demand::{Demand, Room};
use crate::coordinator::effect::{Answer, Effect, Refusal};
use crate::coordinator::event::{Now, Ticket};
use crate::coordinator::floor::{Held, Scene};
use crate::coordinator::ledger::Allocation;
use crate::coordinator::live::LiveWorker;
use crate::coordinator::record::Record;

pub(super) use self::tell::PoolNote;

/// The rest after the first failure in a row, the second and so on; after one more the pool pauses.
const RESTS: [Duration; 4] = [
    Duration::from_secs(10),
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
];

/// Waiting jobs for which nodes are thought of in one decision: pools are never that large.
const MAX_JOBS: usize = 256;

/// What is durable of a pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PoolEntry {
    pub pool: Pool,
    pub added_at: UnixMillis,
    /// That were ever asked for.
    pub allocations: u32,
    /// In a row.
    #[serde(default)]
    pub failures: u32,
    #[serde(default)]
    pub last_failure: String,
    /// Why it asks for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    #[serde(default)]
    pub is_closing: bool,
}

/// What an operator does to a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolOrder {
    Add(Box<Pool>),
    Pause {
        reason: String,
    },
    Resume,
    /// `now`: what runs there saves and leaves; else nodes go back when they are idle.
    Remove {
        now: bool,
    },
}

/// What is known of all pools for the moment.
#[derive(Debug, Default)]
pub(super) struct LivePools {
    /// Before this moment workers of an earlier life of ours may come back: nothing is asked for and
    /// nothing is idle.
    begin_at: Option<Duration>,
    /// When a pool that failed asks again.
    rests: BTreeMap<PoolName, Duration>,
    /// When an allocation on which nothing runs goes back.
    idle_until: BTreeMap<AllocationName, Duration>,
}

impl PoolEntry {
    fn asks(&self) -> bool {
        self.paused.is_none() && !self.is_closing
    }
}

impl LivePools {
    pub(super) fn begin_after(&mut self, at: Duration) {
        self.begin_at = Some(at);
    }

    pub(super) fn forget(&mut self, name: &AllocationName) {
        self.idle_until.remove(name);
    }

    pub(super) fn deadlines(&self) -> impl Iterator<Item = Duration> {
        let rests = self.rests.values().chain(self.idle_until.values()).copied();
        rests.chain(self.begin_at)
    }
}

impl Machine {
    pub(super) fn on_pool(&mut self, ticket: Ticket, name: PoolName, order: PoolOrder, now: Now) {
        let answer = match self.change_pool(&name, order, now) {
            Ok(()) => Answer::Pool(self.pool_status(&name).map(Box::new)),
            Err(refusal) => Answer::Refused(refusal),
        };
        self.effect(Effect::Answer { ticket, answer });
        self.out.is_schedule_due = true;
    }

    fn change_pool(&mut self, name: &PoolName, order: PoolOrder, now: Now) -> Result<(), Refusal> {
        let (known, at) = (self.ledger.pools.get(name), now.unix);
        let own = name.clone();
        match (order, known) {
            (PoolOrder::Add(_), Some(entry)) if entry.is_closing => {
                return Err(Refusal::PoolClosing(own));
            }
            // Asked again: a retry is harmless.
            (PoolOrder::Add(pool), Some(entry)) if entry.pool == *pool => {}
            (PoolOrder::Add(_), Some(_)) => return Err(Refusal::PoolExists(own)),
            (PoolOrder::Add(_), None) if self.ledger.pools.len() >= MAX_POOLS => {
                return Err(Refusal::TooManyPools);
            }
            (PoolOrder::Add(pool), None) => self.record(Record::PoolAdded { name: own, pool, at }),
            (_, None) => return Err(Refusal::UnknownPool(own)),
            (PoolOrder::Pause { reason: why }, Some(_)) => {
                self.record(Record::PoolPaused { name: own, why, at });
            }
            (PoolOrder::Resume, Some(entry)) => {
                if entry.paused.is_some() || entry.failures > 0 {
                    self.record(Record::PoolResumed { name: own, at });
                }
                self.live.pools.rests.remove(name);
            }
            (PoolOrder::Remove { now: at_once }, Some(entry)) => {
                if !entry.is_closing {
                    self.record(Record::PoolClosed { name: own, at });
                }
                let all: Vec<AllocationName> =
                    self.ledger.allocations_of(name).map(|(name, _)| name.clone()).collect();
                for allocation in all.iter().filter(|_| at_once) {
                    let why = "the pool is removed".to_owned();
                    self.release_allocation(allocation, why, now);
                }
            }
        }
        Ok(())
    }

    /// What of the pool's allocation the shell makes true.
    pub(super) fn wanted_by_pool(&self, pool: &PoolName, of: &Allocation) -> Option<Wanted> {
        let pool = &self.ledger.pools.get(pool)?.pool;
        let nodes = of.nodes.unwrap_or(pool.request.nodes);
        Some(Wanted {
            request: Request { nodes, ..pool.request.clone() },
            output_dir: pool.folder.clone(),
            // What is lost with a node is the matter of the jobs that ran there.
            is_elastic: true,
        })
    }

    /// Whether all of its workers have been there.
    pub(super) fn is_whole(&self, name: &AllocationName) -> bool {
        self.live.allocations.get(name).is_some_and(|live| live.is_whole())
    }

    pub(super) fn on_joined_pool(&mut self, name: &AllocationName, now: Now) {
        let Some(allocation) = self.ledger.allocations.get(name) else { return };
        let nodes = self.nodes_of(name, allocation);
        if !allocation.is_used {
            self.record(Record::AllocationServed { name: name.clone(), at: now.unix });
        }
        if self.workers_in(name).count() >= nodes as usize {
            self.live.allocations.entry(name.clone()).or_default().complete();
        }
    }

    fn nodes_of(&self, name: &AllocationName, allocation: &Allocation) -> u32 {
        let least = || Some(self.ledger.pools.get(name.pool()?)?.pool.request.nodes);
        allocation.nodes.or_else(least).unwrap_or(1)
    }

    /// What it had asked for ended, or stays, without a worker.
    pub(super) fn fail_pool(&mut self, name: &AllocationName, why: String, now: Now) {
        let Some(pool) = name.pool() else { return };
        let Some(entry) = self.ledger.pools.get(pool).filter(|entry| !entry.is_closing) else {
            return;
        };
        let failures = entry.failures as usize + 1;
        let folder = entry.pool.folder.join(".slurm");
        self.record(Record::PoolFailed { name: pool.clone(), why: why.clone(), at: now.unix });
        match RESTS.get(failures - 1) {
            Some(rest) => {
                self.live.pools.rests.insert(pool.clone(), now.uptime + *rest);
            }
            None => {
                let why = format!(
                    "{failures} allocations in a row were of no use, the last: {why}; logs are in {}",
                    folder.display()
                );
                self.record(Record::PoolPaused { name: pool.clone(), why, at: now.unix });
            }
        }
        self.out.is_schedule_due = true;
    }

    /// Asks for what the waiting jobs need, and gives back what nobody needs.
    pub(super) fn serve_pools(&mut self, scene: &Scene, now: Now) {
        if self.ledger.pools.is_empty() {
            return;
        }
        self.give_up_late_ones(now);
        let demand = self.demand(scene, now);
        let (asks, needed) = (demand.asks, demand.needed);
        for (pool, nodes) in asks {
            let Some(entry) = self.ledger.pools.get(&pool) else { continue };
            let name = AllocationName::of_pool(pool, entry.allocations + 1);
            self.record(Record::AllocationAsked { name, nodes: Some(nodes), at: now.unix });
            self.out.are_allocations_changed = true;
        }
        let is_unneeded = |name: &&AllocationName| !needed.contains(*name);
        let names = self.ledger.allocations.iter().filter(|(name, of)| {
            let is_new = of.slurm_job.is_none();
            name.pool().is_some() && !of.is_released && !is_new
        });
        let unneeded: Vec<AllocationName> =
            names.map(|(name, _)| name).filter(is_unneeded).cloned().collect();
        self.live.pools.idle_until.retain(|name, _| unneeded.contains(name));
        let held = self.held();
        for name in unneeded {
            match self.is_busy(&name, &held) {
                true => self.live.pools.forget(&name),
                false => self.give_back_idle(&name, now),
            }
        }
    }

    fn demand(&self, scene: &Scene, now: Now) -> Demand<'_> {
        let in_pool = |w: &LiveWorker| w.allocation.clone().filter(|name| name.pool().is_some());
        let owner = |w: &LiveWorker| Some((w.id.uuid, in_pool(w)?));
        let owners: BTreeMap<Uuid, AllocationName> =
            self.live.workers.values().filter_map(owner).collect();
        let mut demand = Demand::new(scene, self.rooms(now), owners, self.config.allow_commands);
        for (name, allocation) in self.ledger.allocations.iter() {
            let entry = name.pool().and_then(|pool| self.ledger.pools.get(pool));
            let Some(entry) = entry.filter(|_| !allocation.is_released) else { continue };
            let live = self.live.allocations.get(name);
            if !live.is_some_and(|live| live.is_late() || live.is_whole()) {
                let joined = self.workers_in(name).count() as u32;
                let missing = self.nodes_of(name, allocation).saturating_sub(joined);
                demand.expect(name, missing, entry.pool.request.cpus_per_task);
            }
        }
        for wish in self.live.line.wishes().take(MAX_JOBS) {
            if demand.is_over() {
                break;
            }
            demand.serve(wish);
        }
        demand
    }

    /// What each pool may still ask for.
    fn rooms(&self, now: Now) -> Vec<Room<'_>> {
        let has_begun = self.live.pools.begin_at.is_none_or(|at| at <= now.uptime);
        let may_ask = |(name, entry): &(&PoolName, &PoolEntry)| {
            has_begun && entry.asks() && !self.live.pools.rests.contains_key(*name)
        };
        self.ledger
            .pools
            .iter()
            .filter(may_ask)
            .map(|(name, entry)| self.room(name, entry))
            .collect()
    }

    fn room<'a>(&'a self, name: &'a PoolName, entry: &'a PoolEntry) -> Room<'a> {
        let (mut nodes, mut waiting) = (0, 0);
        for (allocation, of) in self.ledger.allocations_of(name) {
            nodes += self.nodes_of(allocation, of);
            waiting += u32::from(!of.is_used && !of.is_released);
        }
        let pool = &entry.pool;
        Room {
            name,
            pool,
            nodes: pool.max_workers.saturating_sub(nodes),
            allocations: pool.backlog.saturating_sub(waiting),
        }
    }

    /// Allocations of which no worker has come in time.
    fn give_up_late_ones(&mut self, now: Now) {
        let is_late = |name| self.live.allocations.get(name).is_some_and(|live| live.is_late());
        let late = self.ledger.allocations.iter().filter(|(name, of)| {
            name.pool().is_some() && !of.is_used && !of.is_released && is_late(name)
        });
        let late: Vec<AllocationName> = late.map(|(name, _)| name.clone()).collect();
        for name in late {
            let why = format!("no worker of it joined within {} s", JOIN_WITHIN.as_secs());
            self.release_allocation(&name, why.clone(), now);
            self.fail_pool(&name, why, now);
        }
    }

    /// One that no waiting job needs and on which nothing runs: at once where SLURM has not given it or
    /// the pool closes, else when nothing has run there for as long as the pool says.
    fn give_back_idle(&mut self, name: &AllocationName, now: Now) {
        let Some(entry) = name.pool().and_then(|pool| self.ledger.pools.get(pool)) else { return };
        // Its workers may be here before SLURM has told that it runs.
        let is_used = self.ledger.allocations.get(name).is_some_and(|of| of.is_used);
        let live = self.live.allocations.get(name);
        let is_pending = !is_used && live.is_some_and(|live| live.is_pending());
        let (timeout, is_closing) = (entry.pool.idle_timeout, entry.is_closing);
        let from = self.live.pools.begin_at.map_or(now.uptime, |at| at.max(now.uptime));
        let idle_until = &mut self.live.pools.idle_until;
        let until = *idle_until.entry(name.clone()).or_insert(from + timeout);
        let why = match (is_pending, is_closing) {
            (true, _) => "no job waits for it any more".to_owned(),
            (false, true) if from <= now.uptime => "the pool is removed".to_owned(),
            (false, _) if until <= now.uptime => {
                format!("nothing ran there for {}", display_duration(timeout))
            }
            _ => return,
        };
        self.live.pools.forget(name);
        self.release_allocation(name, why, now);
    }

    /// Whether anything runs on its nodes, or may still.
    fn is_busy(&self, name: &AllocationName, held: &BTreeMap<Uuid, Held>) -> bool {
        let of = self.live.workers.values().filter(|w| w.allocation.as_ref() == Some(name));
        of.into_iter().any(|w| held.contains_key(&w.id.uuid) || !w.stragglers.is_empty())
    }

    pub(super) fn tick_pools(&mut self, now: Now) {
        let pools = &mut self.live.pools;
        let is_over = |at: &Duration| *at <= now.uptime;
        self.out.is_schedule_due |= pools.deadlines().any(|at| is_over(&at));
        pools.begin_at = pools.begin_at.filter(|at| !is_over(at));
        pools.rests.retain(|_, at| !is_over(at));
    }
}

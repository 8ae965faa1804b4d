//! After the coordinator's own restart: workers that have not come back yet. What they run is not
//! known, so no job starts its next attempt before those of its earlier ones have said so, or the
//! grace is over and they count as lost (A6). It also keeps the job's place for it: the first
//! worker that happens to be back has neither its checkpoint nor room for all its ranks.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use common::ids::{JobId, WorkerId};
use common::spec::NodeNames;
use common::status::{Gpus, TrainerEnd, UnixMillis};

use crate::coordinator::Machine;
use crate::coordinator::event::Now;
use crate::coordinator::ledger::{Job, PlacedRank};
use crate::coordinator::live::{LiveWorker, Standing};
use crate::coordinator::placement::Wish;

/// The newest worker of each name. One that has joined under the name of another has waited for the
/// end of its lease.
type Names<'a> = BTreeMap<&'a str, (UnixMillis, WorkerId)>;

impl Machine {
    /// Every job that was tried waits for the workers of its last attempt, for those that may still
    /// run an older one, and for the one that has its checkpoint.
    pub(super) fn await_workers(&mut self, now: Now) {
        let names = self.names();
        let mut awaited: Vec<(WorkerId, String, Option<JobId>)> = Vec::new();
        for (job_id, job) in self.ledger.jobs.iter().filter(|(_, job)| !job.state.is_final()) {
            for (uuid, name) in self.runners(job) {
                if let Some((_, id)) = names.get(name).filter(|(_, id)| id.uuid == uuid) {
                    awaited.push((*id, name.to_owned(), Some(job_id.clone())));
                }
            }
            // It is kept waiting by being known: no room there is no room.
            let home = Wish::of(job).home.filter(|_| job.open_attempt().is_none());
            if let Some((_, id)) = home.as_deref().and_then(|home| names.get(home)) {
                awaited.extend(home.map(|home| (*id, home, None)));
            }
        }
        for (id, name, job_id) in awaited {
            self.expect_worker(id, &name, now).awaited_by.extend(job_id);
        }
    }

    fn names(&self) -> Names<'_> {
        let mut names = Names::new();
        for (uuid, worker) in &self.ledger.workers {
            let id = WorkerId { uuid: *uuid, incarnation: worker.incarnation };
            let newest = names.entry(worker.name.as_str()).or_insert((worker.seen_at, id));
            if newest.0 < worker.seen_at {
                *newest = (worker.seen_at, id);
            }
        }
        names
    }

    /// The workers of the job's last attempt, and those that may still run an older one: the
    /// trainer's end was not seen, and the worker, with which it would have ended, lives on.
    fn runners<'a>(&self, job: &'a Job) -> BTreeMap<Uuid, &'a str> {
        let is_unseen = |rank: &&PlacedRank| match &rank.end {
            Some(end) => end.end == TrainerEnd::Lost,
            None => true,
        };
        let lives_on = |rank: &&PlacedRank| {
            let known = self.ledger.workers.get(&rank.worker.uuid);
            known.is_some_and(|worker| worker.incarnation == rank.worker.incarnation)
        };
        let (last, older) = match job.attempts.split_last() {
            Some((last, older)) => (last.ranks.as_slice(), older),
            None => Default::default(),
        };
        let older = older.iter().flat_map(|attempt| &attempt.ranks);
        let ranks = last.iter().chain(older.filter(is_unseen).filter(lives_on));
        ranks.map(|rank| (rank.worker.uuid, rank.worker_name.as_str())).collect()
    }

    /// A worker of which nothing is known but that it was there.
    pub(super) fn expect_worker(&mut self, id: WorkerId, name: &str, now: Now) -> &mut LiveWorker {
        let is_drained = self.ledger.drained.contains_key(name);
        let deadline = now.uptime + self.config.reattach_grace;
        self.live.workers.entry(id.uuid).or_insert_with(|| LiveWorker {
            id,
            name: name.to_owned(),
            standing: Standing::Ready,
            connection: None,
            advertise: String::new(),
            hostname: String::new(),
            node: Arc::new(NodeNames::new(name, "", "")),
            slots: 0,
            device: "cpu".to_owned(),
            memory_bytes: 0,
            version: String::new(),
            libtorch: String::new(),
            gpus: Gpus::default(),
            // It has not told yet, and has no slots before it has.
            allows_commands: true,
            allocation: None,
            is_withdrawing: false,
            is_drained,
            last_heard: now.uptime,
            last_heard_unix: now.unix,
            lease: self.config.lease,
            deadline,
            pinged_at: None,
            stragglers: Default::default(),
            awaited_by: Default::default(),
            resend_at: None,
        })
    }
}

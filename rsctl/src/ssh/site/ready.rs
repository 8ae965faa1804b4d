//! Waiting for workers that were started: until all have joined, or it is known of one that it never will.

use std::time::Duration;

use tokio::time::Instant;

use common::status::WorkerRow;
use service::exit::Failure;

use super::{Attempt, PROBE_WITHIN, is_connected};
use crate::coordinator::Coordinator;
use crate::ssh::call::{Shell, call};
use crate::ssh::record::Started;
use crate::ssh::{Error, each, script};

/// From the start of the last worker to its hello.
const READY_WITHIN: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(50);
/// Workers that are not there by then are asked whether they still live; and again after so long.
const PROBE_EVERY: Duration = Duration::from_secs(3);

impl Attempt<'_> {
    /// Waits until every worker that was started is in service.
    pub(super) async fn ready(
        &mut self,
        coordinator: &mut Coordinator,
        masters: &[String],
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let mut next_probe = began + PROBE_EVERY;
        loop {
            let rows = coordinator.workers().await?;
            let mut waiting = Vec::new();
            for index in 0..self.rows.len() {
                if !["started", "running"].contains(&self.rows[index].state.as_str()) {
                    continue;
                }
                let worker = &self.rows[index].worker;
                let is_new = |row: &WorkerRow| {
                    let life = (&row.uuid, row.incarnation);
                    self.earlier[index].as_ref().is_none_or(|(uuid, of)| (uuid, *of) != life)
                };
                let is_there =
                    |row: &&WorkerRow| row.name == *worker && is_connected(row) && is_new(row);
                match rows.iter().find(is_there) {
                    Some(row) => self.joined(index, row),
                    None => waiting.push(index),
                }
            }
            if waiting.is_empty() {
                return self.folder.write(self.record);
            }
            if Instant::now() >= next_probe {
                let is_over = began.elapsed() >= READY_WITHIN;
                self.probe(&waiting, masters, is_over).await;
                next_probe = Instant::now() + PROBE_EVERY;
                self.check()?;
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    fn joined(&mut self, index: usize, row: &WorkerRow) {
        let slots = row.slots;
        self.rows[index].slots = Some(slots);
        self.rows[index].state = "ready".to_owned();
        if let Some(host) = self.record.host(&row.name) {
            host.uuid = Some(row.uuid.clone());
            host.incarnation = Some(row.incarnation);
        }
    }

    /// Asks those that have not joined: one that has ended never will.
    async fn probe(&mut self, waiting: &[usize], masters: &[String], is_over: bool) {
        let known: Vec<(usize, Shell, Started)> = waiting
            .iter()
            .filter_map(|index| {
                let target = self.order.targets.get(*index)?;
                let started = self.record.host(&target.worker)?.started.clone();
                Some((*index, self.order.shell(target), started))
            })
            .collect();
        let answers = each(&known, |(index, shell, started)| async move {
            let reply = call(shell, &script::probe(started.known()), PROBE_WITHIN).await;
            let reply = match reply {
                Ok(reply) => reply,
                Err(error) => return Some((*index, Error::Call(error))),
            };
            let log = reply.text("log");
            if reply.get("running").is_none() {
                return Some((*index, Error::Ended { log }));
            }
            let (pid, master) = (started.process.as_ref()?.pid, masters.get(*index)?.clone());
            let within = READY_WITHIN.as_secs();
            is_over.then_some((*index, Error::NotReady { pid, master, within, log }))
        })
        .await;
        for (index, error) in answers.into_iter().flatten() {
            self.rows[index] = self.rows[index].clone().failed(&error);
            self.rows[index].tell(&self.order.targets[index].place);
        }
    }
}

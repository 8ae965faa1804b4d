//! Hosts on which a worker would be in the way of another, or could never join.

use service::exit::Failure;

use super::{Attempt, is_connected};
use crate::coordinator::Coordinator;
use crate::ssh::Error;
use crate::ssh::look::Seen;

impl Attempt<'_> {
    /// Hosts whose worker could only be refused.
    pub(super) async fn refuse_others(
        &mut self,
        coordinator: &mut Coordinator,
        seen: &[Option<Seen>],
        masters: &[String],
    ) -> Result<(), Failure> {
        let rows = coordinator.workers().await?;
        for (index, target) in self.order.targets.iter().enumerate() {
            let Some(Some(seen)) = seen.get(index) else { continue };
            let master = &masters[index];
            let known = rows.iter().find(|row| row.name == target.worker);
            let own = self.record.host(&target.worker).cloned();
            let own_process = own.as_ref().and_then(|host| host.started.process.as_ref());
            let own_uuid = own.as_ref().and_then(|host| host.uuid.as_ref());
            if seen.process.is_none() {
                self.earlier[index] = known.map(|row| (row.uuid.clone(), row.incarnation));
            }
            // One of ours that has just died may still be believed to live.
            let in_service = known.filter(|row| is_connected(row) && own_uuid != Some(&row.uuid));
            let is_elsewhere = seen.client.is_some_and(|client| !client.is_loopback());
            // Of the same name, brought up from another machine, or by an `up` that is forgotten.
            let others = seen.process.as_ref().filter(|process| {
                own_process != Some(*process) && !seen.master.is_empty() && seen.master != *master
            });
            let error = if is_elsewhere && is_loopback(master) {
                Error::LoopbackMaster { master: master.clone() }
            } else if let Some(process) = others {
                Error::OtherCluster { pid: process.pid, master: seen.master.clone() }
            } else if let (Some(row), None) = (in_service, &seen.process) {
                Error::InService { worker: row.name.clone(), node: row.hostname.clone() }
            } else {
                continue;
            };
            self.rows[index] = self.rows[index].clone().failed(&error);
            self.rows[index].tell(&target.place);
        }
        self.check()
    }
}

fn is_loopback(master: &str) -> bool {
    let host = master.rsplit_once(':').map_or(master, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

//! Whether workers reach each other where their trainers would: each opens a port, then each connects to
//! the others'. Tells what happened; decides nothing about it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Status;

use proto::v1;

use crate::core::Input;
use crate::door;
use crate::probes::Probe;
use crate::rpc::Front;

/// Pairs grow with the square: 64 workers make 4,032 connections.
const MAX_WORKERS: usize = 64;

/// Opening a port and saying so.
const OPEN_WITHIN: Duration = Duration::from_secs(3);

/// Connecting to all others, each at the same time; workers give up after three seconds.
const REACHED_WITHIN: Duration = Duration::from_secs(6);

/// States of workers that have a stream.
const CONNECTED: [&str; 4] = ["ready", "excluded", "draining", "drained"];

impl Front {
    pub(super) async fn probe_all_peers(&self) -> Result<v1::ProbePeersResponse, Status> {
        let busy = "the workers are being probed for somebody else; try again in ten seconds";
        let mut probe = self.probes.begin().ok_or_else(|| Status::resource_exhausted(busy))?;
        let rows = self.core.views().workers();
        let connected = rows.into_iter().filter(|row| CONNECTED.contains(&row.state.as_str()));
        let mut names: Vec<String> = connected.map(|row| row.name).collect();
        names.sort();
        let left_out = u32::try_from(names.len().saturating_sub(MAX_WORKERS)).unwrap_or(u32::MAX);
        names.truncate(MAX_WORKERS);

        let mut answer = v1::ProbePeersResponse { left_out, ..Default::default() };
        let opened =
            self.order(&mut probe, names.into_iter().map(|name| (name, Vec::new()))).await?;
        let mut places = BTreeMap::new();
        for (worker, report) in opened {
            match report {
                Some(report) if report.error.is_empty() => {
                    places.insert(worker, report.address);
                }
                report => answer.silent.push(silent(worker, report, OPEN_WITHIN)),
            }
        }
        let target = |(worker, address): (&String, &String)| v1::probe_order::Target {
            worker: worker.clone(),
            address: address.clone(),
        };
        let others = |name: &String| {
            let others = places.iter().filter(|(other, _)| *other != name);
            others.map(target).collect::<Vec<_>>()
        };
        if places.len() < 2 {
            return Ok(answer);
        }
        let orders: Vec<_> = places.keys().map(|name| (name.clone(), others(name))).collect();
        for (worker, report) in self.order(&mut probe, orders.into_iter()).await? {
            match report {
                Some(report) => answer.links.extend(links(&worker, report, &places)),
                None => answer.silent.push(silent(worker, None, REACHED_WITHIN)),
            }
        }
        Ok(answer)
    }

    /// Sends every worker its order; their reports, None of one that said nothing in time.
    async fn order(
        &self,
        probe: &mut Probe,
        orders: impl Iterator<Item = (String, Vec<v1::probe_order::Target>)>,
    ) -> Result<BTreeMap<String, Option<v1::ProbeReport>>, Status> {
        let mut within = OPEN_WITHIN;
        let mut reports = BTreeMap::new();
        let mut missing = BTreeSet::new();
        for (worker, targets) in orders {
            if !targets.is_empty() {
                within = REACHED_WITHIN;
            }
            let order = door::probe_order(v1::ProbeOrder { probe_id: probe.id.clone(), targets });
            let to = worker.clone();
            let ordered = |reply: oneshot::Sender<bool>| Input::Order { worker: to, order, reply };
            if self.core.ask(ordered).await? {
                missing.insert(worker.clone());
            }
            reports.insert(worker, None);
        }
        let until = Instant::now() + within;
        while !missing.is_empty() {
            let Ok(Some(report)) = tokio::time::timeout_at(until, probe.reports.recv()).await
            else {
                break;
            };
            // Who was not asked, or has reported already, changes nothing.
            if missing.remove(&report.worker) {
                reports.insert(report.worker.clone(), Some(report));
            }
        }
        Ok(reports)
    }
}

fn silent(worker: String, report: Option<v1::ProbeReport>, within: Duration) -> v1::SilentWorker {
    let silence = || format!("it said nothing within {} s", within.as_secs());
    let reason = report.map(|report| report.error).unwrap_or_else(silence);
    v1::SilentWorker { worker, reason }
}

/// What `worker` says of the others that listen; of one that it leaves out it says nothing.
fn links(
    worker: &str,
    report: v1::ProbeReport,
    places: &BTreeMap<String, String>,
) -> Vec<v1::PeerLink> {
    let mut said: BTreeMap<String, String> =
        report.reached.into_iter().map(|reached| (reached.worker, reached.error)).collect();
    let others = places.iter().filter(|(other, _)| *other != worker);
    let link = |(to, address): (&String, &String)| v1::PeerLink {
        from: worker.to_owned(),
        to: to.clone(),
        address: address.clone(),
        error: said.remove(to).unwrap_or_else(|| "it did not try".to_owned()),
    };
    others.map(link).collect()
}

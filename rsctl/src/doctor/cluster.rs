//! What is thought of a cluster, as it looks from here. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::status::{UnixMillis, WorkerRow};
use common::units::count;
use proto::v1::{PeerLink, ProbePeersResponse};

use super::Check;
use crate::clock;

/// What makes files of one node look as if they came from the future of another.
const WIDE_MILLIS: u64 = 2000;

/// Links that are told one by one; one broken node of a large cluster breaks many.
const TOLD_LINKS: usize = 20;

/// What was found out about a cluster.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) address: String,
    pub(crate) own_version: String,
    /// None of the rest was asked where this failed.
    pub(crate) coordinator: Result<Answer, String>,
}

/// What the coordinator says.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) version: String,
    pub(crate) clock: Clock,
    pub(crate) workers: Result<Vec<WorkerRow>, String>,
    pub(crate) peers: Result<ProbePeersResponse, String>,
}

/// Two clocks at about the same moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) here: UnixMillis,
    /// The coordinator's; 0: it is too old to say.
    pub(crate) there: UnixMillis,
}

pub(crate) fn judge(facts: &Facts) -> Vec<Check> {
    let answer = match &facts.coordinator {
        Ok(answer) => answer,
        Err(why) => {
            let hint = format!(
                "start it with `coordinator serve`, say where it is with --master, and open its \
                 port; see {}",
                common::help::UNREACHABLE
            );
            return vec![Check::fail("coordinator", why.clone(), hint)];
        }
    };
    let mut checks = vec![coordinator(facts, answer), time(answer.clock)];
    match &answer.workers {
        Err(why) => checks.push(Check::fail("workers", why.clone(), "is the coordinator busy?")),
        Ok(rows) if rows.is_empty() => {
            let hint = format!("on each node: worker join --master {}", facts.address);
            checks.push(Check::warn("workers", "none has joined", hint));
        }
        Ok(rows) => {
            checks.extend(rows.iter().map(|row| worker(row, facts, answer, rows)));
            checks.extend(libtorches(rows));
            checks.extend(peers(&answer.peers));
        }
    }
    checks
}

fn coordinator(facts: &Facts, answer: &Answer) -> Check {
    let found = format!("{} of version {}", facts.address, answer.version);
    if answer.version == facts.own_version {
        return Check::ok("coordinator", found);
    }
    let found = format!("{found}; this rsctl is {}", facts.own_version);
    Check::fail("coordinator", found, "use programs of one version everywhere")
}

fn time(clock: Clock) -> Check {
    if clock.there == 0 {
        let hint = "update the coordinator to compare clocks";
        return Check::warn("clock", "the coordinator does not tell its time", hint);
    }
    let apart = clock.here.abs_diff(clock.there);
    let direction = if clock.here > clock.there { "ahead of" } else { "behind" };
    let found = format!("{:.1} s {direction} the coordinator's", apart as f64 / 1000.0);
    match apart > WIDE_MILLIS {
        true => Check::warn("clock", found, "times in logs will mislead: run chrony or ntpd"),
        false => Check::ok("clock", found),
    }
}

impl Clock {
    fn now_there(self) -> UnixMillis {
        if self.there == 0 { self.here } else { self.there }
    }
}

/// States of workers that have a stream.
const CONNECTED: [&str; 4] = ["ready", "excluded", "draining", "drained"];

fn worker(row: &WorkerRow, facts: &Facts, answer: &Answer, all: &[WorkerRow]) -> Check {
    let (id, name) = (format!("worker:{}", row.name), &row.name);
    if row.state == WorkerRow::MISSING {
        let found = "no worker is on this node, which the coordinator's hostfile names";
        return Check::fail(id, found, format!("there: worker join --master {}", facts.address));
    }
    let heard = clock::age(answer.clock.now_there(), row.last_seen);
    let slots = count(u64::from(row.slots), "slot");
    let unlisted = if row.unlisted { ", unlisted" } else { "" };
    let found = format!("{}{unlisted}, {slots} at {}, heard {heard} ago", row.state, row.address);
    if CONNECTED.contains(&row.state.as_str()) && row.version != answer.version {
        let found = format!("{found}, of version {}", row.version);
        return Check::fail(id, found, format!("install version {} there", answer.version));
    }
    match row.state.as_str() {
        "ready" if is_hidden(row, all) => {
            let hint =
                "ranks elsewhere cannot reach a loopback address: worker join --advertise IP";
            Check::fail(id, found, hint)
        }
        "ready" => Check::ok(id, found),
        "excluded" => {
            let hint =
                format!("two jobs broke off there; once mended: rsctl workers --allow {name}");
            Check::warn(id, found, hint)
        }
        "draining" | "drained" => {
            Check::warn(id, found, format!("back into service: rsctl drain {name} --undo"))
        }
        "left" => Check::warn(id, found, "it was stopped; worker join there brings it back"),
        _ => {
            let hint = "is the node up, does it reach the coordinator, what does the worker's log \
                        say? worker join there brings it back";
            Check::fail(id, found, hint)
        }
    }
}

/// Told to listen on loopback, though there are other machines.
fn is_hidden(row: &WorkerRow, all: &[WorkerRow]) -> bool {
    let is_loopback = row.address.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    let is_elsewhere =
        |other: &WorkerRow| !other.hostname.is_empty() && other.hostname != row.hostname;
    is_loopback && all.iter().any(is_elsewhere)
}

/// The same libtorch on all gives the same bits wherever a job runs.
fn libtorches(rows: &[WorkerRow]) -> Option<Check> {
    const ID: &str = "workers-libtorch";
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.libtorch.is_empty()) {
        found.entry(&row.libtorch).or_default().insert(&row.name);
    }
    let list = |(libtorch, names): (&&str, &BTreeSet<&str>)| {
        let names: Vec<&str> = names.iter().copied().collect();
        format!("{libtorch} on {}", names.join(", "))
    };
    let told = found.iter().map(list).collect::<Vec<_>>().join("; ");
    match found.len() {
        // Told by the first trainer of each.
        0 => None,
        1 => Some(Check::ok(ID, told)),
        _ => Some(Check::warn(
            ID,
            told,
            "results differ in their last bits between these nodes: worker join --libtorch DIR \
             chooses another, resources.hosts keeps a job to nodes alike",
        )),
    }
}

fn peers(told: &Result<ProbePeersResponse, String>) -> Vec<Check> {
    const ID: &str = "peers";
    let told = match told {
        Ok(told) => told,
        Err(why) => return vec![Check::warn(ID, format!("not tested: {why}"), "ask once more")],
    };
    let open = "ranks connect on ports that the system chooses: open them between the nodes, or \
                choose their network with worker join --interface NAME, their ports with --port-range";
    let silent = told
        .silent
        .iter()
        .map(|silent| Check::fail(format!("peer:{}", silent.worker), silent.reason.clone(), open));
    let mut checks: Vec<Check> = silent.collect();
    let is_broken = |link: &&PeerLink| !link.error.is_empty();
    let broken: Vec<&PeerLink> = told.links.iter().filter(is_broken).collect();
    let link = |link: &&PeerLink| {
        let id = format!("peer:{}->{}", link.from, link.to);
        Check::fail(id, format!("{}: {}", link.address, link.error), open)
    };
    checks.extend(broken.iter().take(TOLD_LINKS).map(link));
    let (all, bad) = (told.links.len(), broken.len());
    let summary = format!("{} of {} work", all - bad, count(all as u64, "connection"));
    match (all, bad) {
        (0, _) if checks.is_empty() => {
            checks.push(Check::ok(ID, "fewer than two workers: nothing to reach"));
        }
        (0, _) => {}
        (_, 0) => checks.push(Check::ok(ID, summary)),
        _ => checks.push(Check::fail(ID, summary, "the lines above name them")),
    }
    if told.left_out > 0 {
        let found = count(u64::from(told.left_out), "worker");
        let hint =
            "only the first 64 by name are tested; a job's ranks tell of others when it starts";
        checks.push(Check::warn("peers-untested", found, hint));
    }
    checks
}

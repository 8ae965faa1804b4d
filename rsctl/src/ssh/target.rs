//! The hosts that are meant to have a worker, from a hostfile or from a job. Pure.

use std::collections::BTreeMap;

use common::exit::ExitCode;
use common::spec::{Host, HostSlots, Hosts};
use service::exit::Failure;

use crate::cluster::here::Machine;
use crate::hosts::Chosen;

/// One worker that is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// As ssh takes it: `node01`, `ada@node01`.
    pub(crate) host: String,
    /// Where that is written: `hosts.txt:3`; empty where it is the job.
    pub(crate) place: String,
    /// The worker's name, by which placement finds it.
    pub(crate) worker: String,
    /// None: as many as the host has.
    pub(crate) slots: Option<u32>,
    /// Those of them that are meant; empty: all.
    pub(crate) listed: Vec<u32>,
    /// It is this machine: no ssh is needed.
    pub(crate) is_here: bool,
}

impl Target {
    /// The worker and how many of its slots are meant, where that is said.
    pub(crate) fn meant(&self) -> Option<(String, u32)> {
        let count = u32::try_from(self.listed.len()).ok().filter(|count| *count > 0)?;
        Some((self.worker.clone(), count))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{}`{host}` is no host for ssh: {why}", at(.place))]
    NotForSsh { place: String, host: String, why: &'static str },
    #[error("{}`{host}` and `{other}` would have workers of one name, `{worker}`", at(.place))]
    SameWorker { place: String, host: String, other: String, worker: String },
    #[error("{}`{host}` and `{other}` are both this machine", at(.place))]
    BothHere { place: String, host: String, other: String },
}

fn at(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!("{place}: ") }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = match &error {
            Error::NotForSsh { .. } => {
                "letters, digits and . _ - : @ may stand in it; give others a Host line in \
                 ~/.ssh/config"
            }
            Error::SameWorker { .. } | Error::BothHere { .. } => {
                "give that machine one line with all its slots"
            }
        };
        Self::new(ExitCode::BadConfiguration, error).hint(hint)
    }
}

/// Of a hostfile. A worker offers the slots up to the last one that is meant.
pub(crate) fn of_hostfile(chosen: &Chosen, machine: &Machine) -> Result<Vec<Target>, Error> {
    let file = chosen.hostfile.file();
    let hosts = chosen.selection.hosts().iter().map(|selected| {
        let place = format!("{file}:{}", selected.entry.line);
        let (host, node) = (selected.entry.host.clone(), selected.entry.node().to_owned());
        (host, node, place, selected.slots.clone())
    });
    targets(hosts, machine)
}

/// Of a job that names its hosts itself.
pub(crate) fn of_job(hosts: &Hosts, machine: &Machine) -> Result<Vec<Target>, Error> {
    let hosts = hosts.iter().map(|host| {
        let listed = match &host.slots {
            HostSlots::All => Vec::new(),
            HostSlots::These(slots) => slots.clone(),
        };
        (host.name.clone(), host.name.clone(), String::new(), listed)
    });
    targets(hosts, machine)
}

fn targets(
    hosts: impl Iterator<Item = (String, String, String, Vec<u32>)>,
    machine: &Machine,
) -> Result<Vec<Target>, Error> {
    let mut targets: Vec<Target> = Vec::new();
    let mut workers: BTreeMap<String, String> = BTreeMap::new();
    for (host, node, place, listed) in hosts {
        let is_here = machine.is(&Host { name: node.clone(), slots: HostSlots::All });
        if let Some(why) = odd(&host).or_else(|| odd(&node)) {
            return Err(Error::NotForSsh { place, host, why });
        }
        let worker: String =
            node.chars().map(|c| if matches!(c, ':' | '%') { '-' } else { c }).collect();
        if let Some(other) = targets.iter().find(|target| is_here && target.is_here) {
            return Err(Error::BothHere { place, host, other: other.host.clone() });
        }
        if let Some(other) = workers.insert(worker.to_ascii_lowercase(), host.clone()) {
            return Err(Error::SameWorker { place, host, other, worker });
        }
        let slots = listed.last().map(|last| last + 1);
        targets.push(Target { host, place, worker, slots, listed, is_here });
    }
    Ok(targets)
}

/// What ssh, or a `ProxyCommand` that has `%h` in it, could take for something else than a host.
fn odd(host: &str) -> Option<&'static str> {
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '@' | '%');
    if host.starts_with('-') {
        Some("it begins with `-`, as an option does")
    } else if !host.chars().all(is_plain) {
        Some("it has characters that a shell could understand")
    } else {
        None
    }
}

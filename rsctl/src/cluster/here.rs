//! A job that names its hosts, on the private cluster: it runs if they are this machine. Pure: what
//! this machine is called is passed in.

use std::net::{IpAddr, UdpSocket};

use common::exit::ExitCode;
use common::spec::{Host, Hosts, InvalidHosts, NodeNames, Resources};
use service::exit::Failure;

use crate::cluster::plan::Asked;

/// How a worker of the private cluster is called.
pub(crate) fn worker_name(index: u32) -> String {
    format!("local-{index}")
}

/// What is known of a machine.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) hostname: String,
    pub(crate) has_address: fn(IpAddr) -> bool,
}

impl Machine {
    /// The one that this process runs on.
    pub(crate) fn this() -> Self {
        let hostname = fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        // Only an address of our own can be bound.
        let has_address = |address: IpAddr| UdpSocket::bind((address, 0)).is_ok();
        Self { hostname: hostname.trim().to_owned(), has_address }
    }

    fn is(&self, host: &Host) -> bool {
        let names = NodeNames::new("", &self.hostname, "127.0.0.1");
        host.is(&names) || host.name.parse().is_ok_and(self.has_address)
    }
}

/// Hosts that no private cluster has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("`{first}`{} not this machine (`{hostname}`), and `rsctl run` starts workers here only", others(*.more))]
    Elsewhere { first: String, more: usize, hostname: String },
    #[error("`{0}` and `{1}` are both this machine; name it once, with all its slots")]
    Twice(String, String),
    #[error("--workers {0}: the job names its host, and one worker is on it")]
    Workers(u32),
    #[error("--slots {slots}: the job names the slots of its host, {host}")]
    Slots { slots: u32, host: String },
    #[error("resources.hosts {0}")]
    Hosts(#[from] InvalidHosts),
}

fn others(more: usize) -> String {
    match more {
        0 => " is".to_owned(),
        1 => " and 1 more host are".to_owned(),
        more => format!(" and {more} more hosts are"),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = match &error {
            Error::Elsewhere { .. } => {
                "starting workers over ssh is not built yet: run `coordinator serve` here and \
                 `worker join --master THIS_MACHINE` on each host, then `rsctl submit` with the \
                 same arguments and --watch"
            }
            Error::Twice(..) => "the other line can go",
            Error::Workers(_) => "leave --workers out",
            Error::Slots { .. } => "leave --slots out",
            Error::Hosts(_) => "see docs/hostfiles.md",
        };
        Self::new(ExitCode::BadConfiguration, error).hint(hint)
    }
}

/// Refuses hosts that are elsewhere; else the job names the one worker that will be here, and that has
/// the slots that are named.
pub(crate) fn stay_here(
    resources: &mut Resources,
    asked: Asked,
    machine: &Machine,
) -> Result<Asked, Error> {
    let Some(hosts) = resources.hosts.clone() else { return Ok(asked) };
    let elsewhere: Vec<&Host> = hosts.iter().filter(|host| !machine.is(host)).collect();
    if let [first, more @ ..] = elsewhere.as_slice() {
        let (first, hostname) = (first.name.clone(), machine.hostname.clone());
        return Err(Error::Elsewhere { first, more: more.len(), hostname });
    }
    let mut here = hosts.iter();
    let (Some(host), second) = (here.next(), here.next()) else { return Ok(asked) };
    if let Some(second) = second {
        return Err(Error::Twice(host.name.clone(), second.name.clone()));
    }
    if asked.workers > 1 {
        return Err(Error::Workers(asked.workers));
    }
    let asked = match (asked.slots, host.slots.count()) {
        (Some(slots), Some(_)) => return Err(Error::Slots { slots, host: host.to_string() }),
        (_, None) => asked,
        (None, Some(_)) => {
            Asked { slots: Some(host.slots.least()), origin: "the job's host", ..asked }
        }
    };
    let renamed = Host { name: worker_name(0), slots: host.slots.clone() };
    resources.hosts = Some(Hosts::new(vec![renamed])?);
    Ok(asked)
}

#[cfg(test)]
mod tests;

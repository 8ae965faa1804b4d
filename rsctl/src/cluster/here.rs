//! A job that names its hosts, on the private cluster: whether they are this machine. Pure: what this
//! machine is called is passed in.

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

    pub(crate) fn is(&self, host: &Host) -> bool {
        let names = NodeNames::new("", &self.hostname, "127.0.0.1");
        host.is(&names) || host.name.parse().is_ok_and(self.has_address)
    }
}

/// Hosts, and flags that say something else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("`{0}` and `{1}` are both this machine; name it once, with all its slots")]
    Twice(String, String),
    #[error("--workers {0}: the job names its hosts, and one worker is on each")]
    Workers(u32),
    #[error("--slots {slots}: the job names the slots of its host, {host}")]
    Slots { slots: u32, host: String },
    #[error("resources.hosts {0}")]
    Hosts(#[from] InvalidHosts),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = match &error {
            Error::Twice(..) => "the other line can go",
            Error::Workers(_) => "leave --workers out",
            Error::Slots { .. } => "leave --slots out",
            Error::Hosts(_) => "see docs/hostfiles.md",
        };
        Self::new(ExitCode::BadConfiguration, error).hint(hint)
    }
}

/// Where the workers of a job are to be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Site {
    /// All on this machine.
    Here(Asked),
    /// One on each host that the job names, and not all of them are this machine.
    OnHosts,
}

/// Decides it. A job that names this machine alone names the one worker that will be here, and that has
/// the slots that are named.
pub(crate) fn site(
    resources: &mut Resources,
    asked: Asked,
    machine: &Machine,
) -> Result<Site, Error> {
    let Some(hosts) = &resources.hosts else { return Ok(Site::Here(asked)) };
    let Some(host) = hosts.get(0) else { return Ok(Site::Here(asked)) };
    let is_here = hosts.iter().all(|host| machine.is(host));
    if let (true, Some(second)) = (is_here, hosts.get(1)) {
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
    if !is_here {
        return Ok(Site::OnHosts);
    }
    let renamed = Host { name: worker_name(0), slots: host.slots.clone() };
    resources.hosts = Some(Hosts::new(vec![renamed])?);
    Ok(Site::Here(asked))
}

#[cfg(test)]
mod tests;

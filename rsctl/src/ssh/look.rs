//! A first look at every host, before anything is started anywhere: can it be reached, is there a worker
//! that runs, what is the machine, and by which address does it know this one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use common::units::count;

use crate::cluster::here::Machine;
use crate::ssh::call::{Shell, call};
use crate::ssh::record::Process;
use crate::ssh::target::Target;
use crate::ssh::{Error, Programs, script};

/// ssh connects within 10 s; a login shell on a cold network disk takes its time.
const WITHIN: Duration = Duration::from_secs(40);

/// What a host told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Of the worker's state.
    pub(crate) directory: String,
    pub(crate) boot: String,
    pub(crate) hostname: String,
    pub(crate) cores: u32,
    /// Where it sees this machine; None on this machine itself.
    pub(crate) client: Option<IpAddr>,
    /// A worker that an earlier call has started, and that still runs.
    pub(crate) process: Option<Process>,
    /// The coordinator that it was told to join; empty: not known.
    pub(crate) master: String,
}

/// Asks one host.
pub(crate) async fn look(
    shell: &Shell,
    cluster: &str,
    worker: &str,
    programs: &Programs,
) -> Result<Seen, Error> {
    let reply = call(shell, &script::look(cluster, worker, programs), WITHIN).await?;
    let text = |key: &str| reply.get(key).unwrap_or_default().to_owned();
    if let Some(path) = reply.get("missing") {
        return Err(Error::NoProgram { path: path.to_owned() });
    }
    if let Some(path) = reply.get("forbidden") {
        return Err(Error::NotExecutable { path: path.to_owned() });
    }
    if reply.get("version").is_none() {
        let (path, words) = (programs.worker.clone(), reply.text("broken"));
        return Err(Error::Broken { path, words });
    }
    Ok(Seen {
        directory: text("directory"),
        boot: text("boot"),
        hostname: text("hostname"),
        cores: text("cores").parse().unwrap_or(0),
        client: if shell.is_here() { None } else { text("client").parse().ok() },
        process: reply.get("process").and_then(Process::read),
        master: text("master"),
    })
}

/// Hosts that turn out to be one machine: of each but the first, which one that is.
pub(crate) fn same_machines(seen: &[Option<&Seen>]) -> Vec<Option<usize>> {
    // Containers on one kernel have one boot, and names of their own.
    let mut first: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut same = Vec::with_capacity(seen.len());
    for (index, seen) in seen.iter().enumerate() {
        same.push(seen.and_then(|seen| {
            let machine = (seen.boot.as_str(), seen.hostname.as_str());
            let known = *first.entry(machine).or_insert(index);
            (known != index).then_some(known)
        }));
    }
    same
}

/// What may surprise of workers whose slots are cores.
pub(crate) fn crowding(targets: &[Target], seen: &[Option<&Seen>]) -> Vec<String> {
    let mut machines: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, same) in same_machines(seen).into_iter().enumerate() {
        machines.entry(same.unwrap_or(index)).or_default().push(index);
    }
    let told = machines.values().filter_map(|hosts| {
        let seen = (*seen.get(*hosts.first()?)?)?;
        let names: Vec<&str> = hosts.iter().map(|host| targets[*host].host.as_str()).collect();
        let slots: u32 = hosts.iter().filter_map(|host| targets[*host].slots).sum();
        let cores = count(seen.cores.into(), "core");
        let names = names.join(" and ");
        if slots > seen.cores && seen.cores > 0 {
            let slots = count(slots.into(), "slot");
            Some(format!(
                "{names}: {slots} on {cores}: its ranks take turns, list no more than it has"
            ))
        } else if hosts.len() > 1 {
            Some(format!("{names} are one machine ({}): one line is enough", seen.hostname))
        } else {
            None
        }
    });
    told.collect()
}

/// Where the coordinator listens, and where each worker is told to find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The address to bind.
    pub(crate) listen: String,
    /// Of each target: a name or address of this machine, as it stands before a port.
    pub(crate) masters: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// `asked` is what the user says this machine is called; else each host is told the address that it
/// came from in its own eyes, where that is one of ours.
pub(crate) fn reach(
    targets: &[Target],
    seen: &[Option<&Seen>],
    asked: Option<&str>,
    machine: &Machine,
) -> Reach {
    let mut warnings = Vec::new();
    let mut masters: Vec<Option<String>> = Vec::with_capacity(targets.len());
    for (target, seen) in targets.iter().zip(seen) {
        let by_name = |why: String| {
            let (host, name) = (&target.host, &machine.hostname);
            let told = "its worker is told";
            let warning = format!("{host} {why}: {told} `{name}`; --advertise gives another name");
            (Some(name.clone()), Some(warning))
        };
        let (master, warning) = match (asked, seen) {
            (Some(asked), _) => (Some(asked.to_owned()), None),
            (None, Some(Seen { client: Some(client), .. })) => match (machine.has_address)(*client)
            {
                true => (Some(client.to_string()), None),
                false => by_name(format!(
                    "sees this machine as {client}, which is no address of it (is a jump host \
                     between?)"
                )),
            },
            (None, Some(_)) if !target.is_here => {
                by_name("does not say where it sees this machine (SSH_CONNECTION)".to_owned())
            }
            (None, _) => (None, None),
        };
        masters.push(master);
        warnings.extend(warning);
    }
    // What is on this machine must be reached by the others, too.
    let here = masters.iter().flatten().next().cloned();
    let here = here.unwrap_or_else(|| "127.0.0.1".to_owned());
    let masters: Vec<String> =
        masters.into_iter().map(|master| master.unwrap_or_else(|| here.clone())).collect();
    let addresses: Vec<Option<IpAddr>> = masters.iter().map(|master| master.parse().ok()).collect();
    let all = |is: fn(&IpAddr) -> bool| addresses.iter().all(|a| a.as_ref().is_some_and(is));
    let listen = if all(|address| address.is_loopback() && address.is_ipv4()) {
        "127.0.0.1"
    } else if addresses.iter().flatten().any(IpAddr::is_ipv6) {
        "[::]"
    } else {
        "0.0.0.0"
    };
    let bracketed = |master: String| match master.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => master,
    };
    let masters = masters.into_iter().map(bracketed).collect();
    Reach { listen: listen.to_owned(), masters, warnings }
}

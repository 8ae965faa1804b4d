//! The hosts that a job may use, and what a node may be called by. Looks nothing up: two texts name
//! the same node where they are equal as names or as addresses.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Hosts of one job: a job has no more ranks.
pub const MAX_HOSTS: usize = 4096;
/// Slots of one host: a worker has no more.
pub const MAX_SLOTS: u32 = 4096;
/// Slots of all hosts together, one by one: 16 for each rank that a job may have.
const MAX_SLOTS_IN_ALL: usize = 65_536;
/// Of a name in the DNS.
const MAX_NAME: usize = 253;

/// The hosts that a job may use, in the order in which their ranks are numbered. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Vec<Written>", into = "Vec<Written>")]
pub struct Hosts {
    hosts: Vec<Host>,
    names: Names,
}

/// One host and what a job may use of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Host {
    /// A worker's name, its node's hostname or its address.
    pub name: String,
    pub slots: HostSlots,
}

/// Which slots of a host a job may use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostSlots {
    /// As many as its worker has.
    All,
    /// By number from 0, ascending, each once.
    These(Vec<u32>),
}

/// Why there is no such list of hosts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHosts {
    #[error("names no host; leave it out where any worker will do")]
    Empty,
    #[error("names {0} hosts; at most {MAX_HOSTS}")]
    TooMany(usize),
    #[error("`{0}` is no host: expected a worker's name, a hostname or an address")]
    Name(String),
    #[error("names `{0}` twice")]
    Twice(String),
    #[error("`{0}` has no slot; leave the host out, or its slots where all are meant")]
    NoSlot(String),
    #[error("`{host}` has slot {slot}; the highest is {}", MAX_SLOTS - 1)]
    SlotTooHigh { host: String, slot: u32 },
    #[error("`{host}` has slot {slot} twice")]
    SlotTwice { host: String, slot: u32 },
    #[error("names {0} slots one by one; at most {MAX_SLOTS_IN_ALL}")]
    TooManySlots(usize),
}

/// As JSON and TOML have it: `{ name = "node01", slots = 4 }` or `slots = [0, 2]`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    slots: Option<WrittenSlots>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenSlots {
    First(u32),
    These(Vec<u32>),
}

impl HostSlots {
    /// Slots 0 to `count` - 1. More than any worker has are refused by [`Hosts::new`].
    pub fn first(count: u32) -> Self {
        Self::These((0..count.min(MAX_SLOTS + 1)).collect())
    }

    /// Of a worker with so many slots: whether slot `number` may be used.
    pub fn contains(&self, number: u32) -> bool {
        match self {
            Self::All => true,
            Self::These(numbers) => numbers.binary_search(&number).is_ok(),
        }
    }

    /// How many; None: as many as its worker has.
    pub fn count(&self) -> Option<u32> {
        match self {
            Self::All => None,
            Self::These(numbers) => Some(numbers.len() as u32),
        }
    }

    /// The slots that a worker must have so that these are among them.
    pub fn least(&self) -> u32 {
        match self {
            Self::All => 0,
            Self::These(numbers) => numbers.last().map_or(0, |last| last + 1),
        }
    }
}

impl Hosts {
    pub fn new(mut hosts: Vec<Host>) -> Result<Self, InvalidHosts> {
        if hosts.is_empty() {
            return Err(InvalidHosts::Empty);
        }
        check_size(hosts.len(), hosts.iter().map(|host| host.slots.count().unwrap_or(0)))?;
        hosts.iter_mut().try_for_each(check_host)?;
        let names = Names::of(&hosts)?;
        Ok(Self { hosts, names })
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Host> {
        self.hosts.iter()
    }

    pub fn get(&self, index: usize) -> Option<&Host> {
        self.hosts.get(index)
    }

    /// Which of the hosts the node is.
    pub fn find(&self, node: &NodeNames) -> Option<usize> {
        let full = node.full.iter().find_map(|name| self.names.full.get(name));
        let bare = || self.names.bare.get(node.bare.as_ref()?).copied().flatten();
        full.copied().or_else(bare)
    }

    /// Ranks of `threads` slots for which there is room; None: it depends on the workers.
    pub fn ranks(&self, threads: u32) -> Option<u32> {
        self.hosts.iter().map(|host| Some(host.slots.count()? / threads.max(1))).sum()
    }
}

fn check_size(hosts: usize, slots: impl Iterator<Item = u32>) -> Result<(), InvalidHosts> {
    if hosts > MAX_HOSTS {
        return Err(InvalidHosts::TooMany(hosts));
    }
    let in_all = slots.map(|count| count as usize).sum();
    if in_all > MAX_SLOTS_IN_ALL { Err(InvalidHosts::TooManySlots(in_all)) } else { Ok(()) }
}

impl Host {
    /// Whether the node is this host.
    pub fn is(&self, node: &NodeNames) -> bool {
        let name = normal(&self.name);
        let is_bare = |label: &str| node.bare.as_deref() == Some(label);
        node.full.contains(&name) || first_label(&name).is_some_and(is_bare)
    }
}

/// Sorts the slots of a host on the way.
fn check_host(host: &mut Host) -> Result<(), InvalidHosts> {
    let name = &host.name;
    if !is_host_name(name) {
        return Err(InvalidHosts::Name(shown(name)));
    }
    let HostSlots::These(numbers) = &mut host.slots else { return Ok(()) };
    numbers.sort_unstable();
    let Some(slot) = numbers.last().copied() else {
        return Err(InvalidHosts::NoSlot(name.clone()));
    };
    if slot >= MAX_SLOTS {
        return Err(InvalidHosts::SlotTooHigh { host: name.clone(), slot });
    }
    match numbers.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(InvalidHosts::SlotTwice { host: name.clone(), slot: pair[0] }),
        None => Ok(()),
    }
}

/// Whether a node could be called so.
pub fn is_host_name(text: &str) -> bool {
    let is_odd = |c: char| c.is_whitespace() || c.is_control();
    (1..=MAX_NAME).contains(&text.len()) && !text.contains(is_odd)
}

/// What may be too long for a message, or would spoil a terminal.
pub(crate) fn shown(text: &str) -> String {
    const CHARS: usize = 80;
    let cut = if text.chars().nth(CHARS).is_some() { "…" } else { "" };
    text.chars().take(CHARS).flat_map(char::escape_debug).collect::<String>() + cut
}

/// `node01 slots=4, node02:0,2, node03`.
impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, host) in self.hosts.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{host}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, slots } = self;
        match slots {
            HostSlots::All => f.write_str(name),
            HostSlots::These(numbers) if slots.least() as usize == numbers.len() => {
                write!(f, "{name} slots={}", numbers.len())
            }
            HostSlots::These(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
                let (open, close) = match name.parse::<Ipv6Addr>() {
                    Ok(_) => ("[", "]"),
                    Err(_) => ("", ""),
                };
                write!(f, "{open}{name}{close}:{}", numbers.join(","))
            }
        }
    }
}

impl TryFrom<Vec<Written>> for Hosts {
    type Error = InvalidHosts;

    fn try_from(written: Vec<Written>) -> Result<Self, InvalidHosts> {
        let host = |Written { name, slots }| {
            let slots = match slots {
                None => HostSlots::All,
                Some(WrittenSlots::First(count)) => HostSlots::first(count),
                Some(WrittenSlots::These(numbers)) => HostSlots::These(numbers),
            };
            Host { name, slots }
        };
        // Before counts become lists.
        let counts = written.iter().map(|host| match &host.slots {
            None => 0,
            Some(WrittenSlots::First(count)) => (*count).min(MAX_SLOTS + 1),
            Some(WrittenSlots::These(numbers)) => numbers.len() as u32,
        });
        check_size(written.len(), counts)?;
        Self::new(written.into_iter().map(host).collect())
    }
}

impl From<Hosts> for Vec<Written> {
    fn from(hosts: Hosts) -> Self {
        let written = |Host { name, slots }| {
            let least = slots.least();
            let slots = match slots {
                HostSlots::All => None,
                HostSlots::These(numbers) if least as usize == numbers.len() => {
                    Some(WrittenSlots::First(least))
                }
                HostSlots::These(numbers) => Some(WrittenSlots::These(numbers)),
            };
            Written { name, slots }
        };
        hosts.hosts.into_iter().map(written).collect()
    }
}

/// Which host each name means, by its place in the list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Names {
    full: BTreeMap<String, usize>,
    /// First labels of names with a domain; None: of several hosts.
    bare: BTreeMap<String, Option<usize>>,
}

impl Names {
    fn of(hosts: &[Host]) -> Result<Self, InvalidHosts> {
        let (mut full, mut bare) = (BTreeMap::new(), BTreeMap::new());
        for (index, host) in hosts.iter().enumerate() {
            let name = normal(&host.name);
            if let Some(label) = first_label(&name) {
                bare.entry(label.to_owned()).and_modify(|of| *of = None).or_insert(Some(index));
            }
            if full.insert(name, index).is_some() {
                return Err(InvalidHosts::Twice(host.name.clone()));
            }
        }
        Ok(Self { full, bare })
    }
}

/// All that a node may be called by: its worker's name, its hostname with and without the domain,
/// its address, and `localhost` where that is the address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeNames {
    /// In the order in which they are looked for.
    full: Vec<String>,
    /// The hostname, where it has no domain: a list of hosts may write it with one.
    bare: Option<String>,
}

impl NodeNames {
    /// What is not known is empty.
    pub fn new(worker: &str, hostname: &str, address: &str) -> Self {
        let hostname = normal(hostname);
        let label = first_label(&hostname).map(str::to_owned);
        let is_loopback = address.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        let bare = (label.is_none() && !hostname.is_empty()).then(|| hostname.clone());
        let local = is_loopback.then(|| "localhost".to_owned());
        let names = [Some(normal(worker)), Some(hostname), label, Some(normal(address)), local];
        let full = names.into_iter().flatten().filter(|name| !name.is_empty()).collect();
        Self { full, bare }
    }
}

/// Names differ in no capital letter, addresses in no way of writing them.
pub(crate) fn normal(name: &str) -> String {
    let name = unbracketed(name);
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// `::1` of `[::1]`: an IPv6 address may be written as where a port follows it.
pub(crate) fn unbracketed(name: &str) -> &str {
    let inside = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    inside.filter(|inside| inside.parse::<Ipv6Addr>().is_ok()).unwrap_or(name)
}

/// `node01` of `node01.cluster.local`; None of a name without a domain and of an address.
fn first_label(name: &str) -> Option<&str> {
    let (label, _) = name.split_once('.')?;
    (!label.is_empty() && name.parse::<IpAddr>().is_err()).then_some(label)
}

#[cfg(test)]
mod tests;

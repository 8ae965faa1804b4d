//! `--include`, `--exclude`, `--num-nodes` and `--num-gpus`: the part of a hostfile that is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::num::NonZeroU32;

use super::{Entry, Hostfile};
use crate::section::nearest;
use crate::spec::hosts::{shown, unbracketed};
use crate::spec::{Host, HostSlots, Hosts, InvalidHosts};

/// Which part of a hostfile is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Filter {
    #[default]
    All,
    Include(Nodes),
    Exclude(Nodes),
    /// The first hosts, and the first slots of each; None: all.
    First {
        nodes: Option<NonZeroU32>,
        slots: Option<NonZeroU32>,
    },
}

/// Hosts as a filter names them, with their slots; none: all of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nodes(BTreeMap<String, BTreeSet<u32>>);

/// Flags that mean no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    #[error("--include and --exclude cannot both hold; give one of them")]
    Both,
    #[error("--num-nodes and --num-gpus do not go with --include or --exclude; give either")]
    Mixed,
    #[error("{flag} `{node}`: {problem}; write HOST or HOST:SLOT,SLOT, joined by `@`")]
    Node { flag: &'static str, node: String, problem: &'static str },
}

/// A filter that asks for what its hostfile does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotThere {
    #[error("{flag} `{host}`: {file} has no such host{}", meant(.near.as_ref()))]
    Host { flag: &'static str, host: String, file: String, near: Option<String> },
    #[error("{flag} `{host}:{slot}`: the host has {} ({place})", numbered(*.slots))]
    Slot { flag: &'static str, host: String, slot: u32, slots: u32, place: String },
    #[error("--num-nodes {asked}: {file} has {have}")]
    Nodes { asked: u32, have: usize, file: String },
    #[error("--num-gpus {asked}: `{host}` has {} ({place})", numbered(*.slots))]
    Slots { asked: u32, host: String, slots: u32, place: String },
    #[error("{flag} leaves no slot of {file}")]
    Nothing { flag: &'static str, file: String },
    #[error("{file}: no host has a slot; write slots=N with N of at least 1")]
    NoSlots { file: String },
}

fn meant(near: Option<&String>) -> String {
    near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

fn numbered(slots: u32) -> String {
    match slots {
        0 => "no slot".to_owned(),
        1 => "slot 0 only".to_owned(),
        slots => format!("slots 0 to {}", slots - 1),
    }
}

impl Filter {
    /// Empty text filters nothing, as in DeepSpeed.
    pub fn from_flags(
        include: &str,
        exclude: &str,
        nodes: Option<NonZeroU32>,
        slots: Option<NonZeroU32>,
    ) -> Result<Self, InvalidFilter> {
        let has_numbers = nodes.is_some() || slots.is_some();
        match (include.is_empty(), exclude.is_empty()) {
            (false, false) => Err(InvalidFilter::Both),
            (true, true) if has_numbers => Ok(Self::First { nodes, slots }),
            (true, true) => Ok(Self::All),
            _ if has_numbers => Err(InvalidFilter::Mixed),
            (false, true) => Nodes::parse(INCLUDE, include).map(Self::Include),
            (true, false) => Nodes::parse(EXCLUDE, exclude).map(Self::Exclude),
        }
    }
}

const INCLUDE: &str = "--include";
const EXCLUDE: &str = "--exclude";
const NUM_NODES: &str = "--num-nodes";

impl Nodes {
    /// A host that is written several times has all the slots that are.
    fn parse(flag: &'static str, text: &str) -> Result<Self, InvalidFilter> {
        let mut nodes: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for node in text.split('@') {
            let wrong = |problem| InvalidFilter::Node { flag, node: shown(node), problem };
            let (host, numbers) = match split(node) {
                None => (node, None),
                Some((_, numbers)) if numbers.contains(':') => {
                    return Err(wrong(
                        "it has more than one `:` (an IPv6 address stands in brackets)",
                    ));
                }
                Some((host, numbers)) => (host, Some(numbers)),
            };
            if host.is_empty() {
                return Err(wrong("the host is missing"));
            }
            let slots = nodes.entry(unbracketed(host).to_owned()).or_default();
            for number in numbers.into_iter().flat_map(|numbers| numbers.split(',')) {
                let is_number = number.trim().bytes().all(|byte| byte.is_ascii_digit());
                let number = number.trim().parse().ok().filter(|_| is_number);
                slots.insert(number.ok_or_else(|| wrong("a slot is a number from 0"))?);
            }
        }
        Ok(Self(nodes))
    }
}

/// Host and slots, of `[fe80::1]:0,1` too; None: it has no slots, as a bare IPv6 address.
fn split(node: &str) -> Option<(&str, &str)> {
    if node.parse::<Ipv6Addr>().is_ok() {
        return None;
    }
    let end = node.find(']').filter(|_| node.starts_with('[')).unwrap_or(0);
    let colon = end + node[end..].find(':')?;
    Some((&node[..colon], &node[colon + 1..]))
}

/// A host of a hostfile and the slots that a filter left of it, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    pub entry: Entry,
    pub slots: Vec<u32>,
}

/// What a filter left, in the order of the hostfile: never empty, nor is any host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection(Vec<Selected>);

impl Selection {
    pub fn hosts(&self) -> &[Selected] {
        &self.0
    }

    pub fn slots(&self) -> usize {
        self.0.iter().map(|host| host.slots.len()).sum()
    }

    /// As a job names them.
    pub fn to_hosts(&self) -> Result<Hosts, InvalidHosts> {
        let host = |selected: &Selected| Host {
            name: selected.entry.node().to_owned(),
            slots: HostSlots::These(selected.slots.clone()),
        };
        Hosts::new(self.0.iter().map(host).collect())
    }
}

impl Hostfile {
    /// The part that `filter` means.
    pub fn select(&self, filter: &Filter) -> Result<Selection, NotThere> {
        let all = |entry: &Entry| (0..entry.slots).collect::<Vec<u32>>();
        let (slots, flag): (Vec<Vec<u32>>, _) = match filter {
            Filter::All => (self.entries().iter().map(all).collect(), None),
            Filter::Include(nodes) => {
                self.check(INCLUDE, nodes)?;
                let chosen = |entry: &Entry| match nodes.0.get(&entry.host) {
                    None => Vec::new(),
                    Some(slots) if slots.is_empty() => all(entry),
                    Some(slots) => slots.iter().copied().collect(),
                };
                (self.entries().iter().map(chosen).collect(), Some(INCLUDE))
            }
            Filter::Exclude(nodes) => {
                self.check(EXCLUDE, nodes)?;
                let left = |entry: &Entry| match nodes.0.get(&entry.host) {
                    None => all(entry),
                    Some(slots) if slots.is_empty() => Vec::new(),
                    Some(slots) => (0..entry.slots).filter(|slot| !slots.contains(slot)).collect(),
                };
                (self.entries().iter().map(left).collect(), Some(EXCLUDE))
            }
            Filter::First { nodes, slots } => (self.first(*nodes, *slots)?, Some(NUM_NODES)),
        };
        let hosts = self.entries().iter().cloned().zip(slots);
        let selected = hosts.map(|(entry, slots)| Selected { entry, slots });
        let selected: Vec<Selected> = selected.filter(|host| !host.slots.is_empty()).collect();
        let file = || self.file().to_owned();
        match flag {
            _ if !selected.is_empty() => Ok(Selection(selected)),
            Some(flag) => Err(NotThere::Nothing { flag, file: file() }),
            None => Err(NotThere::NoSlots { file: file() }),
        }
    }

    /// Every host and slot that a filter names is there.
    fn check(&self, flag: &'static str, nodes: &Nodes) -> Result<(), NotThere> {
        let known: BTreeMap<&str, &Entry> =
            self.entries().iter().map(|entry| (entry.host.as_str(), entry)).collect();
        for (host, slots) in &nodes.0 {
            let Some(entry) = known.get(host.as_str()) else {
                let near = nearest(host, known.keys().copied()).map(str::to_owned);
                let (host, file) = (shown(host), self.file().to_owned());
                return Err(NotThere::Host { flag, host, file, near });
            };
            if let Some(slot) = slots.last().copied().filter(|slot| *slot >= entry.slots) {
                let (host, place) = (shown(host), self.place(entry));
                return Err(NotThere::Slot { flag, host, slot, slots: entry.slots, place });
            }
        }
        Ok(())
    }

    fn first(
        &self,
        nodes: Option<NonZeroU32>,
        slots: Option<NonZeroU32>,
    ) -> Result<Vec<Vec<u32>>, NotThere> {
        let have = self.entries().len();
        let nodes = match nodes.map(|nodes| (nodes.get(), nodes.get() as usize)) {
            Some((asked, nodes)) if nodes > have => {
                return Err(NotThere::Nodes { asked, have, file: self.file().to_owned() });
            }
            Some((_, nodes)) => nodes,
            None => have,
        };
        let of = |entry: &Entry| match slots.map(NonZeroU32::get) {
            Some(asked) if asked > entry.slots => Err(NotThere::Slots {
                asked,
                host: entry.host.clone(),
                slots: entry.slots,
                place: self.place(entry),
            }),
            Some(asked) => Ok((0..asked).collect()),
            None => Ok((0..entry.slots).collect()),
        };
        self.entries().iter().take(nodes).map(of).collect()
    }

    fn place(&self, entry: &Entry) -> String {
        format!("{}:{}", self.file(), entry.line)
    }
}

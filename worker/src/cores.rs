//! Which cores a rank computes on: decided here alone, for trainers and for commands.
//!
//! Without a word (`pin-cores`) a trainer's threads get as many hardware threads of their own as the
//! rank has slots, where there are enough: that keeps their caches, and measured with two ranks on a
//! busy two-core machine it is half again as many steps. With `bind-cores-to-rank` a whole process gets
//! whole physical cores: its part of the node's, of one NUMA node where they fit, and no hardware
//! thread of them is anybody else's.
//!
//! A CPU is claimed for one rank at a time, over all workers of this machine: the claim is an abstract
//! socket, so the kernel frees it with its process. What cannot be claimed is taken.

mod choose;
mod topology;

use std::collections::BTreeSet;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use common::cores::CoreList;
use common::units::count;

use choose::choose;
use topology::Unit;

pub(crate) use topology::Topology;

/// The claims of all workers on this machine share it.
const NAMESPACE: &str = "rustspeed-core";

/// How ranks come to their cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// They float.
    Float,
    /// Threads that train stay on CPUs of their own, where there are enough.
    Pin,
    /// Processes stay on physical cores of their own: of this list, or of all.
    Bind(Option<CoreList>),
}

/// What one rank wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) slots: usize,
    /// That it computes with: as many as slots, but of a slot that is a GPU.
    pub(crate) threads: usize,
    /// The NUMA node of its GPU, where that is known.
    pub(crate) near: Option<u32>,
}

/// The cores of this machine, and how this worker gives them out.
#[derive(Debug, Clone)]
pub(crate) struct Cores {
    namespace: String,
    topology: Topology,
    given: Given,
    /// Of the worker.
    slots: usize,
    /// Whether a CPU quota allows less time than the CPUs have: it does not say which are meant.
    has_quota: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Given {
    Nothing,
    Threads,
    Cores,
}

/// Cores that belong to one rank until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    /// Its CPUs; none: it floats.
    cpus: Vec<u32>,
    /// Physical cores that the whole process is bound to; 0: it is not.
    bound: usize,
    _held: Vec<UnixDatagram>,
}

impl Claim {
    pub(crate) fn cpus(&self) -> &[u32] {
        &self.cpus
    }

    /// Physical cores that the whole process is bound to.
    pub(crate) fn bound(&self) -> Option<usize> {
        (self.bound > 0).then_some(self.bound)
    }

    /// Where the whole process is to stay; nothing: anywhere.
    pub(crate) fn mask(&self) -> Vec<u32> {
        if self.bound > 0 { self.cpus.clone() } else { Vec::new() }
    }
}

/// Why ranks cannot have cores of their own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoCores {
    #[error("{}", too_few(*.ranks, *.each, *.have))]
    TooFew { ranks: usize, each: usize, have: usize },
    #[error("{}: others have some of them", too_few(*.ranks, *.each, *.have))]
    Taken { ranks: usize, each: usize, have: usize },
    #[error("{0}")]
    NotHere(String),
    #[error(
        "a CPU quota (cpu.max) does not say which CPUs are meant: name them with bind-core-list, or \
         give the worker a cpuset"
    )]
    Quota,
}

fn too_few(ranks: usize, each: usize, have: usize) -> String {
    let cores = |number: usize| count(number as u64, "physical core");
    let ranks = count(ranks as u64, "rank");
    format!("{ranks} of {} each do not fit into {}", cores(each), cores(have))
}

impl NoCores {
    /// Of a worker that is to bind every rank.
    pub(crate) fn too_many_slots(slots: u32, cores: u32) -> String {
        let have = count(cores.into(), "physical core");
        format!("{slots} slots and {have}: every rank needs one; use --slots {cores}")
    }

    /// Whether it would be so on an idle node, too.
    pub(crate) fn is_for_ever(&self) -> bool {
        !matches!(self, Self::Taken { .. })
    }
}

impl Cores {
    pub(crate) fn of_this_machine(usage: &Use, slots: u32) -> Self {
        let all = Topology::of_this_machine();
        let slots = slots as usize;
        let has_quota = has_quota(&all);
        let enough = slots <= all.cpus().count() && !has_quota;
        let (given, topology) = match usage {
            Use::Pin if enough => (Given::Threads, all),
            Use::Float | Use::Pin => (Given::Nothing, all),
            Use::Bind(None) => (Given::Cores, all),
            // What is not here was a mistake of the configuration.
            Use::Bind(Some(list)) => (Given::Cores, all.only(list).unwrap_or_default()),
        };
        Self { namespace: NAMESPACE.to_owned(), topology, given, slots, has_quota }
    }

    /// Whether the processes of all ranks are bound.
    pub(crate) fn binds(&self) -> bool {
        self.given == Given::Cores
    }

    /// As this worker gives cores to every rank, in the order of `wants`.
    pub(crate) fn give(&self, wants: &[Want]) -> Result<Vec<Claim>, NoCores> {
        match self.given {
            Given::Nothing => Ok(wants.iter().map(|_| Claim::default()).collect()),
            Given::Threads => {
                let threads = self.topology.threads();
                let claim = |want: &Want| {
                    self.claim(&threads, want.slots.max(want.threads), want.near)
                        .unwrap_or_default()
                };
                Ok(wants.iter().map(claim).collect())
            }
            Given::Cores => self.bind(None, wants),
        }
    }

    /// Each rank's part of the node, by its slots, or an equal part of `list`; all get theirs or none.
    pub(crate) fn bind(
        &self,
        list: Option<&CoreList>,
        wants: &[Want],
    ) -> Result<Vec<Claim>, NoCores> {
        let topology = match list {
            Some(list) => self.topology.only(list).map_err(NoCores::NotHere)?,
            None if self.has_quota && !self.binds() => return Err(NoCores::Quota),
            None => self.topology.clone(),
        };
        let (ranks, have) = (wants.len(), topology.len());
        let part = |want: &Want| match list {
            Some(_) => have / ranks,
            None => have * want.slots.max(1) / self.slots.max(1),
        };
        let parts: Vec<usize> = wants.iter().map(|want| part(want).max(1)).collect();
        let each = parts.iter().copied().max().unwrap_or(1);
        if parts.iter().sum::<usize>() > have {
            return Err(NoCores::TooFew { ranks, each, have });
        }
        let claim = |(want, part): (&Want, usize)| {
            let claim = self.claim(topology.cores(), part, want.near);
            claim.map(|claim| Claim { bound: part, ..claim })
        };
        let claims: Option<Vec<Claim>> = wants.iter().zip(parts).map(claim).collect();
        claims.ok_or(NoCores::Taken { ranks, each, have })
    }

    /// Units that no other rank has, or none at all. Every turn finds out about one more at least.
    fn claim(&self, units: &[Unit], count: usize, near: Option<u32>) -> Option<Claim> {
        let mut taken = BTreeSet::new();
        loop {
            let chosen = choose(units, &taken, count, near)?;
            let cpus: Vec<u32> = chosen.into_iter().flat_map(|unit| unit.cpus).collect();
            match self.hold(&cpus) {
                Ok(held) => return Some(Claim { cpus, bound: 0, _held: held }),
                Err(others) => taken.extend(others),
            }
        }
    }

    /// All of them, or those that somebody else has (or a sandbox refuses, which is the same to us).
    fn hold(&self, cpus: &[u32]) -> Result<Vec<UnixDatagram>, Vec<u32>> {
        let (mut held, mut others) = (Vec::new(), Vec::new());
        for &cpu in cpus {
            let name = format!("{}-{cpu}", self.namespace);
            let bound = SocketAddr::from_abstract_name(name)
                .and_then(|address| UnixDatagram::bind_addr(&address));
            match bound {
                Ok(socket) => held.push(socket),
                Err(_) => others.push(cpu),
            }
        }
        if others.is_empty() { Ok(held) } else { Err(others) }
    }
}

/// Whether the cgroup allows less time than the affinity mask has CPUs.
pub(crate) fn has_quota(topology: &Topology) -> bool {
    (crate::inventory::cores().get() as usize) < topology.cpus().count()
}

#[cfg(test)]
mod tests;

//! Which cores a rank computes on. A rank that stays on cores of its own keeps their caches and is
//! never moved next to its peer; measured with two ranks on a busy two-core machine, that is half
//! again as many steps. A core is claimed for one rank at a time, over all workers of this machine:
//! the claim is an abstract socket, so the kernel frees it with its process. Where cores cannot be
//! claimed, ranks float.

use std::collections::BTreeSet;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use fs_err as fs;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// The claims of all workers on this machine share it.
const NAMESPACE: &str = "rustspeed-core";

/// The cores that this worker may give out, in the order in which it does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cores {
    namespace: String,
    order: Vec<u32>,
}

/// Cores that belong to one rank until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Claim {
    cores: Vec<u32>,
    _held: Vec<UnixDatagram>,
}

impl Claim {
    pub(crate) fn cores(&self) -> &[u32] {
        &self.cores
    }
}

impl Cores {
    /// None are given out where ranks could have to share them: with more slots than cores, and
    /// under a CPU quota, which does not say which cores are meant.
    pub(crate) fn of_this_machine(slots: u32) -> Self {
        let allowed = allowed();
        let usable = crate::inventory::cores().get() as usize;
        let can_give = usable == allowed.len() && slots as usize <= allowed.len();
        let order = if can_give { spread(allowed, siblings) } else { Vec::new() };
        Self { namespace: NAMESPACE.to_owned(), order }
    }

    /// Nobody is pinned.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// `count` cores that no other rank has, or none at all.
    pub(crate) fn claim(&self, count: usize) -> Claim {
        let mut claim = Claim::default();
        for &core in &self.order {
            if claim.cores.len() == count {
                break;
            }
            let name = format!("{}-{core}", self.namespace);
            let held = SocketAddr::from_abstract_name(name)
                .and_then(|address| UnixDatagram::bind_addr(&address));
            // Taken; or refused by a sandbox, which is the same to us.
            if let Ok(held) = held {
                claim.cores.push(core);
                claim._held.push(held);
            }
        }
        if claim.cores.len() == count { claim } else { Claim::default() }
    }
}

/// The cores that the affinity mask allows; empty where it cannot be read.
fn allowed() -> Vec<u32> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count())
        .filter(|&core| set.is_set(core).unwrap_or(false))
        .filter_map(|core| u32::try_from(core).ok())
        .collect()
}

/// The hardware threads of a core's physical core, itself included.
fn siblings(core: u32) -> Vec<u32> {
    let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    fs::read_to_string(path).map_or_else(|_| vec![core], |text| parse_list(&text))
}

/// The kernel's lists: `0,4` or `0-1`.
fn parse_list(text: &str) -> Vec<u32> {
    let mut list = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            list.extend(first..=last);
        }
    }
    list
}

/// One hardware thread of every physical core first, their siblings after.
fn spread(allowed: Vec<u32>, siblings: impl Fn(u32) -> Vec<u32>) -> Vec<u32> {
    let mut taken = BTreeSet::new();
    let (first, second): (Vec<u32>, Vec<u32>) = allowed.into_iter().partition(|&core| {
        let physical = siblings(core).into_iter().min().unwrap_or(core);
        taken.insert(physical)
    });
    first.into_iter().chain(second).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_has_one_rank_at_a_time_and_a_rank_all_its_cores_or_none() {
        let namespace = format!("rustspeed-test-{}", uuid::Uuid::new_v4());
        let cores = Cores { namespace, order: vec![0, 1, 2] };
        let other_worker = cores.clone();
        let first = cores.claim(2);
        assert_eq!(first.cores(), [0, 1]);
        assert_eq!(other_worker.claim(2).cores(), [] as [u32; 0]);
        let second = other_worker.claim(1);
        assert_eq!(second.cores(), [2]);
        drop(first);
        assert_eq!(other_worker.claim(2).cores(), [0, 1]);
        assert_eq!(Cores::none().claim(1).cores(), [] as [u32; 0]);
    }

    #[test]
    fn physical_cores_come_before_their_second_threads() {
        let pairs = |core: u32| vec![core / 2 * 2, core / 2 * 2 + 1];
        assert_eq!(spread(vec![0, 1, 2, 3], pairs), [0, 2, 1, 3]);
        assert_eq!(spread(vec![0, 1, 2], |core| vec![core]), [0, 1, 2]);
        assert_eq!(parse_list("0,4\n"), [0, 4]);
        assert_eq!(parse_list("0-2,7\n"), [0, 1, 2, 7]);
        assert_eq!(parse_list("what\n"), [] as [u32; 0]);
    }

    #[test]
    fn more_slots_than_cores_pin_nobody() {
        assert!(Cores::of_this_machine(u32::MAX).order.is_empty());
    }
}

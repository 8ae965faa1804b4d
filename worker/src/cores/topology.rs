//! The cores of this machine as the kernel describes them, as far as this process may use them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::cores::CoreList;
use fs_err as fs;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// One place to compute, never cut in two: a physical core with those of its hardware threads that may
/// be used, or a single hardware thread where those are given out one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// Ascending, never empty.
    pub(super) cpus: Vec<u32>,
    pub(super) node: u32,
    /// A hardware thread whose physical core another unit has, too.
    pub(super) is_second: bool,
}

/// Physical cores in the order of their NUMA nodes, then of their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    cores: Vec<Unit>,
}

impl Topology {
    /// What the affinity mask (a cpuset of SLURM or of a container, `taskset`) leaves; nothing where it
    /// cannot be read.
    pub(crate) fn of_this_machine() -> Self {
        Self::read(Path::new("/sys/devices/system"), &allowed())
    }

    /// `system` is `/sys/devices/system`. What it does not tell is a core by itself, on node 0.
    pub(super) fn read(system: &Path, allowed: &[u32]) -> Self {
        let list = |path: &Path| fs::read_to_string(path).ok()?.parse::<CoreList>().ok();
        let nodes = nodes(system);
        let mut cores: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
        for &cpu in allowed {
            let path = system.join(format!("cpu/cpu{cpu}/topology/thread_siblings_list"));
            let physical = list(&path).and_then(|siblings| siblings.iter().next()).unwrap_or(cpu);
            let node = nodes.get(&cpu).copied().unwrap_or(0);
            cores.entry((node, physical)).or_default().push(cpu);
        }
        let core = |((node, _), mut cpus): ((u32, u32), Vec<u32>)| {
            cpus.sort_unstable();
            Unit { cpus, node, is_second: false }
        };
        Self { cores: cores.into_iter().map(core).collect() }
    }

    /// Only what is in `list`; an error names what of it is not here.
    pub(crate) fn only(&self, list: &CoreList) -> Result<Self, String> {
        let all: BTreeSet<u32> = self.cpus().collect();
        if let Some(cpu) = list.iter().find(|cpu| !all.contains(cpu)) {
            let all: CoreList = all.into_iter().collect();
            return Err(format!(
                "`{list}`: CPU {cpu} is none of those that may be used here, {all}"
            ));
        }
        let cores = self.cores.iter().filter_map(|core| {
            let cpus: Vec<u32> =
                core.cpus.iter().copied().filter(|cpu| list.contains(*cpu)).collect();
            (!cpus.is_empty()).then(|| Unit { cpus, ..core.clone() })
        });
        Ok(Self { cores: cores.collect() })
    }

    /// Every hardware thread.
    pub(crate) fn cpus(&self) -> impl Iterator<Item = u32> + '_ {
        self.cores.iter().flat_map(|core| core.cpus.iter().copied())
    }

    /// Physical cores.
    pub(crate) fn len(&self) -> usize {
        self.cores.len()
    }

    pub(super) fn cores(&self) -> &[Unit] {
        &self.cores
    }

    /// One hardware thread of every physical core, then their siblings.
    pub(super) fn threads(&self) -> Vec<Unit> {
        let thread = |core: &Unit, nth: usize| {
            let cpus = vec![*core.cpus.get(nth)?];
            Some(Unit { cpus, node: core.node, is_second: nth > 0 })
        };
        let most = self.cores.iter().map(|core| core.cpus.len()).max().unwrap_or(0);
        let nth = |nth: usize| self.cores.iter().filter_map(move |core| thread(core, nth));
        (0..most).flat_map(nth).collect()
    }
}

/// The NUMA node of each CPU.
fn nodes(system: &Path) -> BTreeMap<u32, u32> {
    let Ok(entries) = fs::read_dir(system.join("node")) else { return BTreeMap::new() };
    let mut nodes = BTreeMap::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(node) = name.strip_prefix("node").and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let list = fs::read_to_string(entry.path().join("cpulist")).unwrap_or_default();
        // A node of memory alone has an empty list.
        let Ok(list) = list.parse::<CoreList>() else { continue };
        nodes.extend(list.iter().map(|cpu| (cpu, node)));
    }
    nodes
}

fn allowed() -> Vec<u32> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .filter_map(|cpu| u32::try_from(cpu).ok())
        .collect()
}

//! Which cores one rank gets of those that are free. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::topology::Unit;

/// `count` of `units`, none with a CPU in `taken`, or None: there are not so many. Physical cores of
/// their own before second threads of those that others have; of one NUMA node where they fit, on
/// `near` if that has them, else on the node that they fill best; else on as few nodes as can be.
pub(super) fn choose(
    units: &[Unit],
    taken: &BTreeSet<u32>,
    count: usize,
    near: Option<u32>,
) -> Option<Vec<Unit>> {
    let is_free = |unit: &&Unit| !unit.cpus.iter().any(|cpu| taken.contains(cpu));
    let free: Vec<&Unit> = units.iter().filter(is_free).collect();
    let whole: Vec<&Unit> = free.iter().copied().filter(|unit| !unit.is_second).collect();
    let from = if whole.len() >= count { whole } else { free };
    if from.len() < count {
        return None;
    }
    let mut nodes: BTreeMap<u32, Vec<&Unit>> = BTreeMap::new();
    for unit in from {
        nodes.entry(unit.node).or_default().push(unit);
    }
    let mut nodes: Vec<(u32, Vec<&Unit>)> = nodes.into_iter().collect();
    // Those that hold all come first, and of these the fullest; then the emptiest of the others.
    nodes.sort_by_key(|(node, units)| {
        let holds_all = units.len() >= count;
        let is_near = near == Some(*node);
        let size = if holds_all { units.len() } else { usize::MAX - units.len() };
        (!holds_all, !is_near, size, *node)
    });
    let units = nodes.into_iter().flat_map(|(_, units)| units);
    Some(units.take(count).cloned().collect())
}

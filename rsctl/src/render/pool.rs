//! Pools of SLURM's nodes, and below them what they have asked for.

use common::slurm::pool::PoolStatus;
use common::units::display_duration;

use crate::render::table::{Align, optional, render};

const POOLS: [(&str, Align); 7] = [
    ("POOL", Align::Left),
    ("STATE", Align::Left),
    ("NODES", Align::Right),
    ("WORKERS", Align::Right),
    ("SLOTS/NODE", Align::Right),
    ("IDLE", Align::Right),
    ("REASON", Align::Left),
];

const ALLOCATIONS: [(&str, Align); 5] = [
    ("ALLOCATION", Align::Left),
    ("SLURM", Align::Right),
    ("NODES", Align::Right),
    ("WORKERS", Align::Right),
    ("STATE", Align::Left),
];

pub(crate) fn table(pools: &[PoolStatus]) -> String {
    let row = |pool: &PoolStatus| {
        [
            pool.name.to_string(),
            pool.state.to_string(),
            format!("{}/{}", pool.nodes, pool.settings.max_workers),
            pool.workers.to_string(),
            pool.settings.request.cpus_per_task.to_string(),
            display_duration(pool.settings.idle_timeout),
            pool.reason.clone(),
        ]
    };
    let mut text = render(&POOLS, pools.iter().map(row));
    let allocations = pools.iter().flat_map(|pool| &pool.allocations).map(|of| {
        let idle = if of.is_idle && of.workers > 0 { "; idle" } else { "" };
        [
            of.name.to_string(),
            optional(of.slurm_job, |job| job.to_string()),
            of.nodes.to_string(),
            of.workers.to_string(),
            format!("{}{idle}", of.state),
        ]
    });
    let allocations: Vec<_> = allocations.collect();
    if !allocations.is_empty() {
        text.push('\n');
        text.push_str(&render(&ALLOCATIONS, allocations));
    }
    text
}

//! The nodes that an operator expects, beside the workers that are here. For people: jobs are placed
//! on any worker.

use common::spec::{Host, NodeNames};
use common::status::{Gpus, WorkerRow};

use crate::coordinator::Machine;

impl Machine {
    /// Adds the expected nodes on which no worker is known, and marks the workers that nobody expects.
    pub(super) fn compare_with_expected(&self, rows: &mut Vec<WorkerRow>) {
        let Some(expected) = &self.config.expected else { return };
        let mut is_known = vec![false; expected.iter().len()];
        for row in rows.iter_mut() {
            match expected.find(&NodeNames::new(&row.name, &row.hostname, &row.address)) {
                Some(index) => is_known[index] = true,
                None => row.unlisted = true,
            }
        }
        let nodes = expected.iter().zip(is_known);
        rows.extend(nodes.filter(|(_, is_known)| !is_known).map(|(host, _)| missing(host)));
    }
}

fn missing(host: &Host) -> WorkerRow {
    WorkerRow {
        name: host.name.clone(),
        uuid: String::new(),
        incarnation: 0,
        state: WorkerRow::MISSING.to_owned(),
        address: String::new(),
        slots: host.slots.count().unwrap_or(0),
        free_slots: 0,
        device: String::new(),
        memory_bytes: 0,
        jobs: Vec::new(),
        version: String::new(),
        last_seen: 0,
        libtorch: String::new(),
        gpus: Gpus::default(),
        hostname: String::new(),
        unlisted: false,
        allows_commands: false,
    }
}

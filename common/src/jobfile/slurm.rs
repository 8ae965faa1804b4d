//! `[slurm]`: the allocation of its own that a job may be submitted with.

use crate::section::{Found, IntegerRange, Section};
use crate::slurm::request::{self, MAX_CPUS, MAX_EXTRA, MAX_NODES, Request};
use crate::spec::Resources;
use crate::tree::{Node, Value};
use crate::units::count;

const NODES: IntegerRange = IntegerRange::new(1, MAX_NODES as i64);
const CPUS: IntegerRange = IntegerRange::new(1, MAX_CPUS as i64);

/// None only where the resources could not be read.
pub(super) fn read(root: &Section<'_>, resources: Option<&Resources>) -> Option<Request> {
    let section = root.sub("slurm");
    if section.table().is_none() {
        return resources.map(Request::of);
    }
    let option = |key: &str| checked(&section, key, section.filled_text(key));
    let [partition, account, time, gres] = ["partition", "account", "time", "gres"].map(option);
    let nodes: Option<Found<u32>> = section.integer("nodes", NODES);
    let cpus: Option<Found<u32>> = section.integer("cpus-per-task", CPUS);
    let extra = extra(&section);
    section.refuse_unknown(OTHER_NAMES);
    let site = "default: the site's";
    let resources = resources?;
    let nodes = section.settle("nodes", nodes, (1, "default"));
    let fitting = request::cpus_for(resources, nodes);
    let request = Request {
        partition: section.settle_optional("partition", partition, site),
        account: section.settle_optional("account", account, site),
        time: section.settle_optional("time", time, site),
        gres: section.settle_optional("gres", gres, "default: none"),
        nodes,
        cpus_per_task: section.settle(
            "cpus-per-task",
            cpus,
            (fitting, "inferred from the ranks, their threads and slurm.nodes"),
        ),
        extra: section.settle("extra", extra, (Vec::new(), "default: none")),
    };
    check_room(&section, &request, resources);
    Some(request)
}

/// Other tools' words.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("time-limit", "time"),
    ("walltime", "time"),
    ("queue", "partition"),
    ("cpus", "cpus-per-task"),
    ("cpus-per-node", "cpus-per-task"),
    ("num-nodes", "nodes"),
    ("sbatch", "extra"),
    ("flags", "extra"),
];

fn checked(
    section: &Section<'_>,
    key: &str,
    found: Option<Found<String>>,
) -> Option<Found<String>> {
    let found = found?;
    match request::option_problem(&found.value) {
        None => Some(found),
        Some(problem) => {
            section.refuse(key, problem);
            None
        }
    }
}

fn extra(section: &Section<'_>) -> Option<Found<Vec<String>>> {
    let text = |node: &Node| match &node.value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    };
    let found = section.list("extra", "a list of `sbatch` flags, each one text", text)?;
    if found.value.len() > MAX_EXTRA {
        section.refuse("extra", format!("expected at most {MAX_EXTRA} flags"));
        return None;
    }
    let wrong = found.value.iter().find_map(|flag| Some((flag, request::extra_problem(flag)?)));
    if let Some((flag, problem)) = wrong {
        section.refuse("extra", format!("`{flag}`: {problem}"));
        return None;
    }
    Some(found)
}

fn check_room(section: &Section<'_>, request: &Request, resources: &Resources) {
    let (room, world) = (request.room(resources), resources.smallest_world());
    if room >= world {
        return;
    }
    let (nodes, cpus) = (count(request.nodes.into(), "node"), request.cpus_per_task);
    let message = format!(
        "{nodes} of {} have room for {}, and the job has {world}",
        count(cpus.into(), "CPU"),
        count(room.into(), "rank"),
    );
    let is_cpus = !section.lacks("cpus-per-task");
    section.refuse(if is_cpus { "cpus-per-task" } else { "nodes" }, message);
}

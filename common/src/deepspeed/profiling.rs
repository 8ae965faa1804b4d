//! The blocks that ask for measurements: `comms_logger`, `wall_clock_breakdown`, `flops_profiler`.

use std::path::Path;

use crate::section::{Found, IntegerRange, Section, absolute};
use crate::spec::{Collective, CommsLog, FlopsProfile};
use crate::tree::Value;

/// What is asked for; None where the configuration is silent.
#[derive(Debug)]
pub(crate) struct Profiling {
    pub(crate) wall_clock_breakdown: Option<Found<bool>>,
    /// The inner None: switched off by name.
    pub(crate) comms_log: Option<Found<Option<CommsLog>>>,
    pub(crate) flops_profile: Option<Found<Option<FlopsProfile>>>,
}

pub(super) fn read(top: &Section<'_>, caller_dir: &Path) -> Profiling {
    Profiling {
        wall_clock_breakdown: top.boolean("wall_clock_breakdown"),
        comms_log: comms_log(top),
        flops_profile: flops_profile(top, caller_dir),
    }
}

/// DeepSpeed's names of collectives, by what they are here.
const NAMES: &[(&str, Collective)] = &[
    ("all_reduce", Collective::AllReduce),
    ("reduce_scatter", Collective::ReduceScatter),
    ("reduce_scatter_tensor", Collective::ReduceScatter),
    ("_reduce_scatter_base", Collective::ReduceScatter),
    ("all_gather", Collective::AllGather),
    ("all_gather_into_tensor", Collective::AllGather),
    ("_all_gather_base", Collective::AllGather),
    ("broadcast", Collective::Broadcast),
    ("barrier", Collective::Barrier),
    ("send", Collective::Transfer),
    ("recv", Collective::Transfer),
];

/// The block's presence turns it on, as in DeepSpeed; `enabled: false`, which DeepSpeed does not
/// look at, turns it off again.
fn comms_log(top: &Section<'_>) -> Option<Found<Option<CommsLog>>> {
    let place = top.lookup("comms_logger")?.place.clone();
    let block = top.sub("comms_logger");
    let all = block.boolean("prof_all").is_none_or(|found| found.value);
    let verbose = block.boolean("verbose").is_some_and(|found| found.value);
    let expected = "names of collectives such as all_reduce, reduce_scatter or all_gather";
    let only = block.list("prof_ops", expected, |node| match &node.value {
        Value::Text(name) => NAMES.iter().find(|(known, _)| known == name).map(|(_, op)| *op),
        _ => None,
    });
    let log =
        CommsLog { only: (!all).then(|| only.map_or_else(Vec::new, |found| found.value)), verbose };
    match block.boolean("enabled") {
        Some(off) if !off.value => {
            top.report().note(
                "comms_logger.enabled is false: collectives are not logged; DeepSpeed itself \
                 does not look at this key and would log them",
            );
            Some(off.map(|_| None))
        }
        Some(on) => Some(on.map(|_| Some(log))),
        None => {
            let origin = format!("{place} comms_logger");
            Some(Found { value: Some(log), place, origin })
        }
    }
}

fn flops_profile(top: &Section<'_>, caller_dir: &Path) -> Option<Found<Option<FlopsProfile>>> {
    const STEP: IntegerRange = IntegerRange::new(1, 1 << 40);
    let block = top.sub("flops_profiler");
    let step = block.integer("profile_step", STEP).map_or(1, |found| found.value);
    let detailed = block.boolean("detailed").is_none_or(|found| found.value);
    let output_file = block.filled_text("output_file");
    let output_file = output_file.map(|found| absolute(caller_dir, &found.value));
    let enabled = block.boolean("enabled")?;
    let profile = FlopsProfile { step, detailed, output_file };
    Some(enabled.map(|enabled| enabled.then_some(profile)))
}

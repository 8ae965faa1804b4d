//! `[restart]`: budgets for what goes wrong.

use std::time::Duration;

use crate::section::{Found, IntegerRange, Section};
use crate::spec::Restart;

use super::{DEFAULT, SYNONYMS};

const BUDGET: IntegerRange = IntegerRange::new(0, Restart::MAX as i64);
const COUNT: IntegerRange = IntegerRange::new(1, Restart::MAX as i64);
const STEPS: IntegerRange = IntegerRange::new(1, 1 << 40);

/// Of a job that runs a command, or of one that trains.
pub(super) fn read(root: &Section<'_>, is_command: bool) -> Restart {
    let section = root.sub("restart");
    let usual = if is_command { Restart::OF_COMMAND } else { Restart::DEFAULT };
    let number = |key: &str, range: IntegerRange, usual: u32| {
        section.settle(key, section.integer(key, range), (usual, DEFAULT))
    };
    let preemption = section.integer("preemption", BUDGET);
    let restart = Restart {
        application: number("application", BUDGET, usual.application),
        infrastructure: number("infrastructure", BUDGET, usual.infrastructure),
        preemption: section.settle_optional("preemption", preemption, "default: no bound"),
        refill_steps: section.settle(
            "refill-steps",
            section.integer("refill-steps", STEPS),
            (usual.refill_steps, DEFAULT),
        ),
        same_step: number("same-step", COUNT, usual.same_step),
        without_progress: number("without-progress", COUNT, usual.without_progress),
        backoff: wait(&section, "backoff", usual.backoff),
        max_backoff: wait(&section, "max-backoff", usual.max_backoff),
        grow_after: wait(&section, "grow-after", usual.grow_after),
    };
    if restart.max_backoff < restart.backoff {
        let shortest = humantime::format_duration(restart.backoff);
        section.refuse("max-backoff", format!("shorter than restart.backoff, {shortest}"));
        section.refuse("backoff", "longer than restart.max-backoff");
    }
    section.refuse_unknown(SYNONYMS);
    restart
}

fn wait(section: &Section<'_>, key: &str, usual: Duration) -> Duration {
    let found: Option<Found<Duration>> = section.duration(key);
    let (value, origin) = match found {
        Some(found) => (found.value, found.origin),
        None => (usual, DEFAULT.to_owned()),
    };
    section.record(key, &format!("\"{}\"", humantime::format_duration(value)), origin);
    value
}

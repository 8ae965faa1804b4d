//! One value, asked for in two places: the job file and its DeepSpeed configuration.

use serde::Serialize;

use crate::section::{Found, Section, toml_text};

/// What holds when `section.key` and DeepSpeed's key may both say it. Equal values agree; the
/// command line wins; other disagreements are mistakes that name both places.
pub(super) fn joined<T: PartialEq + Serialize>(
    section: &Section<'_>,
    key: &str,
    ours: Option<Found<T>>,
    theirs: Option<Found<T>>,
) -> Option<Found<T>> {
    let (ours, theirs) = match (ours, theirs) {
        (Some(ours), Some(theirs)) => (ours, theirs),
        (ours, theirs) => return ours.or(theirs),
    };
    match (ours.place.is_command_line(), theirs.place.is_command_line()) {
        (true, false) => return Some(ours),
        (false, true) => return Some(theirs),
        _ => {}
    }
    if ours.value != theirs.value {
        let message = format!(
            "disagrees with {} at {}; give one of them, or \"auto\" in the DeepSpeed configuration",
            toml_text(&theirs.value),
            theirs.origin
        );
        section.refuse(key, message);
    }
    Some(ours)
}

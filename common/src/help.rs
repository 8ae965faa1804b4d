//! Where `docs/troubleshooting.md` helps: the anchors of its entries, by what went wrong. A test
//! holds that every anchor exists.

use crate::status::{Failure, FailureKind};

/// The page, as it lies in the repository.
pub const PAGE: &str = "docs/troubleshooting.md";

/// The entry about a port or a folder that another process holds.
pub const IN_USE: &str = "docs/troubleshooting.md#a-port-or-a-folder-is-in-use";
/// The entry about a coordinator that does not answer.
pub const UNREACHABLE: &str = "docs/troubleshooting.md#the-coordinator-cannot-be-reached";
/// The entry about keys and values that are refused.
pub const CONFIGURATION: &str = "docs/troubleshooting.md#a-configuration-is-refused";

/// The entry about programs and libraries that are missing.
pub const INSTALLATION: &str = "docs/troubleshooting.md#installation";

/// The entry about a failed job; None where the message says all there is.
pub fn of_failure(failure: &Failure) -> Option<&'static str> {
    // A worker tells the kernel's kill in words; a trainer that was killed could not.
    if failure.kind.is_none() && failure.message.contains("for lack of memory") {
        return Some("docs/troubleshooting.md#out-of-memory");
    }
    match failure.kind? {
        FailureKind::OutOfMemory => Some("docs/troubleshooting.md#out-of-memory"),
        FailureKind::NotFinite => Some("docs/troubleshooting.md#loss-is-inf-or-nan"),
        FailureKind::Communication => Some("docs/troubleshooting.md#communication-errors"),
        FailureKind::Configuration => Some(CONFIGURATION),
        FailureKind::Data => Some("docs/troubleshooting.md#data-is-refused"),
        FailureKind::Checkpoint => Some("docs/troubleshooting.md#checkpoints"),
        FailureKind::Hang => Some("docs/troubleshooting.md#a-job-hangs"),
        FailureKind::Start => Some(INSTALLATION),
        FailureKind::Engine | FailureKind::CutOff => None,
    }
}

/// Every anchor that a program prints.
#[cfg(test)]
fn anchors() -> Vec<&'static str> {
    use FailureKind::{
        Checkpoint, Communication, Configuration, CutOff, Data, Engine, Hang, NotFinite,
        OutOfMemory, Start,
    };
    let kinds = [
        Configuration,
        Data,
        NotFinite,
        Communication,
        Checkpoint,
        OutOfMemory,
        Engine,
        Start,
        CutOff,
        Hang,
    ];
    let failure = |kind| Failure {
        rank: None,
        worker: None,
        kind: Some(kind),
        message: String::new(),
        last_lines: Vec::new(),
    };
    let of_kinds = kinds.into_iter().filter_map(|kind| of_failure(&failure(kind)));
    of_kinds.chain([IN_USE, UNREACHABLE, CONFIGURATION, INSTALLATION]).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// As GitHub makes anchors of headings.
    fn anchor(heading: &str) -> String {
        let kept = heading.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        kept.collect::<String>().trim().replace(' ', "-")
    }

    #[test]
    fn every_printed_anchor_is_a_heading_of_the_page() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let text = fs_err::read_to_string(root.join(PAGE)).unwrap();
        let headings: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor).collect();
        for printed in anchors() {
            let (page, wanted) = printed.split_once('#').unwrap();
            assert_eq!(page, PAGE);
            assert!(headings.iter().any(|known| known == wanted), "{printed}: {headings:?}");
        }
        for (_, rest) in
            text.match_indices("](#").map(|(at, found)| text.split_at(at + found.len()))
        {
            let wanted = rest.split(')').next().unwrap();
            assert!(headings.iter().any(|known| known == wanted), "the page links to #{wanted}");
        }
    }
}

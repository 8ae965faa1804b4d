//! How a trainer ended, told from the evidence. Pure; the only place that tells the ends apart.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use common::status::{FailureKind, TrainerEnd, TrainerFailure};
use nix::sys::signal::Signal;

/// Rust's exit code of a panic in `main`.
const PANIC_CODE: i32 = 101;

/// The trainer's last word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    Finished,
    Stopped,
    Failed(TrainerFailure),
    /// Message and place.
    Panicked(String, String),
}

/// Why the worker killed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KillReason {
    /// It was to go at once, or had been told to and did not.
    Order,
    /// It had this long to finish its step and save.
    StopGrace(Duration),
    /// It never said hello within this time.
    NoHello(Duration),
    /// It had said everything and did not go.
    Lingered,
    /// It answered no more, and had not said why it would leave.
    Silent,
}

/// What is known when the process is gone.
#[derive(Debug)]
pub(super) struct Evidence {
    /// None: nobody could wait for it.
    pub(super) status: Option<ExitStatus>,
    pub(super) said: Option<Said>,
    pub(super) is_stop_asked: bool,
    pub(super) killed: Option<KillReason>,
    /// The kernel killed processes for lack of memory during this one's life: how that is known.
    pub(super) memory_ran_out: Option<String>,
}

/// A failure from the wire; one of an unknown kind is an engine's.
pub(super) fn failed(failure: proto::v1::TrainerFailure) -> Said {
    let (step, message) = (failure.step, failure.message.clone());
    Said::Failed(TrainerFailure::try_from(failure).unwrap_or(TrainerFailure {
        kind: FailureKind::Engine,
        step,
        message,
    }))
}

/// `stderr` is the last lines that it wrote there, for a panic that it could not report itself.
pub(super) fn classify<'a>(
    evidence: Evidence,
    stderr: impl Iterator<Item = &'a str>,
) -> TrainerEnd {
    match evidence.said {
        Some(Said::Finished) => return TrainerEnd::Finished,
        Some(Said::Stopped) => return TrainerEnd::Stopped,
        Some(Said::Failed(failure)) => return TrainerEnd::Failed { failure },
        Some(Said::Panicked(message, place)) => return TrainerEnd::Panicked { message, place },
        None => {}
    }
    let Some(status) = evidence.status else { return TrainerEnd::Lost };
    match evidence.killed {
        Some(KillReason::NoHello(after)) => {
            let message = format!("it did not come up within {} s", after.as_secs());
            return failure_of(FailureKind::Start, message);
        }
        Some(KillReason::StopGrace(grace)) if was_killed(status) => {
            let message = format!(
                "asked to stop, it had not finished its step and its save after {grace:?}, and \
                 was killed"
            );
            return failure_of(FailureKind::CutOff, message);
        }
        Some(KillReason::Silent) if was_killed(status) => {
            let message = "it gave its worker no sign of life any more, and was killed".to_owned();
            return failure_of(FailureKind::Hang, message);
        }
        Some(KillReason::Order) if was_killed(status) => return TrainerEnd::Stopped,
        _ => {}
    }
    if evidence.is_stop_asked && status.success() {
        return TrainerEnd::Stopped;
    }
    let panic = find_panic(stderr);
    if let (true, Some(evidence)) = (was_killed(status), evidence.memory_ran_out) {
        let message = format!("killed (SIGKILL), it seems for lack of memory: {evidence}");
        return failure_of(FailureKind::OutOfMemory, message);
    }
    match (status.signal(), status.code()) {
        (Some(signal), _) => match panic {
            Some((message, place)) if signal == Signal::SIGABRT as i32 => {
                TrainerEnd::Panicked { message, place }
            }
            _ => TrainerEnd::Killed { signal, core_dumped: status.core_dumped() },
        },
        (None, Some(code)) => match panic {
            Some((message, place)) if code == PANIC_CODE => TrainerEnd::Panicked { message, place },
            _ => TrainerEnd::Exited { code },
        },
        (None, None) => TrainerEnd::Lost,
    }
}

fn failure_of(kind: FailureKind, message: String) -> TrainerEnd {
    TrainerEnd::Failed { failure: TrainerFailure { kind, step: None, message } }
}

fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::SIGKILL as i32)
}

/// The last panic in Rust's words: `thread 'main' panicked at src/a.rs:1:2:` and the message on
/// the next line.
fn find_panic<'a>(stderr: impl Iterator<Item = &'a str>) -> Option<(String, String)> {
    let lines: Vec<&str> = stderr.collect();
    let at = lines
        .iter()
        .rposition(|line| line.starts_with("thread ") && line.contains(" panicked at "))?;
    let (_, place) = lines[at].split_once(" panicked at ")?;
    let message = lines.get(at + 1).copied().unwrap_or_default();
    Some((message.to_owned(), place.trim_end_matches(':').to_owned()))
}

#[cfg(test)]
mod tests;

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
    /// It had been told to stop, and its time was up.
    Order,
    /// It never said hello within this time.
    NoHello(Duration),
    /// It had said everything and did not go.
    Lingered,
}

/// What is known when the process is gone.
#[derive(Debug)]
pub(super) struct Evidence {
    /// None: nobody could wait for it.
    pub(super) status: Option<ExitStatus>,
    pub(super) said: Option<Said>,
    pub(super) is_stop_asked: bool,
    pub(super) killed: Option<KillReason>,
    /// The kernel killed some process for lack of memory during this one's life.
    pub(super) has_memory_run_out: bool,
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
            return TrainerEnd::Failed { failure: start_failure(message) };
        }
        Some(KillReason::Order) if was_killed(status) => return TrainerEnd::Stopped,
        _ => {}
    }
    if evidence.is_stop_asked && status.success() {
        return TrainerEnd::Stopped;
    }
    let panic = find_panic(stderr);
    match (status.signal(), status.code()) {
        (Some(_), _) if was_killed(status) && evidence.has_memory_run_out => {
            let message = "killed by the kernel (SIGKILL) while this machine was out of memory";
            TrainerEnd::Failed {
                failure: TrainerFailure {
                    kind: FailureKind::OutOfMemory,
                    step: None,
                    message: message.to_owned(),
                },
            }
        }
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

fn start_failure(message: String) -> TrainerFailure {
    TrainerFailure { kind: FailureKind::Start, step: None, message }
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

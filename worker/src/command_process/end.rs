//! How a command's process ended. Pure. A command says nothing to its worker: its exit code and its
//! signal are all that is known.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use common::status::{FailureKind, TrainerEnd, TrainerFailure};
use nix::sys::signal::Signal;

/// As shells tell that SIGTERM ended what they ran.
const SHELL_TERMINATED: i32 = 128 + Signal::SIGTERM as i32;

/// What is known when the process is gone.
#[derive(Debug)]
pub(super) struct Evidence {
    /// None: nobody could wait for it.
    pub(super) status: Option<ExitStatus>,
    pub(super) is_stop_asked: bool,
    /// By us.
    pub(super) is_killed: bool,
    /// The kernel killed processes for lack of memory during this one's life: how that is known.
    pub(super) memory_ran_out: Option<String>,
}

pub(super) fn classify(evidence: Evidence) -> TrainerEnd {
    let Evidence { status, is_stop_asked, is_killed, memory_ran_out } = evidence;
    let Some(status) = status else { return TrainerEnd::Lost };
    let is_by = |signal: Signal| status.signal() == Some(signal as i32);
    let obeyed = status.success() || is_terminated(status) || (is_killed && is_by(Signal::SIGKILL));
    if is_stop_asked && obeyed {
        return TrainerEnd::Stopped;
    }
    if status.success() {
        return TrainerEnd::Finished;
    }
    if let (true, Some(evidence)) = (is_by(Signal::SIGKILL), memory_ran_out) {
        let message = format!("killed (SIGKILL), it seems for lack of memory: {evidence}");
        let kind = FailureKind::OutOfMemory;
        return TrainerEnd::Failed { failure: TrainerFailure { kind, step: None, message } };
    }
    match (status.signal(), status.code()) {
        (Some(signal), _) => TrainerEnd::Killed { signal, core_dumped: status.core_dumped() },
        (None, Some(code)) => TrainerEnd::Exited { code },
        (None, None) => TrainerEnd::Lost,
    }
}

/// By SIGTERM, whoever sent it.
pub(super) fn is_terminated(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::SIGTERM as i32) || status.code() == Some(SHELL_TERMINATED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(raw_status: i32, is_stop_asked: bool, is_killed: bool) -> TrainerEnd {
        let status = Some(ExitStatus::from_raw(raw_status));
        classify(Evidence { status, is_stop_asked, is_killed, memory_ran_out: None })
    }

    #[test]
    fn an_end_that_nobody_asked_for_is_told_by_code_or_signal() {
        assert_eq!(end(0, false, false), TrainerEnd::Finished);
        assert_eq!(end(3 << 8, false, false), TrainerEnd::Exited { code: 3 });
        let killed = |signal| TrainerEnd::Killed { signal, core_dumped: false };
        assert_eq!(end(9, false, false), killed(9));
        assert_eq!(end(15, false, false), killed(15));
        let starved = Evidence {
            status: Some(ExitStatus::from_raw(9)),
            is_stop_asked: false,
            is_killed: false,
            memory_ran_out: Some("the cgroup says so".to_owned()),
        };
        let TrainerEnd::Failed { failure } = classify(starved) else { panic!() };
        assert_eq!(failure.kind, FailureKind::OutOfMemory);
    }

    #[test]
    fn one_that_was_told_to_stop_and_did_is_no_failure() {
        for raw_status in [0, 15, 143 << 8] {
            assert_eq!(end(raw_status, true, false), TrainerEnd::Stopped);
        }
        assert_eq!(end(9, true, true), TrainerEnd::Stopped, "it had to be killed");
        assert_eq!(end(1 << 8, true, false), TrainerEnd::Exited { code: 1 });
        let foreign = TrainerEnd::Killed { signal: 9, core_dumped: false };
        assert_eq!(end(9, true, false), foreign, "somebody else killed it");
    }
}

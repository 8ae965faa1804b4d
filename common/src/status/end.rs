//! The end of a trainer in words, the same in a job's reason, in `rsctl status` and in logs.

use std::fmt;

use crate::status::{FailureKind, TrainerEnd};

/// The rest of a sentence about the rank: `was killed by signal 9 (SIGKILL)`.
impl fmt::Display for TrainerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Stopped => f.write_str("stopped"),
            Self::Failed { failure } => {
                let is_cut_off = failure.kind == FailureKind::CutOff;
                f.write_str(if is_cut_off { "was cut off" } else { "failed" })?;
                if let Some(step) = failure.step {
                    write!(f, " at step {step}")?;
                }
                write!(f, ": {}", failure.message)
            }
            Self::Panicked { message, place } => write!(f, "panicked at {place}: {message}"),
            Self::Killed { signal, core_dumped } => {
                write!(f, "was killed by signal {signal}")?;
                if let Some(name) = signal_name(*signal) {
                    write!(f, " ({name})")?;
                }
                f.write_str(if *core_dumped { ", core dumped" } else { "" })
            }
            Self::Exited { code } => write!(f, "exited with code {code}"),
            Self::Lost => f.write_str("was lost with its worker"),
        }
    }
}

/// As Linux numbers them on every architecture that we build for.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        31 => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::TrainerFailure;

    #[test]
    fn an_end_reads_as_the_rest_of_a_sentence() {
        let killed = |signal, core_dumped| TrainerEnd::Killed { signal, core_dumped }.to_string();
        assert_eq!(killed(11, true), "was killed by signal 11 (SIGSEGV), core dumped");
        assert_eq!(killed(64, false), "was killed by signal 64");
        let failed = |step| TrainerEnd::Failed {
            failure: TrainerFailure {
                kind: FailureKind::NotFinite,
                step,
                message: "loss is NaN".to_owned(),
            },
        };
        assert_eq!(failed(Some(7)).to_string(), "failed at step 7: loss is NaN");
        assert_eq!(failed(None).to_string(), "failed: loss is NaN");
    }
}

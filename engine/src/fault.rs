//! Faults on purpose, for tests: `RUSTSPEED_FAULT` of a job's env, understood by builds with debug
//! assertions alone. A release build refuses the variable, so that nobody trains with one by chance.

use std::time::Duration;

use common::position::Phase;

/// The variable of a job's env.
pub const VARIABLE: &str = "RUSTSPEED_FAULT";

const GRAMMAR: &str = "stall|panic|abort|exit|stray:rank=R,step=S[,in=PHASE]";

/// What one rank does at one place, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    kind: Kind,
    step: u64,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Does nothing any more.
    Stall,
    Panic,
    Abort,
    /// With code 3, without a word.
    Exit,
    /// Issues a collective that the others do not.
    Stray,
}

/// A text that is no fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{VARIABLE} = `{text}`: faults are for tests; this build has none (build it with debug \
         assertions, or remove the variable)"
    )]
    Release { text: String },
    #[error("{VARIABLE} = `{text}`: expected {GRAMMAR}")]
    Grammar { text: String },
}

impl Fault {
    /// The fault of `rank`, if the text means that one.
    pub fn parse(text: &str, rank: u32) -> Result<Option<Self>, Error> {
        if !cfg!(debug_assertions) {
            return Err(Error::Release { text: text.to_owned() });
        }
        let wrong = || Error::Grammar { text: text.to_owned() };
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        let kind = match kind {
            "stall" => Kind::Stall,
            "panic" => Kind::Panic,
            "abort" => Kind::Abort,
            "exit" => Kind::Exit,
            "stray" => Kind::Stray,
            _ => return Err(wrong()),
        };
        let (mut at_rank, mut step, mut phase) = (None, None, Phase::Data);
        for pair in rest.split(',') {
            let (key, value) = pair.split_once('=').ok_or_else(wrong)?;
            match key {
                "rank" => at_rank = Some(value.parse::<u32>().map_err(|_| wrong())?),
                "step" => step = Some(value.parse().map_err(|_| wrong())?),
                "in" => phase = Phase::named(value).ok_or_else(wrong)?,
                _ => return Err(wrong()),
            }
        }
        let (at_rank, step) = at_rank.zip(step).ok_or_else(wrong)?;
        Ok((at_rank == rank).then_some(Self { kind, step, phase }))
    }

    pub(crate) fn strike_in(&self, step: u64, phase: Phase) {
        if (self.step, self.phase) == (step, phase) {
            self.strike();
        }
    }

    pub(crate) fn strays_at(&self, step: u64) -> bool {
        (self.kind, self.step) == (Kind::Stray, step)
    }

    fn strike(&self) {
        match self.kind {
            // The process is ended from outside.
            Kind::Stall => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            Kind::Panic => panic!("{VARIABLE} asked for it"),
            Kind::Abort => std::process::abort(),
            Kind::Exit => std::process::exit(3),
            Kind::Stray => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_of_one_rank_at_one_place() {
        let of = |rank| Fault::parse("stall:rank=1,step=5,in=forward", rank).unwrap();
        assert_eq!(of(0), None);
        let fault = Fault { kind: Kind::Stall, step: 5, phase: Phase::Forward };
        assert_eq!(of(1), Some(fault));
        for wrong in ["stall", "stall:rank=1", "sleep:rank=1,step=2", "stall:rank=1,step=2,in=bed"]
        {
            let error = Fault::parse(wrong, 1).unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains(GRAMMAR), "{error}");
        }
    }
}

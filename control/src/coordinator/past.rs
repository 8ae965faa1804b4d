//! Attempts that are over, as the decision about the next one sees them.

use serde::{Deserialize, Serialize};

use common::status::UnixMillis;

use crate::coordinator::ledger::Attempt;
use crate::coordinator::record::Over;
use crate::coordinator::restart::Class;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Past<'a> {
    pub(super) class: Class,
    /// What two equal failures have in common.
    pub(super) signature: &'a str,
    /// The last step that was known; None: it broke off before the first.
    pub(super) step: Option<u64>,
    /// The step of the job's newest whole checkpoint; 0: none.
    pub(super) saved_step: u64,
    /// The step that it continued from; None: it never was ready.
    pub(super) resumed: Option<u64>,
    /// Every rank had met its peers.
    pub(super) has_trained: bool,
    pub(super) ended_at: UnixMillis,
}

/// What is kept of an attempt that is no longer remembered whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OldAttempt {
    pub class: Class,
    pub signature: String,
    pub step: Option<u64>,
    pub saved_step: u64,
    pub resumed: Option<u64>,
    pub has_trained: bool,
    pub ended_at: UnixMillis,
}

impl<'a> Past<'a> {
    /// None: it did not break off.
    pub(super) fn of(attempt: &'a Attempt) -> Option<Self> {
        let over = attempt.over.as_deref()?;
        Some(Self { ended_at: attempt.ended_at?, ..Self::new(attempt, over) })
    }

    /// Of one that has just been judged.
    pub(super) fn new(attempt: &Attempt, over: &'a Over) -> Self {
        Self {
            class: over.class,
            signature: &over.signature,
            step: over.step,
            saved_step: over.saved_step,
            resumed: attempt.ready_at.map(|(_, step)| step),
            has_trained: attempt.running_at.is_some(),
            ended_at: 0,
        }
    }
}

impl OldAttempt {
    /// None: it did not break off.
    pub(super) fn of(attempt: &Attempt) -> Option<Self> {
        let Past { class, signature, step, saved_step, resumed, has_trained, ended_at } =
            Past::of(attempt)?;
        let signature = signature.to_owned();
        Some(Self { class, signature, step, saved_step, resumed, has_trained, ended_at })
    }
}

impl<'a> From<&'a OldAttempt> for Past<'a> {
    fn from(old: &'a OldAttempt) -> Self {
        Self {
            class: old.class,
            signature: &old.signature,
            step: old.step,
            saved_step: old.saved_step,
            resumed: old.resumed,
            has_trained: old.has_trained,
            ended_at: old.ended_at,
        }
    }
}

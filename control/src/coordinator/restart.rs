//! Whether a job that broke off starts again. Pure: the same policy, history and chance give the
//! same decision, and every decision has its reason.
//!
//! Three budgets, because a plain count of restarts punishes long jobs and forgives crash loops:
//! errors of the program, faults of the infrastructure, preemptions. What would only happen again
//! has none.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use common::retry::{Budget, Policy};
use common::spec::Restart;
use common::status::{FailureKind, TrainerEnd};

use crate::coordinator::guilt::Judgement;
use crate::coordinator::past::Past;
use crate::coordinator::record::StopCause;

/// The window of the budget for infrastructure.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The part of a wait that chance may take off: jobs that one fault broke off together do not all
/// come back in the same moment.
const JITTER: f64 = 0.5;

/// What broke an attempt off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The program: it failed, panicked, crashed or exited.
    Application,
    /// Where it ran: a lost worker, a killed trainer, a broken connection, a start that failed.
    Infrastructure,
    /// It was asked to make room.
    Preemption,
    /// It was stopped to go on with more ranks.
    Growth,
    /// It would only happen again: a wrong configuration, bad data, numbers that are not finite,
    /// a time limit.
    Hopeless,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Application => "application",
            Self::Infrastructure => "infrastructure",
            Self::Preemption => "preemption",
            Self::Growth => "growth",
            Self::Hopeless => "hopeless",
        })
    }
}

impl Class {
    /// Whether something went wrong.
    pub(super) fn is_fault(self) -> bool {
        !matches!(self, Self::Preemption | Self::Growth)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// After this time at the earliest.
    Restart(Duration),
    Stop {
        /// The job could have been expected to start again.
        is_news: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) action: Action,
    pub(super) reason: String,
}

impl Decision {
    fn stop(why: impl fmt::Display) -> Self {
        Self { action: Action::Stop { is_news: true }, reason: format!("not restarted: {why}") }
    }

    /// As the job or its failure makes plain.
    fn plain_stop(why: impl fmt::Display) -> Self {
        Self { action: Action::Stop { is_news: false }, ..Self::stop(why) }
    }

    fn restart(wait: Duration, why: impl fmt::Display) -> Self {
        let reason = match wait {
            Duration::ZERO => format!("restarts at once: {why}"),
            _ => format!("restarts in {:.1} s: {why}", wait.as_secs_f64()),
        };
        Self { action: Action::Restart(wait), reason }
    }
}

/// Decides about the last attempt of `history`, oldest first. `chance` is uniform in 0..1.
pub(super) fn decide(policy: &Restart, history: &[Past<'_>], chance: f64) -> Decision {
    let Some(last) = history.last() else { return Decision::stop("nothing was tried") };
    match last.class {
        Class::Hopeless => {
            return Decision::plain_stop(format!("{} would only repeat itself", last.signature));
        }
        Class::Preemption => return after_preemption(policy, history),
        Class::Growth => return Decision::restart(Duration::ZERO, "more ranks cost no budget"),
        Class::Application | Class::Infrastructure => {}
    }
    let (budget, kind) = match last.class {
        Class::Infrastructure => (policy.infrastructure, last.class),
        _ => (policy.application, last.class),
    };
    if budget == 0 {
        return Decision::plain_stop(format!("the job wants no restart after {kind} failures"));
    }
    if let Some(stop) = repeats(policy, history).or_else(|| stagnates(policy, history)) {
        return stop;
    }
    let recent = since_refill(policy, history);
    let of_class = recent.iter().filter(|past| past.class == last.class);
    let (used, window) = match last.class {
        Class::Infrastructure => {
            let day = u64::try_from(DAY.as_millis()).unwrap_or(u64::MAX);
            let is_recent = |past: &&Past<'_>| past.ended_at.saturating_add(day) > last.ended_at;
            (of_class.filter(is_recent).count(), " within 24 hours")
        }
        _ => (of_class.count(), ""),
    };
    if used > budget as usize {
        let spent =
            format!("the budget of {budget} restarts after {kind} failures{window} is spent");
        return Decision::stop(spent);
    }
    let wait = backoff(policy, idle(history), chance);
    Decision::restart(wait, format!("{kind} failure {used} of {budget}{window}"))
}

fn after_preemption(policy: &Restart, history: &[Past<'_>]) -> Decision {
    let recent = since_refill(policy, history);
    let used = recent.iter().filter(|past| past.class == Class::Preemption).count();
    match policy.preemption {
        Some(0) => Decision::plain_stop("the job wants no restart after preemptions"),
        Some(budget) if used > budget as usize => {
            Decision::stop(format!("the budget of {budget} restarts after preemptions is spent"))
        }
        Some(budget) => Decision::restart(Duration::ZERO, format!("preemption {used} of {budget}")),
        None => Decision::restart(Duration::ZERO, "a preemption costs no budget"),
    }
}

/// The program failed in the same way at the same step, again.
fn repeats(policy: &Restart, history: &[Past<'_>]) -> Option<Decision> {
    let last = history.last().filter(|last| last.class == Class::Application)?;
    let is_equal = |past: &&Past<'_>| {
        past.class == last.class && past.signature == last.signature && past.step == last.step
    };
    let equal = faults(history).take_while(is_equal).count();
    (equal >= policy.same_step as usize).then(|| {
        let place = match last.step {
            Some(step) => format!("at step {step}"),
            None => "before its first step".to_owned(),
        };
        let times = times(equal);
        Decision::stop(format!("it ended {times} in the same way ({}) {place}", last.signature))
    })
}

/// Attempt after attempt without a newer checkpoint. A fault of the infrastructure before training
/// began says nothing about the job: its budget and its backoff bound those.
fn stagnates(policy: &Restart, history: &[Past<'_>]) -> Option<Decision> {
    let counts = |past: &&Past<'_>| past.has_trained || past.class == Class::Application;
    let idle = idle_attempts(history).filter(counts).count();
    (idle >= policy.without_progress as usize)
        .then(|| Decision::stop(format!("{} without a newer checkpoint", attempts(idle))))
}

/// Attempts that something went wrong with, newest first.
fn faults<'h, 'a>(history: &'h [Past<'a>]) -> impl Iterator<Item = &'h Past<'a>> {
    history.iter().rev().filter(|past| past.class.is_fault())
}

/// Of those, the newest ones in a row that left no newer checkpoint.
fn idle_attempts<'h, 'a>(history: &'h [Past<'a>]) -> impl Iterator<Item = &'h Past<'a>> {
    let newest_first = (0..history.len()).rev();
    newest_first
        .take_while(|index| gain(history, *index) == 0)
        .map(|index| &history[index])
        .filter(|past| past.class.is_fault())
}

fn idle(history: &[Past<'_>]) -> u32 {
    u32::try_from(idle_attempts(history).count()).unwrap_or(u32::MAX)
}

/// Steps of an attempt that made it into checkpoints. One that could not continue where the one
/// before it had saved gains from where it began, not from where that one was.
fn gain(history: &[Past<'_>], index: usize) -> u64 {
    let before = index.checked_sub(1).map_or(0, |before| history[before].saved_step);
    history[index].saved_step.saturating_sub(history[index].resumed.unwrap_or(before))
}

/// What happened since enough steps made it into checkpoints.
fn since_refill<'h, 'a>(policy: &Restart, history: &'h [Past<'a>]) -> &'h [Past<'a>] {
    let mut gained: u64 = 0;
    for index in (0..history.len()).rev() {
        if gained >= policy.refill_steps {
            return &history[index + 1..];
        }
        gained = gained.saturating_add(gain(history, index));
    }
    history
}

fn backoff(policy: &Restart, idle: u32, chance: f64) -> Duration {
    if idle < 2 {
        return Duration::ZERO;
    }
    let waits = Policy {
        min: policy.backoff,
        max: policy.max_backoff,
        jitter: JITTER,
        budget: Budget::Unbounded,
    };
    waits.wait_after(idle - 1, Duration::ZERO, chance).unwrap_or(policy.max_backoff)
}

fn times(count: usize) -> String {
    if count == 2 { "twice".to_owned() } else { format!("{count} times") }
}

fn attempts(count: usize) -> String {
    if count == 1 { "an attempt".to_owned() } else { format!("{count} attempts in a row") }
}

/// What broke the attempt off, and what another like it has in common with it.
pub(super) fn classify(judgement: &Judgement<'_>) -> (Class, String) {
    match judgement {
        Judgement { end: Some(end), .. } => of_end(&end.end),
        Judgement { failure, cause, .. } => match (cause, failure.kind) {
            (StopCause::Preemption, _) => (Class::Preemption, "preempted".to_owned()),
            (StopCause::TimeLimit, _) => {
                (Class::Hopeless, "running into its time limit".to_owned())
            }
            (StopCause::Growth, _) => (Class::Growth, "grown".to_owned()),
            (StopCause::Failure, Some(kind)) => of_kind(kind),
            (StopCause::Failure, None) => (Class::Infrastructure, "stopped".to_owned()),
        },
    }
}

/// Signals by which a program ends itself: a wild pointer, an assertion, a wrong instruction.
const CRASHES: [i32; 4] = [4, 6, 8, 11];

fn of_end(end: &TrainerEnd) -> (Class, String) {
    match end {
        TrainerEnd::Failed { failure } => of_kind(failure.kind),
        TrainerEnd::Panicked { place, .. } => (Class::Application, format!("a panic at {place}")),
        TrainerEnd::Killed { signal, .. } if CRASHES.contains(signal) => {
            (Class::Application, format!("signal {signal}"))
        }
        TrainerEnd::Killed { signal, .. } => (Class::Infrastructure, format!("signal {signal}")),
        TrainerEnd::Exited { code } => (Class::Application, format!("exit code {code}")),
        TrainerEnd::Lost => (Class::Infrastructure, "a lost worker".to_owned()),
        TrainerEnd::Stopped => (Class::Application, "a stop that nobody asked for".to_owned()),
        TrainerEnd::Finished => (Class::Application, "an end for no known reason".to_owned()),
    }
}

fn of_kind(kind: FailureKind) -> (Class, String) {
    let (class, signature) = match kind {
        FailureKind::Configuration => (Class::Hopeless, "a wrong configuration"),
        FailureKind::Data => (Class::Hopeless, "bad data"),
        FailureKind::NotFinite => (Class::Hopeless, "a number that is not finite"),
        // Who is killed need not be who took the memory, and elsewhere there may be more: it is tried
        // again, until it ends so twice at one step.
        FailureKind::OutOfMemory => (Class::Application, "too little memory"),
        FailureKind::Communication => (Class::Infrastructure, "a broken connection"),
        FailureKind::Start => (Class::Infrastructure, "a start that failed"),
        FailureKind::Checkpoint => (Class::Application, "a failed checkpoint"),
        FailureKind::Engine => (Class::Application, "an error of the engine"),
        FailureKind::CutOff => (Class::Infrastructure, "a save that was cut off"),
        // Of the machine more often than of the program; one of the program's own is ended by the
        // attempts without a newer checkpoint.
        FailureKind::Hang => (Class::Infrastructure, "a hang"),
    };
    (class, signature.to_owned())
}

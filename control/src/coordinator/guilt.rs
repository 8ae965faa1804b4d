//! Who brought an attempt down. The first guilty rank, not the loudest victim: a failed collective
//! is only a third witness (A10), and what trips after a stop was asked for is our own doing.

use common::ids::Rank;
use common::status::{Failure, FailureKind, TrainerEnd};

use crate::coordinator::ledger::{Attempt, PlacedRank, RankEnd};
use crate::coordinator::record::StopCause;

/// What an end says about its attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Evidence {
    /// Something went wrong here.
    Cause,
    /// It stopped although nobody asked.
    Unasked,
    /// Something went wrong elsewhere.
    Witness,
    /// Nothing went wrong.
    None,
}

pub(super) fn evidence(end: &RankEnd) -> Evidence {
    match &end.end {
        TrainerEnd::Finished => Evidence::None,
        TrainerEnd::Stopped if end.is_after_stop => Evidence::None,
        TrainerEnd::Stopped => Evidence::Unasked,
        TrainerEnd::Failed { failure } if failure.kind == FailureKind::Communication => {
            Evidence::Witness
        }
        // A kill that a stop ended in is reported as `Stopped`; a trainer that is told to leave and
        // trips on its way out is no cause.
        TrainerEnd::Exited { .. } if end.is_after_stop => Evidence::Witness,
        _ => Evidence::Cause,
    }
}

/// What brought an attempt down.
#[derive(Debug)]
pub(super) struct Judgement<'a> {
    pub(super) failure: Failure,
    /// The guilty rank's, where an end and not a decision of ours tells why.
    pub(super) end: Option<&'a RankEnd>,
    /// Of that decision.
    pub(super) cause: StopCause,
}

/// The failure that an attempt ended with; None where nothing went wrong.
pub(super) fn verdict(attempt: &Attempt) -> Option<Failure> {
    judgement(attempt).map(|judgement| judgement.failure)
}

/// [`verdict`] with what it rests on.
pub(super) fn judgement(attempt: &Attempt) -> Option<Judgement<'_>> {
    judge(attempt, Evidence::Witness)
}

/// [`verdict`] for a cancelled job: what dies of the cancel is no failure.
pub(super) fn cause(attempt: &Attempt) -> Option<Failure> {
    judge(attempt, Evidence::Cause).map(|judgement| judgement.failure)
}

/// A trainer was killed before it had finished its last save.
pub(super) fn was_cut_off(attempt: &Attempt) -> bool {
    attempt.ranks.iter().filter_map(|rank| rank.end.as_ref()).any(|end| {
        matches!(&end.end, TrainerEnd::Failed { failure } if failure.kind == FailureKind::CutOff)
    })
}

fn judge(attempt: &Attempt, weakest: Evidence) -> Option<Judgement<'_>> {
    let mut ends: Vec<(Evidence, &RankEnd, u32, &PlacedRank)> = (0..)
        .zip(&attempt.ranks)
        .filter_map(|(rank, placed)| {
            let end = placed.end.as_ref()?;
            Some((evidence(end), end, rank, placed))
        })
        .filter(|(evidence, ..)| *evidence <= weakest)
        .collect();
    ends.sort_by_key(|(evidence, end, ..)| (*evidence, end.is_after_stop, end.order));
    let first = ends.first();
    let stop = attempt.stop.as_ref();
    let decided = stop.and_then(|stop| stop.failure.clone());
    let cause = stop.map_or(StopCause::Failure, |stop| stop.cause);
    let by_end = |rank: u32, placed: &PlacedRank, end| {
        let failure = failure(Rank(rank), placed, end);
        Some(Judgement { failure, end: Some(end), cause: StopCause::Failure })
    };
    let by_decision = |failure| Some(Judgement { failure, end: None, cause });
    match (first, decided) {
        // A cause that was there before we decided to stop outranks the decision; and whatever
        // breaks while a job is stopped for its own good.
        (Some((Evidence::Cause, end, rank, placed)), _)
            if !end.is_after_stop || cause == StopCause::Growth =>
        {
            by_end(*rank, placed, *end)
        }
        // One that came after it is told beside it.
        (Some((Evidence::Cause, end, rank, placed)), Some(decided)) => {
            let later = failure(Rank(*rank), placed, end);
            let message = format!("{}; then {}", decided.message, later.message);
            by_decision(Failure { message, last_lines: later.last_lines, ..decided })
        }
        (_, Some(decided)) => by_decision(decided),
        (Some((_, end, rank, placed)), None) => by_end(*rank, placed, *end),
        (None, None) => None,
    }
}

fn failure(rank: Rank, placed: &PlacedRank, end: &RankEnd) -> Failure {
    let worker = &placed.worker_name;
    let message = match &end.end {
        // The line is ours and says what happened to the worker.
        TrainerEnd::Lost => {
            let why = end.last_lines.first().map_or("its worker is gone", String::as_str);
            format!("rank {rank} on worker `{worker}` was lost: {why}")
        }
        TrainerEnd::Stopped => {
            format!("rank {rank} on worker `{worker}` stopped although nobody had asked it to")
        }
        other => format!("rank {rank} on worker `{worker}` {other}"),
    };
    let kind = match &end.end {
        TrainerEnd::Failed { failure } => Some(failure.kind),
        _ => None,
    };
    let last_lines = match &end.end {
        TrainerEnd::Lost => Vec::new(),
        _ => end.last_lines.clone(),
    };
    Failure { rank: Some(rank), worker: Some(worker.clone()), kind, message, last_lines }
}

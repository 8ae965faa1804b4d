//! Who hangs, of ranks that stand still. Pure.
//!
//! The channel that somebody waits in decides: the training's, the GPUs', the checkpoints'. There,
//! the guilty are those who have not come to the operation that the others wait in; else those who
//! are in another operation of the same number than the most; else those who do not tell any more.
//! Where nobody waits, those are guilty that are least far.

use std::collections::BTreeMap;
use std::time::Duration;

use common::ids::Rank;
use common::position::Operation;
use common::status::Failure;
use common::units;

use super::{SILENT, Seen};

/// Guilty ranks that a message names.
const NAMED: usize = 4;

/// The training's channel, the one between its GPUs (where a sum waits for the GPU, too, so it tells
/// less), then the checkpoints'.
const CHANNELS: [u32; 3] = [0, 2, 1];

/// One rank of an attempt.
#[derive(Debug)]
pub(super) struct Judged<'a> {
    pub(super) rank: Rank,
    pub(super) worker: &'a str,
    pub(super) seen: &'a Seen,
}

#[derive(Debug)]
pub(super) struct Verdict {
    /// Nobody: every rank waits for the others in the same place.
    pub(super) guilty: Vec<Rank>,
    pub(super) failure: Failure,
}

/// `still` is how long nobody got anything done.
pub(super) fn judge(ranks: &[Judged<'_>], still: Duration) -> Verdict {
    let waited = CHANNELS.into_iter().find_map(|channel| in_channel(ranks, channel));
    let (guilty, why) = waited.unwrap_or_else(|| least_far(ranks));
    let first = guilty.first().map(|judged| (judged.rank, judged.worker));
    let message = format!("no progress for {:.0} s: {why}", still.as_secs_f64());
    Verdict {
        guilty: guilty.iter().map(|judged| judged.rank).collect(),
        failure: super::failure(first, message),
    }
}

type Guilty<'r, 'a> = (Vec<&'r Judged<'a>>, String);

/// None: nobody waits in this channel.
fn in_channel<'r, 'a>(ranks: &'r [Judged<'a>], channel: u32) -> Option<Guilty<'r, 'a>> {
    let inside = |judged: &&Judged<'_>| operation(judged, channel).is_some_and(|o| o.is_inside);
    let awaited =
        ranks.iter().filter(inside).filter_map(|j| operation(j, channel)).map(|o| o.sequence);
    let awaited = awaited.max()?;
    let is_there = |judged: &&Judged<'_>| {
        operation(judged, channel).is_some_and(|o| o.is_inside && o.sequence == awaited)
    };
    let (there, absent): (Vec<_>, Vec<_>) = ranks.iter().partition(is_there);
    let mut names: BTreeMap<&str, Vec<&Judged<'_>>> = BTreeMap::new();
    for judged in &there {
        let name = operation(judged, channel).map_or("", |o| o.name.as_str());
        names.entry(name).or_default().push(judged);
    }
    let most = names.values().max_by_key(|those| those.len())?;
    let what = operation(most[0], channel).map_or("", |o| o.name.as_str());
    let awaited = format!("operation {awaited} ({what}) of channel {channel}");
    if !absent.is_empty() {
        let s = if there.len() == 1 { " waits" } else { "s wait" };
        let why = format!(
            "{}, and {} other rank{s} for it in {awaited}",
            are(&absent, channel),
            there.len()
        );
        return Some((absent, why));
    }
    if names.len() > 1 {
        let rest: Vec<_> =
            there.iter().copied().filter(|j| !most.iter().any(|m| m.rank == j.rank)).collect();
        let why = format!(
            "{}, and {} in {awaited}",
            are(&rest, channel),
            units::count(most.len() as u64, "other")
        );
        return Some((rest, why));
    }
    let silent: Vec<_> = there.iter().copied().filter(|j| j.seen.age > SILENT).collect();
    if !silent.is_empty() && silent.len() < there.len() {
        let why = format!("{}; every rank is in {awaited}", are(&silent, channel));
        return Some((silent, why));
    }
    let why =
        format!("every rank waits in {awaited}: it is what lies between them, not one of them");
    Some((Vec::new(), why))
}

fn least_far<'r, 'a>(ranks: &'r [Judged<'a>]) -> Guilty<'r, 'a> {
    let far = |judged: &Judged<'_>| (judged.seen.position.step, judged.seen.position.phase as u8);
    let least = ranks.iter().map(far).min();
    let guilty: Vec<_> = ranks.iter().filter(|judged| Some(far(judged)) == least).collect();
    let why = are(&guilty, CHANNELS[0]);
    (guilty, why)
}

/// `rank 1 on worker `b` is at step 5 (data), after operation 9`.
fn are(ranks: &[&Judged<'_>], channel: u32) -> String {
    let one = |judged: &&Judged<'_>| {
        let Judged { rank, worker, seen } = judged;
        let place = match operation(judged, channel) {
            None => String::new(),
            Some(Operation { sequence, name, is_inside: true, .. }) => {
                format!(", inside operation {sequence} ({name})")
            }
            Some(Operation { sequence, .. }) => format!(", after operation {sequence}"),
        };
        format!("rank {rank} on worker `{worker}` is at {}{place}", seen.position)
    };
    let mut named: Vec<String> = ranks.iter().take(NAMED).map(one).collect();
    if let Some(more @ 1..) = ranks.len().checked_sub(NAMED) {
        named.push(format!("{more} more"));
    }
    named.join("; ")
}

fn operation<'a>(judged: &'a Judged<'_>, channel: u32) -> Option<&'a Operation> {
    judged.seen.position.operations.iter().find(|operation| operation.channel == channel)
}

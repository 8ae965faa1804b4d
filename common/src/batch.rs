//! The batch triad of a world: T = m·g·W. Decides how many micro-steps a step has and which
//! samples of a global batch each rank takes. T is the law: a world that does not divide it gets
//! another g, never another T. Knows nothing of data, models or files.
//!
//! Words: T = `batch-size`, samples of one optimizer step over all ranks. m = `micro-batch-size`,
//! the most samples that one rank takes in one micro-step. g = `gradient-accumulation`,
//! micro-steps of a step. W = the world.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::spec::{Batch, BatchMismatch, Sourced};

/// The triad resolved for one world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BatchPlan {
    pub world: u32,
    /// T, and where it came from.
    pub batch_size: Sourced<u64>,
    /// m, and where it came from.
    pub micro_batch_size: Sourced<u64>,
    /// g, and where it came from.
    pub gradient_accumulation: Sourced<u64>,
    /// Said at start when m·g·W as asked for is not T: the four numbers and their origins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl BatchPlan {
    /// Samples of a global batch, relative to its first, that all ranks together take in
    /// micro-step `index` of `0..gradient_accumulation`.
    pub fn micro_step(&self, index: u64) -> Range<u64> {
        run(self.batch_size.value, self.gradient_accumulation.value, index)
    }

    /// The most samples that a rank takes at once.
    pub fn largest_run(&self) -> u64 {
        let micro_step = self.batch_size.value.div_ceil(self.gradient_accumulation.value);
        micro_step.div_ceil(u64::from(self.world))
    }

    /// Samples of a global batch, relative to its first, that `rank` takes in micro-step `index`.
    /// Empty where the micro-step has fewer samples than there are ranks: such a rank still takes
    /// part in the micro-step's collectives.
    pub fn rank_run(&self, index: u64, rank: u32) -> Range<u64> {
        rank_run(self.micro_step(index), self.world, rank)
    }
}

/// The samples of `micro_step` that `rank` takes: consecutive, and no two ranks' numbers differ by
/// more than one.
pub fn rank_run(micro_step: Range<u64>, world: u32, rank: u32) -> Range<u64> {
    let part = run(micro_step.end - micro_step.start, u64::from(world), u64::from(rank));
    micro_step.start + part.start..micro_step.start + part.end
}

/// Part `index` of `0..total` cut into `parts` consecutive runs; the first `total % parts` hold
/// one more than the others.
pub fn run(total: u64, parts: u64, index: u64) -> Range<u64> {
    debug_assert!(index < parts, "part {index} of {parts}");
    let (size, longer) = (total / parts, total % parts);
    let start = index * size + index.min(longer);
    start..start + size + u64::from(index < longer)
}

/// A triad that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{key} is 0 ({origin}); it must be at least 1")]
    NotPositive { key: &'static str, origin: String },
    #[error(
        "gradient-accumulation {} ({}) alone does not say how many samples a step has; \
         give batch-size or micro-batch-size too", .0.value, .0.origin
    )]
    AccumulationAlone(Sourced<u64>),
    #[error("neither batch-size nor micro-batch-size is given")]
    Nothing,
    #[error(
        "an elastic job keeps its batch-size in every world; give it, or resources.max-ranks, \
         which micro-batch-size {} ({}) is multiplied by", .0.value, .0.origin
    )]
    Unbounded(Sourced<u64>),
    #[error(
        "batch-size {} ({}) is smaller than the world of {world} ranks: \
         use at most {} ranks or a batch-size of at least {world}",
        .batch_size.value, .batch_size.origin, .batch_size.value
    )]
    TooFewSamples { batch_size: Sourced<u64>, world: u32 },
    #[error(
        "micro-batch-size {micro} times gradient-accumulation {accumulation} times {world} ranks is too large"
    )]
    TooLarge { micro: u64, accumulation: u64, world: u32 },
    #[error("{mismatch}, and batch-mismatch = \"error\"; valid are: {}", .nearest.join("; or "))]
    Mismatch { mismatch: String, nearest: Vec<String> },
}

/// Resolves the triad for `world` ranks as DeepSpeed does where T = m·g·W can hold, else by the
/// rule that T and m stay and g = ⌈T/(m·W)⌉ (or refuses, as `batch.mismatch` says). An m that
/// nobody gave is rounded up, so that g stays as asked.
pub fn plan(batch: &Batch, world: u32) -> Result<BatchPlan, Error> {
    let Cut { t, m, needed, is_exact } = cut(batch, world)?;
    let asked = batch.gradient_accumulation.as_ref();
    let as_asked = asked.is_none_or(|g| g.value == needed);
    let note = (!is_exact || !as_asked).then_some(Mismatch { t: &t, m: &m, asked, world });
    if let (Some(mismatch), BatchMismatch::Error) = (&note, batch.mismatch) {
        return Err(Error::Mismatch {
            mismatch: mismatch.to_string(),
            nearest: mismatch.nearest_valid(),
        });
    }
    let note = note.map(|mismatch| format!("{mismatch}; {}", mismatch.outcome(needed)));
    let g = match asked {
        Some(g) if as_asked => g.clone(),
        Some(_) => Sourced {
            value: needed,
            origin: format!(
                "inferred: batch-size {} over micro-batch-size {} times world {world}",
                t.value, m.value
            ),
        },
        None => Sourced {
            value: needed,
            origin: "inferred from batch-size, micro-batch-size and world".to_owned(),
        },
    };
    Ok(BatchPlan { world, batch_size: t, micro_batch_size: m, gradient_accumulation: g, note })
}

/// Whether [`plan`] has an answer; without its words, for who asks about many worlds or jobs.
pub fn is_possible(batch: &Batch, world: u32) -> bool {
    let asked = batch.gradient_accumulation.as_ref().map(|g| g.value);
    cut(batch, world).is_ok_and(|Cut { needed, is_exact, .. }| {
        let is_as_asked = is_exact && asked.is_none_or(|g| g == needed);
        is_as_asked || batch.mismatch != BatchMismatch::Error
    })
}

/// T, m and the micro-steps that they need.
struct Cut {
    t: Sourced<u64>,
    m: Sourced<u64>,
    needed: u64,
    /// T is m times the world times the micro-steps.
    is_exact: bool,
}

fn cut(batch: &Batch, world: u32) -> Result<Cut, Error> {
    check_positive(batch, world)?;
    let w = u64::from(world);
    let (t, m) = match (&batch.batch_size, &batch.micro_batch_size) {
        (Some(t), Some(m)) => (t.clone(), m.clone()),
        (Some(t), None) => (t.clone(), infer_micro(t, batch.gradient_accumulation.as_ref(), w)),
        (None, Some(m)) => {
            (infer_total(m, batch.gradient_accumulation.as_ref(), world)?, m.clone())
        }
        (None, None) => {
            return Err(batch
                .gradient_accumulation
                .clone()
                .map_or(Error::Nothing, Error::AccumulationAlone));
        }
    };
    if t.value < w {
        return Err(Error::TooFewSamples { batch_size: t, world });
    }
    // Saturated it is more than any T, and one micro-step is right for that too.
    let taken = m.value.saturating_mul(w);
    let needed = t.value.div_ceil(taken);
    let is_exact = taken.checked_mul(needed) == Some(t.value);
    Ok(Cut { t, m, needed, is_exact })
}

/// The batch of a job whose world may change, made such that every world sees the same global
/// batches and no rank more samples at once than in the `largest`: T and m are that world's, and g
/// follows from each world. Without a largest world T must be given.
pub fn pin(batch: &Batch, largest: Option<u32>) -> Result<Batch, Error> {
    let Some(largest) = largest else {
        return match (&batch.batch_size, &batch.micro_batch_size) {
            (None, Some(micro)) => Err(Error::Unbounded(micro.clone())),
            _ => Ok(batch.clone()),
        };
    };
    check_positive(batch, largest)?;
    if batch.mismatch == BatchMismatch::Error && batch.gradient_accumulation.is_some() {
        // It counts for the largest world, and is dropped below.
        plan(batch, largest)?;
    }
    let g = batch.gradient_accumulation.as_ref();
    let batch_size = match (&batch.batch_size, &batch.micro_batch_size) {
        (Some(t), _) => t.clone(),
        (None, Some(m)) => {
            let total = infer_total(m, g, largest)?;
            from_largest(total.value, "micro-batch-size", g)
        }
        (None, None) => return Err(g.cloned().map_or(Error::Nothing, Error::AccumulationAlone)),
    };
    let micro_batch_size = batch.micro_batch_size.clone().unwrap_or_else(|| {
        let micro = infer_micro(&batch_size, g, u64::from(largest));
        from_largest(micro.value, "batch-size", g)
    });
    Ok(Batch {
        batch_size: Some(batch_size),
        micro_batch_size: Some(micro_batch_size),
        gradient_accumulation: None,
        mismatch: batch.mismatch,
    })
}

fn from_largest(value: u64, from: &str, accumulation: Option<&Sourced<u64>>) -> Sourced<u64> {
    let and = if accumulation.is_some() { ", gradient-accumulation" } else { "" };
    let origin = format!("inferred from {from}{and} and resources.max-ranks");
    Sourced { value, origin }
}

/// Larger worlds are no jobs'.
const MAX_WORLD: u32 = 1 << 16;

/// Worlds of at least `least` and at most `most` ranks for which the batch can be cut as its rules
/// ask, ascending.
pub fn worlds(batch: &Batch, least: u32, most: Option<u32>) -> impl Iterator<Item = u32> + '_ {
    // No rank goes without samples.
    let total = batch.batch_size.as_ref().map(|t| u32::try_from(t.value).unwrap_or(u32::MAX));
    let most = most.unwrap_or(MAX_WORLD).min(total.unwrap_or(MAX_WORLD)).min(MAX_WORLD);
    (least..=most).filter(move |world| is_possible(batch, *world))
}

fn check_positive(batch: &Batch, world: u32) -> Result<(), Error> {
    if world == 0 {
        return Err(Error::NotPositive { key: "world-size", origin: "given".to_owned() });
    }
    let given = [
        ("batch-size", &batch.batch_size),
        ("micro-batch-size", &batch.micro_batch_size),
        ("gradient-accumulation", &batch.gradient_accumulation),
    ];
    for (key, value) in given {
        if let Some(Sourced { value: 0, origin }) = value {
            return Err(Error::NotPositive { key, origin: origin.clone() });
        }
    }
    Ok(())
}

const MICRO_FROM_WORLD: &str = "inferred from batch-size and world";

fn infer_micro(t: &Sourced<u64>, g: Option<&Sourced<u64>>, world: u64) -> Sourced<u64> {
    let accumulation = g.map_or(1, |g| g.value);
    let origin = match g {
        Some(_) => "inferred from batch-size, gradient-accumulation and world",
        None => MICRO_FROM_WORLD,
    };
    let value = t.value.div_ceil(accumulation.saturating_mul(world));
    Sourced { value, origin: origin.to_owned() }
}

fn infer_total(
    m: &Sourced<u64>,
    g: Option<&Sourced<u64>>,
    world: u32,
) -> Result<Sourced<u64>, Error> {
    let accumulation = g.map_or(1, |g| g.value);
    let value = m
        .value
        .checked_mul(accumulation)
        .and_then(|n| n.checked_mul(u64::from(world)))
        .ok_or(Error::TooLarge { micro: m.value, accumulation, world })?;
    let origin = match g {
        Some(_) => "inferred from micro-batch-size, gradient-accumulation and world",
        None => "inferred from micro-batch-size and world",
    };
    Ok(Sourced { value, origin: origin.to_owned() })
}

/// T ≠ m·g·W, in words.
struct Mismatch<'a> {
    t: &'a Sourced<u64>,
    m: &'a Sourced<u64>,
    asked: Option<&'a Sourced<u64>>,
    world: u32,
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { t, m, asked, world } = self;
        write!(f, "batch-size {} ({})", t.value, t.origin)?;
        match asked {
            Some(g) => write!(
                f,
                " is not micro-batch-size {} ({}) times gradient-accumulation {} ({}) times world {world}",
                m.value, m.origin, g.value, g.origin
            ),
            None if m.origin == MICRO_FROM_WORLD => {
                write!(f, " does not divide by the world of {world} ranks")
            }
            None => write!(
                f,
                " is not a multiple of micro-batch-size {} ({}) times world {world}",
                m.value, m.origin
            ),
        }
    }
}

impl Mismatch<'_> {
    fn outcome(&self, needed: u64) -> String {
        let (t, w) = (self.t.value, u64::from(self.world));
        let (least, most) = (t / needed, t.div_ceil(needed));
        let samples = if least == most { most.to_string() } else { format!("{least} or {most}") };
        let per_rank = (least / w, most.div_ceil(w));
        let ranks = if per_rank.0 == per_rank.1 {
            per_rank.0.to_string()
        } else {
            format!("{} to {}", per_rank.0, per_rank.1)
        };
        let steps = if needed == 1 { "micro-step" } else { "micro-steps" };
        format!(
            "a step keeps its {t} samples: {needed} {steps} of {samples} samples, \
             {ranks} on each rank"
        )
    }

    /// Settings near those asked for that a strict reader accepts.
    fn nearest_valid(&self) -> Vec<String> {
        let (t, m, w) = (self.t.value, self.m.value, u64::from(self.world));
        let taken = m.saturating_mul(w);
        let mut valid = Vec::new();
        if t % taken == 0 {
            valid.push(format!("gradient-accumulation = {}", t / taken));
        } else {
            let mut totals = vec![t.div_ceil(taken)];
            if t > taken {
                totals.insert(0, t / taken);
            }
            for g in totals {
                valid.push(format!("batch-size = {} with gradient-accumulation = {g}", g * taken));
            }
        }
        if t % w == 0 {
            let share = t / w;
            // A divisor of the share, at most m: memory per rank does not grow. Bounded search.
            let largest = (1..=m.min(share).min(1 << 20)).rev().find(|d| share % d == 0);
            if let Some(d) = largest.filter(|d| *d != m) {
                valid.push(format!(
                    "micro-batch-size = {d} with gradient-accumulation = {}",
                    share / d
                ));
            }
        }
        let per_world = self.asked.map_or(m, |g| m.saturating_mul(g.value));
        if t % per_world == 0 && t / per_world != w {
            valid.push(format!("world-size = {}", t / per_world));
        }
        valid
    }
}

#[cfg(test)]
mod tests;

//! The end of a run in numbers.
//!
//! Promise: pure; made of the state that a checkpoint holds and of what this attempt measured.

use common::status::{RankMemory, Summary, TestResult};

use crate::train::State;

/// What this attempt measured itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    pub(crate) world: u32,
    pub(crate) stage: u8,
    pub(crate) precision: String,
    pub(crate) precision_asked: Option<String>,
    pub(crate) final_loss_scale: Option<f64>,
    /// Samples of all ranks, and the seconds that their steps took (no validation, no saving).
    pub(crate) trained_samples: u64,
    pub(crate) trained_seconds: f64,
    /// Where it continued a checkpoint.
    pub(crate) resumed_at_step: Option<u64>,
    pub(crate) duration_seconds: f64,
    pub(crate) peak_rss_bytes: Vec<u64>,
    pub(crate) memory: Vec<RankMemory>,
    pub(crate) checkpoint_stall_seconds: f64,
    pub(crate) test: Option<TestResult>,
    pub(crate) is_regression: bool,
    pub(crate) was_stopped: bool,
}

pub(crate) fn summarise(state: &State, measured: Measured) -> Summary {
    let best = state.best;
    let per_second = measured.trained_samples as f64 / measured.trained_seconds;
    Summary {
        initial_loss: state.initial_loss,
        final_loss: state.last_loss,
        loss_reduction_percent: reduction(state.initial_loss, state.last_loss),
        initial_val_loss: state.initial_val_loss,
        best_val_loss: best.map(|best| best.val_loss),
        best_val_step: best.map(|best| best.step),
        val_loss_reduction_percent: reduction(
            state.initial_val_loss,
            best.map(|best| best.val_loss),
        ),
        best_val_accuracy: best.and_then(|best| best.val_accuracy),
        quality: best
            .map(|best| best.val_loss)
            .or(state.last_loss)
            .filter(|_| measured.is_regression)
            .map(quality),
        test: measured.test,
        steps: state.step,
        epochs: state.epoch,
        samples: state.samples,
        resumed_at_step: measured.resumed_at_step,
        attempt_steps: state.step - measured.resumed_at_step.unwrap_or(0),
        // An attempt that resumed a finished run trained nothing.
        samples_per_second: if per_second.is_finite() { per_second } else { 0.0 },
        duration_seconds: measured.duration_seconds,
        world_size: measured.world,
        zero_stage: measured.stage,
        precision: measured.precision,
        precision_asked: measured.precision_asked,
        skipped_steps: state.precision.skipped,
        final_loss_scale: measured.final_loss_scale,
        stopped_early: state.stopped_early,
        cancelled: measured.was_stopped,
        peak_rss_bytes: measured.peak_rss_bytes,
        memory: measured.memory,
        gradient_norms: state.gradients.clone(),
        checkpoint_stall_seconds: measured.checkpoint_stall_seconds,
        notes: Vec::new(),
    }
}

fn reduction(from: Option<f64>, to: Option<f64>) -> Option<f64> {
    let percent = (1.0 - to? / from?) * 100.0;
    percent.is_finite().then_some(percent)
}

/// Words for a mean squared error on normalised data.
fn quality(loss: f64) -> String {
    let word = match loss {
        loss if loss < 0.05 => "Excellent",
        loss if loss < 0.1 => "Good",
        loss if loss < 0.2 => "Fair",
        _ => "Poor",
    };
    word.to_owned()
}

#[cfg(test)]
mod tests;

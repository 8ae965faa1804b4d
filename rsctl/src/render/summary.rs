//! The end of a run in words.

use std::fmt::Write as _;

use common::status::{JobStatus, Summary, TestResult};
use common::units::{count, display_bytes};

use crate::clock;
use crate::render::table::{number, rate};

/// What `run` and `watch` print when a job has ended; empty where it never trained.
pub(crate) fn render(status: &JobStatus) -> String {
    let mut text = String::new();
    if let Some(summary) = &status.summary {
        training(&mut text, summary);
        validation(&mut text, summary);
        if let Some(test) = &summary.test {
            test_part(&mut text, test);
        }
        health(&mut text, summary);
        effort(&mut text, summary);
    }
    let has_run = status.summary.is_some()
        || status.latest_checkpoint.is_some()
        || status.failure.as_ref().is_some_and(|failure| failure.rank.is_some());
    if let Some(folder) = status.output_dir.as_ref().filter(|_| has_run) {
        let _ = writeln!(text, "Output: {folder}");
    }
    if let Some(checkpoint) = &status.latest_checkpoint {
        let _ = writeln!(text, "Latest Checkpoint: {checkpoint}");
    }
    text
}

fn training(text: &mut String, summary: &Summary) {
    text.push_str("Training Summary:\n");
    line(text, "Initial Loss", summary.initial_loss.map(number));
    line(text, "Final Loss", summary.final_loss.map(number));
    line(text, "Loss Reduction", summary.loss_reduction_percent.map(percent));
    text.push('\n');
}

fn validation(text: &mut String, summary: &Summary) {
    let Some(best) = summary.best_val_loss else { return };
    text.push_str("Validation Summary:\n");
    line(text, "Initial Val Loss", summary.initial_val_loss.map(number));
    let step = summary.best_val_step.map_or_else(String::new, |step| format!(" (step {step})"));
    line(text, "Best Val Loss", Some(number(best) + &step));
    line(text, "Best Val Accuracy", summary.best_val_accuracy.map(share));
    line(text, "Val Loss Reduction", summary.val_loss_reduction_percent.map(percent));
    text.push('\n');
    if let Some(quality) = &summary.quality {
        let bound = match quality.as_str() {
            "Excellent" => "! (MSE < 0.05)",
            "Good" => " (MSE < 0.1)",
            "Fair" => " (MSE < 0.2)",
            _ => "",
        };
        let _ = writeln!(text, "Model Quality: {quality}{bound}\n");
    }
}

fn test_part(text: &mut String, test: &TestResult) {
    let units = if test.mae.is_some() { ", the data's own units" } else { "" };
    let _ = writeln!(text, "Test (best weights, {}{units}):", count(test.samples, "sample"));
    line(text, "Accuracy", test.accuracy.map(share));
    line(text, "MAE", test.mae.map(|mae| number(mae) + &beside_naive(mae, test.naive_mae)));
    line(text, "RMSE", test.rmse.map(number));
    line(text, "Loss", Some(number(test.loss)));
    text.push('\n');
}

fn beside_naive(mae: f64, naive: Option<f64>) -> String {
    let Some(naive) = naive else { return String::new() };
    if naive <= 0.0 {
        return format!(" (naive last value: {})", number(naive));
    }
    let better = (1.0 - mae / naive) * 100.0;
    let word = if better >= 0.0 { "better" } else { "worse" };
    format!(" (naive last value: {}; {:.1} % {word})", number(naive), better.abs())
}

/// `97.41 %`.
fn share(part: f64) -> String {
    format!("{:.2} %", part * 100.0)
}

fn health(text: &mut String, summary: &Summary) {
    let norms = &summary.gradient_norms;
    let _ = writeln!(
        text,
        "Gradient Norms: {} healthy, {} exploding, {} vanishing, {} other; max {}",
        norms.healthy,
        norms.exploding,
        norms.vanishing,
        norms.other,
        number(norms.max)
    );
}

fn effort(text: &mut String, summary: &Summary) {
    let took = std::time::Duration::try_from_secs_f64(summary.duration_seconds).unwrap_or_default();
    let took = if took.as_secs() < 60 {
        format!("{:.1}s", took.as_secs_f64())
    } else {
        clock::short(took)
    };
    let early = if summary.stopped_early { ", stopped early" } else { "" };
    let Summary { steps, epochs, attempt_steps: here, .. } = summary;
    let rate = rate(summary.samples_per_second);
    let pace = match summary.resumed_at_step {
        None => format!("{rate} samples/s"),
        Some(at) if *here == 0 => format!("resumed at step {at} with nothing left to train"),
        Some(at) => format!("{here} of them since the resume at step {at}, at {rate} samples/s"),
    };
    let (steps, epochs) = (count(*steps, "step"), count((*epochs).into(), "epoch"));
    let _ = writeln!(text, "Trained: {steps}, {epochs} in {took}, {pace}{early}");
    let _ = writeln!(
        text,
        "Ranks: {}, ZeRO stage {}, {}",
        summary.world_size,
        summary.zero_stage,
        precision(summary)
    );
    if summary.skipped_steps > 0 {
        let _ = writeln!(
            text,
            "Skipped: {} of {steps}, whose gradients were not finite",
            summary.skipped_steps
        );
    }
    let peaks: Vec<String> = summary.peak_rss_bytes.iter().map(|b| display_bytes(*b)).collect();
    if !peaks.is_empty() {
        let _ = writeln!(text, "Peak Memory per Rank: {}", peaks.join(", "));
    }
}

/// `fp16, loss scale 32768`, or `fp32 (the job asks for fp16)`.
fn precision(summary: &Summary) -> String {
    let mut text = summary.precision.clone();
    if let Some(asked) = &summary.precision_asked {
        let _ = write!(text, " (the job asks for {asked})");
    }
    if let Some(scale) = summary.final_loss_scale {
        let _ = write!(text, ", loss scale {scale}");
    }
    text
}

fn line(text: &mut String, name: &str, value: Option<String>) {
    if let Some(value) = value {
        let _ = writeln!(text, "  - {name}: {value}");
    }
}

fn percent(value: f64) -> String {
    format!("{value:.2}%")
}

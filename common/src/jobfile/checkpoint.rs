//! `[checkpoint]` and `[monitor]`: what a run leaves behind.

use std::path::Path;

use crate::section::{Found, IntegerRange, Section, absolute, nearest};
use crate::spec::{Checkpoint, Diagnostics, FlopsProfile, Layout, Monitor, Resume};

use super::join::joined;
use super::{Context, DEFAULT, SYNONYMS};

const EVERY: IntegerRange = IntegerRange::new(1, 1 << 40);
const EVERY_EPOCHS: IntegerRange = IntegerRange::new(1, 1_000_000);
const KEEP_LAST: IntegerRange = IntegerRange::new(1, 1_000_000);
const KEEP_BEST: IntegerRange = IntegerRange::new(0, 1_000_000);

pub(super) fn read(root: &Section<'_>, context: &Context<'_>) -> Checkpoint {
    let section = root.sub("checkpoint");
    let dir = dir(&section, context.caller_dir);
    let every_steps = section.integer("every-steps", EVERY);
    let every_epochs = section.integer("every-epochs", EVERY_EPOCHS);
    let (steps_given, epochs_given) = (every_steps.is_some(), every_epochs.is_some());
    let every_steps = section.settle_optional("every-steps", every_steps, "default: not by steps");
    let every_epochs = if steps_given && !epochs_given {
        section.settle_optional("every-epochs", None, "default beside every-steps: not by epochs")
    } else {
        Some(section.settle("every-epochs", every_epochs, (1, DEFAULT)))
    };
    let layouts = &[("auto", Layout::Auto), ("shared", Layout::Shared)];
    let layout = section.choice("layout", layouts, &["local"]);
    let keep_last = section.integer("keep-last", KEEP_LAST);
    let keep_best = section.integer("keep-best", KEEP_BEST);
    let asynchronous = section.boolean("async");
    let resume = resume(&section, context.base_dir);
    let shown = resume.as_ref().map_or("\"auto\"".to_owned(), |(_, shown)| format!("{shown:?}"));
    let (resume, origin) = match resume {
        Some((found, _)) => (found.value, found.origin),
        None => (Resume::Auto, DEFAULT.to_owned()),
    };
    section.record("resume", &shown, origin);
    section.not_yet(&["compression", "pin", "mirror"], "this way of keeping checkpoints");
    let checkpoint = Checkpoint {
        dir: section.settle_optional("dir", dir, "default: <output-dir>/<job id>/checkpoints"),
        every_steps,
        every_epochs,
        keep_last: section.settle("keep-last", keep_last, (2, DEFAULT)),
        keep_best: section.settle("keep-best", keep_best, (1, DEFAULT)),
        asynchronous: section.settle("async", asynchronous, (true, DEFAULT)),
        resume,
        layout: section.settle("layout", layout, (Layout::Auto, DEFAULT)),
    };
    section.refuse_unknown(SYNONYMS);
    checkpoint
}

/// A folder, or `file://` and a folder; other schemes come with a later version.
fn dir(section: &Section<'_>, caller_dir: &Path) -> Option<Found<String>> {
    let found = section.filled_text("dir")?;
    let path = match found.value.split_once("://") {
        None => found.value.as_str(),
        Some(("file", path)) if path.starts_with('/') => path,
        Some(("file", _)) => {
            section.refuse("dir", "expected `file://` and an absolute path, or a path");
            return None;
        }
        Some((scheme, _)) => {
            let message =
                format!("not supported yet: {scheme}:// ; this version has folders and file://");
            section.refuse("dir", message);
            return None;
        }
    };
    let path = absolute(caller_dir, path).display().to_string();
    Some(found.map(|_| path))
}

const RESUME_WORDS: &[&str] = &["auto", "never", "best", "latest"];

/// The meaning, and the word for it in a job file.
fn resume(section: &Section<'_>, base_dir: &Path) -> Option<(Found<Resume>, String)> {
    let found = section.filled_text("resume")?;
    let text = found.value.clone();
    let numbered = |prefix: &str| text.strip_prefix(prefix)?.parse::<u64>().ok();
    let meaning = match text.as_str() {
        "auto" => Resume::Auto,
        "never" => Resume::Never,
        "best" => Resume::Best,
        "latest" => Resume::Latest,
        _ => match (numbered("epoch-"), numbered("step-")) {
            (Some(epoch), _) => Resume::Epoch(epoch),
            (_, Some(step)) => Resume::Step(step),
            _ if text.contains("://") && !text.starts_with("file:///") => {
                section.refuse("resume", "not supported yet: checkpoints at a URL; use a path");
                return None;
            }
            _ if text.contains('/') => {
                let path = text.strip_prefix("file://").unwrap_or(&text);
                Resume::Path(absolute(base_dir, path))
            }
            _ => {
                let forms =
                    "expected auto, never, best, latest, epoch-N, step-N or a path with a `/`";
                let hint = nearest(&text, RESUME_WORDS.iter().copied())
                    .map_or(String::new(), |word| format!("did you mean `{word}`? "));
                section.refuse("resume", format!("{hint}{forms}"));
                return None;
            }
        },
    };
    let shown = match &meaning {
        Resume::Path(path) => path.display().to_string(),
        _ => text,
    };
    Some((found.map(|_| meaning), shown))
}

pub(super) fn read_monitor(root: &Section<'_>, context: &Context<'_>) -> Monitor {
    let section = root.sub("monitor");
    let tensorboard = section.boolean("tensorboard");
    let csv = section.boolean("csv");
    let diagnostics = diagnostics(&section, context);
    section.not_yet(&["wandb", "comet", "mlflow", "prometheus"], "this monitor");
    let deepspeed = context.deepspeed;
    let monitor = Monitor {
        tensorboard: section.settle("tensorboard", tensorboard, (true, DEFAULT)),
        csv: section.settle("csv", csv, (true, DEFAULT)),
        deepspeed_tensorboard_dir: section.settle_optional(
            "deepspeed-tensorboard-dir",
            deepspeed.tensorboard_dir.clone(),
            "no tensorboard block",
        ),
        deepspeed_csv_dir: section.settle_optional(
            "deepspeed-csv-dir",
            deepspeed.csv_dir.clone(),
            "no csv_monitor block",
        ),
        diagnostics,
    };
    section.refuse_unknown(SYNONYMS);
    monitor
}

fn diagnostics(monitor: &Section<'_>, context: &Context<'_>) -> Diagnostics {
    let section = &monitor.sub("diagnostics");
    let theirs = &context.deepspeed.profiling;
    let breakdown = section.boolean("wall-clock-breakdown");
    let breakdown =
        joined(section, "wall-clock-breakdown", breakdown, theirs.wall_clock_breakdown.clone());
    let comms = section.boolean("comms-log");
    let asked = theirs.comms_log.clone();
    let asked_on = asked.clone().map(|found| found.map(|log| log.is_some()));
    let comms = joined(section, "comms-log", comms, asked_on);
    let comms_on = section.settle("comms-log", comms, (false, DEFAULT));
    let as_asked = || asked.and_then(|found| found.value).unwrap_or_default();
    let step = section.integer("flops-profile-step", EVERY);
    let block = theirs.flops_profile.clone().and_then(|found| {
        let step = found.value.as_ref()?.step;
        Some((found.clone().map(|_| step), found.value?))
    });
    let step = joined(section, "flops-profile-step", step, block.clone().map(|(step, _)| step));
    let step = section.settle_optional("flops-profile-step", step, "default: no profile");
    let profile = |step| match block {
        Some((_, profile)) => FlopsProfile { step, ..profile },
        None => FlopsProfile { step, detailed: true, output_file: None },
    };
    section.refuse_unknown(SYNONYMS);
    Diagnostics {
        wall_clock_breakdown: section.settle("wall-clock-breakdown", breakdown, (false, DEFAULT)),
        comms_log: comms_on.then(as_asked),
        flops_profile: step.map(profile),
    }
}

//! Jobs, workers and one job's status as text.

use std::fmt::Write as _;

use common::status::{JobRow, JobStatus, Live, RankStatus, UnixMillis, WorkerRow};
use common::units::display_bytes;

use crate::clock;
use crate::render::table::{Align, number, optional, rate, render};

/// Of the lines that a failed rank left, these explain it; its log has the rest.
const LAST_LINES: usize = 15;

const JOB_COLUMNS: [(&str, Align); 8] = [
    ("JOB", Align::Left),
    ("STATE", Align::Left),
    ("STEP", Align::Right),
    ("OF", Align::Right),
    ("RANKS", Align::Right),
    ("ATTEMPT", Align::Right),
    ("AGE", Align::Right),
    ("REASON", Align::Left),
];

pub(crate) fn jobs(rows: &[JobRow], now: UnixMillis) -> String {
    let rows = rows.iter().map(|row| {
        [
            row.job_id.to_string(),
            row.state.to_string(),
            row.step.to_string(),
            optional(row.max_steps, |steps| steps.to_string()),
            if row.world_size == 0 { String::new() } else { row.world_size.to_string() },
            row.attempt.to_string(),
            clock::age(now, row.submitted_at),
            row.reason.clone(),
        ]
    });
    render(&JOB_COLUMNS, rows)
}

const WORKER_COLUMNS: [(&str, Align); 11] = [
    ("WORKER", Align::Left),
    ("STATE", Align::Left),
    ("HEARD", Align::Right),
    ("ADDRESS", Align::Left),
    ("DEVICE", Align::Left),
    ("SLOTS", Align::Right),
    ("FREE", Align::Right),
    ("MEMORY", Align::Right),
    ("GPUS", Align::Left),
    ("LIBTORCH", Align::Left),
    ("JOBS", Align::Left),
];

pub(crate) fn workers(rows: &[WorkerRow], now: UnixMillis) -> String {
    let rows = rows.iter().map(|row| {
        [
            row.name.clone(),
            row.state.clone() + if row.unlisted { ", unlisted" } else { "" },
            heard(row, now),
            row.address.clone(),
            row.device.clone(),
            row.slots.to_string(),
            row.free_slots.to_string(),
            display_bytes(row.memory_bytes),
            row.gpus.to_string(),
            row.libtorch.clone(),
            row.jobs.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        ]
    });
    render(&WORKER_COLUMNS, rows)
}

/// Nothing was ever heard of a node that is only expected.
fn heard(row: &WorkerRow, now: UnixMillis) -> String {
    match row.state == WorkerRow::MISSING {
        true => String::new(),
        false => clock::age(now, row.last_seen),
    }
}

/// Everything that `rsctl status` shows.
pub(crate) fn job(status: &JobStatus, now: UnixMillis) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<18}{value}");
        }
    };
    let row = &status.row;
    field("job", row.job_id.as_str());
    field("name", &row.name);
    field("state", row.state.as_str());
    field("reason", &row.reason);
    field("waits", &waits(status, now).unwrap_or_default());
    field("submitted", &format!("{} ago", clock::age(now, row.submitted_at)));
    field("progress", &progress(status));
    field("goodput", &goodput(status));
    field("output", status.output_dir.as_deref().unwrap_or_default());
    field("latest checkpoint", status.latest_checkpoint.as_deref().unwrap_or_default());
    for note in &status.notes {
        field("note", note);
    }
    text.push_str(&attempts(status, now));
    text.push_str(&ranks(&status.ranks));
    text.push_str(&failure(status));
    text
}

/// `93.2 % (lost: start 1.2 s, restart 0.8 s)`.
fn goodput(status: &JobStatus) -> String {
    let Some(part) = status.goodput else { return String::new() };
    let time = status.time.unwrap_or_default();
    let lost: Vec<String> = [
        ("queue", time.queue_seconds),
        ("start", time.start_seconds),
        ("detect", time.detect_seconds),
        ("restart", time.restart_seconds),
        ("reload", time.reload_seconds),
        ("recompute", time.recompute_seconds),
    ]
    .into_iter()
    .filter(|(_, seconds)| *seconds >= 0.05)
    .map(|(what, seconds)| format!("{what} {seconds:.1} s"))
    .collect();
    match lost.is_empty() {
        true => format!("{:.1} %", part * 100.0),
        false => format!("{:.1} % (lost: {})", part * 100.0, lost.join(", ")),
    }
}

/// `step 120/400, epoch 2/10, loss 0.123400, 4120 samples/s, 12s left`.
pub(crate) fn progress(status: &JobStatus) -> String {
    let Some(live) = status.live.clone().or_else(|| last(status)) else { return String::new() };
    let mut parts = vec![match live.max_steps {
        Some(steps) => format!("step {}/{steps}", live.step),
        None => format!("step {}", live.step),
    }];
    if live.epochs > 0 {
        parts.push(format!("epoch {}/{}", live.epoch, live.epochs));
    }
    parts.extend(live.loss.map(|loss| format!("loss {}", number(loss))));
    parts.extend(live.val_loss.map(|loss| format!("val {}", number(loss))));
    parts.extend(live.val_accuracy.map(|part| format!("accuracy {:.2} %", part * 100.0)));
    if !status.row.state.is_final() {
        parts.extend(live.samples_per_second.map(|speed| format!("{} samples/s", rate(speed))));
        parts.extend(eta(&live).map(|left| format!("{left} left")));
    }
    parts.join(", ")
}

/// Where a job that is over got to.
fn last(status: &JobStatus) -> Option<Live> {
    let JobRow { step, max_steps, .. } = status.row;
    (step > 0).then(|| Live {
        step,
        max_steps,
        loss: status.summary.as_ref().and_then(|summary| summary.final_loss),
        ..Live::default()
    })
}

/// The time to go; None before it means something: the first steps are slow.
pub(crate) fn eta(live: &Live) -> Option<String> {
    const STEPS_TO_JUDGE: u64 = 5;
    let left = live.eta_seconds.filter(|_| live.step >= STEPS_TO_JUDGE)?;
    std::time::Duration::try_from_secs_f64(left).ok().map(clock::short)
}

/// How long a job that waits has to wait, as far as anybody knows.
fn waits(status: &JobStatus, now: UnixMillis) -> Option<String> {
    let waiting = status.waiting.as_ref()?;
    let mut parts = Vec::new();
    if waiting.ahead > 0 {
        parts.push(format!("{} before it", common::units::count(waiting.ahead, "job")));
    }
    parts.push(match waiting.earliest_start {
        Some(at) if at > now => format!("starts in {} at the earliest", clock::age(at, now)),
        Some(_) => "may start any moment".to_owned(),
        None => "start not known".to_owned(),
    });
    Some(format!("{} ({})", parts.join(", "), waiting.estimate))
}

fn attempts(status: &JobStatus, now: UnixMillis) -> String {
    const COLUMNS: [(&str, Align); 5] = [
        ("ATTEMPT", Align::Right),
        ("STATE", Align::Left),
        ("RANKS", Align::Right),
        ("TOOK", Align::Right),
        ("REASON", Align::Left),
    ];
    if status.attempts.is_empty() {
        return String::new();
    }
    let rows = status.attempts.iter().map(|attempt| {
        [
            attempt.attempt.to_string(),
            attempt.state.to_string(),
            attempt.world_size.to_string(),
            clock::age(attempt.ended_at.unwrap_or(now), attempt.started_at),
            match attempt.decision.is_empty() {
                true => attempt.reason.clone(),
                false => format!("{}; {}", attempt.reason, attempt.decision),
            },
        ]
    });
    format!("\n{}", render(&COLUMNS, rows))
}

fn ranks(ranks: &[RankStatus]) -> String {
    const COLUMNS: [(&str, Align); 6] = [
        ("RANK", Align::Right),
        ("WORKER", Align::Left),
        ("SLOTS", Align::Left),
        ("PID", Align::Right),
        ("LIBTORCH", Align::Left),
        ("STATE", Align::Left),
    ];
    if ranks.is_empty() {
        return String::new();
    }
    let rows = ranks.iter().map(|rank| {
        [
            rank.rank.to_string(),
            rank.worker.clone(),
            rank.slots.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            optional(rank.pid, |pid| pid.to_string()),
            rank.libtorch.clone(),
            rank.end.as_ref().map_or_else(|| rank.state.clone(), ToString::to_string),
        ]
    });
    format!("\n{}", render(&COLUMNS, rows))
}

/// Why a job failed, with the guilty rank's last lines.
fn failure(status: &JobStatus) -> String {
    let Some(failure) = &status.failure else { return String::new() };
    format!("\nfailure: {}\n{}\n", failure.message, last_lines(status))
}

/// What the guilty rank wrote last, quoted.
pub(crate) fn last_lines(status: &JobStatus) -> String {
    let Some(failure) = status.failure.as_ref().filter(|f| !f.last_lines.is_empty()) else {
        return String::new();
    };
    let whose = match (failure.rank, &failure.worker) {
        (Some(rank), Some(worker)) => format!(" of rank {rank} on {worker}"),
        (Some(rank), None) => format!(" of rank {rank}"),
        (None, Some(worker)) => format!(" of {worker}"),
        (None, None) => String::new(),
    };
    let lines = &failure.last_lines[failure.last_lines.len().saturating_sub(LAST_LINES)..];
    let quoted: String = lines.iter().map(|line| format!("\n  | {line}")).collect();
    format!("last lines{whose}:{quoted}")
}

//! Why a job is as it is, as text.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use common::status::explanation::STRAGGLER_BELOW;
use common::status::{AttemptCause, Explanation, RankPace, UnixMillis, WorkerLack};

use crate::clock;
use crate::render::table::{Align, render as table};

/// Of the lines that a guilty rank left; its log has the rest.
const LAST_LINES: usize = 5;

/// Ranks of a large world that are listed: the slowest.
const MAX_RANKS: usize = 32;

pub(crate) fn render(explained: &Explanation) -> String {
    let mut text = format!("{} is {}\n", explained.row.job_id, explained.row.state);
    for answer in &explained.answers {
        let _ = writeln!(text, "{}: {}", answer.question.as_str(), answer.text);
    }
    text.push_str(&workers(&explained.workers));
    for attempt in &explained.attempts {
        text.push_str(&self::attempt(attempt));
    }
    text.push_str(&pace(&explained.pace));
    text.push_str(&decisions(explained));
    text
}

fn workers(workers: &[WorkerLack]) -> String {
    const COLUMNS: [(&str, Align); 6] = [
        ("WORKER", Align::Left),
        ("DEVICE", Align::Left),
        ("SLOTS", Align::Right),
        ("FREE", Align::Right),
        ("LACKS", Align::Left),
        ("TAKEN BY", Align::Left),
    ];
    if workers.is_empty() {
        return String::new();
    }
    let rows = workers.iter().map(|worker| {
        [
            worker.worker.clone(),
            worker.device.clone(),
            worker.slots.to_string(),
            worker.free_slots.to_string(),
            worker.lacks.clone(),
            worker.jobs.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        ]
    });
    format!("\n{}", table(&COLUMNS, rows))
}

/// `attempt 1: succeeded after 42s on 2 ranks`, why it began and ended, and who began the end.
fn attempt(attempt: &AttemptCause) -> String {
    let ranks = if attempt.world_size == 1 { "rank" } else { "ranks" };
    let took = attempt.ended_at.map_or_else(String::new, |ended| {
        format!(" after {}", clock::age(ended, attempt.started_at))
    });
    let mut text = format!(
        "\nattempt {}: {}{took} on {} {ranks}\n  began: {}\n",
        attempt.attempt, attempt.state, attempt.world_size, attempt.began
    );
    if let Some(running) = attempt.running_at {
        let start = Duration::from_millis(running.saturating_sub(attempt.started_at));
        let _ = writeln!(text, "  trained: from {:.1}s after that on", start.as_secs_f64());
    }
    if !attempt.ended.is_empty() {
        let _ = writeln!(text, "  ended: {}", attempt.ended);
    }
    if let Some(guilty) = &attempt.guilty {
        let how = guilty.end.as_ref().map_or_else(String::new, |end| format!(" {end}"));
        let _ = writeln!(text, "  first: rank {} on {}{how}", guilty.rank, guilty.worker);
        let lines = &guilty.last_lines;
        for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
            let _ = writeln!(text, "    | {line}");
        }
    }
    text
}

fn pace(pace: &[RankPace]) -> String {
    const COLUMNS: [(&str, Align); 5] = [
        ("RANK", Align::Right),
        ("WORKER", Align::Left),
        ("COMPUTES", Align::Right),
        ("WAITS", Align::Right),
        ("SCORE", Align::Left),
    ];
    if pace.is_empty() {
        return String::new();
    }
    let mut slowest: Vec<&RankPace> = pace.iter().collect();
    if slowest.len() > MAX_RANKS {
        slowest.sort_by(|a, b| a.score.total_cmp(&b.score));
        slowest.truncate(MAX_RANKS);
    }
    let millis = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    let rows = slowest.into_iter().map(|rank| {
        let mark = if rank.score < STRAGGLER_BELOW { " straggler" } else { "" };
        [
            rank.rank.to_string(),
            rank.worker.clone(),
            millis(rank.compute_seconds),
            millis(rank.wait_seconds),
            format!("{:.2}{mark}", rank.score),
        ]
    });
    format!("\n{}", table(&COLUMNS, rows))
}

fn decisions(explained: &Explanation) -> String {
    if explained.decisions.is_empty() {
        return String::new();
    }
    let mut text = String::from("\ndecisions:\n");
    for decision in &explained.decisions {
        let _ = writeln!(text, "  {}  {}", time(decision.at), decision.text);
    }
    text
}

/// `2026-05-01T12:00:00.123Z`.
fn time(at: UnixMillis) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at)).to_string()
}

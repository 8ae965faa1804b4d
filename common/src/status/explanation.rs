//! Why a job is as it is: the answer of `rsctl explain`, made of what was recorded.

use serde::{Deserialize, Serialize};

use crate::ids::{AttemptId, JobId, Rank};
use crate::status::{JobRow, JobState, TrainerEnd, UnixMillis};

/// A rank that computes slower than this share of the median holds the others up.
pub const STRAGGLER_BELOW: f64 = 0.8;

/// All that is known about the whys of one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    #[serde(flatten)]
    pub row: JobRow,
    /// In words, to the questions that the job's life raises.
    pub answers: Vec<Answer>,
    /// Of a job that waits: what each worker lacks.
    pub workers: Vec<WorkerLack>,
    pub attempts: Vec<AttemptCause>,
    /// How fast each rank of the newest attempt computes; empty before they have said so.
    pub pace: Vec<RankPace>,
    /// What was decided about the job, oldest first; bounded.
    pub decisions: Vec<Decision>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub question: Question,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    Pending,
    Restarted,
    /// Of an elastic job.
    World,
    Slow,
    /// Of a job whose hang nobody would see.
    Unwatched,
    Stopped,
}

impl Question {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "why pending",
            Self::Restarted => "why restarted",
            Self::World => "why this world",
            Self::Slow => "why slow",
            Self::Unwatched => "why unwatched",
            Self::Stopped => "why stopped",
        }
    }
}

/// Something that was decided, or that forced a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub at: UnixMillis,
    /// 0 before the first.
    pub attempt: AttemptId,
    pub text: String,
}

/// Why a waiting job is not on this worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerLack {
    pub worker: String,
    pub state: String,
    pub device: String,
    pub slots: u32,
    pub free_slots: u32,
    /// Empty: nothing speaks against it.
    pub lacks: String,
    /// Who holds its slots.
    pub jobs: Vec<JobId>,
}

/// One attempt: why it began and why it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttemptCause {
    pub attempt: AttemptId,
    pub state: JobState,
    pub world_size: u32,
    pub began: String,
    pub started_at: UnixMillis,
    /// When all ranks were connected.
    pub running_at: Option<UnixMillis>,
    pub ended_at: Option<UnixMillis>,
    /// Empty while it lasts.
    pub ended: String,
    /// The first guilty rank, where a rank is to blame.
    pub guilty: Option<GuiltyRank>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuiltyRank {
    pub rank: Rank,
    pub worker: String,
    pub end: Option<TrainerEnd>,
    pub last_lines: Vec<String>,
}

/// How fast a rank computes, and how long it waits for the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankPace {
    pub rank: Rank,
    pub worker: String,
    /// Means per step over the newest measurements.
    pub compute_seconds: f64,
    pub wait_seconds: f64,
    /// The ranks' median time to compute over this rank's, at most 1.
    pub score: f64,
}

/// Scores from (rank, worker, seconds of computing, seconds of waiting) per step.
pub fn pace(measured: Vec<(Rank, String, f64, f64)>) -> Vec<RankPace> {
    let mut computing: Vec<f64> = measured.iter().map(|(_, _, compute, _)| *compute).collect();
    computing.sort_by(f64::total_cmp);
    let middle = computing.len() / 2;
    let median = match computing.len() {
        0 => return Vec::new(),
        len if len % 2 == 1 => computing[middle],
        _ => f64::midpoint(computing[middle - 1], computing[middle]),
    };
    let score = |compute: f64| if compute > median { median / compute } else { 1.0 };
    let row = |(rank, worker, compute_seconds, wait_seconds)| {
        let score = score(compute_seconds);
        RankPace { rank, worker, compute_seconds, wait_seconds, score }
    };
    measured.into_iter().map(row).collect()
}

/// `why slow` in words; None where nothing was measured.
pub fn slow(pace: &[RankPace]) -> Option<Answer> {
    let slowest = pace.iter().min_by(|a, b| a.score.total_cmp(&b.score))?;
    let millis = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    let waits = |rank: &&RankPace| rank.rank != slowest.rank;
    let others: Vec<f64> = pace.iter().filter(waits).map(|rank| rank.wait_seconds).collect();
    let waited = others.iter().sum::<f64>() / others.len().max(1) as f64;
    let text = if slowest.score < STRAGGLER_BELOW {
        format!(
            "rank {} on worker `{}` is a straggler, score {:.2}: it computes {} a step, {:.2} times \
             the median; the others wait {} a step for their peers",
            slowest.rank,
            slowest.worker,
            slowest.score,
            millis(slowest.compute_seconds),
            1.0 / slowest.score,
            millis(waited),
        )
    } else {
        let compute = pace.iter().map(|rank| rank.compute_seconds).fold(0.0, f64::max);
        let wait = pace.iter().map(|rank| rank.wait_seconds).fold(0.0, f64::max);
        format!(
            "no rank is a straggler, the lowest score is {:.2}; a step computes for {} and waits \
             for peers up to {}",
            slowest.score,
            millis(compute),
            millis(wait),
        )
    };
    Some(Answer { question: Question::Slow, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(compute: &[f64]) -> Vec<RankPace> {
        let slowest = compute.iter().copied().fold(0.0, f64::max);
        let rank = |(rank, compute): (u32, &f64)| {
            (Rank(rank), format!("w{rank}"), *compute, slowest - *compute)
        };
        pace((0..).zip(compute).map(rank).collect())
    }

    #[test]
    fn a_score_is_the_medians_share_of_the_ranks_own_time() {
        let scores = |compute: &[f64]| -> Vec<f64> {
            ranks(compute).iter().map(|rank| (rank.score * 100.0).round() / 100.0).collect()
        };
        assert_eq!(scores(&[0.1, 0.1, 0.2, 0.1]), [1.0, 1.0, 0.5, 1.0]);
        assert_eq!(scores(&[0.1, 0.3]), [1.0, 0.67]);
        assert_eq!(scores(&[0.1]), [1.0]);
        assert!(scores(&[]).is_empty());
    }

    #[test]
    fn the_straggler_is_named_with_its_worker_and_what_it_costs() {
        let text = slow(&ranks(&[0.1, 0.1, 0.25, 0.1])).unwrap().text;
        assert!(text.starts_with("rank 2 on worker `w2` is a straggler, score 0.40"), "{text}");
        assert!(
            text.contains("250.0 ms a step, 2.50 times") && text.contains("wait 150.0 ms"),
            "{text}"
        );
        let text = slow(&ranks(&[0.1, 0.11])).unwrap().text;
        assert!(text.starts_with("no rank is a straggler"), "{text}");
        assert_eq!(slow(&[]), None);
    }
}

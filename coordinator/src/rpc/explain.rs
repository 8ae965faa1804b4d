//! `Explain`: what the loop knows of a job, and how fast its ranks compute, from the metrics that
//! they sent.

use std::collections::{BTreeMap, VecDeque};

use tonic::{Response, Status};

use common::ids::Rank;
use common::metric;
use common::status::{Explanation, JobStatus, RankPace, explanation};
use proto::v1;

use crate::archive::Reader;
use crate::core::Input;
use crate::rpc::{Front, blocking, internal, no_such_job};

/// Newest points of each rank that count: a mean over each of the last seconds.
const NEWEST: usize = 30;

impl Front {
    pub(super) async fn explain_job(
        &self,
        job_id: &str,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let job_id = self.known_job(job_id)?;
        let asked = job_id.clone();
        let explained = self.core.ask(|reply| Input::Explain { job_id: asked, reply }).await?;
        let mut explained = explained.ok_or_else(|| no_such_job(&job_id))?;
        let status = self.core.views().status(&job_id).ok_or_else(|| no_such_job(&job_id))?;
        let reader = self.archive.metrics(&job_id);
        let pace = blocking(move || pace(reader, &status)).await?;
        add_pace(&mut explained, pace.map_err(|error| internal("read the job's metrics", &error))?);
        let json = serde_json::to_string(&explained)
            .map_err(|error| internal("write the explanation", &error))?;
        Ok(Response::new(v1::ExplainResponse { explanation_json: json }))
    }
}

/// Why it is slow comes before why it stopped: in the order of a job's life.
fn add_pace(explained: &mut Explanation, pace: Vec<RankPace>) {
    if let Some(answer) = explanation::slow(&pace) {
        let answers = &mut explained.answers;
        let place = answers.iter().position(|a| a.question == explanation::Question::Stopped);
        answers.insert(place.unwrap_or(answers.len()), answer);
    }
    explained.pace = pace;
}

/// Of the ranks of the newest attempt, by their newest measurements. Blocking.
fn pace(mut reader: Reader, status: &JobStatus) -> std::io::Result<Vec<RankPace>> {
    // What an earlier attempt measured says nothing about where the ranks are now. Generations tell
    // them apart; the times are of the workers' clocks.
    let generation = status.attempts.last().map_or(0, |attempt| attempt.generation.0);
    let mut newest: BTreeMap<(u32, bool), VecDeque<f64>> = BTreeMap::new();
    loop {
        let entries = reader.next()?;
        if entries.is_empty() {
            break;
        }
        let jobs = entries.into_iter().flat_map(|e| e.jobs);
        let newest_jobs = jobs.filter(|job| job.generation == generation);
        for series in newest_jobs.flat_map(|job| job.metrics) {
            let is_compute = series.name == metric::COMPUTE_SECONDS.name;
            if !is_compute && series.name != metric::WAIT_SECONDS.name {
                continue;
            }
            let values = newest.entry((series.rank, is_compute)).or_default();
            for point in &series.points {
                values.push_back(point.value);
                if values.len() > NEWEST {
                    values.pop_front();
                }
            }
        }
    }
    let mean = |rank: u32, is_compute: bool| {
        let values = newest.get(&(rank, is_compute)).filter(|values| !values.is_empty())?;
        Some(values.iter().sum::<f64>() / values.len() as f64)
    };
    let measured = status.ranks.iter().filter_map(|rank| {
        let Rank(number) = rank.rank;
        Some((rank.rank, rank.worker.clone(), mean(number, true)?, mean(number, false)?))
    });
    Ok(explanation::pace(measured.collect()))
}

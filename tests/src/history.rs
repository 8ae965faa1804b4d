//! What a run leaves that must not depend on what happened to it (A12).

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::wait::wait_for;

/// A worker holds an end back for its last metrics, and not for long: those that a slow disk holds up
/// come after it.
const LAST_METRICS_WITHIN: Duration = Duration::from_secs(20);

/// Every row of steps.csv without its times, and the last loss.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    pub rows: Vec<String>,
    pub final_loss: Value,
}

impl History {
    /// Of a job that succeeded on this machine.
    pub fn of(status: &Value) -> Self {
        let folder = status["output_dir"].as_str().expect("output_dir is text");
        let steps = fs_err::read_to_string(format!("{folder}/metrics/steps.csv"))
            .expect("a run leaves steps.csv");
        let timeless = |row: &str| row.split(',').take(6).collect::<Vec<_>>().join(",");
        let final_loss = status["summary"]["final_loss"].clone();
        assert!(final_loss.is_number(), "{status:#}");
        Self { rows: steps.lines().map(timeless).collect(), final_loss }
    }

    /// Panics with the first difference: whole histories are too long to read.
    pub fn must_equal(&self, expected: &Self) {
        let pairs = self.rows.iter().zip(&expected.rows).enumerate();
        for (line, (found, wanted)) in pairs {
            assert_eq!(found, wanted, "line {} of steps.csv", line + 1);
        }
        assert_eq!(self.rows.len(), expected.rows.len(), "lines of steps.csv");
        assert_eq!(self.final_loss, expected.final_loss);
    }
}

/// The losses that `rsctl metrics` tells, with their steps, once they are told up to the job's last
/// step.
pub fn told_losses(cluster: &Cluster, status: &Value) -> Vec<Value> {
    let id = status["job_id"].as_str().expect("job_id is text");
    wait_for("the loss of the last step", LAST_METRICS_WITHIN, || {
        let points = cluster.rsctl().read(&["metrics", "--json", "--tag", "train/loss", id]);
        let points = points.as_array().expect("a list of points");
        let is_whole = points.last()?["step"] == status["step"];
        let loss = |point: &Value| json!([point["step"], point["value"]]);
        is_whole.then(|| points.iter().map(loss).collect())
    })
}

//! What follows a job that was put into the queue: its id, and with `--watch` its course to the end.

use common::exit::ExitCode;
use common::ids::JobId;

use crate::commands::Outcome;
use crate::commands::watch::{self, PatienceArgs};
use crate::coordinator::Coordinator;
use crate::render;

#[derive(Debug, clap::Args)]
pub(crate) struct FollowArgs {
    /// Follow the job to its end; exit with its result
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    patience: PatienceArgs,
    /// Print {"job_id": ...}; with --watch, then one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

impl FollowArgs {
    pub(crate) async fn follow(&self, coordinator: Coordinator, id: &JobId) -> Outcome {
        let Self { watch, patience, json } = self;
        match (json, watch) {
            (true, false) => render::json(&serde_json::json!({ "job_id": id }))?,
            (true, true) => render::json_line(&serde_json::json!({ "job_id": id }))?,
            (false, _) => render::data(id)?,
        }
        if !watch {
            return Ok(ExitCode::Done);
        }
        watch::to_the_end(coordinator, id, patience.reconnect_timeout, *json).await
    }
}

//! How a cluster is now: what its hosts say of the processes, and what its coordinator says of the
//! workers.

use std::time::Duration;

use common::status::WorkerRow;

use crate::coordinator::Coordinator;
use crate::ssh::call::{Shell, call};
use crate::ssh::record::{HostRecord, Record, Started};
use crate::ssh::row::Row;
use crate::ssh::{Error, each, script};

const WITHIN: Duration = Duration::from_secs(40);

/// Whether the process goes on; where it does not, the end of its log.
async fn probe(shell: &Shell, started: &Started) -> Result<Result<(), String>, Error> {
    let reply = call(shell, &script::probe(started.known()), WITHIN).await?;
    let is_running = reply.get("running").is_some();
    Ok(if is_running { Ok(()) } else { Err(reply.text("log")) })
}

/// `running`, `gone`, or why that is not known. None: the coordinator is somebody else's.
pub(crate) async fn coordinator(record: &Record) -> Option<String> {
    let started = record.coordinator.as_ref()?;
    Some(match probe(&Shell::Here, started).await {
        Ok(Ok(())) => "running".to_owned(),
        Ok(Err(_)) => "gone".to_owned(),
        Err(error) => service::exit::chain(&error),
    })
}

/// What the coordinator knows; None where it does not answer, and why.
pub(crate) async fn workers(record: &Record) -> Result<Vec<WorkerRow>, String> {
    let connected = Coordinator::connect(&record.master).await;
    let mut coordinator = connected.map_err(|error| service::exit::chain(&error))?;
    coordinator.workers().await.map_err(|error| service::exit::chain(&error))
}

/// All hosts at once; what is wrong is told as it comes.
pub(crate) async fn hosts(record: &Record, workers: Option<&[WorkerRow]>) -> Vec<Row> {
    each(&record.hosts, |host| async move {
        let row = match probe(&record.shell(host), &host.started).await {
            Ok(Ok(())) => joined(host, workers),
            Ok(Err(log)) => Row::of(host, "").failed(&Error::Ended { log }),
            Err(error) => Row::of(host, "").failed(&error),
        };
        if row.is_failed() {
            row.tell("");
        }
        row
    })
    .await
}

/// The worker lives: what the coordinator makes of it.
fn joined(host: &HostRecord, workers: Option<&[WorkerRow]>) -> Row {
    let known = |row: &&WorkerRow| {
        row.name == host.worker && host.uuid.as_ref().is_none_or(|uuid| *uuid == row.uuid)
    };
    let Some(workers) = workers else { return Row::of(host, "running") };
    match workers.iter().find(known) {
        Some(row) => Row { slots: Some(row.slots), ..Row::of(host, &row.state) },
        None => Row::of(host, "not joined"),
    }
}

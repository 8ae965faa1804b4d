//! Stops workers, each by the process that was started and by nothing else.

use std::time::Duration;

use crate::render;
use crate::ssh::call::{Shell, call};
use crate::ssh::record::{Folder, Record, Started};
use crate::ssh::row::Row;
use crate::ssh::{Error, each, script};
use service::exit::Failure;

/// Beside the grace: ssh's connection and the shell; and what SIGKILL takes.
const WITHIN: Duration = Duration::from_secs(45);
/// The coordinator writes what it knows, and closes its connections.
const COORDINATOR_GRACE: Duration = Duration::from_secs(10);

/// How a process ended: `stopped`, `killed` (SIGTERM was not enough within the grace) or `gone` (it had
/// ended before, or the machine has started anew since).
pub(crate) async fn stop(
    shell: &Shell,
    started: &Started,
    grace: Duration,
) -> Result<&'static str, Error> {
    let reply = call(shell, &script::stop(started.known(), grace), grace + WITHIN).await?;
    if let Some(pid) = reply.get("immortal") {
        return Err(Error::Immortal { pid: pid.parse().unwrap_or(0) });
    }
    let ends = ["stopped", "killed", "gone"];
    Ok(ends.into_iter().find(|end| reply.get(end).is_some()).unwrap_or("gone"))
}

/// Stops these workers of the record, all at once; those that are stopped leave it.
pub(crate) async fn stop_workers(
    folder: &Folder,
    record: &mut Record,
    workers: &[String],
    grace: Duration,
) -> Result<Vec<Row>, Failure> {
    let hosts: Vec<_> =
        record.hosts.iter().filter(|host| workers.contains(&host.worker)).cloned().collect();
    let of_record = &*record;
    let rows = each(&hosts, |host| async move {
        let row = match stop(&of_record.shell(host), &host.started, grace).await {
            Ok(end) => Row::of(host, end),
            Err(error) => Row::of(host, "").failed(&error),
        };
        row.tell("");
        row
    })
    .await;
    let is_stopped = |worker: &str| rows.iter().any(|row| row.worker == worker && !row.is_failed());
    record.hosts.retain(|host| !is_stopped(&host.worker));
    folder.write(record)?;
    Ok(rows)
}

/// Those that could not be stopped leave the record, too.
pub(crate) fn forget(
    folder: &Folder,
    record: &mut Record,
    rows: &mut [Row],
) -> Result<(), Failure> {
    for row in rows.iter_mut().filter(|row| row.is_failed()) {
        record.hosts.retain(|host| host.worker != row.worker);
        row.state = "forgotten".to_owned();
        render::warning(format_args!("{}: forgotten; its worker may still run", row.host));
    }
    folder.write(record)
}

/// The coordinator, if it is the record's. Whether there was one.
pub(crate) async fn stop_coordinator(
    folder: &Folder,
    record: &mut Record,
) -> Result<Option<&'static str>, Error> {
    let Some(coordinator) = &record.coordinator else { return Ok(None) };
    let end = stop(&Shell::Here, coordinator, COORDINATOR_GRACE).await?;
    // While there are workers that look for it, the next `up` starts it where it was.
    let again = Started { process: None, ..coordinator.clone() };
    record.coordinator = (!record.hosts.is_empty()).then_some(again);
    // Where this cannot be written, the next `up` or `down` finds it gone.
    let _ = folder.write(record);
    Ok(Some(end))
}

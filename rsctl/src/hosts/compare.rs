//! A hostfile beside the workers that there are: which hosts a job could use now, and what to do
//! about the others. Pure.

use serde::Serialize;

use common::hostfile::Hostfile;
use common::spec::{Host, HostSlots, Hosts, NodeNames};
use common::status::WorkerRow;
use common::units::count;

use crate::hosts::Chosen;

/// Hosts of one kind that are told one by one.
const MAX_TOLD: usize = 8;

/// The hosts that are meant, in the order of the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Compared {
    pub(crate) file: String,
    /// Every host could serve a job now, as far as that was looked at.
    pub(crate) ok: bool,
    /// The workers were looked at.
    pub(crate) compared: bool,
    pub(crate) hosts: Vec<ComparedHost>,
    /// Of all of them, those that are meant.
    pub(crate) slots: usize,
    /// Workers in service that the file does not list.
    pub(crate) unlisted: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ComparedHost {
    pub(crate) host: String,
    pub(crate) line: u32,
    /// As listed.
    pub(crate) slots: u32,
    /// The ones that are meant.
    #[serde(rename = "use")]
    pub(crate) meant: Vec<u32>,
    pub(crate) worker: Option<String>,
    pub(crate) worker_slots: Option<u32>,
    pub(crate) state: HostState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HostState {
    /// The workers were not looked at.
    Unknown,
    Ready,
    TooFewSlots,
    /// No worker is there.
    Missing,
    /// One is there and takes no job: its state.
    #[serde(untagged)]
    OutOfService(String),
}

impl HostState {
    pub(crate) fn is_fine(&self) -> bool {
        matches!(self, Self::Unknown | Self::Ready)
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Unknown => "",
            Self::Ready => "ready",
            Self::TooFewSlots => "too few slots",
            Self::Missing => "missing",
            Self::OutOfService(state) => state,
        }
    }
}

/// `hosts` are those of `chosen`; without `workers` nothing is compared.
pub(crate) fn compare(chosen: &Chosen, hosts: &Hosts, workers: Option<&[WorkerRow]>) -> Compared {
    let rows = workers.unwrap_or_default();
    // A node that the coordinator only expects has no worker.
    let find =
        |row: &WorkerRow| hosts.find(&names(row)).filter(|_| row.state != WorkerRow::MISSING);
    let at: Vec<Option<usize>> = rows.iter().map(find).collect();
    let on = |index: usize| {
        let is_there = move |(_, at): &(&WorkerRow, &Option<usize>)| **at == Some(index);
        rows.iter().zip(&at).filter(is_there).map(|(row, _)| row)
    };
    let selected = chosen.selection.hosts().iter().enumerate();
    let hosts: Vec<ComparedHost> = selected
        .map(|(index, selected)| {
            // Of several workers on one host the one that can do most.
            let worker = on(index).max_by_key(|row| (is_in_service(row), row.slots));
            let least = selected.slots.last().map_or(0, |last| last + 1);
            let state = match (workers, worker) {
                (None, _) => HostState::Unknown,
                (Some(_), None) => HostState::Missing,
                (_, Some(row)) if !is_in_service(row) => HostState::OutOfService(row.state.clone()),
                (_, Some(row)) if row.slots < least => HostState::TooFewSlots,
                _ => HostState::Ready,
            };
            ComparedHost {
                host: selected.entry.host.clone(),
                line: selected.entry.line,
                slots: selected.entry.slots,
                meant: selected.slots.clone(),
                worker: worker.map(|row| row.name.clone()),
                worker_slots: worker.map(|row| row.slots),
                state,
            }
        })
        .collect();
    Compared {
        file: chosen.hostfile.file().to_owned(),
        ok: hosts.iter().all(|host| host.state.is_fine()),
        compared: workers.is_some(),
        slots: chosen.selection.slots(),
        unlisted: unlisted(&chosen.hostfile, rows),
        hosts,
    }
}

fn names(row: &WorkerRow) -> NodeNames {
    NodeNames::new(&row.name, &row.hostname, &row.address)
}

fn is_in_service(row: &WorkerRow) -> bool {
    matches!(row.state.as_str(), "ready" | "excluded")
}

/// Workers in service that the file does not list, whatever is filtered.
fn unlisted(hostfile: &Hostfile, rows: &[WorkerRow]) -> Vec<String> {
    let entries = hostfile.entries().iter();
    let listed: Vec<Host> = entries
        .map(|entry| Host { name: entry.node().to_owned(), slots: HostSlots::All })
        .collect();
    let is_listed = |row: &&WorkerRow| {
        let names = names(row);
        listed.iter().any(|host| host.is(&names))
    };
    let in_service = rows.iter().filter(|row| is_in_service(row));
    in_service.filter(|row| !is_listed(row)).map(|row| row.name.clone()).collect()
}

impl Compared {
    /// What to do about each host that no job can use, and what may surprise.
    pub(crate) fn advice(&self) -> Vec<String> {
        let wanting: Vec<&ComparedHost> =
            self.hosts.iter().filter(|host| !host.state.is_fine()).collect();
        let told = wanting.iter().take(MAX_TOLD);
        let mut advice: Vec<String> =
            told.map(|host| format!("{}:{}: {}", self.file, host.line, host.advice())).collect();
        if wanting.len() > MAX_TOLD {
            advice.push(format!("and {} more hosts", wanting.len() - MAX_TOLD));
        }
        if !self.unlisted.is_empty() {
            let shown: Vec<&str> =
                self.unlisted.iter().take(MAX_TOLD).map(String::as_str).collect();
            let more = if self.unlisted.len() > MAX_TOLD { ", ..." } else { "" };
            let workers = count(self.unlisted.len() as u64, "worker");
            advice.push(format!(
                "{workers} not in {}: {}{more}; jobs that are given the file never run there",
                self.file,
                shown.join(", ")
            ));
        }
        advice
    }
}

impl ComparedHost {
    fn advice(&self) -> String {
        let Self { host, slots, state, .. } = self;
        let worker = self.worker.as_deref().unwrap_or_default();
        match state {
            HostState::Unknown | HostState::Ready => String::new(),
            HostState::Missing => format!(
                "no worker is on `{host}`: run `worker join --master MASTER` there; if one runs \
                 there, name it as `rsctl workers` does"
            ),
            HostState::TooFewSlots => {
                let has = count(self.worker_slots.unwrap_or(0).into(), "slot");
                format!(
                    "worker `{worker}` on `{host}` has {has}, {slots} are listed: list what it \
                     has, or start it with --slots {slots}"
                )
            }
            HostState::OutOfService(state) if state == "drained" || state == "draining" => format!(
                "worker `{worker}` on `{host}` is {state}: `rsctl drain {worker} --undo` takes it \
                 back into service"
            ),
            HostState::OutOfService(state) => {
                format!("worker `{worker}` on `{host}` is {state}: see whether it still runs there")
            }
        }
    }
}

#[cfg(test)]
mod tests;

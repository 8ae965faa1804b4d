//! What became of each host, for people and programs.

use serde::Serialize;

use crate::render;
use crate::ssh::Error;
use crate::ssh::record::HostRecord;
use crate::ssh::target::Target;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) host: String,
    pub(crate) worker: String,
    pub(crate) state: String,
    pub(crate) slots: Option<u32>,
    pub(crate) pid: Option<u32>,
    /// On the host.
    pub(crate) log: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) hint: Option<String>,
}

/// What a row says of a host that is not as it should be.
pub(crate) const FAILED: &str = "failed";

impl Row {
    pub(crate) fn of(host: &HostRecord, state: &str) -> Self {
        Self {
            host: host.host.clone(),
            worker: host.worker.clone(),
            state: state.to_owned(),
            slots: host.slots,
            pid: host.started.process.as_ref().map(|process| process.pid),
            log: Some(host.started.log.clone()),
            error: None,
            hint: None,
        }
    }

    pub(crate) fn of_target(target: &Target, state: &str) -> Self {
        Self {
            host: target.host.clone(),
            worker: target.worker.clone(),
            state: state.to_owned(),
            slots: target.slots,
            pid: None,
            log: None,
            error: None,
            hint: None,
        }
    }

    pub(crate) fn failed(self, error: &Error) -> Self {
        let hint = error.hint(&self.host);
        let error = Some(service::exit::chain(error));
        Self { state: FAILED.to_owned(), error, hint, ..self }
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.state == FAILED
    }

    /// One line as soon as it is known; what is wrong with what to do about it. `place` is where the
    /// host is written.
    pub(crate) fn tell(&self, place: &str) {
        let place = if place.is_empty() { String::new() } else { format!(" ({place})") };
        let Self { host, state, .. } = self;
        let (Some(error), hint) = (&self.error, &self.hint) else {
            let pid = self.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
            return render::talk(format_args!("{host}: {state}{pid}"));
        };
        let hint = hint.as_ref().map(|hint| format!("\n    what to do: {hint}"));
        render::talk(format_args!("{host}{place}: {error}{}", hint.unwrap_or_default()));
    }
}

/// `n1, n2, ...` of those that are failed.
pub(crate) fn failed_hosts(rows: &[Row]) -> (usize, String) {
    const NAMED: usize = 8;
    let failed: Vec<&str> =
        rows.iter().filter(|row| row.is_failed()).map(|row| row.host.as_str()).collect();
    let more = if failed.len() > NAMED { ", ..." } else { "" };
    let named = failed.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    (failed.len(), format!("{named}{more}"))
}

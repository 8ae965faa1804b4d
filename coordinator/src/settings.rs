//! The daemon's configuration: file < environment < flags.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use common::spec::Hosts;
use service::telemetry::{LogConfig, LogFormat};

use crate::expected;

/// Shorter leases end on a busy machine's hiccups; longer ones leave jobs hanging.
const LEASE_RANGE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(600));

/// Shorter ones end on a coordinator's restart; longer ones keep nodes for nothing.
const SLURM_LEASE_RANGE: (Duration, Duration) =
    (Duration::from_secs(5), Duration::from_secs(24 * 60 * 60));

/// What `coordinator serve` reads; the keys of its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// Address for clients and workers.
    pub listen: String,
    /// Holds the store, metrics, log tails and uploads.
    pub data_dir: PathBuf,
    pub log_format: LogFormat,
    /// tracing's filter language.
    pub log_filter: String,
    /// A worker that is silent for this long is lost.
    #[serde(with = "common::units::duration")]
    pub lease: Duration,
    /// After a restart, workers with trainers have this long to come back.
    #[serde(with = "common::units::duration")]
    pub reattach_grace: Duration,
    /// Final jobs that are remembered.
    pub keep_jobs: usize,
    /// Lists the nodes that are expected, as DeepSpeed's hostfiles do.
    pub hostfile: Option<PathBuf>,
    /// Jobs may run programs of their own (`job.command`).
    pub allow_commands: bool,
    /// Host by which the nodes of SLURM reach this coordinator; None: as it listens.
    pub slurm_address: Option<String>,
    /// Folder of our binaries on those nodes; None: as here.
    pub slurm_bin_dir: Option<PathBuf>,
    /// Workers there end by themselves when they were without a coordinator, or idle, for so long.
    #[serde(with = "common::units::duration")]
    pub slurm_lease: Duration,
    /// Allocations of jobs' own at once; those of pools have bounds of their own.
    pub slurm_max_allocations: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let control = control::coordinator::Config::default();
        let log = LogConfig::default();
        Self {
            listen: "0.0.0.0:29500".to_owned(),
            data_dir: default_data_dir(),
            log_format: log.format,
            log_filter: log.filter,
            lease: control.lease,
            reattach_grace: control.reattach_grace,
            keep_jobs: control.max_final_jobs,
            hostfile: None,
            allow_commands: control.allow_commands,
            slurm_address: None,
            slurm_bin_dir: None,
            slurm_lease: Duration::from_secs(300),
            slurm_max_allocations: control.max_allocations,
        }
    }
}

/// What was typed; absent flags leave the other layers alone.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Flags {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostfile: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_commands: Option<bool>,
}

/// Values that are well-formed and cannot be; all at once.
#[derive(Debug, thiserror::Error)]
#[error("configuration has {} mistake{}:\n  {}", .0.len(), if .0.len() == 1 { "" } else { "s" }, .0.join("\n  "))]
pub struct Mistakes(Vec<String>);

impl Settings {
    /// Checks what the types cannot.
    pub fn check(&self) -> Result<(), Mistakes> {
        let mut mistakes = Vec::new();
        let listen = self.listen.rsplit_once(':');
        if listen.is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
            mistakes.push(format!(
                "listen = `{}`: must be IP:PORT, such as 0.0.0.0:29500 (port 0 takes a free one)",
                self.listen
            ));
        }
        if self.data_dir.as_os_str().is_empty() {
            mistakes.push("data-dir is empty: it must name a folder".to_owned());
        }
        let (min, max) = LEASE_RANGE;
        if !(min..=max).contains(&self.lease) {
            let lease = humanly(self.lease);
            mistakes.push(format!("lease = `{lease}`: must be 500ms to 10m"));
        }
        if self.reattach_grace < self.lease {
            let (grace, lease) = (humanly(self.reattach_grace), humanly(self.lease));
            mistakes.push(format!(
                "reattach-grace = `{grace}`: must be at least the lease ({lease}), or a restart \
                 loses jobs whose workers are only slow to reconnect"
            ));
        }
        if self.keep_jobs == 0 {
            mistakes.push("keep-jobs = 0: must be at least 1".to_owned());
        }
        self.check_slurm(&mut mistakes);
        if mistakes.is_empty() { Ok(()) } else { Err(Mistakes(mistakes)) }
    }

    fn check_slurm(&self, mistakes: &mut Vec<String>) {
        if let Some(host) = self.slurm_address.as_deref().filter(|host| !is_host(host)) {
            mistakes.push(format!(
                "slurm-address = `{host}`: must be a name or an address without a port, such as \
                 ib-head or [fe80::1]"
            ));
        }
        // It goes into a batch script, which is text.
        let is_path = |folder: &&Path| folder.is_absolute() && folder.to_str().is_some();
        if self.slurm_max_allocations == 0 {
            mistakes.push("slurm-max-allocations = `0`: must be at least 1".to_owned());
        }
        if let Some(folder) = self.slurm_bin_dir.as_deref().filter(|folder| !is_path(folder)) {
            let folder = folder.display();
            mistakes.push(format!("slurm-bin-dir = `{folder}`: must be an absolute path in UTF-8"));
        }
        let (min, max) = SLURM_LEASE_RANGE;
        if !(min..=max).contains(&self.slurm_lease) {
            let lease = humanly(self.slurm_lease);
            mistakes.push(format!("slurm-lease = `{lease}`: must be 5s to 1day"));
        }
    }

    pub fn log_config(&self) -> LogConfig {
        LogConfig { format: self.log_format, filter: self.log_filter.clone() }
    }

    /// Reads the hostfile, if one is set.
    pub fn expected(&self) -> Result<Option<Hosts>, expected::Error> {
        self.hostfile.as_deref().map(expected::read).transpose()
    }

    /// The numbers that decisions use.
    pub fn control_config(&self) -> control::coordinator::Config {
        control::coordinator::Config {
            max_allocations: self.slurm_max_allocations,
            lease: self.lease,
            reattach_grace: self.reattach_grace,
            max_final_jobs: self.keep_jobs,
            allow_commands: self.allow_commands,
            ..Default::default()
        }
    }

    /// Why derived values are what they are, for `--print-config`.
    pub fn reasons() -> BTreeMap<&'static str, String> {
        let data_dir = "if not set: in $XDG_STATE_HOME, else in ~/.local/state, else in /var/lib";
        BTreeMap::from([("data-dir", data_dir.to_owned())])
    }
}

/// What a port may be put behind.
fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && text.chars().all(is_plain)
}

fn humanly(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

fn default_data_dir() -> PathBuf {
    let from_env =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let state = from_env("XDG_STATE_HOME")
        .or_else(|| from_env("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(|| Path::new("/var/lib").to_owned());
    state.join("rustspeed/coordinator")
}

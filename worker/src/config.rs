//! What the worker was told (`Settings`, layered) and what it means (`Config`, checked).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, TcpListener};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use common::exit::ExitCode;
use common::slurm::allocation::AllocationName;
use common::status::Gpus;
use common::units;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use service::exit::Failure;
use service::telemetry::LogFormat;

use crate::libtorch::{Libtorch, Wish};
use crate::{gpus, inventory};

/// Names appear in tables, logs and the rank table.
const MAX_NAME_LEN: usize = 64;

/// More ranks than this on one node are a typing mistake.
const MAX_SLOTS: u32 = 4096;

const MIN_LEAVE_AFTER: Duration = Duration::from_secs(1);

/// Where coordinators listen.
const DEFAULT_PORT: u16 = 29500;

/// Where SLURM tells when its allocation ends.
const SLURM_END: &str = "SLURM_JOB_END_TIME";

/// The keys of the configuration file, of `RUSTSPEED_*` and of the flags.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    pub master: Option<String>,
    pub slots: Slots,
    pub name: Option<String>,
    pub advertise: Option<String>,
    pub state_dir: Option<PathBuf>,
    pub trainer: Option<PathBuf>,
    pub libtorch: Wish,
    pub device: Offer,
    /// How long trainers may take to stop cleanly when the worker leaves.
    #[serde(with = "units::duration")]
    pub stop_grace: Duration,
    /// As `stop-grace`, after a notice that the node goes away (SIGUSR1, `ends-at`).
    #[serde(with = "units::duration")]
    pub notice_grace: Duration,
    /// When the node is taken away, in seconds since 1970. Without it, when SLURM's allocation ends.
    pub ends_at: Option<u64>,
    /// End when there was no coordinator, or nothing to run, for this long. None: never.
    #[serde(default, with = "units::optional_duration")]
    pub leave_after: Option<Duration>,
    /// The allocation of SLURM that this node is of, as the coordinator that asked for it calls it.
    pub allocation: Option<AllocationName>,
    /// Ranks stay on cores of their own, where there are enough.
    pub pin_cores: bool,
    /// Jobs may run programs of their own here (`job.command`).
    pub allow_commands: bool,
    pub log_format: LogFormat,
    pub log_filter: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            master: None,
            slots: Slots::Auto,
            name: None,
            advertise: None,
            state_dir: None,
            trainer: None,
            libtorch: Wish::Auto,
            device: Offer::Auto,
            stop_grace: Duration::from_secs(10),
            notice_grace: Duration::from_secs(60),
            ends_at: None,
            leave_after: None,
            allocation: None,
            pin_cores: true,
            allow_commands: false,
            log_format: LogFormat::default(),
            log_filter: "info".to_owned(),
        }
    }
}

/// What this node offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Offer {
    /// Cores, as long as computing on GPUs has not been proven on one.
    Auto,
    Cpu,
    Cuda,
}

/// What a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Cpu,
    Cuda,
}

impl Device {
    /// The wire's word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// How many ranks this node offers to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slots {
    /// One per core, or one per GPU where those are offered.
    Auto,
    Count(NonZeroU32),
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(n) => n.fmt(f),
        }
    }
}

impl FromStr for Slots {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse::<u32>()
            .ok()
            .filter(|n| *n <= MAX_SLOTS)
            .and_then(NonZeroU32::new)
            .map(Self::Count)
            .ok_or_else(|| format!("`{text}` must be `auto` or a number from 1 to {MAX_SLOTS}"))
    }
}

impl Serialize for Slots {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => to.serialize_str("auto"),
            Self::Count(n) => to.serialize_u32(n.get()),
        }
    }
}

impl<'de> Deserialize<'de> for Slots {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i64),
            Text(String),
        }
        let text = match Written::deserialize(from)? {
            Written::Number(n) => n.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What the worker runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// HOST:PORT of the coordinator.
    pub master: String,
    pub slots: NonZeroU32,
    pub name: String,
    /// None: the local address towards the coordinator.
    pub advertise: Option<IpAddr>,
    pub state_dir: PathBuf,
    /// The `trainer` binary.
    pub trainer: PathBuf,
    pub libtorch: Libtorch,
    pub device: Device,
    pub stop_grace: Duration,
    pub notice_grace: Duration,
    /// When the node is taken away, if that is known.
    pub ends_at: Option<SystemTime>,
    pub leave_after: Option<Duration>,
    pub allocation: Option<AllocationName>,
    pub pin_cores: bool,
    /// Jobs may run programs of their own.
    pub allow_commands: bool,
}

/// Why derived values are what they are, by key; for `--print-config`.
pub type Reasons = BTreeMap<&'static str, String>;

/// One thing about the settings that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mistake(&'static str, String);

#[derive(Debug, thiserror::Error)]
#[error("configuration has {} mistake{}:\n{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, list(.0))]
pub struct Mistakes(Vec<Mistake>);

fn list(mistakes: &[Mistake]) -> String {
    let lines: Vec<_> = mistakes.iter().map(|Mistake(k, why)| format!("  `{k}`: {why}")).collect();
    lines.join("\n")
}

impl Settings {
    /// Fills in what was derived and checks everything; all mistakes are told at once.
    pub fn check(&self) -> Result<(Config, Reasons), Failure> {
        let Some(master) = self.master.clone() else {
            let error = anyhow::anyhow!("no coordinator to join");
            return Err(Failure::new(ExitCode::Usage, error)
                .hint("give its address: --master 192.168.1.100:29500, or RUSTSPEED_MASTER"));
        };
        // As for rsctl: the port may be left out.
        let master = if master.contains(':') { master } else { format!("{master}:{DEFAULT_PORT}") };
        let mut mistakes = Vec::new();
        let mut reasons = Reasons::new();
        if let Err(error) = service::transport::check_address(&master) {
            mistakes.push(Mistake("master", error.to_string()));
        }
        let (device, slots) = match self.device {
            Offer::Auto | Offer::Cpu => (Device::Cpu, self.slots_on_cores(&mut reasons)),
            Offer::Cuda => {
                let gpus = gpus::visible();
                (Device::Cuda, self.slots_on_gpus(&gpus, &mut mistakes, &mut reasons))
            }
        };
        let name = self.settled_name(&mut mistakes, &mut reasons);
        let advertise = match self.advertise.as_deref().map(local_address).transpose() {
            Ok(advertise) => advertise,
            Err(problem) => {
                mistakes.push(Mistake("advertise", problem));
                None
            }
        };
        let state_dir = self.state_dir.clone().or_else(|| {
            let dir = default_state_dir(|key| std::env::var_os(key))?;
            reasons.insert("state-dir", format!("`{}`, this user's default", dir.display()));
            Some(dir)
        });
        // Trainers run in folders of their own and read uploaded inputs below it.
        let state_dir = state_dir.map(|dir| std::path::absolute(&dir).unwrap_or(dir));
        let program = self.program(&mut mistakes, &mut reasons);
        let ends_at = self.end(&mut mistakes, &mut reasons);
        if self.leave_after.is_some_and(|time| time < MIN_LEAVE_AFTER) {
            let problem = "must be at least 1s, or the worker ends before it has joined";
            mistakes.push(Mistake("leave-after", problem.to_owned()));
        }
        if state_dir.is_none() {
            mistakes.push(Mistake("state-dir", "no HOME to derive it from; set it".to_owned()));
        }
        match (mistakes.is_empty(), state_dir, program) {
            (true, Some(state_dir), Some((trainer, libtorch))) => {
                let Self { stop_grace, notice_grace, pin_cores, allow_commands, .. } = *self;
                let config = Config {
                    master,
                    slots,
                    name,
                    advertise,
                    state_dir,
                    trainer,
                    libtorch,
                    device,
                    stop_grace,
                    notice_grace,
                    ends_at,
                    leave_after: self.leave_after,
                    allocation: self.allocation.clone(),
                    pin_cores,
                    allow_commands,
                };
                Ok((config, reasons))
            }
            _ => Err(Failure::new(ExitCode::BadConfiguration, Mistakes(mistakes))),
        }
    }

    fn settled_name(&self, mistakes: &mut Vec<Mistake>, reasons: &mut Reasons) -> String {
        let name = self.name.clone().unwrap_or_else(|| {
            let name = name_of_host(&inventory::hostname());
            reasons.insert("name", format!("`{name}`, this machine's name"));
            name
        });
        if let Some(problem) = name_problem(&name) {
            mistakes.push(Mistake("name", problem));
        }
        name
    }

    fn slots_on_cores(&self, reasons: &mut Reasons) -> NonZeroU32 {
        match self.slots {
            Slots::Count(slots) => slots,
            Slots::Auto => {
                let cores = inventory::cores();
                reasons.insert("slots", format!("{cores} cores, one slot each"));
                cores
            }
        }
    }

    fn slots_on_gpus(
        &self,
        gpus: &Gpus,
        mistakes: &mut Vec<Mistake>,
        reasons: &mut Reasons,
    ) -> NonZeroU32 {
        let count = u32::try_from(gpus.devices.len()).ok().and_then(NonZeroU32::new);
        let Some(count) = count else {
            mistakes
                .push(Mistake("device", format!("`cuda`, but no GPU is seen: {}", gpus.source)));
            return NonZeroU32::MIN;
        };
        match self.slots {
            Slots::Count(slots) if slots > count => {
                let why = format!("{slots}, but a slot is a GPU, and there are {count}: {gpus}");
                mistakes.push(Mistake("slots", why));
                slots
            }
            Slots::Count(slots) => slots,
            Slots::Auto => {
                reasons.insert("slots", format!("{count} GPUs, one slot each: {gpus}"));
                count
            }
        }
    }

    /// When the node is taken away.
    fn end(&self, mistakes: &mut Vec<Mistake>, reasons: &mut Reasons) -> Option<SystemTime> {
        let future = |seconds: u64| {
            let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
            at.filter(|at| *at > SystemTime::now())
        };
        if let Some(seconds) = self.ends_at {
            let end = future(seconds);
            if end.is_none() {
                let problem = format!("`{seconds}` must be seconds since 1970, in the future");
                mistakes.push(Mistake("ends-at", problem));
            }
            return end;
        }
        let seconds = std::env::var(SLURM_END).ok()?.parse().ok()?;
        reasons.insert("ends-at", format!("`{seconds}`, {SLURM_END}"));
        future(seconds)
    }

    /// As told, or beside this binary; absolute.
    pub(crate) fn trainer_path(&self) -> Option<PathBuf> {
        let beside = || Some(std::env::current_exe().ok()?.parent()?.join("trainer"));
        let trainer = self.trainer.clone().or_else(beside)?;
        Some(std::path::absolute(&trainer).unwrap_or(trainer))
    }

    /// The trainer and what it runs on.
    fn program(
        &self,
        mistakes: &mut Vec<Mistake>,
        reasons: &mut Reasons,
    ) -> Option<(PathBuf, Libtorch)> {
        let trainer = self.trainer_path()?;
        if self.trainer.is_none() {
            reasons.insert("trainer", format!("`{}`, beside this binary", trainer.display()));
        }
        let needs_cuda = self.device == Offer::Cuda;
        let libtorch = Libtorch::resolve(&self.libtorch, &trainer, needs_cuda)
            .map_err(|problem| mistakes.push(Mistake("libtorch", problem)))
            .ok()?;
        if self.libtorch == Wish::Auto {
            reasons.insert("libtorch", libtorch.to_string());
        }
        Some((trainer, libtorch))
    }
}

fn name_problem(name: &str) -> Option<String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let fits = !name.is_empty() && name.len() <= MAX_NAME_LEN && name.chars().all(valid);
    (!fits)
        .then(|| format!("`{name}` must be 1 to {MAX_NAME_LEN} letters, digits, `.`, `_` or `-`"))
}

/// A host name as a worker's name: machines may be called what names may not.
fn name_of_host(hostname: &str) -> String {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String =
        hostname.chars().map(|c| if valid(c) { c } else { '-' }).take(MAX_NAME_LEN).collect();
    if name.is_empty() { "worker".to_owned() } else { name }
}

/// Trainers bind this address, so it must be one of this machine's.
fn local_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr =
        text.parse().map_err(|_| format!("`{text}` must be an IP address such as 10.0.0.4"))?;
    if address.is_unspecified() {
        return Err(format!("`{text}` is no address that peers can connect to"));
    }
    match TcpListener::bind((address, 0)) {
        Ok(_) => Ok(address),
        Err(error) => Err(format!("`{text}` is not an address of this machine: {error}")),
    }
}

fn default_state_dir(env: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let set = |key| env(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
    Some(base.join("rustspeed/worker"))
}

#[cfg(test)]
mod tests;

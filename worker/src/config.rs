//! What the worker was told (`Settings`, layered) and what it means (`Config`, checked).

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use common::cores::CoreList;
use common::exit::ExitCode;
use common::ports::PortRange;
use common::slurm::allocation::AllocationName;
use common::status::Gpus;
use common::units;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use service::exit::Failure;
use service::telemetry::LogFormat;

use crate::cores::{self, NoCores, Topology, Use};
use crate::libtorch::{Libtorch, Wish};
use crate::network::{self, Choice, Network};
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
    /// Where ranks listen, in the words of `NCCL_SOCKET_IFNAME`.
    pub interface: Option<Choice>,
    /// Ports that ranks listen on. None: any.
    pub port_range: Option<PortRange>,
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
    /// Processes of ranks stay on physical cores of their own, in place of `pin-cores`.
    pub bind_cores_to_rank: bool,
    /// On these alone, which asks for it.
    pub bind_core_list: Option<CoreList>,
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
            interface: None,
            port_range: None,
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
            bind_cores_to_rank: false,
            bind_core_list: None,
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
    pub network: Network,
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
    pub cores: Use,
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
        let master = with_port(&master);
        let mut mistakes = Vec::new();
        let mut reasons = Reasons::new();
        if let Err(error) = service::transport::check_address(&master) {
            mistakes.push(Mistake("master", error.to_string()));
        }
        let (cores, physical) = self.cores(&mut mistakes);
        let (device, slots) = match self.device {
            Offer::Auto | Offer::Cpu => (Device::Cpu, self.slots_on_cores(physical, &mut reasons)),
            Offer::Cuda => {
                let gpus = gpus::visible();
                (Device::Cuda, self.slots_on_gpus(&gpus, &mut mistakes, &mut reasons))
            }
        };
        if let Some(physical) = physical.filter(|physical| slots > *physical) {
            let why = NoCores::too_many_slots(slots.get(), physical.get());
            mistakes.push(Mistake("bind-cores-to-rank", why));
        }
        let name = self.settled_name(&mut mistakes, &mut reasons);
        let network = self.network(slots, &mut mistakes, &mut reasons);
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
                let Self { stop_grace, notice_grace, allow_commands, .. } = *self;
                let config = Config {
                    master,
                    slots,
                    name,
                    network,
                    state_dir,
                    trainer,
                    libtorch,
                    device,
                    stop_grace,
                    notice_grace,
                    ends_at,
                    leave_after: self.leave_after,
                    allocation: self.allocation.clone(),
                    cores,
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

    /// How ranks come to their cores, and where they are bound how many there are for that.
    fn cores(&self, mistakes: &mut Vec<Mistake>) -> (Use, Option<NonZeroU32>) {
        if !self.bind_cores_to_rank && self.bind_core_list.is_none() {
            return (if self.pin_cores { Use::Pin } else { Use::Float }, None);
        }
        let all = Topology::of_this_machine();
        let bound = match &self.bind_core_list {
            Some(list) => all.only(list).map_err(|why| Mistake("bind-core-list", why)),
            None if cores::has_quota(&all) => {
                Err(Mistake("bind-cores-to-rank", NoCores::Quota.to_string()))
            }
            None => Ok(all),
        };
        let physical = bound.map_err(|mistake| mistakes.push(mistake)).ok();
        let physical = physical.and_then(|cores| u32::try_from(cores.len()).ok());
        (Use::Bind(self.bind_core_list.clone()), physical.and_then(NonZeroU32::new))
    }

    /// `physical`: cores that ranks are bound to.
    fn slots_on_cores(&self, physical: Option<NonZeroU32>, reasons: &mut Reasons) -> NonZeroU32 {
        match (self.slots, physical) {
            (Slots::Count(slots), _) => slots,
            (Slots::Auto, Some(cores)) => {
                let found = units::count(cores.get().into(), "physical core");
                reasons.insert("slots", format!("{found} to bind ranks to, one slot each"));
                cores
            }
            (Slots::Auto, None) => {
                let cores = inventory::cores();
                reasons.insert("slots", format!("{cores} cores, one slot each"));
                cores
            }
        }
    }

    fn network(
        &self,
        slots: NonZeroU32,
        mistakes: &mut Vec<Mistake>,
        reasons: &mut Reasons,
    ) -> Network {
        let asked = network::Asked {
            advertise: self.advertise.as_deref(),
            interface: self.interface.as_ref(),
            ports: self.port_range,
            slots: slots.get(),
        };
        match asked.settle(&network::interfaces(), network::is_local) {
            Ok(network) => {
                if let (None, Some(address), Some(interface)) =
                    (&self.advertise, network.advertise, &network.interface)
                {
                    reasons.insert("advertise", format!("`{address}`, of {}", interface.name));
                }
                network
            }
            Err(wrong) => {
                mistakes.extend(wrong.into_iter().map(|(key, why)| Mistake(key, why)));
                Network::default()
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

/// As for rsctl: the port may be left out, and brackets where it is.
fn with_port(master: &str) -> String {
    if master.parse::<Ipv6Addr>().is_ok() {
        return format!("[{master}]:{DEFAULT_PORT}");
    }
    match master.ends_with(']') || !master.contains(':') {
        true => format!("{master}:{DEFAULT_PORT}"),
        false => master.to_owned(),
    }
}

fn default_state_dir(env: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    let set = |key| env(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
    Some(base.join("rustspeed/worker"))
}

#[cfg(test)]
mod tests;

//! The command line of `worker`: what was typed becomes what is meant.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use common::cores::CoreList;
use common::exit::ExitCode;
use common::ports::PortRange;
use common::slurm::allocation::AllocationName;
use common::units;
use serde::Serialize;
use service::exit::Failure;
use service::layers;
use service::shutdown::Shutdown;
use service::telemetry::{self, LogConfig, LogFormat};

use crate::config::{Offer, Settings, Slots};
use crate::libtorch::Wish;
use crate::network::Choice;
use crate::{inspect, node};

const EXAMPLES: &str = "\
Examples:
  worker join --master 192.168.1.100:29500             offer every core of this machine
  worker join --master 192.168.1.100:29500 --slots 2   offer two
  RUSTSPEED_MASTER=head:29500 worker join --log-format json
  worker join --master 192.168.1.100 --libtorch /opt/torch/lib   run trainers on that one
  worker join --master 192.168.1.100 --interface ib0   ranks meet on that network
  worker join --master 192.168.1.100 --slots 2 --bind-cores-to-rank   each rank on half of the cores
  worker join --master 192.168.1.100 --allow-commands   also run jobs' own programs: docs/launch.md
  worker join --config worker.toml --print-config      show what would be used, and why

Settings come from defaults, then --config, then RUSTSPEED_* (RUSTSPEED_STATE_DIR), then flags.";

const INSPECT_EXAMPLES: &str = "\
Examples:
  worker inspect
  worker inspect --libtorch /opt/torch/lib | jq .trainer";

#[derive(Debug, Parser)]
#[command(
    name = "worker",
    version,
    about = "Offers this machine's cores to a RustSpeed coordinator"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a coordinator and run its trainers until told to stop.
    #[command(after_help = EXAMPLES)]
    Join(Box<Join>),
    /// Print what this machine has to train with, as JSON: what `rsctl doctor` judges.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(Inspect),
}

/// What decides which trainer starts and what it runs on; the same keys as of `join`.
#[derive(Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Inspect {
    /// The trainer binary [default: beside this one].
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    trainer: Option<PathBuf>,
    /// The libtorch of `worker join --libtorch` [default: auto].
    #[arg(long, value_name = "DIR|auto")]
    #[serde(skip_serializing_if = "Option::is_none")]
    libtorch: Option<Wish>,
    /// TOML file with the keys of `worker join`.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Join {
    #[command(flatten)]
    flags: Flags,
    /// TOML file with the same keys as the flags.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the effective configuration and where each value comes from, then exit.
    #[arg(long)]
    print_config: bool,
    /// Check the configuration, then exit: 0, or 78 with every mistake.
    #[arg(long)]
    check_config: bool,
    /// Stop at once when standard input ends: whoever started this worker is gone.
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

/// The flags that are also configuration keys.
#[derive(Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Flags {
    /// The coordinator's address.
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    master: Option<String>,
    /// Slots to offer: a number, or `auto` for one per core, or per GPU of --device cuda [default: auto].
    #[arg(long, value_name = "N|auto")]
    #[serde(skip_serializing_if = "Option::is_none")]
    slots: Option<Slots>,
    /// Name in tables and logs [default: the machine's name].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// IP at which ranks of this node are reached by others; behind NAT with --port-range [default:
    /// the one towards the coordinator].
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise: Option<String>,
    /// Interface that ranks listen on, as in NCCL_SOCKET_IFNAME: eth0, or eth,ib or =eth0 or ^docker,lo.
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<Choice>,
    /// Ports that ranks listen on, such as 40000-40100: one for each slot [default: any].
    #[arg(long, value_name = "FIRST-LAST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    port_range: Option<PortRange>,
    /// Identity, unacknowledged results, uploads [default: ~/.local/state/rustspeed/worker].
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    state_dir: Option<PathBuf>,
    /// The trainer binary [default: beside this one].
    #[arg(long, value_name = "PATH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    trainer: Option<PathBuf>,
    /// When this node is taken away, in seconds since 1970: trainers save and leave in time [default:
    /// the end of SLURM's allocation].
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ends_at: Option<u64>,
    /// End after this long without a coordinator, or with nothing to run: nodes that a coordinator has
    /// asked for go back also when it is gone [default: never].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    #[serde(skip_serializing_if = "Option::is_none", with = "units::optional_duration")]
    leave_after: Option<Duration>,
    /// The allocation that this node is of: only its job runs here.
    #[arg(long, value_name = "NAME", hide = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    allocation: Option<AllocationName>,
    /// The libtorch 2.11.0 that trainers run on: a folder that it is in, or `auto` for the trainer's
    /// own, else the PyTorch of `python3`, else what `make setup` installed [default: auto].
    #[arg(long, value_name = "DIR|auto")]
    #[serde(skip_serializing_if = "Option::is_none")]
    libtorch: Option<Wish>,
    /// What a slot is: a core, or (never run on one yet) a GPU [default: auto, which is a core].
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Offer>,
    /// Give the process of each rank physical cores of its own: its part of the node's, by its slots.
    #[arg(long, alias = "bind_cores_to_rank")]
    #[serde(skip_serializing_if = "is_off")]
    bind_cores_to_rank: bool,
    /// Bind ranks to these CPUs alone.
    #[arg(long, value_name = "0-3,8", alias = "bind_core_list")]
    #[serde(skip_serializing_if = "Option::is_none")]
    bind_core_list: Option<CoreList>,
    /// Let jobs run programs of their own (job.command) here as this user, where the coordinator
    /// allows it too: whoever reaches its port may then run anything.
    #[arg(long)]
    #[serde(skip_serializing_if = "is_off")]
    allow_commands: bool,
    /// How log lines look.
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_format: Option<LogFormat>,
}

/// A flag that was not given leaves the other layers alone.
fn is_off(flag: &bool) -> bool {
    !flag
}

/// Parses, loads, runs until stopped.
pub fn main() -> Result<ExitCode, Failure> {
    match Cli::parse().command {
        Command::Join(join) => self::join(&join),
        Command::Inspect(inspect) => self::inspect(&inspect),
    }
}

fn inspect(flags: &Inspect) -> Result<ExitCode, Failure> {
    let loaded = layers::load::<Settings>(flags.config.as_deref(), flags)?;
    let facts = inspect::look(&loaded.value);
    let text = serde_json::to_string_pretty(&facts);
    print(&(text.map_err(|error| Failure::new(ExitCode::Bug, error))? + "\n"));
    Ok(ExitCode::Done)
}

fn join(join: &Join) -> Result<ExitCode, Failure> {
    let loaded = layers::load::<Settings>(join.config.as_deref(), &join.flags)?;
    let checked = loaded.value.check();
    if join.check_config {
        // A configuration that lacks the coordinator is not complete, whoever could still name it.
        let wrong = |failure| Failure { code: ExitCode::BadConfiguration, ..failure };
        return checked.map(|_| ExitCode::Done).map_err(wrong);
    }
    let (config, reasons) = checked?;
    if join.print_config {
        let text = loaded.render(&reasons).map_err(|error| Failure::new(ExitCode::Bug, error))?;
        print(&text);
        return Ok(ExitCode::Done);
    }
    let log =
        LogConfig { format: loaded.value.log_format, filter: loaded.value.log_filter.clone() };
    telemetry::init(&log).map_err(|error| Failure::new(ExitCode::BadConfiguration, error))?;
    // Two threads: the daemon waits nearly always, and the cores belong to the trainers.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ExitCode::Failed, error))?;
    let result = runtime.block_on(async {
        let failed = |error| Failure::new(ExitCode::Failed, error);
        let shutdown = Shutdown::on_signals().map_err(failed)?;
        shutdown.on_notice().map_err(failed)?;
        if join.exit_with_stdin {
            stop_with_stdin(shutdown.clone());
        }
        node::run(config, shutdown).await
    });
    // Threads that still block on a disk or on stdin do not hold the end up.
    runtime.shutdown_background();
    result
}

#[expect(clippy::print_stdout, reason = "the output that --print-config promises")]
fn print(text: &str) {
    print!("{text}");
}

/// A thread of its own: reading stdin cannot be cancelled.
fn stop_with_stdin(shutdown: Shutdown) {
    std::thread::spawn(move || {
        // An unreadable stdin is as good as an ended one.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        shutdown.force("standard input ended");
    });
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}

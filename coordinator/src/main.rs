//! `coordinator serve`: the master node.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use common::exit;
use coordinator::{Coordinator, Flags, Settings};
use service::exit::Failure;
use service::layers::{self, Loaded};
use service::shutdown::Shutdown;
use service::telemetry::{self, LogFormat};

/// Decides what trains where: queue, placement, rendezvous, failures, checkpoints.
#[derive(Debug, Parser)]
#[command(name = "coordinator", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the coordinator in the foreground until SIGTERM or Ctrl-C.
    #[command(after_help = EXAMPLES)]
    Serve(Serve),
}

const EXAMPLES: &str = "\
Examples:
  coordinator serve                                   # 0.0.0.0:29500, state in the data folder
  coordinator serve --listen 127.0.0.1:0              # a free port, printed as the first line
  coordinator serve --data-dir /var/lib/rustspeed     # state that survives a restart, there
  coordinator serve --hostfile hosts.txt              # rsctl workers tells which of them are missing
  coordinator serve --config coordinator.toml --print-config
  coordinator serve --allow-commands                  # also runs jobs' own programs: docs/launch.md

The first line on stdout is `listening ADDRESS`. Every key of the configuration file is also an
environment variable: RUSTSPEED_LISTEN, RUSTSPEED_DATA_DIR, RUSTSPEED_LEASE, ...
Stopping the coordinator stops no training: workers go on and come back.";

#[derive(Debug, Args)]
struct Serve {
    /// Address for clients and workers; port 0 takes a free one [default: 0.0.0.0:29500]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// Folder for jobs, metrics, log tails and uploads [default: in $XDG_STATE_HOME]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// TOML file; environment variables and flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A worker that is silent for this long is lost, such as 5s
    #[arg(long, value_name = "DURATION")]
    lease: Option<String>,
    /// Lists the nodes that are expected, HOST slots=N a line: `rsctl workers` tells the missing ones
    #[arg(long, value_name = "FILE")]
    hostfile: Option<PathBuf>,
    /// Let jobs run programs of their own (job.command) as this user on workers with the same flag:
    /// whoever reaches this port may then run anything there
    #[arg(long)]
    allow_commands: bool,
    /// How log lines look [default: text]
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    /// Print the effective configuration with the origin of each value, and exit
    #[arg(long)]
    print_config: bool,
    /// Check the configuration and exit: 0, or 78
    #[arg(long)]
    check_config: bool,
    /// Stop when stdin ends: for private clusters
    #[arg(long, hide = true)]
    exit_with_stdin: bool,
}

fn main() -> ExitCode {
    let Command::Serve(serve) = Cli::parse().command;
    service::exit::finish(run(&serve))
}

fn run(serve: &Serve) -> Result<exit::ExitCode, Failure> {
    let flags = Flags {
        listen: serve.listen.clone(),
        data_dir: serve.data_dir.clone(),
        log_format: serve.log_format,
        lease: serve.lease.clone(),
        hostfile: serve.hostfile.clone(),
        allow_commands: serve.allow_commands.then_some(true),
    };
    let loaded: Loaded<Settings> = layers::load(serve.config.as_deref(), &flags)?;
    let settings = &loaded.value;
    settings
        .check()
        .map_err(|mistakes| Failure::new(exit::ExitCode::BadConfiguration, mistakes))?;
    if serve.print_config {
        let text = loaded.render(&Settings::reasons()).map_err(failed)?;
        return say(&text);
    }
    if serve.check_config {
        settings
            .expected()
            .map_err(|error| Failure::new(exit::ExitCode::BadConfiguration, error))?;
        return Ok(exit::ExitCode::Done);
    }
    telemetry::init(&settings.log_config())
        .map_err(|error| Failure::new(exit::ExitCode::BadConfiguration, error))?;
    allow_many_connections();
    // Two threads serve thousands of idle streams; blocking work has its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(serve_until_stopped(settings, serve.exit_with_stdin))
}

/// Each connection is an open file. The usual limit of 1024 is there for programs that use select(2);
/// whoever may not have more has lowered the hard limit too.
fn allow_many_connections() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

async fn serve_until_stopped(
    settings: &Settings,
    exit_with_stdin: bool,
) -> Result<exit::ExitCode, Failure> {
    let shutdown = Shutdown::on_signals().map_err(failed)?;
    if exit_with_stdin {
        stop_with_stdin(shutdown.clone()).map_err(failed)?;
    }
    let coordinator = Coordinator::build(settings).await?;
    say(&format!("listening {}\n", coordinator.address()))?;
    coordinator.run(shutdown).await?;
    Ok(exit::ExitCode::Done)
}

/// Whoever started us holds the other end; its end is ours, whatever ended it.
fn stop_with_stdin(shutdown: Shutdown) -> std::io::Result<()> {
    let watching = thread::Builder::new().name("stdin".to_owned());
    watching.spawn(move || {
        let mut buffer = [0; 256];
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut buffer), Ok(read) if read > 0) {}
        shutdown.request("stdin ended");
    })?;
    Ok(())
}

/// Data for scripts goes to stdout, at once.
fn say(text: &str) -> Result<exit::ExitCode, Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .context("write to stdout")
        .map_err(|error| Failure::new(exit::ExitCode::Failed, error))?;
    Ok(exit::ExitCode::Done)
}

fn failed(error: impl Into<anyhow::Error>) -> Failure {
    Failure::new(exit::ExitCode::Failed, error)
}

//! The process of one rank: takes an assignment from its worker, meets its peers, trains, reports.
//! The main thread speaks with the worker and never computes; the training thread computes and
//! never waits for the worker. When the worker's end of the socket closes, this process ends.

mod control;
mod inherit;
mod outbox;
mod panics;
mod rank;
mod stack;
mod whereabouts;

use clap::Parser;
use common::exit::ExitCode;
use service::exit::Failure;
use service::telemetry::{self, LogConfig};

const ABOUT: &str = "One rank of a RustSpeed job";

const LONG_ABOUT: &str = "\
One rank of a RustSpeed job.

Workers start this program, one process per rank; it is not run by hand. To train, use
  rsctl run job.toml        on this machine
  rsctl submit job.toml     on a cluster";

#[derive(Debug, Parser)]
#[command(name = "trainer", version, about = ABOUT, long_about = LONG_ABOUT)]
struct Cli {}

fn main() -> std::process::ExitCode {
    let Cli {} = Cli::parse();
    service::exit::finish(start())
}

fn start() -> Result<ExitCode, Failure> {
    let socket = inherit::socket().map_err(|error| {
        Failure::new(ExitCode::Usage, error)
            .hint("workers start this program; to train, use `rsctl run job.toml`")
    })?;
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| LogConfig::default().filter);
    telemetry::init(&LogConfig { filter, ..LogConfig::default() })
        .map_err(|error| Failure::new(ExitCode::BadConfiguration, error))?;
    panics::record();
    stack::record_on_demand();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ExitCode::Failed, error))?;
    match runtime.block_on(control::run(socket)) {
        Ok(code) => inherit::leave(code),
        Err(error) => {
            tracing::error!(error = service::exit::chain(&error), "leaving");
            inherit::leave(ExitCode::Failed)
        }
    }
}

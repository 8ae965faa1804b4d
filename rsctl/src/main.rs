//! `rsctl`: what people and scripts type. Data goes to stdout, talk to stderr, and the exit code
//! says how it ended. Decides nothing about jobs: it asks the coordinator, or starts a private one.

mod args;
mod clock;
mod cluster;
mod commands;
mod coordinator;
mod doctor;
mod follow;
mod hosts;
mod interrupts;
mod job;
mod launch;
mod log_reader;
mod master;
mod place;
mod render;
mod slurm;
mod ssh;
mod sweep;
#[cfg(test)]
mod tests;
mod upload;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode as ProcessExit;

use clap::Parser;

use common::exit::ExitCode;
use service::exit::Failure;

fn main() -> ProcessExit {
    std::panic::set_hook(Box::new(|panic| render::bug(&panic.to_string())));
    // clap ends the process itself: 0 for --help and --version, 2 for a wrong command line.
    let args = args::Args::parse();
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| execute(args.command)));
    match result {
        Ok(Err(failure)) if render::is_closed_pipe(&failure) => ExitCode::Done.into(),
        Ok(Ok(code)) => code,
        Ok(Err(failure)) => service::exit::finish(Err(failure)),
        Err(_) => ExitCode::Bug.into(),
    }
}

fn execute(command: args::Command) -> Result<ProcessExit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ExitCode::Failed, error))?;
    runtime.block_on(commands::execute(command))
}

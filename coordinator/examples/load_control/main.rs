//! Loads a real coordinator over real sockets with simulated workers that speak the real protocol
//! and sleep through their steps; prints one JSON object of what it measured (`bench/sections/
//! control.py` shows it beside the peers' figures). Loopback only, bounded in count and time.
//!
//! ```text
//! cargo run --release -p coordinator --example load_control -- target/release/coordinator 1000 100000
//! ```

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

mod child;
mod decide;
mod phases;
mod pulse;
mod queue;
mod spec;
mod worker;

use std::error::Error;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Beyond this it would measure the machine's limits on open files.
const MAX_WORKERS: usize = 4096;

/// Below the coordinator's own bound on open jobs.
const MAX_JOBS: usize = 150_000;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: load_control PATH-OF-COORDINATOR [WORKERS [QUEUED-JOBS]]";
    let binary = PathBuf::from(arguments.next().ok_or(usage)?);
    let workers: usize = arguments.next().map_or(Ok(1000), |text| text.parse())?;
    let jobs: usize = arguments.next().map_or(Ok(100_000), |text| text.parse())?;
    if !(2..=MAX_WORKERS).contains(&workers) || !(64..=MAX_JOBS).contains(&jobs) {
        return Err(format!("2 to {MAX_WORKERS} workers, 64 to {MAX_JOBS} jobs: {usage}").into());
    }
    raise_file_limit(workers)?;
    let decisions = decide::measure();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut measured = runtime.block_on(phases::run(&binary, workers, jobs))?;
    measured.insert("decide".to_owned(), decisions);
    println!("{}", serde_json::Value::Object(measured));
    Ok(())
}

/// A control and a bulk connection of each worker, and some.
fn raise_file_limit(workers: usize) -> Outcome<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = 2 * workers as u64 + 500;
    if hard < needed {
        return Err(format!("{needed} open files are needed, the hard limit is {hard}").into());
    }
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

//! Trains a job file with its ranks as threads of this process, for profiling the engine without
//! daemons: `local JOB_TOML WORLD RUN_DIR [KEY=VALUE...]`. Prints the summary as JSON.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example speaks on its own")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use collectives::{Listener, Mesh, MeshConfig, PeerAddress, Transport};
use common::ids::{AttemptId, Generation, Rank};
use common::jobfile::{self, Override};
use common::spec::{JobSpec, Transport as Asked};
use common::status::{CheckpointRow, Live, MetricPoint};
use engine::{Outcome, RankContext, Reporter};

struct Notes;

impl Reporter for Notes {
    fn progress(&self, _: Live) {}
    fn metric(&self, _: &'static str, _: MetricPoint) {}
    fn note(&self, text: String) {
        eprintln!("note: {text}");
    }
    fn checkpoint(&self, row: CheckpointRow, _: Vec<String>) {
        eprintln!("checkpoint: {} ({} bytes)", row.path, row.bytes);
    }
    fn found(&self, _: Vec<CheckpointRow>) {}
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, job, world, run_dir, settings @ ..] = &arguments[..] else {
        return Err("usage: local JOB_TOML WORLD RUN_DIR [KEY=VALUE...]".into());
    };
    let spec = load(job, settings)?;
    let (world, run_dir): (u32, _) = (world.parse()?, std::path::absolute(run_dir)?);
    let listeners = (0..world)
        .map(|_| Listener::bind(IpAddr::V4(Ipv4Addr::LOCALHOST)))
        .collect::<Result<Vec<_>, _>>()?;
    let peers: Vec<PeerAddress> = (0_u32..)
        .zip(&listeners)
        .map(|(rank, listener)| PeerAddress {
            rank,
            address: listener.address(),
            unix_name: listener.unix_name().to_owned(),
            worker: "local".to_owned(),
        })
        .collect();
    let (spec, peers, run_dir) = (&spec, &peers, &run_dir);
    let outcomes: Vec<Result<Outcome, Box<dyn Error + Send + Sync>>> =
        std::thread::scope(|scope| {
            let ranks: Vec<_> = (0_u32..)
                .zip(listeners)
                .map(|(rank, listener)| {
                    scope.spawn(move || run_rank(rank, listener, (spec, peers, run_dir)))
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().expect("a rank does not panic")).collect()
        });
    for outcome in outcomes {
        if let Some(summary) = outcome?.summary {
            println!("{}", serde_json::to_string_pretty(&summary)?);
        }
    }
    Ok(())
}

fn load(job: &str, settings: &[String]) -> Result<JobSpec, Box<dyn Error + Send + Sync>> {
    let path = std::path::absolute(job)?;
    let overrides =
        settings.iter().map(|text| Override::set(text)).collect::<Result<Vec<_>, _>>()?;
    let loaded = jobfile::load(&jobfile::Input {
        name: job,
        text: &fs_err::read_to_string(&path)?,
        base_dir: path.parent().ok_or("a file has a parent")?,
        caller_dir: &std::env::current_dir()?,
        overrides: &overrides,
        strict: false,
        read: &|path| fs_err::read_to_string(path),
        variable: &|name| std::env::var(name).ok(),
    })?;
    Ok(loaded.spec)
}

fn run_rank(
    rank: u32,
    listener: Listener,
    (spec, peers, run_dir): (&JobSpec, &[PeerAddress], &Path),
) -> Result<Outcome, Box<dyn Error + Send + Sync>> {
    let world = peers.len() as u32;
    let config = MeshConfig {
        rank,
        world,
        token: [1; 16],
        peers: peers.to_vec(),
        transport: match spec.resources.transport {
            Asked::Auto => Transport::Auto,
            Asked::SharedMemory => Transport::SharedMemory,
            Asked::Tcp => Transport::Tcp,
        },
        connect_timeout: Duration::from_secs(10),
        collective_timeout: spec.job.collective_timeout,
        channels: 2,
        has_own_cores: false,
    };
    let mesh = if world == 1 { Mesh::solo(2) } else { Mesh::connect(Some(listener), config)? };
    let outcome = engine::run(RankContext {
        spec: spec.clone(),
        job_id: "local-run".parse()?,
        attempt: AttemptId(1),
        generation: Generation(1),
        rank: Rank(rank),
        world,
        run_dir: run_dir.to_owned(),
        worker: "local".to_owned(),
        communicator: mesh.communicator(0)?,
        device_communicator: None,
        device: engine::Device::CPU,
        save_communicator: mesh.communicator(1)?,
        reporter: Arc::new(Notes),
        stop: Arc::new(AtomicBool::new(false)),
        pulse: Default::default(),
    });
    if let Err(error) = &outcome {
        mesh.abort_handle().abort(&error.to_string());
    }
    Ok(outcome?)
}

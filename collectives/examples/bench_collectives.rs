//! Times fp32 all-reduce, reduce-scatter and all-gather between processes of this machine: one JSON
//! line a size from rank 0, with the sizes and repetitions of the Gloo benchmark beside it
//! (`bench/peers/collectives_gloo.py`), and the time of a plain copy of as many bytes.
//!
//! ```text
//! cargo run --release -p collectives --example bench_collectives -- --transport shared-memory --world 2
//! ```
//! The process starts itself once per rank and plays the rendezvous over the ranks' pipes.

use std::{
    env,
    error::Error,
    hint::black_box,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use collectives::{
    Communicator, DataType, Listener, Mesh, MeshConfig, PeerAddress, ReduceOp, Transport,
};
use serde_json::{Value, json};

const SIZES: &str = "1024,65536,1048576,16777216";

/// About twice what the load balancer was seen to need.
const SETTLE: Duration = Duration::from_millis(250);

/// A rank that needs longer than this for anything is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

type Outcome<T> = Result<T, Box<dyn Error>>;

struct Arguments {
    world: u32,
    transport: Transport,
    /// Elements per operation, comma-separated.
    sizes: String,
    /// Set in the processes that this one starts.
    rank: Option<u32>,
}

struct Ranks(Vec<Child>);

fn main() -> Outcome<()> {
    let arguments = Arguments::parse(env::args().skip(1))?;
    match arguments.rank {
        Some(rank) => run_rank(&arguments, rank),
        None => run_all(&arguments),
    }
}

impl Arguments {
    fn parse(mut given: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut arguments = Self {
            world: 2,
            transport: Transport::SharedMemory,
            sizes: SIZES.to_owned(),
            rank: None,
        };
        while let Some(name) = given.next() {
            let value = given.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--world" => arguments.world = value.parse()?,
                "--rank" => arguments.rank = Some(value.parse()?),
                "--transport" => arguments.transport = transport(&value)?,
                "--sizes" => arguments.sizes = value,
                _ => return Err(format!("{name}: use --transport, --world, --sizes").into()),
            }
        }
        Ok(arguments)
    }
}

fn transport(name: &str) -> Outcome<Transport> {
    match name {
        "shared-memory" => Ok(Transport::SharedMemory),
        "tcp" => Ok(Transport::Tcp),
        _ => Err(format!("--transport {name}: use shared-memory or tcp").into()),
    }
}

fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        _ => "shared-memory",
    }
}

/// The rendezvous: gathers the ranks' addresses, hands out the table, passes rank 0's lines on.
fn run_all(arguments: &Arguments) -> Outcome<()> {
    let mut ranks = Ranks(Vec::new());
    for rank in 0..arguments.world {
        let child = Command::new(env::current_exe()?)
            .args(["--rank", &rank.to_string(), "--world", &arguments.world.to_string()])
            .args(["--transport", name(arguments.transport), "--sizes", &arguments.sizes])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        ranks.0.push(child);
    }
    let mut outputs = Vec::new();
    let mut table = Vec::new();
    for child in &mut ranks.0 {
        let mut output = BufReader::new(child.stdout.take().ok_or("a rank without stdout")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        table.push(serde_json::from_str::<Value>(&line)?);
        outputs.push(output);
    }
    let table = Value::from(table).to_string();
    for child in &mut ranks.0 {
        writeln!(child.stdin.take().ok_or("a rank without stdin")?, "{table}")?;
    }
    io::copy(&mut outputs[0], &mut io::stdout())?;
    for child in &mut ranks.0 {
        let status = child.wait()?;
        if !status.success() {
            return Err(format!("a rank ended with {status}").into());
        }
    }
    Ok(())
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It fails only for a rank that has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn run_rank(arguments: &Arguments, rank: u32) -> Outcome<()> {
    let listener = Listener::bind(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
    let own = json!({"address": listener.address().to_string(), "unix_name": listener.unix_name()});
    writeln!(io::stdout(), "{own}")?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    let rows: Vec<Value> = serde_json::from_str(&line)?;
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let peers = (0..)
        .zip(&rows)
        .map(|(rank, row)| {
            let (address, unix_name) = (text(row, "address").parse()?, text(row, "unix_name"));
            Ok(PeerAddress { rank, address, unix_name, worker: "bench".to_owned() })
        })
        .collect::<Outcome<Vec<_>>>()?;
    let config = MeshConfig {
        rank,
        world: arguments.world,
        token: [7; 16],
        peers,
        transport: arguments.transport,
        connect_timeout: PATIENCE,
        collective_timeout: PATIENCE,
        channels: 1,
        has_own_cores: false,
    };
    let mesh = Mesh::connect(Some(listener), config)?;
    let mut communicator = mesh.communicator(0)?;
    settle(&mut communicator)?;
    for elements in arguments.sizes.split(',') {
        let line = bench(&mut communicator, elements.parse()?, name(arguments.transport))?;
        if rank == 0 {
            writeln!(io::stdout(), "{line}")?;
        }
    }
    communicator.barrier()?;
    Ok(())
}

/// Runs small operations until the system has given each rank a core: new processes begin together
/// on one, where the worker pins its trainers to cores of their own.
fn settle(communicator: &mut Communicator) -> Outcome<()> {
    let start = Instant::now();
    loop {
        // Rank 0's clock decides, so that all ranks make the same number of rounds.
        let mut is_over = [u8::from(start.elapsed() >= SETTLE)];
        communicator.broadcast(&mut is_over, 0)?;
        if is_over == [1] {
            return Ok(());
        }
    }
}

fn bench(communicator: &mut Communicator, elements: usize, transport: &str) -> Outcome<Value> {
    let world = communicator.world();
    let bytes = elements * DataType::F32.size();
    let part = elements / world as usize * DataType::F32.size();
    let whole = part * world as usize;
    let repetitions = ((64 << 20) / elements).clamp(5, 300);
    let mut data: Vec<u8> = (0..elements).flat_map(|at| (at as f32).to_ne_bytes()).collect();
    let mut output = vec![0_u8; part];
    let (kind, op) = (DataType::F32, ReduceOp::Sum);
    let all_reduce_us = time(communicator, repetitions, |communicator| {
        communicator.all_reduce(black_box(&mut data), kind, op)
    })?;
    let reduce_scatter_us = time(communicator, repetitions, |communicator| {
        communicator.reduce_scatter(black_box(&data[..whole]), &mut output, kind, op)
    })?;
    let all_gather_us = time(communicator, repetitions, |communicator| {
        communicator.all_gather(black_box(&output), &mut data[..whole])
    })?;
    let mut copy = vec![0_u8; bytes];
    let memcpy_us = time(communicator, repetitions, |_| {
        black_box(&mut copy).copy_from_slice(black_box(&data));
        Ok(())
    })?;
    Ok(json!({
        "peer": "rustspeed", "transport": transport, "bytes": bytes, "world": world,
        "all_reduce_us": all_reduce_us, "reduce_scatter_us": reduce_scatter_us,
        "all_gather_us": all_gather_us, "memcpy_us": memcpy_us,
    }))
}

/// The mean time of one call in microseconds, after two to warm up and a barrier.
fn time(
    communicator: &mut Communicator,
    repetitions: usize,
    mut act: impl FnMut(&mut Communicator) -> Result<(), collectives::Error>,
) -> Outcome<f64> {
    act(communicator)?;
    act(communicator)?;
    communicator.barrier()?;
    let start = Instant::now();
    for _ in 0..repetitions {
        act(communicator)?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / repetitions as f64)
}

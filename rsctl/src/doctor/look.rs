//! Gathers the facts: starts programs, opens ports, asks the coordinator. Thinks nothing of them; every
//! wait has a deadline.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::Command;
use tokio::time::timeout;

use common::node::NodeFacts;
use service::exit::chain;
use service::transport;

use super::here::{Binaries, Disk, Facts, Name, Port};
use super::{cluster, here};
use crate::clock;
use crate::coordinator::Coordinator;
use crate::master::{DEFAULT_PORT, Master};

/// A program that only says its version; the trainer loads libtorch before it does.
const VERSION_WITHIN: Duration = Duration::from_secs(20);
/// Drivers of GPUs, python3 and the trainer each have ten seconds.
const INSPECTED_WITHIN: Duration = Duration::from_secs(60);
/// This machine, talking to itself.
const REACHED_WITHIN: Duration = Duration::from_secs(3);
/// A name server that does not answer is as good as none.
const RESOLVED_WITHIN: Duration = Duration::from_secs(5);

const OTHERS: [&str; 3] = ["coordinator", "worker", "trainer"];

/// Looks at this machine; `master` says which of its networks counts.
pub(crate) async fn here(output_dir: &Path, master: Option<&Master>) -> here::Facts {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("rsctl"));
    let folder = own.parent().unwrap_or(Path::new(".")).to_owned();
    let node = node(&folder).await;
    let name = name().await;
    let ports = ports(&name, master).await;
    let usual_port = match master {
        Some(_) => None,
        None => Some(bind((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT).into()).await.map(drop)),
    };
    let binaries = binaries(folder, node.as_ref()).await;
    Facts { binaries, node, disk: disk(output_dir), ports, usual_port, name }
}

async fn node(folder: &Path) -> Option<Result<NodeFacts, String>> {
    let worker = folder.join("worker");
    if !worker.is_file() {
        return None;
    }
    let said = said(&worker, "inspect", INSPECTED_WITHIN).await;
    Some(said.and_then(|text| {
        serde_json::from_str(&text)
            .map_err(|error| format!("what `worker inspect` says means nothing here: {error}"))
    }))
}

async fn binaries(folder: PathBuf, node: Option<&Result<NodeFacts, String>>) -> Binaries {
    let mut others = Vec::new();
    for name in OTHERS {
        let path = folder.join(name);
        // Only the worker knows on which libtorch the trainer starts, and it has tried.
        let by_worker = node.and_then(|node| node.as_ref().ok()).map(|node| &node.trainer);
        let version = match (path.is_file(), name, by_worker) {
            (false, ..) => None,
            // Why it does not start is told of as libtorch's matter.
            (true, "trainer", Some(trainer)) => {
                let own = env!("CARGO_PKG_VERSION").to_owned();
                Some(Ok(trainer.version.clone().unwrap_or(own)))
            }
            (true, ..) => Some(
                said(&path, "--version", VERSION_WITHIN)
                    .await
                    .map(|said| said.trim().rsplit(' ').next().unwrap_or_default().to_owned()),
            ),
        };
        others.push((name, version));
    }
    Binaries { folder, own_version: env!("CARGO_PKG_VERSION").to_owned(), others }
}

/// What a program says on stdout, if it ends well in time; else why not.
async fn said(program: &Path, argument: &str, within: Duration) -> Result<String, String> {
    let name = program.file_name().unwrap_or(OsStr::new("program")).display().to_string();
    let running = Command::new(program)
        .arg(argument)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let done = match timeout(within, running).await {
        Ok(done) => done.map_err(|error| format!("start {name}: {error}"))?,
        Err(_) => return Err(format!("{name} said nothing within {} s", within.as_secs())),
    };
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&done.stderr);
    let first = words.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(format!("`{name} {argument}` ended with {}: {first}", done.status))
}

/// The nearest folder that exists: the output folder is made by the first run.
fn disk(output_dir: &Path) -> Disk {
    let folder = std::path::absolute(output_dir).unwrap_or_else(|_| output_dir.to_owned());
    let existing = folder.ancestors().find(|folder| folder.exists());
    let free = existing.ok_or_else(|| "no such folder".to_owned()).and_then(|existing| {
        // Written to, not asked: permissions are not all that can be in the way.
        tempfile::tempfile_in(existing).map_err(|error| format!("cannot be written: {error}"))?;
        let stat = nix::sys::statvfs::statvfs(existing).map_err(|error| error.to_string())?;
        Ok(stat.blocks_available() * stat.fragment_size())
    });
    Disk { folder, free }
}

async fn name() -> Name {
    let hostname = fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let hostname = hostname.trim().to_owned();
    let looking = tokio::net::lookup_host((hostname.clone(), 0));
    let addresses = match timeout(RESOLVED_WITHIN, looking).await {
        Ok(Ok(found)) => {
            let mut addresses: Vec<(IpAddr, bool)> = Vec::new();
            for address in found.map(|address| address.ip()) {
                // Only an address of our own can be bound.
                let is_ours = UdpSocket::bind((address, 0)).await.is_ok();
                if !addresses.contains(&(address, is_ours)) {
                    addresses.push((address, is_ours));
                }
            }
            Ok(addresses)
        }
        Ok(Err(error)) => Err(format!("does not resolve: {error}")),
        Err(_) => Err(format!("was not resolved within {} s", RESOLVED_WITHIN.as_secs())),
    };
    Name { hostname, addresses }
}

/// Loopback, and the network that leads to the coordinator, or that this machine's name has.
async fn ports(name: &Name, master: Option<&Master>) -> Vec<Port> {
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let mut ports =
        vec![Port { id: "port-loopback", address: loopback, reached: reach(loopback).await }];
    let network = match master {
        // Where the coordinator is not found, its own check says so.
        Some(master) => transport::local_address_towards(master.address()).await.ok(),
        None => {
            let usable = name
                .addresses
                .iter()
                .flatten()
                .find(|(address, is_ours)| *is_ours && !address.is_loopback());
            usable.map(|(address, _)| *address)
        }
    };
    if let Some(address) = network.filter(|address| !address.is_loopback()) {
        ports.push(Port { id: "port-network", address, reached: reach(address).await });
    }
    ports
}

async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("listen on {address}: {error}"))
}

/// Opens a port as a trainer would, and connects to it.
async fn reach(address: IpAddr) -> Result<(), String> {
    let listener = bind((address, 0).into()).await?;
    let to = listener.local_addr().map_err(|error| error.to_string())?;
    let exchange = async { tokio::try_join!(TcpStream::connect(to), listener.accept()) };
    match timeout(REACHED_WITHIN, exchange).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("connect to {to}: {error}")),
        Err(_) => Err(format!("connect to {to}: no answer within {} s", REACHED_WITHIN.as_secs())),
    }
}

/// Asks the coordinator, which asks its workers.
pub(crate) async fn cluster(master: &Master) -> cluster::Facts {
    cluster::Facts {
        address: master.address().to_owned(),
        own_version: env!("CARGO_PKG_VERSION").to_owned(),
        coordinator: answer(master).await,
    }
}

async fn answer(master: &Master) -> Result<cluster::Answer, String> {
    let connected = Coordinator::connect(master.address()).await;
    let mut coordinator = connected.map_err(|error| chain(&error))?;
    let before = clock::now();
    let info = coordinator.info().await.map_err(|error| chain(&error))?;
    // The answer was written about in the middle.
    let here = before + clock::now().saturating_sub(before) / 2;
    let mut workers = coordinator.workers().await.map_err(|error| chain(&error));
    if let Ok(rows) = &mut workers {
        rows.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let peers = coordinator.probe_peers().await.map_err(|error| chain(&error));
    let clock = cluster::Clock { here, there: info.time_ms };
    Ok(cluster::Answer { version: info.version, clock, workers, peers })
}

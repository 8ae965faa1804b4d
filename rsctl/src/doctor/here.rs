//! What is thought of this machine. Pure.

use std::net::IpAddr;
use std::path::PathBuf;

use common::help::INSTALLATION;
use common::node::{NodeFacts, NodeInterface};
use common::units::{count, display_bytes};

use super::Check;
use crate::master::DEFAULT_PORT;

const GIB: u64 = 1 << 30;

/// A rank alone takes about 150 MiB, libtorch's libraries included.
const LITTLE_MEMORY: u64 = GIB;
/// A run folder with a few checkpoints of the small models here.
const LITTLE_DISK: u64 = GIB;
/// NCCL keeps its channels between the GPUs of a node there; containers start with 64 MiB.
const LITTLE_SHM: u64 = GIB;
/// A coordinator holds a few files for each worker and client.
const FEW_OPEN_FILES: u64 = 4096;

/// What was found on this machine.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) binaries: Binaries,
    /// What `worker inspect` tells; None: there is no worker to ask.
    pub(crate) node: Option<Result<NodeFacts, String>>,
    pub(crate) disk: Disk,
    pub(crate) ports: Vec<Port>,
    /// Whether a coordinator could listen on the usual port; None: one is named, so none starts here.
    pub(crate) usual_port: Option<Result<(), String>>,
    pub(crate) name: Name,
}

/// The programs beside this one.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    pub(crate) folder: PathBuf,
    pub(crate) own_version: String,
    /// Name and what it says to `--version`; None: it is not there.
    pub(crate) others: Vec<(&'static str, Option<Result<String, String>>)>,
}

/// Where results go.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) folder: PathBuf,
    /// Free bytes, of a folder that can be written to.
    pub(crate) free: Result<u64, String>,
}

/// A port that was opened and reached.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub(crate) id: &'static str,
    pub(crate) address: IpAddr,
    pub(crate) reached: Result<(), String>,
}

/// This machine as others would look it up.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    pub(crate) hostname: String,
    /// Its addresses, and whether each is this machine's.
    pub(crate) addresses: Result<Vec<(IpAddr, bool)>, String>,
}

pub(crate) fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![binaries(&facts.binaries)];
    match &facts.node {
        Some(Ok(node)) => checks.extend(of_node(node)),
        Some(Err(why)) => {
            let hint = format!("run `worker inspect` by hand; see {INSTALLATION}");
            checks.push(Check::fail("node", why.clone(), hint));
        }
        None => {}
    }
    checks.push(disk(&facts.disk));
    checks.extend(facts.ports.iter().map(port));
    checks.extend(facts.usual_port.as_ref().map(usual_port));
    checks.push(name(&facts.name));
    checks
}

fn binaries(facts: &Binaries) -> Check {
    const ID: &str = "binaries";
    let folder = facts.folder.display();
    let missing: Vec<&str> =
        facts.others.iter().filter(|(_, said)| said.is_none()).map(|(name, _)| *name).collect();
    if missing.len() == facts.others.len() {
        let found = format!("rsctl {} alone in {folder}", facts.own_version);
        let hint = "enough to ask a coordinator; to train on this machine, put coordinator, worker \
                    and trainer beside it (make install)";
        return Check::warn(ID, found, hint);
    }
    if !missing.is_empty() {
        let found = format!("no {} in {folder}", missing.join(", "));
        return Check::fail(ID, found, "all four programs belong in one folder: make install");
    }
    let silent = facts.others.iter().find_map(|(name, said)| match said {
        Some(Err(why)) => Some(format!("{name} does not start: {why}")),
        _ => None,
    });
    if let Some(found) = silent {
        return Check::fail(ID, found, format!("install all four again; see {INSTALLATION}"));
    }
    let version = |said: &Option<Result<String, String>>| match said {
        Some(Ok(version)) => version.clone(),
        _ => String::new(),
    };
    let mut versions: Vec<(&str, String)> =
        facts.others.iter().map(|(name, said)| (*name, version(said))).collect();
    versions.push(("rsctl", facts.own_version.clone()));
    if versions.iter().all(|(_, version)| *version == facts.own_version) {
        let found = format!("all four of {} in {folder}", facts.own_version);
        return Check::ok(ID, found);
    }
    let list: Vec<String> =
        versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let hint = "they must come from one build: install all four again";
    Check::fail(ID, format!("{} in {folder}", list.join(", ")), hint)
}

fn of_node(node: &NodeFacts) -> Vec<Check> {
    let mut checks = vec![
        libtorch(node),
        cpu(node),
        memory(node),
        gpus(node),
        nccl(node),
        shm(node),
        files(node),
    ];
    checks.extend(network(node));
    checks
}

fn libtorch(node: &NodeFacts) -> Check {
    const ID: &str = "libtorch";
    let trainer = &node.trainer;
    if !trainer.has_libtorch {
        let hint = format!("make setup, or worker join --libtorch DIR; see {INSTALLATION}");
        return Check::fail(ID, trainer.libtorch.clone(), hint);
    }
    match &trainer.version {
        Some(version) => {
            Check::ok(ID, format!("{}; trainer {version} starts on it", trainer.libtorch))
        }
        None => {
            let found = format!("{}; {} does not start on it", trainer.libtorch, trainer.path);
            let hint = format!("run `{} --version`; see {INSTALLATION}", trainer.path);
            Check::fail(ID, found, hint)
        }
    }
}

fn cpu(node: &NodeFacts) -> Check {
    let cores = count(u64::from(node.cores), "core");
    let has = |feature: &str| node.cpu_features.iter().any(|found| found == feature);
    if !has("avx2") {
        let found = format!("{cores} without AVX2");
        let hint = "training works and is slow: use nodes of the last ten years";
        return Check::warn("cpu", found, hint);
    }
    Check::ok("cpu", format!("{cores}, {}", node.cpu_features.join(" ")))
}

fn memory(node: &NodeFacts) -> Check {
    let found = display_bytes(node.memory_bytes);
    match node.memory_bytes {
        0 => Check::warn("memory", "unknown", "/proc/meminfo cannot be read: mount /proc"),
        little if little < LITTLE_MEMORY => {
            let hint = "few ranks fit: raise the limit of the cgroup or container; `rsctl config \
                        explain job.toml --memory` tells what a job takes";
            Check::warn("memory", found, hint)
        }
        _ => Check::ok("memory", found),
    }
}

fn gpus(node: &NodeFacts) -> Check {
    let gpus = &node.gpus;
    match gpus.devices.is_empty() {
        true => Check::ok("gpus", format!("none ({})", gpus.source)),
        false => Check::ok("gpus", format!("{gpus} ({}); docs/gpu.md", gpus.source)),
    }
}

fn nccl(node: &NodeFacts) -> Check {
    let has_gpus = !node.gpus.devices.is_empty();
    match (&node.nccl.version, has_gpus) {
        (Some(version), _) => Check::ok("nccl", format!("{version} ({})", node.nccl.place)),
        (None, false) => Check::ok("nccl", "none, and ranks on cores do not use it"),
        (None, true) => {
            let hint = "make setup DEVICE=cuda, or RUSTSPEED_NCCL_LIB=/path/to/libnccl.so.2; jobs \
                        of several ranks on GPUs need it";
            Check::warn("nccl", format!("none: {}", node.nccl.place), hint)
        }
    }
}

fn shm(node: &NodeFacts) -> Check {
    const ID: &str = "shm";
    let has_gpus = !node.gpus.devices.is_empty();
    let found = node.shm_bytes.map_or_else(|| "no /dev/shm".to_owned(), display_bytes);
    if has_gpus && node.shm_bytes.unwrap_or(0) < LITTLE_SHM {
        return Check::warn(ID, found, "NCCL needs more: docker run --shm-size 1g, or --ipc=host");
    }
    Check::ok(ID, format!("{found}; ranks on cores share memory without it"))
}

fn files(node: &NodeFacts) -> Check {
    const ID: &str = "open-files";
    match node.open_files {
        None => Check::ok(ID, "no limit"),
        Some(few) if few < FEW_OPEN_FILES => {
            let hint = "enough for a small cluster; for hundreds of workers raise the hard limit: \
                        ulimit -Hn, LimitNOFILE= of systemd";
            Check::warn(ID, format!("at most {few}"), hint)
        }
        Some(limit) => Check::ok(ID, format!("at most {limit}")),
    }
}

/// None: the worker is too old to say.
fn network(node: &NodeFacts) -> Option<Check> {
    const ID: &str = "network";
    if node.interfaces.is_empty() {
        return None;
    }
    let is_wide = |interface: &&NodeInterface| {
        interface.addresses.iter().any(|address| !address.is_loopback())
    };
    let wide: Vec<String> = node.interfaces.iter().filter(is_wide).map(described).collect();
    Some(match wide.len() {
        0 => Check::warn(
            ID,
            "loopback alone",
            "ranks on other nodes cannot reach this one: give it a network (docker run --network host)",
        ),
        1 => Check::ok(ID, wide.join(", ")),
        _ => {
            let found = wide.join(", ");
            Check::ok(ID, format!("{found}; worker join --interface says where ranks meet"))
        }
    })
}

fn described(interface: &NodeInterface) -> String {
    let addresses: Vec<String> = interface.addresses.iter().map(IpAddr::to_string).collect();
    format!("{} {}", interface.name, addresses.join(" "))
}

fn disk(facts: &Disk) -> Check {
    const ID: &str = "disk";
    let folder = facts.folder.display();
    match &facts.free {
        Err(why) => {
            let hint = "results go there: choose another folder with job.output-dir";
            Check::fail(ID, format!("{folder}: {why}"), hint)
        }
        Ok(free) if *free < LITTLE_DISK => {
            let found = format!("{} free for {folder}", display_bytes(*free));
            let hint = "a full disk fails saves: make room (`rsctl checkpoints prune`), or \
                        choose another folder with job.output-dir";
            Check::warn(ID, found, hint)
        }
        Ok(free) => Check::ok(ID, format!("{} free for {folder}", display_bytes(*free))),
    }
}

fn port(facts: &Port) -> Check {
    match &facts.reached {
        Ok(()) => Check::ok(facts.id, format!("{}: opened and reached", facts.address)),
        Err(why) => {
            let hint = "ranks listen on ports that the system chooses: let this machine reach its \
                        own address (firewall, container's network)";
            Check::fail(facts.id, format!("{}: {why}", facts.address), hint)
        }
    }
}

fn usual_port(facts: &Result<(), String>) -> Check {
    let id = format!("port-{DEFAULT_PORT}");
    match facts {
        Ok(()) => Check::ok(id, "free for `coordinator serve`"),
        Err(why) => {
            let hint = "if a coordinator runs here: rsctl doctor --master 127.0.0.1; else \
                        coordinator serve --listen 0.0.0.0:OTHER";
            Check::warn(id, why.clone(), hint)
        }
    }
}

fn name(facts: &Name) -> Check {
    const ID: &str = "hostname";
    let hostname = &facts.hostname;
    let hint = "other nodes cannot use this name: give them an address instead (worker join \
                --master ADDRESS, rsctl slurm run --address), or mend /etc/hosts or DNS";
    let addresses = match &facts.addresses {
        Ok(addresses) => addresses,
        Err(why) => return Check::warn(ID, format!("{hostname}: {why}"), hint),
    };
    let list: Vec<String> = addresses.iter().map(|(address, _)| address.to_string()).collect();
    let found = format!("{hostname} is {}", list.join(", "));
    if addresses.iter().all(|(address, _)| address.is_loopback()) {
        return Check::warn(ID, format!("{found}: loopback alone"), hint);
    }
    let is_usable = |(address, is_ours): &(IpAddr, bool)| *is_ours && !address.is_loopback();
    match addresses.iter().any(is_usable) {
        true => Check::ok(ID, found),
        false => Check::warn(ID, format!("{found}, which is not this machine's"), hint),
    }
}

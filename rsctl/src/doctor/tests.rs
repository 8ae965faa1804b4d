//! Claims about what the doctor thinks of facts, and how it says so.

use std::net::IpAddr;

use expect_test::{Expect, expect};

use common::node::{Nccl, NodeFacts, NodeInterface, Trainer};
use common::status::{Gpu, Gpus, WorkerRow};
use proto::v1::{PeerLink, ProbePeersResponse, SilentWorker};

use super::cluster::{self, Answer, Clock};
use super::here::{self, Binaries, Disk, Facts, Name, Port};
use super::{Check, Status};
use crate::render::doctor::lines;

const NOW: u64 = 1_000_000;

#[expect(clippy::needless_pass_by_value, reason = "expect! is written in place")]
fn check(checks: &[Check], expected: Expect) {
    expected.assert_eq(&lines(checks));
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node() -> NodeFacts {
    NodeFacts {
        hostname: "gpu-node-01".to_owned(),
        version: "0.1.0".to_owned(),
        trainer: Trainer {
            path: "/opt/trainer".to_owned(),
            version: Some("0.1.0".to_owned()),
            libtorch: "what the trainer was linked with".to_owned(),
            has_libtorch: true,
        },
        gpus: Gpus { devices: Vec::new(), source: "no NVML".to_owned() },
        nccl: Nccl { version: None, place: "no libnccl.so.2".to_owned() },
        cpu_features: vec!["avx2".to_owned(), "fma".to_owned()],
        cores: 2,
        memory_bytes: 8 << 30,
        shm_bytes: Some(64 << 20),
        open_files: Some(1 << 20),
        interfaces: vec![
            interface("lo", "127.0.0.1"),
            interface("eth0", "10.0.0.4"),
            interface("ib0", "10.1.0.4"),
        ],
    }
}

fn interface(name: &str, address: &str) -> NodeInterface {
    NodeInterface { name: name.to_owned(), addresses: vec![ip(address)] }
}

fn says(version: &str) -> Option<Result<String, String>> {
    Some(Ok(version.to_owned()))
}

fn healthy() -> Facts {
    let others =
        vec![("coordinator", says("0.1.0")), ("worker", says("0.1.0")), ("trainer", says("0.1.0"))];
    Facts {
        binaries: Binaries { folder: "/opt".into(), own_version: "0.1.0".to_owned(), others },
        node: Some(Ok(node())),
        disk: Disk { folder: "/home/ada/runs".into(), free: Ok(50 << 30) },
        ports: vec![Port { id: "port-loopback", address: ip("127.0.0.1"), reached: Ok(()) }],
        usual_port: Some(Ok(())),
        name: Name {
            hostname: "gpu-node-01".to_owned(),
            addresses: Ok(vec![(ip("10.0.0.4"), true)]),
        },
    }
}

#[test]
fn a_healthy_machine_is_ok_in_every_line() {
    let checks = here::judge(&healthy());
    assert!(checks.iter().all(|check| check.status == Status::Ok && check.hint.is_none()));
    check(
        &checks,
        expect![[r#"
        ok    binaries       all four of 0.1.0 in /opt
        ok    libtorch       what the trainer was linked with; trainer 0.1.0 starts on it
        ok    cpu            2 cores, avx2 fma
        ok    memory         8.0 GiB
        ok    gpus           none (no NVML)
        ok    nccl           none, and ranks on cores do not use it
        ok    shm            64.0 MiB; ranks on cores share memory without it
        ok    open-files     at most 1048576
        ok    network        eth0 10.0.0.4, ib0 10.1.0.4; worker join --interface says where ranks meet
        ok    disk           50.0 GiB free for /home/ada/runs
        ok    port-loopback  127.0.0.1: opened and reached
        ok    port-29500     free for `coordinator serve`
        ok    hostname       gpu-node-01 is 10.0.0.4
    "#]],
    );
}

#[test]
fn a_machine_where_nothing_works_is_told_what_to_do_in_every_line() {
    let gpu = Gpu { name: "NVIDIA H100".to_owned(), uuid: String::new(), memory_bytes: 0 };
    let node = NodeFacts {
        trainer: Trainer {
            version: None,
            libtorch: "the trainer finds no libtorch_cpu.so".to_owned(),
            has_libtorch: false,
            ..node().trainer
        },
        gpus: Gpus { devices: vec![gpu], source: "NVML, driver 570".to_owned() },
        cpu_features: Vec::new(),
        memory_bytes: 512 << 20,
        open_files: Some(1024),
        interfaces: vec![interface("lo", "127.0.0.1")],
        ..node()
    };
    let mut facts = Facts {
        node: Some(Ok(node)),
        disk: Disk { folder: "/full/runs".into(), free: Ok(1 << 20) },
        usual_port: Some(Err("listen on 0.0.0.0:29500: address in use".to_owned())),
        ..healthy()
    };
    facts.binaries.others[1].1 = says("0.0.9");
    facts.ports[0].reached = Err("connect to 127.0.0.1:1: refused".to_owned());
    facts.name.addresses = Ok(vec![(ip("127.0.1.1"), true)]);
    let checks = here::judge(&facts);
    let is_silent = |check: &&Check| check.hint.is_none();
    let silent: Vec<&str> = checks.iter().filter(is_silent).map(|check| &*check.id).collect();
    assert_eq!(silent, ["gpus"], "the rest is wrong");
    check(
        &checks,
        expect![[r#"
            FAIL  binaries       coordinator 0.1.0, worker 0.0.9, trainer 0.1.0, rsctl 0.1.0 in /opt  -> they must come from one build: install all four again
            FAIL  libtorch       the trainer finds no libtorch_cpu.so  -> make setup, or worker join --libtorch DIR; see docs/troubleshooting.md#installation
            warn  cpu            2 cores without AVX2  -> training works and is slow: use nodes of the last ten years
            warn  memory         512.0 MiB  -> few ranks fit: raise the limit of the cgroup or container; `rsctl config explain job.toml --memory` tells what a job takes
            ok    gpus           NVIDIA H100 (NVML, driver 570); docs/gpu.md
            warn  nccl           none: no libnccl.so.2  -> make setup DEVICE=cuda, or RUSTSPEED_NCCL_LIB=/path/to/libnccl.so.2; jobs of several ranks on GPUs need it
            warn  shm            64.0 MiB  -> NCCL needs more: docker run --shm-size 1g, or --ipc=host
            warn  open-files     at most 1024  -> enough for a small cluster; for hundreds of workers raise the hard limit: ulimit -Hn, LimitNOFILE= of systemd
            warn  network        loopback alone  -> ranks on other nodes cannot reach this one: give it a network (docker run --network host)
            warn  disk           1.0 MiB free for /full/runs  -> a full disk fails saves: make room (`rsctl checkpoints prune`), or choose another folder with job.output-dir
            FAIL  port-loopback  127.0.0.1: connect to 127.0.0.1:1: refused  -> ranks listen on ports that the system chooses: let this machine reach its own address (firewall, container's network)
            warn  port-29500     listen on 0.0.0.0:29500: address in use  -> if a coordinator runs here: rsctl doctor --master 127.0.0.1; else coordinator serve --listen 0.0.0.0:OTHER
            warn  hostname       gpu-node-01 is 127.0.1.1: loopback alone  -> other nodes cannot use this name: give them an address instead (worker join --master ADDRESS, rsctl slurm run --address), or mend /etc/hosts or DNS
        "#]],
    );
}

#[test]
fn a_machine_that_only_asks_needs_no_other_program() {
    let mut facts = Facts { node: None, ..healthy() };
    facts.binaries.others.iter_mut().for_each(|(_, said)| *said = None);
    let checks = here::judge(&facts);
    assert_eq!((checks[0].id.as_str(), checks[0].status), ("binaries", Status::Warn));
    facts.binaries.others[0].1 = says("0.1.0");
    let checks = here::judge(&facts);
    assert_eq!(checks[0].status, Status::Fail);
    assert_eq!(checks[0].found, "no worker, trainer in /opt");
}

#[test]
fn a_trainer_that_does_not_start_on_its_libtorch_fails() {
    let trainer = Trainer { version: None, ..node().trainer };
    let facts = Facts { node: Some(Ok(NodeFacts { trainer, ..node() })), ..healthy() };
    let checks = here::judge(&facts);
    let libtorch = checks.iter().find(|check| check.id == "libtorch").unwrap();
    assert_eq!(libtorch.status, Status::Fail);
    assert!(libtorch.hint.as_ref().unwrap().contains("/opt/trainer --version"), "{libtorch:?}");
}

#[test]
fn a_name_that_leads_elsewhere_or_nowhere_is_a_warning() {
    let name = |addresses| {
        let name = Name { hostname: "n".to_owned(), addresses };
        let checks = here::judge(&Facts { name, ..healthy() });
        let last = checks.last().unwrap().clone();
        (last.status, last.found)
    };
    let elsewhere = name(Ok(vec![(ip("10.0.0.9"), false)]));
    assert_eq!(elsewhere, (Status::Warn, "n is 10.0.0.9, which is not this machine's".to_owned()));
    let nowhere = name(Err("does not resolve".to_owned()));
    assert_eq!(nowhere, (Status::Warn, "n: does not resolve".to_owned()));
    let both = name(Ok(vec![(ip("127.0.1.1"), true), (ip("10.0.0.4"), true)]));
    assert_eq!(both.0, Status::Ok);
}

fn worker(name: &str, state: &str) -> WorkerRow {
    WorkerRow {
        name: name.to_owned(),
        uuid: String::new(),
        incarnation: 1,
        state: state.to_owned(),
        address: "10.0.0.4".to_owned(),
        slots: 2,
        free_slots: 2,
        device: "cpu".to_owned(),
        memory_bytes: 0,
        jobs: Vec::new(),
        version: "0.1.0".to_owned(),
        last_seen: NOW - 500,
        libtorch: "2.11.0, AVX2".to_owned(),
        gpus: Gpus::default(),
        hostname: name.to_owned(),
        unlisted: false,
        allows_commands: false,
    }
}

fn link(from: &str, to: &str, error: &str) -> PeerLink {
    let address = "10.0.0.4:40123".to_owned();
    PeerLink { from: from.to_owned(), to: to.to_owned(), address, error: error.to_owned() }
}

fn cluster_of(workers: Vec<WorkerRow>, peers: ProbePeersResponse) -> cluster::Facts {
    cluster::Facts {
        address: "10.0.0.1:29500".to_owned(),
        own_version: "0.1.0".to_owned(),
        coordinator: Ok(Answer {
            version: "0.1.0".to_owned(),
            clock: Clock { here: NOW + 300, there: NOW },
            workers: Ok(workers),
            peers: Ok(peers),
        }),
    }
}

#[test]
fn a_healthy_cluster_is_ok_in_every_line() {
    let peers = ProbePeersResponse {
        links: vec![link("a", "b", ""), link("b", "a", "")],
        ..Default::default()
    };
    let facts = cluster_of(vec![worker("a", "ready"), worker("b", "ready")], peers);
    let checks = cluster::judge(&facts);
    assert!(checks.iter().all(|check| check.status == Status::Ok && check.hint.is_none()));
    check(
        &checks,
        expect![[r#"
        ok    coordinator       10.0.0.1:29500 of version 0.1.0
        ok    clock             0.3 s ahead of the coordinator's
        ok    worker:a          ready, 2 slots at 10.0.0.4, heard 0s ago
        ok    worker:b          ready, 2 slots at 10.0.0.4, heard 0s ago
        ok    workers-libtorch  2.11.0, AVX2 on a, b
        ok    peers             2 of 2 connections work
    "#]],
    );
}

#[test]
fn what_is_wrong_with_a_cluster_is_told_worker_by_worker() {
    let peers = ProbePeersResponse {
        links: vec![link("a", "b", "no answer within 3 s"), link("b", "a", "")],
        silent: vec![SilentWorker {
            worker: "old".to_owned(),
            reason: "it said nothing within 3 s".to_owned(),
        }],
        left_out: 3,
    };
    let old = WorkerRow { version: "0.0.9".to_owned(), ..worker("old", "ready") };
    let hidden = WorkerRow { address: "127.0.0.1".to_owned(), ..worker("hidden", "ready") };
    let other = WorkerRow { libtorch: "2.11.0, AVX512".to_owned(), ..worker("c", "excluded") };
    let drained = WorkerRow { unlisted: true, ..worker("drained", "drained") };
    let missing = worker("node09", WorkerRow::MISSING);
    let rows = vec![worker("a", "lost"), old, hidden, other, drained, missing];
    let facts = cluster_of(rows, peers);
    check(
        &cluster::judge(&facts),
        expect![[r#"
        ok    coordinator       10.0.0.1:29500 of version 0.1.0
        ok    clock             0.3 s ahead of the coordinator's
        FAIL  worker:a          lost, 2 slots at 10.0.0.4, heard 0s ago  -> is the node up, does it reach the coordinator, what does the worker's log say? worker join there brings it back
        FAIL  worker:old        ready, 2 slots at 10.0.0.4, heard 0s ago, of version 0.0.9  -> install version 0.1.0 there
        FAIL  worker:hidden     ready, 2 slots at 127.0.0.1, heard 0s ago  -> ranks elsewhere cannot reach a loopback address: worker join --advertise IP
        warn  worker:c          excluded, 2 slots at 10.0.0.4, heard 0s ago  -> two jobs broke off there; once mended: rsctl workers --allow c
        warn  worker:drained    drained, unlisted, 2 slots at 10.0.0.4, heard 0s ago  -> back into service: rsctl drain drained --undo
        FAIL  worker:node09     no worker is on this node, which the coordinator's hostfile names  -> there: worker join --master 10.0.0.1:29500
        warn  workers-libtorch  2.11.0, AVX2 on a, drained, hidden, node09, old; 2.11.0, AVX512 on c  -> results differ in their last bits between these nodes: worker join --libtorch DIR chooses another, resources.hosts keeps a job to nodes alike
        FAIL  peer:old          it said nothing within 3 s  -> ranks connect on ports that the system chooses: open them between the nodes, or choose their network with worker join --interface NAME, their ports with --port-range
        FAIL  peer:a->b         10.0.0.4:40123: no answer within 3 s  -> ranks connect on ports that the system chooses: open them between the nodes, or choose their network with worker join --interface NAME, their ports with --port-range
        FAIL  peers             1 of 2 connections work  -> the lines above name them
        warn  peers-untested    3 workers  -> only the first 64 by name are tested; a job's ranks tell of others when it starts
    "#]],
    );
}

#[test]
fn the_coordinator_has_the_first_word() {
    let mut facts = cluster_of(Vec::new(), ProbePeersResponse::default());
    let answer = facts.coordinator.as_mut().unwrap();
    answer.clock = Clock { here: NOW, there: NOW + 3000 };
    answer.version = "0.2.0".to_owned();
    check(
        &cluster::judge(&facts),
        expect![[r#"
        FAIL  coordinator  10.0.0.1:29500 of version 0.2.0; this rsctl is 0.1.0  -> use programs of one version everywhere
        warn  clock        3.0 s behind the coordinator's  -> times in logs will mislead: run chrony or ntpd
        warn  workers      none has joined  -> on each node: worker join --master 10.0.0.1:29500
    "#]],
    );
    facts.coordinator = Err("connect to `10.0.0.1:29500`: refused".to_owned());
    check(
        &cluster::judge(&facts),
        expect![[r#"
        FAIL  coordinator  connect to `10.0.0.1:29500`: refused  -> start it with `coordinator serve`, say where it is with --master, and open its port; see docs/troubleshooting.md#the-coordinator-cannot-be-reached
    "#]],
    );
}

#[test]
fn json_has_what_scripts_choose_by() {
    let checks = here::judge(&healthy());
    let json = serde_json::to_value(&checks[0]).unwrap();
    let expected = serde_json::json!({
        "id": "binaries",
        "status": "ok",
        "found": "all four of 0.1.0 in /opt",
        "hint": null,
    });
    assert_eq!(json, expected);
}

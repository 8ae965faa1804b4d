//! Nodes as they are: cores that ranks have for themselves, networks of several interfaces, addresses
//! that are translated on the way, IPv6. What needs a network of its own needs root.

use std::collections::BTreeSet;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tests::binaries::binary;
use tests::cluster::{Cluster, Serving};
use tests::job::TinyJob;
use tests::network::with_network;
use tests::process::children_of;
use tests::rsctl::{Rsctl, run_to_end};
use tests::wait::skipped;

/// CPUs that a process, or one of its threads, may be on; None: it has ended.
fn allowed(status: &Path) -> Option<BTreeSet<u32>> {
    // ESRCH where it ends between the opening and the reading.
    let text = fs_err::read_to_string(status).ok()?;
    let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    Some(cpus(list))
}

fn cpus(list: &str) -> BTreeSet<u32> {
    let numbers = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse::<u32>().unwrap()..=last.parse::<u32>().unwrap()
    };
    list.trim().split(',').flat_map(numbers).collect()
}

fn siblings(cpu: u32) -> BTreeSet<u32> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    fs_err::read_to_string(path).map_or_else(|_| [cpu].into(), |text| cpus(&text))
}

/// Physical cores that this test may use, by their hardware threads.
fn physical() -> BTreeSet<BTreeSet<u32>> {
    let here = allowed(Path::new("/proc/self/status")).unwrap();
    let threads =
        |cpu: &u32| -> BTreeSet<u32> { siblings(*cpu).intersection(&here).copied().collect() };
    here.iter().map(threads).collect()
}

/// Two sets of whole physical cores that share none, each as large as half of the machine.
fn are_halves(one: &BTreeSet<u32>, other: &BTreeSet<u32>) {
    assert!(one.is_disjoint(other), "{one:?} and {other:?}");
    let cores = physical();
    for half in [one, other] {
        let whole = cores.iter().filter(|core| core.is_subset(half));
        assert_eq!(whole.clone().flatten().count(), half.len(), "{half:?} are whole cores");
        assert_eq!(whole.count(), cores.len() / 2, "{half:?}");
    }
}

/// The claims of cores are of a network namespace: here no other test takes any.
fn alone(story: impl FnOnce() + Send) {
    if physical().len() < 2 {
        return skipped("two ranks cannot have cores of their own here");
    }
    with_network(0, |_| story());
}

#[test]
fn every_thread_of_a_bound_trainer_is_on_cores_of_its_own() {
    alone(|| {
        let mut cluster = Cluster::start(&[]);
        let mut worker = cluster.worker_command("w0", 2);
        worker.arg("--bind-cores-to-rank");
        cluster.add_worker("w0", worker);
        cluster.wait_until_ready(1);
        let job = TinyJob { max_steps: 100_000, ..TinyJob::default() };
        let id = cluster.submit(&cluster.write("job.toml", &job.toml()));
        cluster.wait_for_step(&id, 5);
        let masks = cluster.trainers().into_iter().map(|pid| {
            let own = allowed(Path::new(&format!("/proc/{pid}/status"))).unwrap();
            let threads = fs_err::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
            let masks: Vec<_> =
                threads.filter_map(|thread| allowed(&thread.path().join("status"))).collect();
            assert!(masks.len() > 1 && masks.iter().all(|mask| *mask == own), "{pid}: {masks:?}");
            own
        });
        let masks: Vec<_> = masks.collect();
        assert_eq!(masks.len(), 2);
        are_halves(&masks[0], &masks[1]);
        cluster.rsctl().call(&["cancel", &id]).expect_code(0);
        cluster.wait_for_state(&id, "cancelled");
    });
}

#[test]
fn a_launched_script_is_bound_as_deepspeed_binds_it() {
    alone(|| {
        let folder = tempfile::tempdir().unwrap();
        let lines = "grep Cpus_allowed_list /proc/self/status > cpus.$RANK\n\
                     echo $OMP_NUM_THREADS > threads.$RANK\n";
        fs_err::write(folder.path().join("train.sh"), lines).unwrap();
        let rsctl = Rsctl { folder: folder.path().to_owned(), master: None };
        let launch = |ranks: usize, env: &[(&str, &str)], more: &[&str]| {
            let ranks = ranks.to_string();
            let line = [&["launch", "--nproc", &ranks, "--bind_cores_to_rank"], more].concat();
            let mut command =
                rsctl.command(&[&line[..], &["--no-python", "sh", "train.sh"]].concat());
            command.env_remove("OMP_NUM_THREADS").envs(env.iter().copied());
            run_to_end(command, Duration::from_secs(60))
        };
        let of = |file: &str| fs_err::read_to_string(folder.path().join(file)).unwrap();
        let mask = |rank: u32| {
            let line = of(&format!("cpus.{rank}"));
            cpus(line.trim().strip_prefix("Cpus_allowed_list:").unwrap())
        };
        launch(2, &[], &[]).expect_code(0);
        are_halves(&mask(0), &mask(1));
        let half = (physical().len() / 2).to_string();
        assert_eq!((of("threads.0").trim(), of("threads.1").trim()), (&*half, &*half));
        // The user's own number of threads stays; the list alone is split.
        let two: Vec<u32> = physical().iter().take(2).map(|core| *core.first().unwrap()).collect();
        let list = format!("{},{}", two[0], two[1]);
        launch(2, &[("OMP_NUM_THREADS", "7")], &["--bind_core_list", &list]).expect_code(0);
        assert_eq!(mask(0).union(&mask(1)).copied().collect::<Vec<_>>(), two);
        assert_eq!((mask(0).len(), of("threads.1").trim()), (1, "7"));
        let many = physical().len() + 1;
        let refused = launch(many, &[], &[]);
        assert_ne!(refused.code, 0);
        let told = format!("{many} ranks of 1 physical core each do not fit");
        assert!(refused.stderr.contains(&told), "{}", refused.stderr);
    });
}

/// What a process was started with.
fn environment(pid: u32) -> Vec<String> {
    let bytes = fs_err::read(format!("/proc/{pid}/environ")).unwrap();
    String::from_utf8_lossy(&bytes).split('\0').map(str::to_owned).collect()
}

fn addresses(cluster: &Cluster) -> Vec<(String, String)> {
    let rows = cluster.rsctl().call(&["workers", "--json"]).expect_code(0).json();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    let rows = rows.as_array().unwrap();
    let mut all: Vec<_> =
        rows.iter().map(|row| (text(row, "name"), text(row, "address"))).collect();
    all.sort();
    all
}

/// Every worker reaches every other one at the address that it tells. Each has 3 s for that: it may
/// take a second try where the machine has other work.
fn peers_are_reached(cluster: &Cluster) {
    let look = || cluster.rsctl().call(&["doctor", "--json"]).json();
    let are_reached = |checks: &Value| {
        let peers = checks.as_array().unwrap().iter().find(|check| check["id"] == "peers");
        peers.unwrap()["status"] == "ok"
    };
    let first = look();
    if !are_reached(&first) {
        let second = look();
        assert!(are_reached(&second), "{first:#}, and again {second:#}");
    }
}

/// A coordinator at the near end of cable 0.
fn cluster_here() -> Cluster {
    let listen = "10.77.0.1:0".to_owned();
    Cluster::start_as(Serving { listen, ..Serving::default() }, &[])
}

fn add_worker(cluster: &mut Cluster, name: &str, more: &[&str]) {
    let mut command = cluster.worker_command(name, 1);
    command.args(more).env_remove("NCCL_SOCKET_IFNAME").env_remove("GLOO_SOCKET_IFNAME");
    cluster.add_worker(name, command);
}

#[test]
fn ranks_meet_on_the_interface_that_is_named_and_a_wrong_name_lists_those_there_are() {
    with_network(2, |network| {
        let mut cluster = cluster_here();
        add_worker(&mut cluster, "w0", &["--interface", "cable1"]);
        network.there(|| add_worker(&mut cluster, "w1", &["--interface", "^lo,cable0"]));
        cluster.wait_until_ready(2);
        let told = |name: &str, address: &str| (name.to_owned(), address.to_owned());
        assert_eq!(addresses(&cluster), [told("w0", "10.77.1.1"), told("w1", "10.77.1.2")]);
        peers_are_reached(&cluster);
        let job = TinyJob { max_steps: 100_000, ..TinyJob::default() };
        let id = cluster.submit(&cluster.write("job.toml", &job.toml()));
        cluster.wait_for_step(&id, 5);
        for (worker, nccl) in [(0, "cable1"), (1, "^lo,cable0")] {
            let trainers = children_of(cluster.workers[worker].pid());
            let env = environment(trainers[0]);
            for wanted in
                [format!("NCCL_SOCKET_IFNAME={nccl}"), "GLOO_SOCKET_IFNAME=cable1".to_owned()]
            {
                assert!(env.contains(&wanted), "{wanted}: {env:?}");
            }
        }
        // The near side's connections, in the kernel's way of writing addresses: the ranks' are here.
        let connections = fs_err::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let are_connected = |line: &str| line.contains(" 01014D0A:") && line.contains(" 02014D0A:");
        assert!(connections.lines().any(are_connected), "{connections}");
        cluster.rsctl().call(&["cancel", &id]).expect_code(0);

        let mut wrong = Command::new(binary("worker"));
        wrong.args(["join", "--master", &cluster.master, "--interface", "cabel", "--check-config"]);
        let refused = run_to_end(wrong, Duration::from_secs(20)).expect_code(78);
        refused.expect_stderr(&["`cabel` is no interface", "cable0 10.77.0.1", "cable1 10.77.1.1"]);
    });
}

/// Carries connections to `outside` on to the same port of `inside`, as a translating network does.
struct Gate {
    is_open: AtomicBool,
    carried: AtomicU32,
}

impl Gate {
    fn carry<'s>(&'s self, scope: &'s thread::Scope<'s, '_>, outside: SocketAddr, inside: IpAddr) {
        let listener = TcpListener::bind(outside).unwrap();
        listener.set_nonblocking(true).unwrap();
        scope.spawn(move || {
            while self.is_open.load(Ordering::Relaxed) {
                let Ok((near, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                near.set_nonblocking(false).unwrap();
                // Nobody listens there: as if nobody listened here.
                let Ok(far) = TcpStream::connect((inside, outside.port())) else { continue };
                self.carried.fetch_add(1, Ordering::Relaxed);
                for (mut from, mut to) in
                    [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)]
                {
                    // Ends with the ranks, which the test outlives.
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
    }
}

#[test]
fn a_node_behind_a_translated_address_is_reached_by_the_ports_of_its_range() {
    with_network(1, |network| {
        // Of no machine: it leads to the far side through the gate alone.
        let outside: IpAddr = "10.77.9.9".parse().unwrap();
        let added = Command::new("ip").args(["addr", "add", "10.77.9.9/32", "dev", "lo"]).status();
        assert!(added.unwrap().success());
        let gate = Gate { is_open: AtomicBool::new(true), carried: AtomicU32::new(0) };
        thread::scope(|scope| {
            for port in 41_000..=41_003 {
                gate.carry(scope, (outside, port).into(), "10.77.0.2".parse().unwrap());
            }
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut cluster = cluster_here();
                let far = ["--advertise", "10.77.9.9"];
                network.there(|| {
                    let mut alone = Command::new(binary("worker"));
                    alone.args(["join", "--check-config", "--master", "10.77.0.1:1"]).args(far);
                    run_to_end(alone, Duration::from_secs(20))
                        .expect_code(78)
                        .expect_stderr(&["10.77.9.9", "--port-range"]);
                    let range = ["--port-range", "41000-41003"];
                    add_worker(&mut cluster, "w0", &[&far[..], &range[..]].concat());
                });
                add_worker(&mut cluster, "w1", &[]);
                cluster.wait_until_ready(2);
                assert_eq!(addresses(&cluster)[0].1, "10.77.9.9");
                let job = cluster.write("job.toml", &TinyJob::default().toml());
                let done = cluster.wait_for_state(&cluster.submit(&job), "succeeded");
                assert_eq!(done["ranks"][0]["worker"], "w0", "who is dialed: {done:#}");
                // Two channels and the control connection.
                assert!(gate.carried.load(Ordering::Relaxed) >= 3);
                peers_are_reached(&cluster);
            }));
            gate.is_open.store(false, Ordering::Relaxed);
            if let Err(panic) = done {
                std::panic::resume_unwind(panic);
            }
        });
    });
}

#[test]
fn a_cluster_lives_on_ipv6_alone() {
    if TcpListener::bind("[::1]:0").is_err() {
        return skipped("this machine has no IPv6");
    }
    let serving = Serving {
        listen: "[::1]:0".to_owned(),
        flags: vec!["--allow-commands"],
        ..Serving::default()
    };
    let mut cluster = Cluster::start_as(serving, &[]);
    assert!(cluster.master.starts_with("[::1]:"), "{}", cluster.master);
    for name in ["w0", "w1"] {
        let mut worker = cluster.worker_command(name, 1);
        worker.arg("--allow-commands");
        cluster.add_worker(name, worker);
    }
    cluster.wait_until_ready(2);
    for (_, address) in addresses(&cluster) {
        assert_eq!(address, "::1");
    }
    peers_are_reached(&cluster);
    let trains =
        TinyJob::default().toml().replace("world-size = 2", "world-size = 2\ntransport = \"tcp\"");
    let id = cluster.submit(&cluster.write("job.toml", &trains));
    let done = cluster.wait_for_state(&id, "succeeded");
    assert_eq!(done["ranks"].as_array().unwrap().len(), 2, "{done:#}");
    let command = "[job]\ncommand = [\"/bin/sh\", \"-c\", \"echo $MASTER_ADDR > master.$RANK\"]\n\
                   [resources]\nworld-size = 2\n";
    let id = cluster.submit(&cluster.write("command.toml", command));
    cluster.wait_for_state(&id, "succeeded");
    for rank in 0..2 {
        let master = fs_err::read_to_string(cluster.path().join(format!("master.{rank}"))).unwrap();
        assert_eq!(master.trim(), "::1");
    }
}

#[test]
fn a_hostfile_names_an_ipv6_node_with_brackets_or_without() {
    if TcpListener::bind("[::1]:0").is_err() {
        return skipped("this machine has no IPv6");
    }
    let serving = Serving { listen: "[::1]:0".to_owned(), ..Serving::default() };
    let cluster = Cluster::start_as(serving, &[2]);
    let job = TinyJob::default().toml().replace("world-size = 2\n", "");
    let job = cluster.write("job.toml", &job);
    for (name, line) in [("bare", "::1 slots=2\n"), ("brackets", "[::1] slots=2\n")] {
        let hostfile = cluster.write(name, line);
        let rsctl = cluster.rsctl();
        let submit = ["submit", "--json", "--hostfile", &hostfile, "--include", "[::1]:0,1", &job];
        let id = rsctl.call(&submit).expect_code(0).json()["job_id"].as_str().unwrap().to_owned();
        let done = cluster.wait_for_state(&id, "succeeded");
        assert_eq!(done["ranks"].as_array().unwrap().len(), 2, "{done:#}");
    }
}

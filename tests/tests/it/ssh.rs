//! Workers on hosts where ssh is all there is: a real sshd on loopback, whose hosts `n1` and `n2` are
//! this machine. The commands of `docs/hostfiles.md` are executed as they stand.

use std::net::Ipv4Addr;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::binaries::workspace_root;
use tests::job::TinyJob;
use tests::ports::free_port;
use tests::process::{Running, is_alive};
use tests::ssh::Sshd;
use tests::wait::wait_for;

/// The page's commands about ssh. Each is executed by a story below.
const UP: &str = "rsctl cluster up ";
const STATUS: &str = "rsctl cluster status";
const SUBMIT: &str = "rsctl submit ";
const DOWN: &str = "rsctl cluster down";
const RUN: &str = "rsctl run ";

fn commands() -> Vec<String> {
    let page = fs_err::read_to_string(workspace_root().join("docs/hostfiles.md")).unwrap();
    let section = page.split("\n## Over ssh\n").nth(1).expect("the page has the section");
    let blocks = section.split("\n```\n").skip(1).step_by(2);
    let line = |line: &str| line.split("  #").next().unwrap().trim().to_owned();
    blocks.flat_map(str::lines).map(line).collect()
}

/// The arguments of the page's command that begins so.
fn arguments(beginning: &str) -> Vec<String> {
    let mut fitting = commands().into_iter().filter(|line| line.starts_with(beginning));
    let first = fitting.next().unwrap_or_else(|| panic!("docs/hostfiles.md has no `{beginning}`"));
    assert_eq!(fitting.next(), None, "one command is enough");
    first.split_whitespace().skip(1).map(str::to_owned).collect()
}

fn call(sshd: &Sshd, beginning: &str, more: &[&str]) -> tests::rsctl::Answer {
    let arguments = arguments(beginning);
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    sshd.call(&arguments)
}

fn sshd(hostfile: &str, job: &TinyJob) -> Option<Sshd> {
    let sshd = Sshd::start()?;
    sshd.write("hosts.txt", hostfile);
    sshd.write("job.toml", &job.toml());
    Some(sshd)
}

fn states(answer: &Value) -> Vec<&str> {
    let hosts = answer["hosts"].as_array().unwrap();
    hosts.iter().map(|host| host["state"].as_str().unwrap()).collect()
}

#[test]
fn every_command_of_the_page_is_executed_by_a_story() {
    let known = [UP, STATUS, SUBMIT, DOWN, RUN];
    let commands = commands();
    assert_eq!(commands.len(), known.len(), "{commands:?}");
    for beginning in known {
        arguments(beginning);
    }
}

#[test]
fn a_cluster_comes_up_trains_and_goes_down_without_a_trace() {
    let job = TinyJob { max_steps: 5, ..TinyJob::default() };
    let Some(sshd) = sshd("n1 slots=1\nn2 slots=1\n", &job) else { return };
    sshd.write(".deepspeed_env", "# ours\nTOKEN=very secret\n");
    let up = call(&sshd, UP, &["--port", "0", "--json"]).expect_code(0);
    assert!(up.stderr.contains("forwarding") && up.stderr.contains("TOKEN"), "{}", up.stderr);
    assert!(!up.stderr.contains("secret") && !up.stdout.contains("secret"), "names only");
    let shown = up.json();
    assert_eq!(states(&shown), ["ready", "ready"]);
    let master = shown["master"].as_str().unwrap().to_owned();
    let pids: Vec<u64> = shown["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|host| host["pid"].as_u64().unwrap())
        .collect();
    for pid in &pids {
        let read = |file: &str| fs_err::read(format!("/proc/{pid}/{file}")).unwrap();
        let text = |file: &str| String::from_utf8_lossy(&read(file)).into_owned();
        assert!(text("environ").contains("TOKEN=very secret"), "it is in its environment,");
        assert!(!text("cmdline").contains("secret"), "and on no command line");
    }

    // Again: nothing is started twice.
    let again = call(&sshd, UP, &["--port", "0", "--json"]).expect_code(0).json();
    let same: Vec<u64> = again["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|host| host["pid"].as_u64().unwrap())
        .collect();
    assert_eq!((same, states(&again)), (pids.clone(), vec!["ready", "ready"]));
    assert_eq!(again["master"], master.as_str());

    let done = call(&sshd, SUBMIT, &["--master", &master, "--json"]).expect_code(0);
    let status: Value = serde_json::from_str(done.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(status["state"], "succeeded", "{status:#}");
    let places: Vec<&Value> =
        status["ranks"].as_array().unwrap().iter().map(|rank| &rank["worker"]).collect();
    assert_eq!(places, ["n1", "n2"], "in the order of the file");

    let shown = call(&sshd, STATUS, &["--json"]).expect_code(0).json();
    assert_eq!(
        (states(&shown), &shown["coordinator"]),
        (vec!["ready", "ready"], &"running".into())
    );

    // One worker is gone, by no wish of ours.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pids[0].try_into().unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    wait_for("the worker's end", Duration::from_secs(5), || {
        (!is_alive(pids[0].try_into().unwrap())).then_some(())
    });
    let answer = call(&sshd, STATUS, &["--json"]).expect_code(1);
    assert_eq!(states(&answer.json()), ["failed", "ready"]);
    answer.expect_stderr(&["n1: the worker has ended"]);
    let mended = call(&sshd, UP, &["--port", "0", "--json"]).expect_code(0).json();
    assert_eq!(states(&mended), ["ready", "ready"]);
    assert_eq!(mended["hosts"][1]["pid"].as_u64(), Some(pids[1]), "the other goes on");

    let down = call(&sshd, DOWN, &["--json"]).expect_code(0).json();
    assert_eq!(
        (states(&down), &down["coordinator"]),
        (vec!["stopped", "stopped"], &"stopped".into())
    );
    assert_eq!(sshd.daemons(), Vec::<u32>::new(), "nothing is left");
    call(&sshd, DOWN, &[]).expect_code(0).expect_stderr(&["nothing of cluster `default` is up"]);
    call(&sshd, STATUS, &[]).expect_code(1).expect_stderr(&["no cluster `default` is up"]);
}

#[test]
fn hosts_that_cannot_take_a_worker_are_told_with_what_to_do_and_nothing_is_started() {
    let hosts = "n1 slots=1\nstranger slots=1\nnewcomer slots=1\nchanged slots=1\nclosed slots=1\n\
                 no-such-host.invalid slots=1\n";
    let Some(sshd) = sshd(hosts, &TinyJob::default()) else { return };
    let up = call(&sshd, UP, &["--port", "0", "--json"]).expect_code(1);
    let shown = up.json();
    assert_eq!(states(&shown), ["not started", "failed", "failed", "failed", "failed", "failed"]);
    up.expect_stderr(&[
        "stranger (hosts.txt:2): ssh fails: ",
        "Permission denied (publickey)",
        "what to do: ssh must get in without a password: `ssh-copy-id stranger`",
        "newcomer (hosts.txt:3): ssh fails",
        "this machine has not met that host",
        "changed (hosts.txt:4): ssh fails",
        "has changed and you have requested strict checking",
        "ssh-keygen -R changed",
        "closed (hosts.txt:5): ssh fails: ssh: connect to host 127.0.0.1 port 1: Connection refused",
        "--ssh-port",
        "Could not resolve hostname no-such-host.invalid",
        "no worker on 5 of 6 hosts: stranger, newcomer, changed, closed, no-such-host.invalid",
        "hint: nothing was started",
    ]);
    assert_eq!(sshd.daemons(), Vec::<u32>::new());

    sshd.write("hosts.txt", "n1 slots=1\n");
    let missing = ["--port", "0", "--bin-dir", "/no/such/folder"];
    let up = call(&sshd, UP, &missing).expect_code(1);
    up.expect_stderr(&["n1 (hosts.txt:1): `/no/such/folder/worker` is not there", "--bin-dir"]);
    sshd.write("hosts.txt", "n1 slots=1\nada@n1 slots=2\n");
    call(&sshd, UP, &[]).expect_code(78).expect_stderr(&["hosts.txt:2", "another user"]);
    sshd.write("hosts.txt", "-oProxyCommand=id slots=1\n");
    call(&sshd, UP, &[]).expect_code(78).expect_stderr(&["begins with `-`"]);
    sshd.write("hosts.txt", "n1 slots=1\n");
    let no_ssh = ["--port", "0", "--ssh", "/no/such/ssh"];
    call(&sshd, UP, &no_ssh).expect_code(1).expect_stderr(&["start `/no/such/ssh`", "--ssh"]);
    assert_eq!(sshd.daemons(), Vec::<u32>::new());
}

#[test]
fn what_was_started_is_stopped_where_another_host_fails_unless_it_is_kept() {
    let Some(sshd) = sshd("n1 slots=1\nn2 slots=1\n", &TinyJob::default()) else { return };
    // A file stands where n2's worker keeps its state.
    let state = sshd.state_of("default", "n2");
    fs_err::create_dir_all(state.parent().unwrap()).unwrap();
    fs_err::write(&state, "").unwrap();
    let up = call(&sshd, UP, &["--port", "0", "--json"]).expect_code(1);
    assert_eq!(states(&up.json()), ["stopped", "failed"]);
    up.expect_stderr(&[
        "n2 (hosts.txt:2): make the folder of the worker's state",
        "is stopped again",
    ]);
    assert_eq!(sshd.daemons(), Vec::<u32>::new());

    let up = call(&sshd, UP, &["--port", "0", "--keep", "--json"]).expect_code(1);
    assert_eq!(states(&up.json()), ["ready", "failed"]);
    assert_eq!(sshd.daemons().len(), 2, "the coordinator and the worker of n1");
    let down = call(&sshd, DOWN, &["--json"]).expect_code(0).json();
    assert_eq!(states(&down), ["stopped", "gone"]);
    assert_eq!(sshd.daemons(), Vec::<u32>::new());
}

#[test]
fn an_interrupt_stops_what_was_started() {
    let Some(sshd) = sshd("n1 slots=1\nn2 slots=1\n", &TinyJob::default()) else { return };
    for when in ["one line is enough", "the coordinator listens", "worker started"] {
        let arguments = arguments(UP);
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.extend(["--port", "0"]);
        let log = sshd.work().join(format!("up-{}.log", when.replace(' ', "-")));
        let mut up = Running::start(&mut sshd.command(&arguments), &log);
        wait_for(when, Duration::from_secs(60), || up.output().contains(when).then_some(()));
        up.signal(Signal::SIGINT);
        assert_eq!(up.wait(Duration::from_secs(60)).code(), Some(4), "{}", up.output());
        assert_eq!(sshd.daemons(), Vec::<u32>::new(), "{when}: {}", up.output());
        call(&sshd, STATUS, &[]).expect_code(1).expect_stderr(&["no cluster `default` is up"]);
    }
}

#[test]
fn a_run_on_hosts_trains_and_leaves_nothing() {
    let job = TinyJob { max_steps: 5, ..TinyJob::default() };
    let Some(sshd) = sshd("n1 slots=1\nn2 slots=1\n", &job) else { return };
    let status = call(&sshd, RUN, &["--json"]).expect_code(0).json();
    let places: Vec<&Value> =
        status["ranks"].as_array().unwrap().iter().map(|rank| &rank["worker"]).collect();
    assert_eq!(status["state"], "succeeded");
    assert_eq!(places, ["n1", "n2"]);
    assert_eq!(sshd.daemons(), Vec::<u32>::new(), "nothing is left");

    sshd.write("hosts.txt", "n1 slots=1\nclosed slots=1\n");
    let run = call(&sshd, RUN, &["--json"]).expect_code(1);
    run.expect_stderr(&["closed (hosts.txt:2): ssh fails", "1 of 2 hosts cannot have a worker"]);
    assert_eq!(sshd.daemons(), Vec::<u32>::new());
}

#[test]
fn a_run_that_is_interrupted_or_killed_leaves_nothing_on_its_hosts() {
    let job = TinyJob { max_steps: 1_000_000, ..TinyJob::default() };
    let Some(sshd) = sshd("n1 slots=1\nn2 slots=1\n", &job) else { return };
    for (signal, code) in [(Signal::SIGINT, Some(4)), (Signal::SIGKILL, None)] {
        let arguments = arguments(RUN);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let log = sshd.work().join(format!("run-{signal}.log"));
        let mut run = Running::start(&mut sshd.command(&arguments), &log);
        wait_for("two trainers", Duration::from_secs(60), || {
            assert!(run.is_running(), "{}", run.output());
            let name = |pid: &u32| fs_err::read_to_string(format!("/proc/{pid}/comm"));
            let is_trainer = |pid: &&u32| name(pid).is_ok_and(|name| name.trim() == "trainer");
            (sshd.daemons().iter().filter(is_trainer).count() == 2).then_some(())
        });
        run.signal(signal);
        let status = run.wait(Duration::from_secs(60));
        assert_eq!(status.code(), code, "{}", run.output());
        sshd.wait_until_empty();
    }
}

fn pids(shown: &Value) -> Vec<u64> {
    let hosts = shown["hosts"].as_array().unwrap();
    hosts.iter().map(|host| host["pid"].as_u64().unwrap_or(0)).collect()
}

#[test]
fn a_host_that_is_away_is_remembered_until_it_is_back_or_to_be_forgotten() {
    let Some(sshd) = sshd("n1 slots=1\nn2 slots=1\n", &TinyJob::default()) else { return };
    // Where a coordinator will listen again.
    let port = free_port(Ipv4Addr::LOCALHOST.into()).to_string();
    let up = call(&sshd, UP, &["--port", &port, "--json"]).expect_code(0).json();
    sshd.switch_n2(false);
    let down = call(&sshd, DOWN, &["--json"]).expect_code(1);
    assert_eq!(states(&down.json()), ["stopped", "failed"]);
    down.expect_stderr(&["n2: ssh fails", "they stay remembered", "--forget"]);
    assert_eq!(sshd.daemons(), [u32::try_from(pids(&up)[1]).unwrap()], "its worker, and no other");

    // It looks for a coordinator at the port where the next one is.
    sshd.switch_n2(true);
    let again = call(&sshd, UP, &["--port", "0", "--json"]).expect_code(0).json();
    assert_eq!((states(&again), pids(&again)[1]), (vec!["ready", "ready"], pids(&up)[1]));
    assert_eq!(again["master"], up["master"]);

    sshd.switch_n2(false);
    let down = call(&sshd, DOWN, &["--forget", "--json"]).expect_code(0);
    // In the order in which they came to the cluster.
    assert_eq!(states(&down.json()), ["forgotten", "stopped"]);
    down.expect_stderr(&["n2: forgotten; its worker may still run"]);
    call(&sshd, DOWN, &[]).expect_code(0).expect_stderr(&["nothing of cluster `default` is up"]);
    assert_eq!(sshd.daemons().len(), 1, "left to itself, as it was told");
}

#[test]
fn two_clusters_of_one_name_leave_each_others_workers_alone() {
    let Some(sshd) = sshd("n1 slots=1\n", &TinyJob::default()) else { return };
    let up = call(&sshd, UP, &["--port", "0", "--json"]).expect_code(0).json();
    let before = sshd.daemons();
    // As from another machine: with a memory of its own.
    let other = sshd.work().join("other").display().to_string();
    let other = ["--state-dir", other.as_str()];
    let flags = [&["--port", "0", "--json"][..], &other[..]].concat();
    let refused = call(&sshd, UP, &flags).expect_code(1);
    assert_eq!(states(&refused.json()), ["failed"]);
    let theirs = format!("its worker (pid {}) is of another coordinator", pids(&up)[0]);
    refused.expect_stderr(&[&theirs, "--cluster NAME"]);
    call(&sshd, DOWN, &other).expect_code(0).expect_stderr(&["nothing of cluster"]);
    assert_eq!(sshd.daemons(), before);
    let mine =
        call(&sshd, UP, &["--port", "0", "--json", "--cluster", "mine"]).expect_code(0).json();
    assert_eq!(states(&mine), ["ready"]);
    call(&sshd, DOWN, &["--cluster", "mine"]).expect_code(0);
    assert_eq!(sshd.daemons(), before);
    call(&sshd, DOWN, &[]).expect_code(0);
    assert_eq!(sshd.daemons(), Vec::<u32>::new());
}

#[test]
fn workers_of_another_build_go_on_and_are_still_known() {
    let Some(sshd) = sshd("n1 slots=1\n", &TinyJob::default()) else { return };
    let up = call(&sshd, UP, &["--port", "0", "--json"]).expect_code(0).json();
    let other = sshd.work().join("bin");
    fs_err::create_dir(&other).unwrap();
    for name in ["worker", "trainer"] {
        fs_err::os::unix::fs::symlink(tests::binaries::binary(name), other.join(name)).unwrap();
    }
    let other = other.display().to_string();
    let again = call(&sshd, UP, &["--port", "0", "--json", "--bin-dir", &other]).expect_code(0);
    assert_eq!(pids(&again.json()), pids(&up));
    again.expect_stderr(&["n1: its worker was started as", "`rsctl cluster down` first"]);
    call(&sshd, DOWN, &[]).expect_code(0);
    assert_eq!(sshd.daemons(), Vec::<u32>::new());
}

//! Over ssh: hosts `n1` and `n2` are this machine.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use tests::process::{Running, children_of, is_alive};
use tests::rsctl::{Answer, run_to_end};
use tests::ssh::Sshd;
use tests::wait::wait_for;

use super::{DOWN, LAUNCH, ON_CLUSTER, RUN, SSH, UP, WAITING, command};
use super::{expect_secret, expect_two_ranks, line_of};

const WITHIN: Duration = Duration::from_secs(90);

/// A script as people have it; it needs no torch.
const SCRIPT: &str = "\
import os, sys, time
rank = os.environ['RANK']
with open('env.' + rank, 'w') as file:
    file.writelines(f'{name}={value}\\n' for name, value in os.environ.items())
with open('pid.' + rank, 'w') as file:
    file.write(str(os.getpid()))
print('rank', rank, *sys.argv[1:], flush=True)
if os.path.exists('fail'):
    if rank == '1':
        sys.exit(7)
    time.sleep(600)
while not os.path.exists('go'):
    time.sleep(0.1)
";

fn hosts(hostfile: &str) -> Option<Sshd> {
    let sshd = Sshd::start()?;
    sshd.write("hosts.txt", hostfile);
    sshd.write("train.py", SCRIPT);
    sshd.write("job.toml", WAITING);
    Some(sshd)
}

/// Runs a line to its end.
fn call(mut line: Command) -> Answer {
    line.env("NCCL_DEBUG", "INFO").env("MLFLOW_RUN", "7").env("UNASKED", "x");
    run_to_end(line, WITHIN)
}

fn environment(sshd: &Sshd, rank: u32) -> BTreeMap<String, String> {
    let text = fs_err::read_to_string(sshd.work().join(format!("env.{rank}"))).unwrap();
    let pair = |line: &str| line.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
    text.lines().filter_map(pair).collect()
}

#[test]
fn a_script_runs_on_the_hosts_of_a_hostfile_as_under_deepspeed_and_leaves_nothing() {
    let Some(sshd) = hosts("n1 slots=1\nn2 slots=2\n") else { return };
    sshd.write(".deepspeed_env", "TOKEN=very secret\nNCCL_DEBUG=WARN\n");
    sshd.write("go", "");
    let answer = call(sshd.line(&command(SSH, LAUNCH))).expect_code(0);
    let mut said: Vec<&str> = answer.stdout.lines().collect();
    said.sort_unstable();
    let expected = [
        "rank 0 --local_rank=0 --lr 0.1",
        "rank 1 --local_rank=0 --lr 0.1",
        "rank 2 --local_rank=1 --lr 0.1",
    ];
    assert_eq!(said, expected, "{}", answer.stderr);
    assert!(!answer.stderr.contains("very secret"), "names only: {}", answer.stderr);

    let work = sshd.work().display().to_string();
    for (rank, visible) in [(0, "0"), (1, "0,1"), (2, "0,1")] {
        let env = environment(&sshd, rank);
        for (name, value) in [
            ("WORLD_SIZE", "3"),
            ("GROUP_WORLD_SIZE", "2"),
            ("CUDA_VISIBLE_DEVICES", visible),
            ("TOKEN", "very secret"),
            // The file wins, and the others travel.
            ("NCCL_DEBUG", "WARN"),
            ("MLFLOW_RUN", "7"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name} of rank {rank}");
        }
        let paths = env["PYTHONPATH"].split(':').next();
        assert_eq!(paths, Some(work.as_str()), "of rank {rank}");
        assert!(!env.contains_key("UNASKED"), "rank {rank}");
        let run_dir = std::path::Path::new(&env["RUSTSPEED_RUN_DIR"]);
        assert!(run_dir.is_absolute() && !run_dir.parent().unwrap().exists(), "{run_dir:?}");
    }
    assert_eq!(sshd.daemons(), Vec::<u32>::new(), "nothing is left");

    // The first rank that fails gives its code, and takes the others with it on every host.
    sshd.write("fail", "");
    call(sshd.line(&command(SSH, LAUNCH))).expect_code(7).expect_stderr(&["exited with code 7"]);
    let pid = fs_err::read_to_string(sshd.work().join("pid.0")).unwrap();
    assert!(!is_alive(pid.parse().unwrap()), "rank 0 outlived its launcher");
    assert_eq!(sshd.daemons(), Vec::<u32>::new(), "nothing is left");

    // One host alone.
    fs_err::remove_file(sshd.work().join("fail")).unwrap();
    let line = "rsctl launch -H hosts.txt -i n2:1 --no_local_rank train.py";
    let answer = call(sshd.line(line)).expect_code(0);
    assert_eq!(answer.stdout, "rank 0\n");
    assert_eq!(environment(&sshd, 0)["CUDA_VISIBLE_DEVICES"], "1");
}

#[test]
fn nobody_else_has_a_program_run_on_the_hosts_of_a_launch() {
    let Some(sshd) = hosts("n1 slots=1\nn2 slots=1\n") else { return };
    let mut launch =
        Running::start(&mut sshd.line(&command(SSH, RUN)), &sshd.work().join("run.log"));
    expect_two_ranks(&sshd.work());
    let daemons = sshd.daemons();
    let lines: Vec<String> = daemons.iter().map(|pid| line_of(*pid)).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in &lines {
        assert!(line.contains("--allow-commands"), "{line}");
    }
    let address =
        |line: &String| Some(line.split(" --master ").nth(1)?.split(' ').next()?.to_owned());
    let master = lines.iter().find_map(address).unwrap();
    let submit = ["submit", "job.toml", "--master", &master];
    for known in ["", "a guess"] {
        let mut other = sshd.command(&submit);
        other.env("RUSTSPEED_COMMAND_SECRET", known);
        call(other).expect_code(1).expect_stderr(&["command-secret"]);
    }
    let data_dir = lines
        .iter()
        .find_map(|line| Some(line.split(" --data-dir ").nth(1)?.split(' ').next()?.to_owned()));
    let secret = std::path::Path::new(&data_dir.unwrap()).join("command-secret");
    let mode = |path: &std::path::Path| {
        let metadata = fs_err::metadata(path).unwrap();
        std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077
    };
    assert_eq!(mode(&secret), 0, "its owner alone reads it");
    let secret = fs_err::read_to_string(secret).unwrap();
    expect_secret(&secret, &daemons, &[("what it says", launch.output())]);

    sshd.write("go", "");
    assert_eq!(launch.wait(WITHIN).code(), Some(0), "{}", launch.output());
    assert_eq!(sshd.daemons(), Vec::<u32>::new(), "nothing is left");
}

#[test]
fn a_cluster_over_ssh_runs_programs_for_those_alone_who_know_its_secret() {
    let Some(sshd) = hosts("n1 slots=1\nn2 slots=1\n") else { return };
    sshd.write("go", "");
    let up = command(SSH, UP);
    let shown = call(sshd.line(&format!("{up} --port 0 --json"))).expect_code(0);
    let master = shown.json()["master"].as_str().unwrap().to_owned();
    let told = shown.stderr.lines().rfind(|line| line.starts_with("now: ")).unwrap().to_owned();
    let told = told.strip_prefix("now: ").unwrap();

    // As the page has it, and as `up` says it.
    let line = command(SSH, ON_CLUSTER).replace("~/.local/state", "$XDG_STATE_HOME");
    let line = line.replace("--master localhost", &format!("--master {master}"));
    // A session of ssh has a PATH of its own, and its workers look there.
    let mut on_cluster = sshd.line(&format!("export PYTHON_EXEC=$(command -v python3); {line}"));
    on_cluster.env_remove("PYTHON_EXEC");
    let answer = call(on_cluster).expect_code(0);
    assert_eq!(answer.stdout.lines().count(), 2, "{answer:?}");
    call(sshd.line(told)).expect_code(0);
    expect_two_ranks(&sshd.work());
    let unknowing = line.split_once(" rsctl ").unwrap().1;
    call(sshd.line(&format!("rsctl {unknowing}")))
        .expect_code(1)
        .expect_stderr(&["command-secret", "RUSTSPEED_COMMAND_SECRET"]);

    let without = up.replace(" --allow-commands", "");
    let refused = call(sshd.line(&format!("{without} --port 0"))).expect_code(1);
    refused.expect_stderr(&["is up already, with --allow-commands", "cluster down"]);
    let secret = fs_err::read_to_string(sshd.folder_here().join("command-secret")).unwrap();
    expect_secret(&secret, &sshd.daemons(), &[("what `up` says", shown.stderr.clone())]);
    call(sshd.line(&command(SSH, DOWN))).expect_code(0);
    assert_eq!(sshd.daemons(), Vec::<u32>::new(), "nothing is left");
}

/// Ends the ssh of a host, as a network that goes away does in the end.
fn cut(run: &Running, host: &str) {
    let is_its = |pid: &u32| line_of(*pid).contains(&format!(" -- {host} exec sh"));
    let ssh = children_of(run.pid()).into_iter().find(is_its).expect("the ssh of that host");
    kill(Pid::from_raw(ssh.cast_signed()), Signal::SIGKILL).unwrap();
}

#[test]
fn a_run_goes_on_without_a_host_where_the_others_have_room_for_its_job() {
    let Some(sshd) = hosts("n1 slots=1\nn2 slots=1\n") else { return };
    // The shell becomes it, so that its number is the run's.
    let line = format!("exec {}", command(SSH, RUN));
    let mut fixed = Running::start(&mut sshd.line(&line), &sshd.work().join("fixed.log"));
    expect_two_ranks(&sshd.work());
    cut(&fixed, "n2");
    assert_eq!(fixed.wait(WITHIN).code(), Some(1), "{}", fixed.output());
    assert!(fixed.output().contains("error: n2 ended with"), "{}", fixed.output());
    // n2's worker, whose ssh is gone, ends by itself.
    sshd.wait_until_empty();

    let elastic = WAITING.replace("world-size = 2", "min-ranks = 1\nmax-ranks = 2");
    sshd.write("job.toml", &elastic);
    for rank in 0..2 {
        fs_err::remove_file(sshd.work().join(format!("told.{rank}"))).unwrap();
    }
    let line = format!("{line} --json");
    let mut run = Running::start(&mut sshd.line(&line), &sshd.work().join("elastic.log"));
    expect_two_ranks(&sshd.work());
    cut(&run, "n2");
    wait_for("an attempt with one rank", WITHIN, || {
        assert!(run.is_running(), "{}", run.output());
        let told = fs_err::read_to_string(sshd.work().join("told.0")).unwrap();
        (told == "0 of 1 on node 0 of 1\n").then_some(())
    });
    sshd.write("go", "");
    assert_eq!(run.wait(WITHIN).code(), Some(0), "{}", run.output());
    let said = run.output();
    assert!(said.contains("warning: n2 ended with"), "{said}");
    assert!(said.contains("the job goes on without it"), "{said}");
    assert!(said.contains("\"state\": \"succeeded\""), "{said}");
    sshd.wait_until_empty();
}

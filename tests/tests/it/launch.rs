//! Programs of the user's own on our workers: what torchrun and deepspeed give them, their ends, and
//! who may start them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use tests::binaries::workspace_root;
use tests::cluster::{Cluster, Serving};
use tests::process::{Running, is_alive};
use tests::rsctl::Rsctl;
use tests::wait::{skipped, wait_for};

/// What torchrun gives, name by name.
const TORCHRUN: &str = include_str!("launch/torchrun-2.11.env");

/// Of torchrun's own machinery, which is not here.
const TORCHRUNS_OWN: [&str; 2] = ["TORCHELASTIC_ERROR_FILE", "TORCHELASTIC_SIGNALS_TO_HANDLE"];

/// A Python with torch, for scripts that are to run unmodified: `make test-peers`.
const PEERS_PYTHON: &str = "RUSTSPEED_PEERS_PYTHON";

fn allowing() -> Serving {
    Serving { flags: vec!["--allow-commands"], ..Serving::default() }
}

/// A coordinator that allows commands, with workers `w0`, ... that do.
fn cluster(slots: &[u32]) -> Cluster {
    let mut cluster = Cluster::start_as(allowing(), &[]);
    for (index, slots) in slots.iter().enumerate() {
        let name = format!("w{index}");
        let mut worker = cluster.worker_command(&name, *slots);
        worker
            .arg("--allow-commands")
            .env("RUSTSPEED_SECRET", "hidden")
            .env_remove("OMP_NUM_THREADS");
        cluster.add_worker(&name, worker);
    }
    cluster.wait_until_ready(slots.len());
    cluster
}

/// A job of a shell's lines.
fn job(cluster: &Cluster, world: u32, more: &str, lines: &str) -> String {
    cluster.write("train.sh", &format!("#!/bin/sh\n{lines}\n"));
    let toml = format!(
        "[job]\nname = \"script\"\ncommand = [\"/bin/sh\", \"train.sh\"]\n{more}\n\
         [resources]\nworld-size = {world}\n[restart]\napplication = 2\ninfrastructure = 2\n\
         backoff = \"1ms\"\nmax-backoff = \"1ms\"\n"
    );
    cluster.write("job.toml", &toml)
}

fn rsctl(folder: &Path) -> Rsctl {
    Rsctl { folder: folder.to_owned(), master: None }
}

fn environment(path: &Path) -> BTreeMap<String, String> {
    let text = fs_err::read_to_string(path).expect("the script has written it");
    let pair = |line: &str| line.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
    text.lines().filter_map(pair).collect()
}

#[test]
fn two_ranks_of_one_node_have_what_torchrun_gives_name_by_name() {
    let folder = tempfile::tempdir().expect("temp folder");
    let lines = "env | sort > env.$RANK; echo to stdout; echo to stderr >&2\n";
    fs_err::write(folder.path().join("train.sh"), lines).expect("write our script");
    let mut command = rsctl(folder.path()).command(&[
        "launch",
        "--nproc",
        "2",
        "--rdzv-id",
        "none",
        "--no-python",
        "sh",
        "train.sh",
    ]);
    command.env_remove("OMP_NUM_THREADS");
    let done = command.output().expect("start rsctl");
    let (stdout, stderr) =
        (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{stdout}\n{stderr}");
    assert_eq!(stdout, "to stdout\nto stdout\n", "{stderr}");
    assert_eq!(stderr.matches("to stderr\n").count(), 2, "{stderr}");
    let golden: Vec<(&str, &str)> = TORCHRUN
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .collect();
    assert!(golden.len() > 15, "{golden:?}");
    for rank in ["0", "1"] {
        let env = environment(&folder.path().join(format!("env.{rank}")));
        for (name, value) in &golden {
            let expected = match *value {
                _ if TORCHRUNS_OWN.contains(name) => None,
                // Rank 0 serves the store here.
                _ if *name == "TORCHELASTIC_USE_AGENT_STORE" => Some("False"),
                "RANK" => Some(rank),
                "*" => env.get(*name).map(String::as_str),
                value => Some(value),
            };
            assert_eq!(env.get(*name).map(String::as_str), expected, "{name} of rank {rank}");
        }
        let port: u16 = env["MASTER_PORT"].parse().expect("a port");
        assert_ne!(port, 0);
        for (name, value) in [("CROSS_RANK", "0"), ("CROSS_SIZE", "1"), ("LOCAL_SIZE", "2")] {
            assert_eq!(env[name], value, "{name}, as deepspeed gives it");
        }
    }
    let left: Vec<_> = fs_err::read_dir(folder.path()).expect("our folder").collect();
    assert_eq!(left.len(), 3, "the script, and what it has written: {left:?}");
}

#[test]
fn ranks_of_two_workers_know_their_node_and_nothing_of_the_daemons() {
    let cluster = cluster(&[1, 1]);
    let lines = "env | sort > env.$RANK";
    let id = cluster.submit(&job(&cluster, 2, "env = { GREETING = \"hello\" }", lines));
    cluster.wait_for_state(&id, "succeeded");
    let of = |rank: u32| environment(&cluster.path().join(format!("env.{rank}")));
    let (first, second) = (of(0), of(1));
    for (rank, env) in [("0", &first), ("1", &second)] {
        for (name, value) in [
            ("RANK", rank),
            ("LOCAL_RANK", "0"),
            ("GROUP_RANK", rank),
            ("CROSS_RANK", rank),
            ("WORLD_SIZE", "2"),
            ("LOCAL_WORLD_SIZE", "1"),
            ("GROUP_WORLD_SIZE", "2"),
            ("TORCHELASTIC_MAX_RESTARTS", "2"),
            ("GREETING", "hello"),
            ("RUSTSPEED_JOB_ID", id.as_str()),
        ] {
            assert_eq!(env[name], value, "{name} of rank {rank}");
        }
        // One process alone has the whole node, as under torchrun.
        for absent in ["OMP_NUM_THREADS", "RUSTSPEED_SECRET", "RUSTSPEED_LINK_FD"] {
            assert!(!env.contains_key(absent), "{absent}");
        }
    }
    let master =
        |env: &BTreeMap<String, String>| (env["MASTER_ADDR"].clone(), env["MASTER_PORT"].clone());
    assert_eq!(master(&first), master(&second));
}

#[test]
fn the_exit_code_is_that_of_the_rank_that_failed_first_and_nothing_is_left() {
    let folder = tempfile::tempdir().expect("temp folder");
    let lines = "if [ $RANK = 1 ]; then echo no luck >&2; exit 7; fi\n\
                 echo $$ > pid.0; exec sleep 600\n";
    fs_err::write(folder.path().join("train.sh"), lines).expect("write our script");
    let launch = ["launch", "--nproc", "2", "--prefix", "--no-python", "sh", "train.sh"];
    let answer = rsctl(folder.path()).call(&launch).expect_code(7);
    let answer = answer.expect_stderr(&["[rank 1] no luck", "rank 1", "exited with code 7"]);
    assert_eq!(answer.stdout, "");
    let pid = fs_err::read_to_string(folder.path().join("pid.0")).unwrap_or_default();
    if let Ok(pid) = pid.trim().parse() {
        assert!(!is_alive(pid), "rank 0 outlived its launcher");
    }
}

#[test]
fn a_killed_rank_starts_all_of_them_again() {
    let cluster = cluster(&[2]);
    let lines = "echo $$ > pid.$RANK.$RUSTSPEED_ATTEMPT\n\
                 [ $TORCHELASTIC_RESTART_COUNT = 1 ] && exit 0\nexec sleep 600";
    let id = cluster.submit(&job(&cluster, 2, "", lines));
    let pid = |rank: u32| -> i32 {
        let path = cluster.path().join(format!("pid.{rank}.1"));
        wait_for("the first attempt's process", Duration::from_secs(30), || {
            fs_err::read_to_string(&path).ok()?.trim().parse().ok()
        })
    };
    let (guilty, other) = (pid(1), pid(0));
    kill(Pid::from_raw(guilty), Signal::SIGKILL).expect("it is ours and lives");
    let status = cluster.wait_for_state(&id, "succeeded");
    assert_eq!(status["attempt"], 2, "{status:#}");
    let reason = status["attempts"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("rank 1") && reason.contains("SIGKILL"), "{reason}");
    assert!(!is_alive(other.cast_unsigned()), "one failure ends the attempt everywhere");
}

#[test]
fn a_cancel_is_a_sigterm_that_a_script_may_use_to_save() {
    let cluster = cluster(&[1]);
    let lines = "trap 'echo saved > saved; exit 0' TERM\ntouch up\nwhile :; do sleep 0.1; done";
    let id = cluster.submit(&job(&cluster, 1, "", lines));
    let up = cluster.path().join("up");
    wait_for("the script", Duration::from_secs(30), || up.exists().then_some(()));
    cluster.rsctl().call(&["cancel", &id]).expect_code(0);
    let status = cluster.wait_for_state(&id, "cancelled");
    assert!(cluster.path().join("saved").exists(), "{status:#}");
    let explained = cluster.rsctl().call(&["explain", &id]).expect_code(0);
    assert!(explained.stdout.contains("cancelled"), "{}", explained.stdout);
}

#[test]
fn rsctl_run_runs_a_command_here_and_has_nothing_to_resume() {
    let folder = tempfile::tempdir().expect("temp folder");
    let toml = "[job]\nname = \"script\"\noutput-dir = \"runs\"\n\
                command = [\"/bin/sh\", \"-c\", \"echo $RANK of $WORLD_SIZE > rank.$RANK\"]\n\
                [resources]\nworld-size = 2\n";
    fs_err::write(folder.path().join("job.toml"), toml).expect("write our job");
    let rsctl = rsctl(folder.path());
    rsctl.call(&["run", "job.toml"]).expect_code(0);
    let told = |rank: u32| fs_err::read_to_string(folder.path().join(format!("rank.{rank}")));
    assert_eq!((&*told(0).unwrap(), &*told(1).unwrap()), ("0 of 2\n", "1 of 2\n"));
    let refused = rsctl.call(&["run", "job.toml", "--resume", "runs/script-000000"]);
    refused.expect_code(2).expect_stderr(&["--resume", "job.command"]);
}

#[test]
fn without_allow_commands_the_answer_says_which_flag() {
    let strict = Cluster::start(&[1]);
    let file = job(&strict, 1, "", "true");
    let refused = strict.rsctl().call(&["submit", &file]).expect_code(1);
    refused.expect_stderr(&["job.command", "--allow-commands"]);

    let mut halfway = Cluster::start_as(allowing(), &[]);
    let worker = halfway.worker_command("w0", 1);
    halfway.add_worker("w0", worker);
    halfway.wait_until_ready(1);
    let id = halfway.submit(&job(&halfway, 1, "", "true"));
    wait_for("the reason", Duration::from_secs(20), || {
        let status = halfway.status(&id);
        assert_eq!(status["state"], "queued", "{status:#}");
        status["reason"].as_str()?.contains("--allow-commands").then_some(())
    });
}

#[test]
fn a_coordinator_with_a_secret_runs_programs_for_those_alone_who_know_it() {
    let folder = tempfile::tempdir().expect("temp folder");
    fs_err::write(folder.path().join("command-secret"), "a secret\n").expect("write the secret");
    let data_dir = Some(folder.path().to_owned());
    let cluster = Cluster::start_as(Serving { data_dir, ..allowing() }, &[]);
    let file = job(&cluster, 1, "", "true");
    let check = |arguments: &[&str]| {
        let mut last = String::new();
        for (secret, is_known) in [("", false), ("another", false), ("a secret", true)] {
            let mut command = cluster.rsctl().command(arguments);
            let done = command.env("RUSTSPEED_COMMAND_SECRET", secret).output().expect("rsctl");
            let told = String::from_utf8_lossy(&done.stderr);
            assert_eq!(done.status.success(), is_known, "{arguments:?} {secret}: {told}");
            assert_eq!(!told.contains("command-secret"), is_known, "{secret}: {told}");
            last = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        }
        last
    };
    let id = check(&["submit", &file]);
    cluster.rsctl().call(&["cancel", &id]).expect_code(0);
    check(&["requeue", &id]);
}

#[test]
fn ctrl_c_stops_the_ranks_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("temp folder");
    let lines = "trap 'echo bye; exit 0' TERM\necho $$ > pid.$RANK\nwhile :; do sleep 0.1; done\n";
    fs_err::write(folder.path().join("train.sh"), lines).expect("write our script");
    let mut command =
        rsctl(folder.path()).command(&["launch", "--nproc", "2", "--no-python", "sh", "train.sh"]);
    let mut launch = Running::start(&mut command, &folder.path().join("log"));
    let pids: Vec<u32> = ["pid.0", "pid.1"]
        .iter()
        .map(|name| {
            let path = folder.path().join(name);
            wait_for("the ranks", Duration::from_secs(30), || {
                fs_err::read_to_string(&path).ok()?.trim().parse().ok()
            })
        })
        .collect();
    launch.signal(Signal::SIGINT);
    let status = launch.wait(Duration::from_secs(30));
    assert_eq!(status.code(), Some(4), "{}", launch.output());
    assert_eq!(launch.output().matches("bye\n").count(), 2, "{}", launch.output());
    assert!(!pids.into_iter().any(is_alive));
}

/// PyTorch's own example of DDP, in its words.
const DDP: &str = "\
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP

dist.init_process_group(\"gloo\")
rank = dist.get_rank()
torch.manual_seed(0)
model = DDP(torch.nn.Linear(10, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for _ in range(3):
    optimizer.zero_grad()
    loss = model(torch.randn(20, 10) + rank).pow(2).mean()
    loss.backward()
    optimizer.step()
total = torch.tensor([float(rank + 1)])
dist.all_reduce(total)
weights = torch.cat([p.detach().flatten() for p in model.parameters()])
everyone = [torch.zeros_like(weights) for _ in range(dist.get_world_size())]
dist.all_gather(everyone, weights)
same = all(torch.equal(weights, other) for other in everyone)
print(f\"rank {rank} of {dist.get_world_size()}: sum {total.item()}, same weights {same}\")
dist.destroy_process_group()
";

/// What a script says under `rsctl launch`. None, said, where no Python with torch is named.
fn launched(folder: &Path, arguments: &[&str]) -> Option<String> {
    let Some(python) = std::env::var_os(PEERS_PYTHON) else {
        skipped(&format!("{PEERS_PYTHON} names no Python with torch: run `make test-peers`"));
        return None;
    };
    // DeepSpeed looks for ninja beside it.
    let beside = Path::new(&python).parent().expect("a program in a folder").to_owned();
    let path = std::env::var("PATH").expect("PATH");
    let mut command = rsctl(folder).command(&[&["launch"], arguments].concat());
    command.env("PYTHON_EXEC", &python).env("PATH", format!("{}:{path}", beside.display()));
    let mut launch = Running::start(&mut command, &folder.join("log"));
    let status = launch.wait(Duration::from_secs(300));
    let output = launch.output();
    assert!(status.success(), "{output}");
    Some(output)
}

#[test]
fn an_unmodified_script_of_pytorch_trains_with_ddp() {
    let folder = tempfile::tempdir().expect("temp folder");
    fs_err::write(folder.path().join("ddp.py"), DDP).expect("write our script");
    let Some(output) = launched(folder.path(), &["--nproc", "2", "ddp.py"]) else { return };
    for rank in 0..2 {
        let line = format!("rank {rank} of 2: sum 3.0, same weights True\n");
        assert!(output.contains(&line), "{output}");
    }
}

/// The script that `make bench` runs under DeepSpeed's own launcher.
#[test]
fn an_unmodified_script_of_deepspeed_trains_with_zero_2_and_3() {
    let folder = tempfile::tempdir().expect("temp folder");
    let script = workspace_root().join("bench/peers/lstm_deepspeed.py");
    let script = script.to_str().expect("a path in UTF-8");
    let small = ["--hid", "16", "--micro", "8", "--ga", "1", "--steps", "4"];
    for stage in ["2", "3"] {
        let arguments = [&["--num_gpus", "2", script, "--stage", stage], &small[..]].concat();
        let Some(output) = launched(folder.path(), &arguments) else { return };
        // The one before is in the log, too.
        let line = output.lines().rfind(|line| line.starts_with("{\"stage\""));
        let told: serde_json::Value = serde_json::from_str(line.expect("its line")).expect("JSON");
        assert_eq!(
            (&told["stage"], &told["ws"]),
            (&stage.parse::<u64>().unwrap().into(), &2.into())
        );
        assert!(told["loss"].as_f64().unwrap().is_finite(), "{told}");
    }
}

//! On a real SLURM with two nodes.

use std::process::Command;
use std::time::Duration;

use tests::binaries::binary;
use tests::process::{Running, processes_with};
use tests::slurm::Slurm;
use tests::wait::wait_for;

use super::{SBATCH, SERVE, SLURM, SUBMIT, WAITING, command};
use super::{expect_secret, expect_two_ranks, line_of};

const WITHIN: Duration = Duration::from_secs(60);

/// What a user of the cluster can ask SLURM for, and the script of our own that SLURM keeps.
fn seen_by_slurm(slurm: &Slurm, job: &str) -> Vec<(&'static str, String)> {
    let script = slurm.succeed("scontrol write batch_script $job -", &[("job", job)]);
    let steps = slurm.succeed("scontrol show step", &[]);
    vec![("the job", slurm.job(job)), ("its script", script), ("its steps", steps)]
}

/// Our daemons that have to do with this cluster.
fn daemons(slurm: &Slurm) -> Vec<u32> {
    let work = slurm.work();
    let all = processes_with(work.to_str().expect("temp paths are UTF-8"));
    let ours = ["coordinator", "worker"].map(|name| binary(name).display().to_string());
    all.into_iter().filter(|pid| ours.iter().any(|own| line_of(*pid).starts_with(own))).collect()
}

#[test]
fn a_program_runs_on_both_nodes_of_a_batch_job_and_nobody_else_has_one_run() {
    let Some(slurm) = Slurm::start() else { return };
    slurm.write("job.toml", WAITING);
    let job = slurm.submit(&command(SLURM, SBATCH));
    expect_two_ranks(&slurm.work());
    let said = slurm.output(&job);
    let port = said.lines().find_map(|line| line.strip_prefix("the coordinator listens at "));
    let port = port.and_then(|address| address.rsplit_once(':')).expect("where it listens").1;
    let line = format!("rsctl submit job.toml --master 127.0.0.1:{port}");
    let (code, told) = slurm.run(&line, &[("RUSTSPEED_COMMAND_SECRET", "a guess")]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("command-secret"), "{told}");

    let find = "find runs/.slurm -name command-secret -perm 0600 -exec cat {} +";
    let secret = slurm.succeed(find, &[]);
    let logs = slurm.succeed("cat runs/.slurm/*/*.log", &[]);
    let mut seen = seen_by_slurm(&slurm, &job);
    seen.extend([("what it says", slurm.output(&job)), ("the logs", logs)]);
    let pids = daemons(&slurm);
    assert_eq!(pids.len(), 3, "a coordinator and two workers");
    expect_secret(secret.trim(), &pids, &seen);

    slurm.write("go", "");
    slurm.wait_for_job(&job, &["JobState=COMPLETED", "ExitCode=0:0"]);
    slurm.wait_until_empty();
    assert!(!slurm.work().join("runs/.slurm").exists(), "nor is the secret left");
}

#[test]
fn after_a_notice_a_program_has_time_to_save_and_starts_again_when_slurm_queues_it_again() {
    let Some(slurm) = Slurm::start() else { return };
    // It knows nothing of SIGUSR1, which SLURM sends to every process.
    let saves = "\ntrap 'echo saved > saved.$RANK; exit 0' TERM\necho $RANK of";
    slurm.write("job.toml", &WAITING.replace("\necho $RANK of", saves));
    let job = slurm.submit(&command(SLURM, SBATCH));
    let this = [("job", job.as_str())];
    expect_two_ranks(&slurm.work());
    slurm.succeed("scancel --signal=USR1 --batch $job", &this);
    slurm.wait_for_job(&job, &["JobState=PENDING", "Restarts=1"]);
    let told = slurm.output(&job);
    assert!(told.contains("has left its nodes"), "{told}");
    assert!(told.contains("starts it again"), "{told}");
    for rank in 0..2 {
        let saved = slurm.work().join(format!("saved.{rank}"));
        assert!(saved.exists(), "rank {rank}: {told}");
    }
    slurm.wait_until_empty();

    slurm.write("go", "");
    slurm.succeed("scontrol update JobId=$job StartTime=now+3", &this);
    slurm.wait_for_job(&job, &["JobState=COMPLETED", "ExitCode=0:0", "Restarts=1"]);
    let told = slurm.output(&job);
    assert!(told.contains("script-") && told.contains(" starts again"), "{told}");
    slurm.wait_until_empty();
}

#[test]
fn a_program_gets_nodes_of_its_own_from_a_coordinator_that_allows_it() {
    let Some(slurm) = Slurm::start() else { return };
    slurm.write("job.toml", WAITING);
    let data_dir = slurm.work().join("coordinator");
    fs_err::create_dir(&data_dir).unwrap();
    let secret = "of this coordinator: 5a1c";
    fs_err::write(data_dir.join("command-secret"), secret).unwrap();
    let knowing = [("RUSTSPEED_COMMAND_SECRET", secret)];
    let line = command(SLURM, SERVE);
    let mut words = line.split_whitespace();
    let mut serve = Command::new(binary(words.next().unwrap()));
    serve
        .args(words)
        .current_dir(slurm.work())
        .env("SLURM_CONF", slurm.conf())
        .env("RUSTSPEED_LISTEN", "127.0.0.1:0")
        .env("RUSTSPEED_DATA_DIR", &data_dir);
    // Set where it was started: it stays there.
    serve.envs(knowing);
    let mut coordinator = Running::start(&mut serve, &slurm.work().join("coordinator.log"));
    let master = coordinator.listening();
    let line = command(SLURM, SUBMIT);
    let (code, told) = slurm.run(&line, &[("RUSTSPEED_MASTER", &master)]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains("command-secret"), "{told}");
    assert_eq!(slurm.queue(), Vec::<String>::new());

    let mut submit = slurm.command(&line);
    submit.env("RUSTSPEED_MASTER", &master).envs(knowing);
    let mut submit = Running::start(&mut submit, &slurm.work().join("submit.log"));
    expect_two_ranks(&slurm.work());
    let queue = slurm.queue();
    let [job] = queue.as_slice() else { panic!("one allocation: {queue:?}") };
    let job = job.split_whitespace().next().unwrap().to_owned();
    let seen = seen_by_slurm(&slurm, &job);
    let script = &seen[1].1;
    assert!(script.contains("--leave-after \"$5\" --allow-commands'"), "{script}");
    let logs = slurm.succeed("cat runs/.slurm/*.log", &[]);
    let workers: Vec<u32> =
        daemons(&slurm).into_iter().filter(|pid| *pid != coordinator.pid()).collect();
    assert_eq!(workers.len(), 2, "a worker on each node");
    let all =
        [&seen[..], &[("their log", logs), ("the coordinator", coordinator.output())]].concat();
    expect_secret(secret, &workers, &all);

    slurm.write("go", "");
    assert_eq!(submit.wait(WITHIN).code(), Some(0), "{}", submit.output());
    wait_for("an empty queue", WITHIN, || slurm.queue().is_empty().then_some(()));
}

//! Jobs inside allocations of a real SLURM with two nodes: `docs/slurm.md`, command by command.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::binaries::{binary, workspace_root};
use tests::history::History;
use tests::job::TinyJob;
use tests::process::Running;
use tests::rsctl::Rsctl;
use tests::slurm::Slurm;
use tests::wait::wait_for;

/// The beginnings of the page's commands. Each is executed by a story below.
pub(crate) const SBATCH: &str = "sbatch --nodes=";
const ARRAY: &str = "sbatch --array=";
const SQUEUE: &str = "squeue";
const SALLOC: &str = "salloc ";
pub(crate) const NOTICE: &str = "scancel --signal=USR1 --batch ";
pub(crate) const AT_ONCE: &str = "scontrol update ";
const CANCEL: &str = "scancel --signal=INT --batch ";
const END: &str = "scancel $job";
pub(crate) const SERVE: &str = "coordinator serve";
pub(crate) const SUBMIT: &str = "rsctl submit --slurm job.toml --nodes";
pub(crate) const DRY_RUN: &str = "rsctl submit --slurm job.toml --dry-run";
pub(crate) const POOL_ADD: &str = "rsctl slurm pool add ";
pub(crate) const POOL_LIST: &str = "rsctl slurm pool list";
pub(crate) const POOL_SUBMIT: &str = "rsctl submit job.toml ";
pub(crate) const POOL_REMOVE: &str = "rsctl slurm pool remove ";

fn commands() -> Vec<String> {
    let page = fs_err::read_to_string(workspace_root().join("docs/slurm.md")).unwrap();
    let blocks = page.split("\n```\n").skip(1).step_by(2);
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

/// The page's command that begins so.
pub(crate) fn command(beginning: &str) -> String {
    let mut fitting = commands().into_iter().filter(|line| line.starts_with(beginning));
    let first = fitting.next().unwrap_or_else(|| panic!("docs/slurm.md has no `{beginning}`"));
    assert_eq!(fitting.next(), None, "one command is enough");
    first
}

#[test]
fn every_command_of_the_page_is_executed_by_a_story() {
    let inside = [SBATCH, ARRAY, SQUEUE, SALLOC, NOTICE, AT_ONCE, CANCEL, END];
    let asked_for = [SERVE, SUBMIT, DRY_RUN, POOL_ADD, POOL_LIST, POOL_SUBMIT, POOL_REMOVE];
    let known = [&inside[..], &asked_for].concat();
    let commands = commands();
    assert_eq!(commands.len(), known.len(), "{commands:?}");
    for beginning in known {
        command(beginning);
    }
}

/// A job with two ranks, whose nodes have one CPU each.
pub(crate) fn tiny(max_steps: u64) -> String {
    TinyJob { max_steps, checkpoint: "every-steps = 1000000".to_owned(), ..TinyJob::default() }
        .toml()
}

/// The same job on this machine, without SLURM and without a fault.
pub(crate) fn undisturbed(slurm: &Slurm, deadline: Duration) -> History {
    let rsctl = Rsctl { folder: slurm.work(), master: None };
    let elsewhere = "job.output-dir=undisturbed";
    let run = ["run", "--json", "--workers", "2", "--set", elsewhere, "job.toml"];
    History::of(&rsctl.call_within(deadline, &run).expect_code(0).json())
}

/// The last JSON document among what a batch script has said in all its lives.
pub(crate) fn status_in(output: &str) -> Value {
    let from = output.rfind("\n{\n").unwrap_or_else(|| panic!("no JSON in:\n{output}"));
    let to = output.rfind("\n}").expect("the document ends") + 2;
    serde_json::from_str(&output[from..to]).unwrap()
}

/// The only run in the output folder; nothing of SLURM's is left beside it.
pub(crate) fn only_run(slurm: &Slurm) -> PathBuf {
    let runs: Vec<_> = fs_err::read_dir(slurm.work().join("runs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs.into_iter().next().unwrap()
}

#[test]
fn a_batch_script_trains_over_both_nodes_and_ends_as_its_job() {
    let Some(slurm) = Slurm::start() else { return };
    slurm.write("job.toml", &tiny(20));
    let sbatch = command(SBATCH);
    let job = slurm.submit(&format!("{sbatch} --json"));
    assert!(slurm.succeed(&command(SQUEUE), &[]).contains("rustspee"), "as wide as its column");
    slurm.wait_for_job(&job, &["JobState=COMPLETED", "ExitCode=0:0"]);
    let status = status_in(&slurm.output(&job));
    assert_eq!((&status["state"], &status["step"]), (&"succeeded".into(), &20.into()));
    let worker = |rank: usize| status["ranks"][rank]["worker"].as_str().unwrap().to_owned();
    assert_eq!((worker(0), worker(1)), ("node1".to_owned(), "node2".to_owned()));
    assert!(only_run(&slurm).join("checkpoints/step-00000020/manifest.json").is_file());

    // A job that cannot run gives the batch job its code, and one that is too large starts nothing.
    let absent = slurm.submit(&format!("{sbatch} --set model.init-from=absent.safetensors"));
    slurm.wait_for_job(&absent, &["JobState=FAILED", "ExitCode=78:0"]);
    assert!(slurm.output(&absent).contains("absent.safetensors"), "{}", slurm.output(&absent));
    let large = slurm.submit(&format!("{sbatch} --set resources.world-size=3"));
    slurm.wait_for_job(&large, &["JobState=FAILED", "ExitCode=78:0"]);
    let told = slurm.output(&large);
    assert!(told.contains("3 ranks of 1 CPU"), "{told}");
    assert!(told.contains("2 nodes with 2 CPUs can take 2"), "{told}");
    assert!(!slurm.work().join("runs/.slurm").exists());
    slurm.wait_until_empty();
}

#[test]
fn tasks_of_an_array_are_jobs_of_their_own() {
    let Some(slurm) = Slurm::start() else { return };
    slurm.write("job.toml", &tiny(20));
    let job = slurm.submit(&command(ARRAY));
    for task in [1, 2] {
        slurm.wait_for_job(&format!("{job}_{task}"), &["JobState=COMPLETED", "ExitCode=0:0"]);
    }
    let runs = fs_err::read_dir(slurm.work().join("runs")).unwrap();
    let effective = |run: std::io::Result<fs_err::DirEntry>| {
        fs_err::read_to_string(run.unwrap().path().join("effective.toml")).unwrap()
    };
    let effective: Vec<String> = runs.map(effective).collect();
    assert_eq!(effective.len(), 2);
    for seed in [1, 2] {
        let line = format!("\nseed = {seed}\n");
        assert_eq!(
            effective.iter().filter(|text| text.contains(&line)).count(),
            1,
            "{effective:?}"
        );
    }
    slurm.wait_until_empty();
}

#[test]
fn the_launcher_of_the_guide_runs_in_a_queue() {
    let Some(slurm) = Slurm::start() else { return };
    let page = fs_err::read_to_string(workspace_root().join("docs/migrating.md")).unwrap();
    let spans = page.split('`').skip(1).step_by(2);
    let launch: Vec<_> = spans.filter(|span| span.starts_with("sbatch deploy/")).collect();
    let [launch] = launch.as_slice() else { panic!("one command is enough: {launch:?}") };
    let flags = "sbatch --nodes=2 --cpus-per-task=1 --output=rustspeed-%j.out ";
    let sbatch = launch.replace("sbatch ", flags);
    let small = "--set model.hidden-size=8 --set training.max-steps=3 --set resources.world-size=2";
    let job = slurm.submit(&format!("{sbatch} {small} --json"));
    slurm.wait_for_job(&job, &["JobState=COMPLETED", "ExitCode=0:0"]);
    let status = status_in(&slurm.output(&job));
    assert_eq!((&status["state"], &status["step"]), (&"succeeded".into(), &3.into()));
    assert_eq!(status["name"], "cnn");

    let refused = slurm.submit(&sbatch.replace(" cnn ", " vgg "));
    slurm.wait_for_job(&refused, &["JobState=FAILED", "ExitCode=2:0"]);
    let told = slurm.output(&refused);
    assert!(
        told.contains("MODEL `vgg` does not exist here yet; there are: lstm gru cnn"),
        "{told}"
    );
    slurm.wait_until_empty();
}

#[test]
fn after_a_notice_the_job_is_queued_again_and_makes_no_step_twice() {
    const STEPS: u64 = 4000;
    let Some(slurm) = Slurm::start() else { return };
    slurm.write("job.toml", &tiny(STEPS));
    let job = slurm.submit(&command(SBATCH));
    let this = [("job", job.as_str())];
    slurm.wait_for_output(&job, "\nstep ");
    slurm.succeed(&command(NOTICE), &this);
    slurm.wait_for_job(&job, &["JobState=PENDING", "Restarts=1"]);
    let told = slurm.output(&job);
    assert!(told.contains("error: job tiny-") && told.contains("has left its nodes"), "{told}");
    slurm.wait_until_empty();

    slurm.succeed(&command(AT_ONCE), &this);
    slurm.wait_for_job(&job, &["JobState=COMPLETED", "ExitCode=0:0", "Restarts=1"]);
    let told = slurm.output(&job);
    assert!(told.contains("goes on from its newest checkpoint"), "{told}");
    let run = only_run(&slurm);
    let steps = fs_err::read_to_string(run.join("metrics/steps.csv")).unwrap();
    let step = |row: &str| row.split(',').next().unwrap().parse::<u64>().unwrap();
    let made: Vec<u64> = steps.lines().skip(1).map(step).collect();
    assert_eq!(made, (1..=STEPS).collect::<Vec<_>>(), "every step, once and in order");
    slurm.wait_until_empty();
}

#[test]
fn a_job_ends_when_told_to_and_goes_on_when_slurm_queues_it_again() {
    let Some(slurm) = Slurm::start() else { return };
    slurm.write("job.toml", &tiny(1_000_000));
    let cancelled = slurm.submit(&command(SBATCH));
    slurm.wait_for_output(&cancelled, "\nstep ");
    slurm.succeed(&command(CANCEL), &[("job", &cancelled)]);
    slurm.wait_for_job(&cancelled, &["JobState=FAILED", "ExitCode=4:0"]);
    slurm.wait_until_empty();
    assert_eq!(checkpoints(&slurm), 1, "it saved");
    assert!(!slurm.work().join("runs/.slurm").exists(), "it is not to go on");

    let again = slurm.submit(&format!("{} --set checkpoint.every-steps=50", command(SBATCH)));
    let this = [("job", again.as_str())];
    slurm.wait_for_output(&again, "\ncheckpoint ");
    slurm.succeed("scontrol requeue $job", &this);
    slurm.wait_for_job(&again, &["JobState=PENDING", "Restarts=1"]);
    slurm.wait_until_empty();
    slurm.succeed(&command(AT_ONCE), &this);
    wait_for("its second life", Duration::from_secs(40), || {
        let told = slurm.output(&again);
        let (_, second) = told.split_once("goes on from its newest checkpoint")?;
        second.contains("\nstep ").then_some(())
    });
    slurm.succeed(&command(END), &this);
    slurm.wait_for_job(&again, &["JobState=CANCELLED"]);
    slurm.wait_until_empty();
    let runs = fs_err::read_dir(slurm.work().join("runs")).unwrap().count();
    assert_eq!(runs, 3, "one of each job, and what the second would go on with");
}

/// Whole checkpoints of all runs.
pub(crate) fn checkpoints(slurm: &Slurm) -> usize {
    let files = walk(&slurm.work().join("runs"));
    files.iter().filter(|path| path.ends_with("manifest.json")).count()
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(walk(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn in_an_interactive_allocation_rsctl_may_die_and_a_node_may_lack_our_binaries() {
    let Some(slurm) = Slurm::start() else { return };
    slurm.write("job.toml", &tiny(20));
    let told = slurm.succeed(&command(SALLOC), &[]);
    assert!(told.contains("20/20") || told.contains("succeeded"), "{told}");

    // Only node1 has this folder: each node has a /dev/shm of its own.
    let bin_dir = binary("rsctl").parent().unwrap().display().to_string();
    let script = format!(
        "mkdir /dev/shm/bin && cd /dev/shm/bin && cp {bin_dir}/rsctl . && \
         ln -s {bin_dir}/coordinator {bin_dir}/worker {bin_dir}/trainer . && \
         cd - && exec /dev/shm/bin/rsctl slurm run job.toml"
    );
    let wrapped = format!("sbatch --nodes=2 --output=rustspeed-%j.out --wrap '{script}'");
    let job = slurm.submit(&wrapped);
    slurm.wait_for_job(&job, &["JobState=FAILED", "ExitCode=1:0"]);
    let told = slurm.output(&job);
    assert!(told.contains("error: node node2 cannot run /dev/shm/bin/worker"), "{told}");
    assert!(told.contains("srun: error: node2: task 1: Exited with exit code 127"), "{told}");

    // Nobody is left to stop anything: the pipes of rsctl end, and everything with them.
    slurm.write("long.toml", &tiny(1_000_000));
    let log = slurm.work().join("salloc.log");
    let line = "salloc --nodes=2 --cpus-per-task=1 bash -c 'rsctl slurm run long.toml & \
                echo $! > rsctl.pid; wait; while [ ! -e seen ]; do sleep 0.1; done'";
    let mut salloc = Running::start(&mut slurm.command(line), &log);
    wait_for("steps", Duration::from_secs(40), || {
        salloc.output().contains("\nstep ").then_some(())
    });
    let rsctl = fs_err::read_to_string(slurm.work().join("rsctl.pid")).unwrap();
    let rsctl = nix::unistd::Pid::from_raw(rsctl.trim().parse().unwrap());
    nix::sys::signal::kill(rsctl, Signal::SIGKILL).unwrap();
    wait_for("the end of the step", Duration::from_secs(20), || {
        let steps = slurm.succeed("squeue --steps --noheader", &[]);
        (!steps.contains("rustspeed")).then_some(())
    });
    assert!(salloc.is_running(), "the allocation is still ours");
    slurm.write("seen", "");
    salloc.wait(Duration::from_secs(20));
    slurm.wait_until_empty();
}

#[test]
fn outside_an_allocation_and_without_srun_it_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("job.toml"), tiny(20)).unwrap();
    let rsctl = Rsctl { folder: folder.path().to_owned(), master: None };
    let arguments = ["slurm", "run", "job.toml", "--address", "127.0.0.1"];
    let call = |variables: &[(&str, &str)]| {
        let mut command = rsctl.command(&arguments);
        let told =
            command.env_remove("SLURM_JOB_ID").envs(variables.iter().copied()).output().unwrap();
        (told.status.code(), String::from_utf8_lossy(&told.stderr).into_owned())
    };
    let (code, told) = call(&[]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("not inside a SLURM allocation") && told.contains("salloc"), "{told}");
    let (code, told) = call(&[
        ("SLURM_JOB_ID", "1"),
        ("SLURM_JOB_NODELIST", "n[1-2]"),
        ("SLURM_JOB_NUM_NODES", "2"),
        ("SLURM_JOB_CPUS_PER_NODE", "1(x2)"),
        ("PATH", "/nowhere"),
    ]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("start srun") && told.contains("not in PATH"), "{told}");
}

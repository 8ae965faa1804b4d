//! Checkpoints through the whole chain: bit-exact resume, other worlds, a corrupt shard, a full disk.

use tests::job::TinyJob;
use tests::rsctl::Rsctl;

fn here() -> (tempfile::TempDir, Rsctl) {
    let folder = tempfile::tempdir().unwrap();
    let rsctl = Rsctl { folder: folder.path().to_owned(), master: None };
    (folder, rsctl)
}

fn run(rsctl: &Rsctl, job: &TinyJob, more: &[&str]) -> serde_json::Value {
    fs_err::write(rsctl.folder.join("job.toml"), job.toml()).unwrap();
    let arguments = [&["run", "--json", "job.toml"], more].concat();
    rsctl.call(&arguments).expect_code(0).json()
}

/// Column `train_loss` of steps.csv by step.
fn losses(status: &serde_json::Value) -> Vec<(u64, String)> {
    let path = format!("{}/metrics/steps.csv", status["output_dir"].as_str().unwrap());
    let text = fs_err::read_to_string(path).unwrap();
    let row = |line: &str| {
        let cells: Vec<_> = line.split(',').collect();
        (cells[0].parse().unwrap(), cells[3].to_owned())
    };
    text.lines().skip(1).map(row).collect()
}

/// DeepSpeed's threshold would keep all of a model as small as these tests' whole on every rank.
const PERSIST_NOTHING: &str = "deepspeed.zero_optimization.stage3_param_persistence_threshold=0";

fn last_loss(status: &serde_json::Value) -> f64 {
    losses(status).last().unwrap().1.parse().unwrap()
}

#[test]
fn a_resumed_run_equals_the_uninterrupted_one_bit_for_bit() {
    let (_folder, rsctl) = here();
    let whole = run(&rsctl, &TinyJob { max_steps: 30, ..TinyJob::default() }, &[]);
    // Step 13 lies inside an epoch of 20 batches; dropout is on.
    let first = run(&rsctl, &TinyJob { max_steps: 13, ..TinyJob::default() }, &[]);
    let from = first["latest_checkpoint"].as_str().unwrap();
    let job = TinyJob { max_steps: 30, ..TinyJob::default() };
    let rest = run(&rsctl, &job, &["--resume", from]);
    let joined: Vec<_> = losses(&first).into_iter().chain(losses(&rest)).collect();
    assert_eq!(losses(&whole), joined);
}

#[test]
fn another_world_and_stage_resume_from_the_same_checkpoint() {
    let (_folder, rsctl) = here();
    let first = run(&rsctl, &TinyJob { max_steps: 10, ..TinyJob::default() }, &[]);
    let from = first["latest_checkpoint"].as_str().unwrap();
    let job = TinyJob { world: 1, stage: 0, max_steps: 15, ..TinyJob::default() };
    let alone = run(&rsctl, &job, &["--resume", from]);
    assert_eq!(losses(&alone).first().map(|row| row.0), Some(11));
    assert_eq!(alone["world_size"], 1);
}

#[test]
fn stage_3_in_bf16_goes_on_at_three_ranks_in_fp32_and_alone() {
    let (_folder, rsctl) = here();
    let training = "precision = \"bf16\"".to_owned();
    let sharded = TinyJob { stage: 3, max_steps: 10, training, ..TinyJob::default() };
    let first = run(&rsctl, &sharded, &["--set", PERSIST_NOTHING]);
    assert_eq!(first["summary"]["precision"], "bf16");
    let from = first["latest_checkpoint"].as_str().unwrap();
    let job = TinyJob { world: 3, stage: 1, max_steps: 15, ..TinyJob::default() };
    let three = run(&rsctl, &job, &["--resume", from]);
    let from = three["latest_checkpoint"].as_str().unwrap();
    let job = TinyJob { world: 1, stage: 0, max_steps: 20, ..TinyJob::default() };
    let alone = run(&rsctl, &job, &["--resume", from]);
    let steps = |status: &serde_json::Value| losses(status).len();
    assert_eq!((steps(&first), steps(&three), steps(&alone)), (10, 5, 5));
    let whole = run(&rsctl, &TinyJob { max_steps: 20, ..TinyJob::default() }, &[]);
    let (reached, expected) = (last_loss(&alone), last_loss(&whole));
    assert!((reached - expected).abs() < 0.05 * expected, "{reached}, uninterrupted {expected}");
}

#[test]
fn stage_3_trains_as_stage_0_does() {
    let (_folder, rsctl) = here();
    let zero = run(&rsctl, &TinyJob { stage: 0, ..TinyJob::default() }, &[]);
    let job = TinyJob { stage: 3, ..TinyJob::default() };
    let three = run(&rsctl, &job, &["--set", PERSIST_NOTHING]);
    assert_eq!(losses(&zero), losses(&three));
    assert_eq!(zero["summary"]["best_val_loss"], three["summary"]["best_val_loss"]);
    let held = |status: &serde_json::Value| -> u64 {
        status["summary"]["memory"][0]["parameters"].as_u64().unwrap()
    };
    assert!(held(&three) < held(&zero), "{:#} {:#}", three["summary"], zero["summary"]);
}

#[test]
fn a_corrupt_shard_is_named_and_the_older_checkpoint_is_used() {
    let (folder, rsctl) = here();
    let root = folder.path().join("kept");
    let checkpoint = format!("dir = \"{}\"\nevery-steps = 5\nkeep-last = 4", root.display());
    let job = TinyJob { max_steps: 10, checkpoint: checkpoint.clone(), ..TinyJob::default() };
    run(&rsctl, &job, &[]);
    let newest = root.join("step-00000010");
    let shard = fs_err::read_dir(&newest)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains("rank-00001"))
        .expect("rank 1's shard");
    let mut bytes = fs_err::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs_err::write(&shard, bytes).unwrap();

    let name = shard.file_name().unwrap().to_str().unwrap();
    let newest = newest.to_str().unwrap();
    let verified = rsctl.call(&["checkpoints", "verify", newest]).expect_code(1);
    let said = format!("{}{}", verified.stdout, verified.stderr);
    assert!(said.contains(name), "the shard is named: {said}");

    let root_text = root.to_str().unwrap();
    rsctl
        .call(&["checkpoints", "prune", root_text, "--keep-last", "1", "--keep-best", "0"])
        .expect_code(1)
        .expect_stderr(&["nothing was removed", "step-00000010", "damaged"]);
    assert!(root.join("step-00000005/manifest.json").is_file());

    let job = TinyJob { max_steps: 12, checkpoint, ..TinyJob::default() };
    let resumed = run(&rsctl, &job, &[]);
    assert_eq!(losses(&resumed).first().map(|row| row.0), Some(6), "from step 5");
    let notes = resumed["notes"].to_string();
    assert!(notes.contains(name), "{notes}");
}

#[test]
fn a_full_disk_while_saving_is_said_and_older_checkpoints_stay() {
    let (folder, _rsctl) = here();
    let mount = folder.path().join("small");
    fs_err::create_dir(&mount).unwrap();
    // A mount namespace of our own: nothing of it is seen outside, and it ends with the command.
    let job = TinyJob {
        max_steps: 4,
        checkpoint: format!("dir = \"{}\"", mount.display()),
        ..TinyJob::default()
    };
    let big = job.toml().replace("hidden-size = 16", "hidden-size = 256");
    fs_err::write(folder.path().join("job.toml"), big).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=256k none {} && exec {} run job.toml",
        mount.display(),
        tests::binaries::binary("rsctl").display()
    );
    let done = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .current_dir(folder.path())
        .output()
        .expect("run unshare");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if said.contains("Operation not permitted") {
        tests::wait::skipped("mounting needs root");
        return;
    }
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left"), "{said}");
    assert!(said.contains("small"), "the path is named: {said}");
}

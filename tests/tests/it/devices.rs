//! What a node is asked about what it computes with: the libtorch of its trainers, its GPUs, and that
//! nothing pretends to compute on GPUs.

use std::path::PathBuf;
use std::process::Command;

use tests::binaries::binary;
use tests::cluster::Cluster;
use tests::job::TinyJob;
use tests::rsctl::Rsctl;

/// What the trainer was linked with, as set-up tells cargo.
fn linked() -> PathBuf {
    std::env::var_os("LIBTORCH").expect("tools/setup.sh writes .cargo/config.toml").into()
}

#[test]
fn a_folder_that_is_no_libtorch_is_refused_when_the_worker_joins() {
    let folder = tempfile::tempdir().unwrap();
    let join = |libtorch: &str| {
        Command::new(binary("worker"))
            .args(["join", "--master", "127.0.0.1:1", "--libtorch", libtorch, "--state-dir", "s"])
            .current_dir(folder.path())
            .output()
            .unwrap()
    };
    let refused = join("torch");
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("`libtorch`") && said.contains("no libtorch_cpu.so in `torch`"),
        "{said}"
    );

    let lib = folder.path().join("torch/lib");
    fs_err::create_dir_all(&lib).unwrap();
    fs_err::write(lib.join("libtorch_cpu.so"), "").unwrap();
    fs_err::write(folder.path().join("torch/version.py"), "__version__ = '2.9.1+cpu'\n").unwrap();
    let refused = join("torch");
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("2.9.1+cpu") && said.contains("2.11.0"), "{said}");
}

#[test]
fn trainers_run_on_the_libtorch_that_is_named() {
    let mut cluster = Cluster::start(&[]);
    let mut worker = cluster.worker_command("w0", 2);
    worker.arg("--libtorch").arg(linked());
    cluster.add_worker("w0", worker);
    cluster.wait_until_ready(1);
    let id = cluster.submit(&cluster.write("job.toml", &TinyJob::default().toml()));
    cluster.wait_for_state(&id, "succeeded");
    let rows = cluster.rsctl().call(&["workers", "--json"]).expect_code(0).json();
    assert!(rows[0]["libtorch"].as_str().unwrap().starts_with("2.11.0"), "{rows}");
    let said = cluster.workers[0].output();
    let lib = linked().join("lib");
    assert!(said.contains(&format!("libtorch 2.11.0 in `{}`", lib.display())), "{said}");
}

/// With GPUs or without: the list is there, and so is who told of them or why nobody did.
#[test]
fn workers_tell_what_gpus_they_see_and_offer_their_cores() {
    let cluster = Cluster::start(&[1]);
    let rows = cluster.rsctl().call(&["workers", "--json"]).expect_code(0).json();
    assert_eq!(rows[0]["device"], "cpu");
    assert!(rows[0]["gpus"]["devices"].is_array(), "{rows}");
    let source = rows[0]["gpus"]["source"].as_str().unwrap();
    assert!(source.contains("NVML"), "{source}");
    let table = cluster.rsctl().call(&["workers"]).expect_code(0).stdout;
    assert!(table.contains("GPUS"), "{table}");
}

#[test]
fn a_worker_that_shall_offer_gpus_is_refused_where_it_sees_none() {
    let folder = tempfile::tempdir().unwrap();
    let refused = Command::new(binary("worker"))
        .args(["join", "--master", "127.0.0.1:1", "--device", "cuda", "--state-dir", "s"])
        // As on a node without GPUs.
        .env("CUDA_VISIBLE_DEVICES", "")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(78), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("`device`") && said.contains("no GPU is seen"), "{said}");
}

#[test]
fn a_job_for_gpus_waits_for_a_worker_that_offers_them() {
    let cluster = Cluster::start(&[2]);
    let job = cluster.write("job.toml", &TinyJob::default().toml());
    let submit = ["submit", "--json", &job, "--set", "resources.device=cuda"];
    let submitted = cluster.rsctl().call(&submit).expect_code(0).json();
    let id = submitted["job_id"].as_str().unwrap();
    let status = cluster.status(id);
    assert_eq!(status["state"], "queued");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("no CUDA worker is connected"), "{reason}");
    let why = cluster.rsctl().call(&["explain", id]).expect_code(0).stdout;
    assert!(why.contains("has cpu slots only"), "{why}");
    cluster.rsctl().call(&["cancel", id]).expect_code(0);
    cluster.wait_for_state(id, "cancelled");
}

#[test]
fn a_run_on_gpus_says_at_once_that_there_are_none() {
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("job.toml"), TinyJob::default().toml()).unwrap();
    let rsctl = Rsctl { folder: folder.path().to_owned(), master: None };
    let mut run = rsctl.command(&["run", "job.toml", "--set", "resources.device=cuda"]);
    let run = run.env("CUDA_VISIBLE_DEVICES", "").output().unwrap();
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(said.contains("no GPU is seen"), "{said}");
}

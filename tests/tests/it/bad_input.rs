//! Bad input: a clear error, the right exit code, nothing left running.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use tests::binaries::binary;
use tests::cluster::Cluster;
use tests::job::TinyJob;
use tests::process::Running;
use tests::rsctl::Rsctl;

fn here(job: &str) -> (tempfile::TempDir, Rsctl) {
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("job.toml"), job).unwrap();
    let rsctl = Rsctl { folder: folder.path().to_owned(), master: None };
    (folder, rsctl)
}

#[test]
fn all_mistakes_of_a_job_file_are_told_together() {
    let job = TinyJob { stage: 7, training: "learnin-rate = 1".to_owned(), ..TinyJob::default() };
    let (_folder, rsctl) = here(&job.toml().replace("dropout = 0.1", "dropout = 1.5"));
    rsctl.call(&["run", "job.toml"]).expect_code(78).expect_stderr(&[
        "stage",
        "7",
        "learnin-rate",
        "learning-rate",
        "dropout",
        "1.5",
    ]);
}

#[test]
fn a_batch_smaller_than_the_world_is_refused() {
    let (_folder, rsctl) =
        here(&TinyJob::default().toml().replace("batch-size = 32", "batch-size = 1"));
    rsctl.call(&["run", "job.toml"]).expect_code(78).expect_stderr(&["batch", "1", "2"]);
}

#[test]
fn a_malformed_csv_names_file_line_and_column() {
    let job = "[job]\nname = \"c\"\n[resources]\nworld-size = 2\n[model]\nkind = \"lstm\"\nhidden-size = 16\n\
               [data]\nkind = \"csv\"\npath = \"bad.csv\"\ncolumns = [\"value\"]\nwindow = 8\n\
               [training]\nepochs = 1\nbatch-size = 8\n";
    let (folder, rsctl) = here(job);
    let mut rows: Vec<String> = (0..100).map(|i| format!("{i},{i}.5")).collect();
    rows[41] = "41,oops".to_owned();
    fs_err::write(folder.path().join("bad.csv"), format!("t,value\n{}\n", rows.join("\n")))
        .unwrap();
    rsctl
        .call(&["run", "job.toml"])
        .expect_code(1)
        .expect_stderr(&["bad.csv", "43", "value", "oops"]);
}

#[test]
fn a_missing_input_names_the_file() {
    let job = "[model]\nkind = \"lstm\"\n[data]\nkind = \"csv\"\npath = \"nowhere.csv\"\n";
    let (_folder, rsctl) = here(job);
    let answer = rsctl.call(&["run", "job.toml"]);
    assert!(answer.code == 78 || answer.code == 1, "{answer:?}");
    answer.expect_stderr(&["nowhere.csv"]);
}

#[test]
fn a_loss_that_is_not_finite_names_step_and_tensor() {
    let training = "learning-rate = 1e30\noptimizer = \"adamw\"";
    let job = TinyJob { training: training.to_owned(), ..TinyJob::default() };
    let (_folder, rsctl) = here(&job.toml());
    let answer = rsctl.call(&["run", "job.toml"]).expect_code(1).expect_stderr(&["step", "finite"]);
    assert!(
        ["lstm.", "fc.", "loss"].iter().any(|name| answer.stderr.contains(name)),
        "the first bad tensor is named: {}",
        answer.stderr
    );
}

#[test]
fn a_port_and_a_data_folder_in_use_are_refused() {
    let cluster = Cluster::start(&[]);
    let start = |listen: &str, data: &str| {
        Command::new(binary("coordinator"))
            .args(["serve", "--listen", listen, "--data-dir", data])
            .current_dir(cluster.path())
            .output()
            .unwrap()
    };
    let port = start(&cluster.master, "other");
    assert_eq!(port.status.code(), Some(1), "{port:?}");
    let said = String::from_utf8_lossy(&port.stderr).into_owned();
    assert!(said.contains(&cluster.master) && said.contains("in use"), "{said}");
    let data = start("127.0.0.1:0", "coordinator");
    assert_eq!(data.status.code(), Some(1), "{data:?}");
    let said = String::from_utf8_lossy(&data.stderr).into_owned();
    assert!(said.contains("coordinator") && said.contains("in use"), "{said}");
}

#[test]
fn a_second_worker_of_the_same_state_or_name_is_refused() {
    let cluster = Cluster::start(&[1]);
    let log = cluster.path().join("second.log");
    let mut same_state = Running::start(&mut cluster.worker_command("w0", 1), &log);
    assert_eq!(same_state.wait(Duration::from_secs(10)).code(), Some(1));
    assert!(same_state.output().contains("in use"), "{}", same_state.output());

    let mut command = Command::new(binary("worker"));
    command.args([
        "join",
        "--master",
        &cluster.master,
        "--name",
        "w0",
        "--slots",
        "1",
        "--state-dir",
        "x",
    ]);
    command.current_dir(cluster.path());
    let log = cluster.path().join("third.log");
    let mut same_name = Running::start(&mut command, &log);
    assert_eq!(same_name.wait(Duration::from_secs(15)).code(), Some(1), "{}", same_name.output());
    assert!(same_name.output().contains("--name"), "{}", same_name.output());
}

#[test]
fn garbage_on_the_port_disturbs_nobody() {
    let cluster = Cluster::start(&[2]);
    for bytes in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &[0xff; 4096][..],
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff"[..],
    ] {
        let mut stream = TcpStream::connect(&cluster.master).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(bytes).unwrap();
        // Whatever it answers, it must not keep us or itself hanging.
        let _ = stream.read(&mut [0; 1024]);
    }
    let id = cluster.submit(&cluster.write("job.toml", &TinyJob::default().toml()));
    cluster.wait_for_state(&id, "succeeded");
}

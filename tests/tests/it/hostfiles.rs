//! Hostfiles as DeepSpeed's users have them: checked, compared with the workers, and kept to.

use tests::cluster::Cluster;
use tests::job::TinyJob;
use tests::rsctl::Rsctl;

fn here(hostfile: &str) -> (tempfile::TempDir, Rsctl) {
    let folder = tempfile::tempdir().unwrap();
    fs_err::write(folder.path().join("hosts.txt"), hostfile).unwrap();
    let job = TinyJob { max_steps: 2, ..TinyJob::default() }.toml();
    fs_err::write(folder.path().join("job.toml"), job).unwrap();
    let rsctl = Rsctl { folder: folder.path().to_owned(), master: None };
    (folder, rsctl)
}

#[test]
fn the_grammar_is_checked_without_a_coordinator() {
    let (_folder, rsctl) = here("node01 slots=4\nnode02\nnode01 slots=2\n");
    let parts = ["hosts.txt:2: `node02` is no entry; write `node02 slots=N`", "hosts.txt:3: "];
    rsctl.call(&["hostfile", "check", "hosts.txt"]).expect_code(78).expect_stderr(&parts);
    let answer = rsctl.call(&["hostfile", "check", "hosts.txt", "--json"]).expect_code(78);
    assert_eq!(answer.json()["mistakes"][0]["place"], "hosts.txt:2");

    let (_folder, rsctl) = here("node01 slots=4 # all\nnode02 slots=2\n");
    let arguments = ["hostfile", "check", "hosts.txt", "--exclude", "node01:0", "--json"];
    let answer = rsctl.call(&arguments).expect_code(0).json();
    assert_eq!((&answer["slots"], &answer["compared"]), (&5.into(), &false.into()), "{answer}");
    let missing = rsctl.call(&["submit", "job.toml", "--hostfile", "nowhere.txt"]).expect_code(78);
    missing.expect_stderr(&["read hostfile", "nowhere.txt", "hint: "]);
    let both = ["hostfile", "check", "hosts.txt", "--include", "node01", "--exclude", "node01"];
    rsctl.call(&both).expect_code(2);
}

#[test]
fn a_job_keeps_to_its_hosts_and_names_the_missing_ones() {
    let cluster = Cluster::start(&[2, 2, 2]);
    let hosts = cluster.write("hosts.txt", "w2 slots=2\nw1 slots=2\n");
    let rsctl = cluster.rsctl();
    let checked = rsctl.call(&["hostfile", "check", &hosts, "--json"]).expect_code(0).json();
    assert_eq!(checked["hosts"][0]["worker"], "w2", "{checked}");
    assert_eq!(checked["unlisted"], serde_json::json!(["w0"]));

    let job = cluster.write("job.toml", &TinyJob { max_steps: 5, ..TinyJob::default() }.toml());
    let submit = |more: &[&str]| {
        let mut arguments = vec!["submit", "--json", &job, "--hostfile", &hosts];
        arguments.extend(more);
        let answer = rsctl.call(&arguments).expect_code(0).json();
        answer["job_id"].as_str().unwrap().to_owned()
    };
    let id = submit(&["--include", "w2:1@w1:0"]);
    let done = cluster.wait_for_state(&id, "succeeded");
    let places =
        |rank: usize| (done["ranks"][rank]["worker"].clone(), done["ranks"][rank]["slots"].clone());
    assert_eq!(places(0), ("w2".into(), serde_json::json!([1])));
    assert_eq!(places(1), ("w1".into(), serde_json::json!([0])));

    cluster.write("hosts.txt", "w1 slots=1\nw7 slots=1\n");
    let id = submit(&[]);
    let status = cluster.status(&id);
    assert_eq!(status["state"], "queued");
    assert_eq!(status["waiting"]["hosts"]["missing"], serde_json::json!(["w7"]), "{status:#}");
    rsctl
        .call(&["hostfile", "check", &hosts])
        .expect_code(1)
        .expect_stderr(&["no worker is on `w7`"]);
    rsctl.call(&["cancel", &id]).expect_code(0);
}

#[test]
fn run_needs_no_ssh_on_this_machine() {
    let (_folder, rsctl) = here("localhost slots=2\ngpu-node-01.invalid slots=2\n");
    let elsewhere = ["run", "job.toml", "--hostfile", "hosts.txt", "--ssh", "no-such-ssh"];
    rsctl
        .call(&elsewhere)
        .expect_code(1)
        .expect_stderr(&["gpu-node-01.invalid (hosts.txt:2): start `no-such-ssh`", "1 of 2 hosts"]);
    let here = [&elsewhere[..], &["--num-nodes", "1", "--json"]].concat();
    let status = rsctl.call(&here).expect_code(0).json();
    assert_eq!(status["ranks"].as_array().unwrap().len(), 2);
}

//! Two workers that do not see each other's disk: shards are streamed to rank 0, `layout = "shared"`
//! is refused by the node's name. Each worker gets a mount namespace with its own output folder.

use std::process::Command;

use tests::cluster::Cluster;
use tests::job::TinyJob;
use tests::wait::skipped;

/// Starts the worker with a private tmpfs over `hidden`; None where mounting is not permitted.
fn worker_with_own_disk(cluster: &Cluster, name: &str, hidden: &str) -> Option<Command> {
    let permitted = Command::new("unshare").args(["-m", "true"]).status().ok()?.success();
    if !permitted {
        skipped("mount namespaces need root");
        return None;
    }
    let worker = cluster.worker_command(name, 1);
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", "mount -t tmpfs none \"$0\" && exec \"$@\"", hidden])
        .arg(worker.get_program())
        .args(worker.get_args());
    Some(command)
}

fn cluster_of_two_disks(hidden: &std::path::Path) -> Option<Cluster> {
    fs_err::create_dir_all(hidden).unwrap();
    let hidden = hidden.to_str().unwrap();
    let mut cluster = Cluster::start(&[]);
    for name in ["w0", "w1"] {
        let command = worker_with_own_disk(&cluster, name, hidden)?;
        cluster.add_worker(name, command);
    }
    cluster.wait_until_ready(2);
    Some(cluster)
}

#[test]
fn shards_reach_rank_0_where_the_disk_is_not_shared_and_can_be_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let hidden = folder.path().join("out");
    let Some(cluster) = cluster_of_two_disks(&hidden) else { return };
    let mut text = TinyJob::default().toml();
    text = text.replace("[job]", &format!("[job]\noutput-dir = \"{}\"", hidden.display()));
    let id = cluster.submit(&cluster.write("job.toml", &text));
    let done = cluster.wait_for_state(&id, "succeeded");
    let listed =
        cluster.rsctl().call(&["checkpoints", "list", "--json", &id]).expect_code(0).json();
    assert_eq!(listed[0]["worker"], done["ranks"][0]["worker"], "{listed:#}");

    let to = folder.path().join("fetched");
    cluster
        .rsctl()
        .call(&["fetch", &id, "checkpoint", "--to", to.to_str().unwrap()])
        .expect_code(0);
    let found = Command::new("find").arg(&to).args(["-name", "manifest.json"]).output().unwrap();
    let manifest = String::from_utf8(found.stdout).unwrap();
    let manifest = std::path::Path::new(manifest.lines().next().expect("a checkpoint was fetched"));
    let checkpoint = manifest.parent().unwrap().to_str().unwrap();
    cluster.rsctl().call(&["checkpoints", "verify", checkpoint]).expect_code(0);
}

#[test]
fn a_shared_layout_is_refused_and_names_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let hidden = folder.path().join("out");
    let Some(cluster) = cluster_of_two_disks(&hidden) else { return };
    let job = TinyJob { checkpoint: "layout = \"shared\"".to_owned(), ..TinyJob::default() };
    let text =
        job.toml().replace("[job]", &format!("[job]\noutput-dir = \"{}\"", hidden.display()));
    let id = cluster.submit(&cluster.write("job.toml", &text));
    let failed = cluster.wait_for_state(&id, "failed");
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("w1") || reason.contains("w0"), "{reason}");
    assert!(reason.contains("shared"), "{reason}");
}

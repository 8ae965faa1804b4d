//! What must hold when a round is over.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::process::working_below;
use tests::wait::wait_for;

/// Files of a root that are no checkpoints and stay.
const FENCE: [&str; 2] = ["generation", ".lock"];

pub(super) fn no_trainer_is_left(cluster: &Cluster) {
    let runs = cluster.path().join("runs");
    wait_for("the end of every trainer", Duration::from_secs(15), || {
        (cluster.trainers().is_empty() && working_below(&runs).is_empty()).then_some(())
    });
}

/// The catalogue and the disk hold the same checkpoints, each is sound, and beside them lies
/// nothing (A9).
pub(super) fn only_whole_checkpoints_are_left(cluster: &Cluster, done: &Value) {
    let id = done["job_id"].as_str().unwrap();
    let rsctl = cluster.rsctl();
    let rows = rsctl.call(&["checkpoints", "list", "--json", id]).expect_code(0).json();
    let mut catalogued = BTreeSet::new();
    for row in rows.as_array().unwrap() {
        let path = row["path"].as_str().unwrap();
        let report = rsctl.call(&["checkpoints", "verify", "--json", path]).expect_code(0).json();
        assert_eq!(report["unlisted"], serde_json::json!([]), "{report:#}");
        catalogued.insert(Path::new(path).file_name().unwrap().to_str().unwrap().to_owned());
    }
    assert!(!catalogued.is_empty(), "{done:#}");
    let root = Path::new(done["output_dir"].as_str().unwrap()).join("checkpoints");
    let name = |entry: fs_err::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut found: BTreeSet<_> = fs_err::read_dir(&root).unwrap().flatten().map(name).collect();
    for fence in FENCE {
        found.remove(fence);
    }
    assert_eq!(found, catalogued, "left: on disk, right: in the catalogue");
}

/// A14: no restart of the coordinator forgets a job.
pub(super) fn all_are_there(cluster: &Cluster, acknowledged: &[String]) {
    let rows = cluster.rsctl().call(&["jobs", "--json"]).expect_code(0).json();
    let there: BTreeSet<_> =
        rows.as_array().unwrap().iter().map(|row| row["job_id"].as_str().unwrap()).collect();
    for id in acknowledged {
        assert!(there.contains(id.as_str()), "{id} was acknowledged and is gone: {there:?}");
    }
}

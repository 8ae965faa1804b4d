use common::spec::JobSpec;
use common::status::Summary;

use crate::tests::spec;

#[test]
fn the_effective_job_reads_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let job = spec::job().build();
    super::write_effective(dir.path(), &job).unwrap();
    let text = fs_err::read_to_string(dir.path().join("effective.toml")).unwrap();
    assert_eq!(toml::from_str::<JobSpec>(&text).unwrap(), job);
}

#[test]
fn a_summary_replaces_an_older_one_and_leaves_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    for steps in [3, 8] {
        let summary = Summary { steps, ..Summary::default() };
        super::write_summary(dir.path(), &summary).unwrap();
    }
    let text = fs_err::read_to_string(dir.path().join("summary.json")).unwrap();
    assert_eq!(serde_json::from_str::<Summary>(&text).unwrap().steps, 8);
    assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1);
}

use super::*;

#[test]
fn a_missing_input_is_the_jobs_fault_and_a_full_disk_is_not() {
    let error = |kind: io::ErrorKind| Error::Input {
        key: "data.path",
        path: "/data/co2.csv".into(),
        worker: "node-1".to_owned(),
        source: kind.into(),
    };
    assert!(error(io::ErrorKind::NotFound).is_configuration());
    assert!(!error(io::ErrorKind::StorageFull).is_configuration());
    let text = error(io::ErrorKind::NotFound).to_string();
    for part in ["data.path", "/data/co2.csv", "node-1"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn the_run_folder_holds_the_job_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("runs/a-1");
    make_run_dir(&run_dir, Some("x = 1")).unwrap();
    make_run_dir(&run_dir, None).unwrap();
    assert_eq!(fs::read_to_string(run_dir.join("job.toml")).unwrap(), "x = 1");
    assert!(run_dir.join("logs").is_dir());
}

#[test]
fn a_checkpoint_folder_that_cannot_be_written_is_found_before_any_rank_starts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = check_checkpoint_dir(path.to_str(), "node-1").unwrap_err();
        assert!(error.is_configuration(), "{error}");
        let text = error.to_string();
        assert!(text.contains("checkpoint.dir") && text.contains("node-1"), "{text}");
    }
    let good = folder.path().join("a/b");
    check_checkpoint_dir(Some(&format!("file://{}", good.display())), "node-1").unwrap();
    assert_eq!(fs::read_dir(&good).unwrap().count(), 0, "the trial is gone");
    check_checkpoint_dir(None, "node-1").unwrap();
}

use super::*;

fn order(root: &Path, paths: &[&str]) -> FetchOrder {
    FetchOrder {
        fetch_id: "f".to_owned(),
        job_id: "a-1".to_owned(),
        root: root.to_string_lossy().into_owned(),
        paths: paths.iter().map(|&p| p.to_owned()).collect(),
    }
}

fn run_folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a-1");
    fs::create_dir_all(root.join("logs")).unwrap();
    fs::write(root.join("logs/rank-0.log"), "hello\n").unwrap();
    fs::write(root.join("summary.json"), "{}").unwrap();
    fs::write(folder.path().join("secret"), "s").unwrap();
    (folder, root)
}

fn names(order: &FetchOrder) -> Vec<String> {
    resolve(order).unwrap().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn files_folders_and_everything_can_be_asked_for() {
    let (_folder, root) = run_folder();
    assert_eq!(names(&order(&root, &["summary.json"])), ["summary.json"]);
    assert_eq!(names(&order(&root, &["logs"])), ["logs/rank-0.log"]);
    assert_eq!(names(&order(&root, &[])), ["logs/rank-0.log", "summary.json"]);
}

#[test]
fn nothing_outside_the_run_folder_is_served() {
    let (folder, root) = run_folder();
    for path in ["../secret", "/etc/passwd", "logs/../../secret"] {
        let error = resolve(&order(&root, &[path])).unwrap_err();
        assert!(matches!(error, Error::Outside { .. }), "{path}: {error}");
    }
    std::os::unix::fs::symlink(folder.path().join("secret"), root.join("link")).unwrap();
    std::os::unix::fs::symlink("..", root.join("loop")).unwrap();
    let error = resolve(&order(&root, &["link"])).unwrap_err();
    assert!(matches!(error, Error::Outside { .. }), "{error}");
    assert_eq!(names(&order(&root, &[])), ["logs/rank-0.log", "summary.json"]);
}

#[test]
fn a_root_that_is_not_the_jobs_own_folder_is_refused() {
    let (folder, root) = run_folder();
    for wrong in [folder.path(), Path::new("/"), Path::new("a-1")] {
        let error = resolve(&order(wrong, &[])).unwrap_err();
        assert!(matches!(error, Error::Root { .. }), "{error}");
    }
    let gone = root.with_file_name("gone").join("a-1");
    assert!(matches!(resolve(&order(&gone, &[])).unwrap_err(), Error::NoRoot { .. }));
}

#[test]
fn a_link_in_the_place_of_the_run_folder_leads_nowhere() {
    let (folder, root) = run_folder();
    let link = folder.path().join("out/a-1");
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(root.join("logs"), &link).unwrap();
    let error = resolve(&order(&link, &[])).unwrap_err();
    assert!(matches!(error, Error::Root { .. }), "{error}");
    // The folder above may be a link: where outputs go is the user's choice.
    let above = folder.path().join("above");
    std::os::unix::fs::symlink(folder.path(), &above).unwrap();
    assert_eq!(names(&order(&above.join("a-1"), &["summary.json"])), ["summary.json"]);
}

#[test]
fn a_checkpoint_outside_of_the_run_folder_is_served_to_its_job_alone() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("shared/step-00000007");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("rank-0.safetensors"), "w").unwrap();
    let torn = resolve(&order(&root, &[])).unwrap_err();
    assert!(matches!(torn, Error::Root { .. }), "without a manifest it is no checkpoint: {torn}");
    fs::write(root.join("manifest.json"), r#"{"schema_version": 1, "job_id": "a-1"}"#).unwrap();
    assert_eq!(names(&order(&root, &[])), ["manifest.json", "rank-0.safetensors"]);
    fs::write(root.join("manifest.json"), r#"{"schema_version": 1, "job_id": "b-2"}"#).unwrap();
    let theirs = resolve(&order(&root, &[])).unwrap_err();
    assert!(matches!(theirs, Error::Root { .. }), "{theirs}");
}

#[tokio::test]
async fn large_and_empty_files_arrive_in_chunks_with_one_last_each() {
    let (_folder, root) = run_folder();
    fs::write(root.join("big"), vec![7; 2 * CHUNK_BYTES]).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    let (sender, mut chunks) = mpsc::channel(100);
    let order = order(&root, &["big", "empty"]);
    tokio::task::spawn_blocking(move || read_all(&order, &sender)).await.unwrap().unwrap();
    let mut seen = Vec::new();
    while let Some(PutFilesChunk { chunk: Some(chunk), .. }) = chunks.recv().await {
        seen.push((chunk.path, chunk.data.len(), chunk.last));
    }
    let big = |bytes, last| ("big".to_owned(), bytes, last);
    let expected = [
        big(CHUNK_BYTES, false),
        big(CHUNK_BYTES, false),
        big(0, true),
        ("empty".to_owned(), 0, true),
    ];
    assert_eq!(seen, expected);
}

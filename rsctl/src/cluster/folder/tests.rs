//! Claims about temporary folders and who removes them.

use std::fs::File;
use std::time::SystemTime;

use super::*;

/// Makes a folder look as if it was made long ago.
fn age(folder: &Path) {
    let time = SystemTime::now() - 2 * LEFT_AFTER;
    File::open(folder).unwrap().set_modified(time).unwrap();
}

#[test]
fn what_a_killed_rsctl_left_is_removed_and_nothing_else() {
    let parent = tempfile::tempdir().unwrap();
    let [left, young, foreign] =
        ["rsctl-run-left", "rsctl-run-young", "something-else"].map(|name| {
            let path = parent.path().join(name);
            fs_err::create_dir(&path).unwrap();
            path
        });
    let living = Folder::create(parent.path()).unwrap();
    [left.as_path(), &foreign, living.path()].into_iter().for_each(age);

    let next = Folder::create(parent.path()).unwrap();
    assert!(!left.exists());
    assert!(young.exists() && foreign.exists() && living.path().exists() && next.path().exists());

    let path = next.path().to_owned();
    drop(next);
    assert!(!path.exists(), "a folder goes with its cluster");
}

#[test]
fn a_folder_of_another_user_is_nobodys_to_sweep() {
    let parent = tempfile::tempdir().unwrap();
    age(parent.path());
    let metadata = fs_err::symlink_metadata(parent.path()).unwrap();
    assert!(is_left(&metadata, metadata.uid()));
    assert!(!is_left(&metadata, metadata.uid() + 1));
}

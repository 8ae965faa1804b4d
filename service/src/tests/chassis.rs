use std::time::Duration;

use common::exit::ExitCode;

use crate::exit::Failure;
use crate::lock::{Error as LockError, FolderLock};
use crate::shutdown::{Reason, Shutdown};
use crate::{files, tasks};

#[test]
fn a_folder_is_held_by_one_and_free_after_drop() {
    let folder = tempfile::tempdir().unwrap();
    let held = FolderLock::acquire(folder.path(), "state folder", "--state-dir").unwrap();
    let refused = FolderLock::acquire(folder.path(), "state folder", "--state-dir").unwrap_err();
    let LockError::Held { holder, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(holder.as_deref(), Some(std::process::id().to_string().as_str()));
    let failure = Failure::from(refused);
    assert_eq!(failure.code, ExitCode::Failed);
    let text = failure.render();
    assert!(text.contains("is in use by process") && text.contains("\n\nhint: "), "{text}");
    drop(held);
    FolderLock::acquire(folder.path(), "state folder", "--state-dir").unwrap();
}

#[test]
fn a_lock_that_leads_elsewhere_is_refused_and_what_is_there_stays() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = folder.path().join("precious");
    fs_err::write(&elsewhere, "as it was").unwrap();
    let locked = folder.path().join("locked");
    fs_err::create_dir(&locked).unwrap();
    fs_err::os::unix::fs::symlink(&elsewhere, locked.join("lock")).unwrap();
    let refused = FolderLock::acquire(&locked, "state folder", "--state-dir").unwrap_err();
    assert!(matches!(refused, LockError::Io { .. }), "{refused:?}");
    assert_eq!(fs_err::read_to_string(&elsewhere).unwrap(), "as it was");
}

#[test]
fn a_replaced_file_is_whole_and_leaves_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("value");
    files::replace(&path, b"one").unwrap();
    files::replace(&path, b"two").unwrap();
    assert_eq!(fs_err::read(&path).unwrap(), b"two");
    assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1);
    let missing = folder.path().join("no-such-folder").join("value");
    let error = files::replace(&missing, b"x").unwrap_err().to_string();
    assert!(error.contains("no-such-folder"), "names its path: {error}");
}

#[tokio::test]
async fn the_end_of_a_critical_task_ends_the_process_and_says_why() {
    let shutdown = Shutdown::new();
    tasks::spawn(tasks::Kind::Critical(shutdown.clone()), "heart", async {});
    tokio::time::timeout(Duration::from_secs(5), shutdown.requested()).await.unwrap();
    assert_eq!(shutdown.reason(), Some(Reason::Failed("task `heart` ended".to_owned())));
    assert!(!shutdown.is_forced());
}

#[tokio::test]
async fn a_panic_in_a_critical_task_ends_the_process() {
    let shutdown = Shutdown::new();
    let task = tasks::spawn(tasks::Kind::Critical(shutdown.clone()), "heart", async {
        panic!("on purpose");
    });
    tokio::time::timeout(Duration::from_secs(5), shutdown.requested()).await.unwrap();
    assert!(task.await.unwrap_err().is_panic());
}

#[tokio::test]
async fn a_finishing_task_ends_nothing_and_the_first_reason_stays() {
    let shutdown = Shutdown::new();
    tasks::spawn(tasks::Kind::Finish, "errand", async {}).await.unwrap();
    assert!(!shutdown.is_requested());
    shutdown.request("SIGTERM");
    shutdown.fail("later");
    assert_eq!(shutdown.reason(), Some(Reason::Requested("SIGTERM".to_owned())));
    shutdown.force("SIGTERM");
    assert!(shutdown.is_forced());
}

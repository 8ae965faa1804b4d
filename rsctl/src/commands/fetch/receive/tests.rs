//! Claims about files that come from another machine.

use super::*;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_file_appears_when_its_last_chunk_came() {
    let dir = folder();
    let mut receiver = Receiver::new(dir.path()).unwrap();
    assert_eq!(receiver.accept("logs/rank-0.log", b"one ", false).unwrap(), None);
    assert!(!dir.path().join("logs/rank-0.log").exists());
    let done = receiver.accept("logs/rank-0.log", b"two", true).unwrap();
    assert_eq!(done.as_deref(), Some("logs/rank-0.log"));
    assert_eq!(fs_err::read(dir.path().join("logs/rank-0.log")).unwrap(), b"one two");
    receiver.accept("empty", b"", true).unwrap();
    assert_eq!(fs_err::read(dir.path().join("empty")).unwrap(), b"");
    receiver.finish().unwrap();
}

#[test]
fn a_transfer_that_is_cut_leaves_no_file() {
    let dir = folder();
    let mut receiver = Receiver::new(dir.path()).unwrap();
    receiver.accept("summary.json", b"{", false).unwrap();
    let error = receiver.finish().unwrap_err();
    assert_eq!(error.to_string(), "the transfer ended in the middle of `summary.json`");
    assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn no_name_escapes_the_folder() {
    let dir = folder();
    let outside = folder();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
    let mut receiver = Receiver::new(dir.path()).unwrap();
    for name in
        ["../x", "a/../../x", "/etc/x", "", "a/", ".", "..", "a/./../..", "link/x", "a\\b", "a\0b"]
    {
        let refused = receiver.accept(name, b"x", true);
        assert!(matches!(refused, Err(Error::Name { .. })), "{name:?}: {refused:?}");
    }
    assert_eq!(fs_err::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1, "only our own link is there");
}

#[test]
fn a_link_at_the_target_is_replaced_and_not_followed() {
    let dir = folder();
    let outside = folder();
    let victim = outside.path().join("victim");
    fs_err::write(&victim, "kept").unwrap();
    std::os::unix::fs::symlink(&victim, dir.path().join("job.toml")).unwrap();
    let mut receiver = Receiver::new(dir.path()).unwrap();
    receiver.accept("job.toml", b"new", true).unwrap();
    assert_eq!(fs_err::read_to_string(&victim).unwrap(), "kept");
    assert_eq!(fs_err::read_to_string(dir.path().join("job.toml")).unwrap(), "new");
}

#[test]
fn chunks_of_two_files_must_not_mix() {
    let dir = folder();
    let mut receiver = Receiver::new(dir.path()).unwrap();
    receiver.accept("a", b"1", false).unwrap();
    let error = receiver.accept("b", b"2", true).unwrap_err();
    assert!(matches!(error, Error::Interleaved { name } if name == "a"));
}

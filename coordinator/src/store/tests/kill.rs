//! kill -9 at any moment: a child process writes and says what was acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::store::open;
use crate::store::tests::payload;

/// Set in the child: where it writes.
const CHILD: &str = "RUSTSPEED_TEST_STORE_WRITER";

/// Not a claim of its own: the child's half of the tests here.
#[test]
fn writer_child() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let mut opened = open(Path::new(&folder)).unwrap();
    assert_eq!(opened.recovery, None);
    let first = opened.events.len();
    let mut stdout = std::io::stdout();
    for number in first.. {
        opened.log.append_batch(&[payload(number)]).unwrap();
        if writeln!(stdout, "acked {}", number + 1).and_then(|()| stdout.flush()).is_err() {
            return;
        }
    }
}

/// Starts a writer on `folder`; gives it with its stdout.
pub(super) fn start(folder: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::kill::writer_child", "--nocapture"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

/// Reads acknowledgements until there are `count` more; the newest.
pub(super) fn acknowledged(
    stdout: &mut BufReader<std::process::ChildStdout>,
    count: usize,
) -> usize {
    let mut newest = 0;
    let mut seen = 0;
    let mut line = String::new();
    while seen < count {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "the writer died");
        if let Some(number) = line.trim().rsplit_once("acked ").map(|(_, n)| n) {
            newest = number.parse().unwrap();
            seen += 1;
        }
    }
    newest
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let (mut child, mut stdout) = start(folder.path());
        let mut newest = acknowledged(&mut stdout, 20 + round * 37);
        child.kill().unwrap();
        child.wait().unwrap();
        // Acknowledged between the last line that was read and the kill.
        for line in stdout.lines().map_while(Result::ok) {
            let number = line.trim().rsplit_once("acked ").and_then(|(_, n)| n.parse().ok());
            newest = number.unwrap_or(newest);
        }
        let opened = open(folder.path()).unwrap();
        assert_eq!(opened.recovery, None, "round {round}");
        assert!(opened.events.len() >= newest, "{} of {newest} are left", opened.events.len());
        let expected: Vec<Vec<u8>> = (0..opened.events.len()).map(payload).collect();
        assert!(opened.events == expected, "round {round}: events differ");
        // Left unclean, so that every opening takes the careful path.
        drop(opened);
    }
}

//! The demonstration for people: `tests/chaos-demo.sh` keeps what it promises, and leaves nothing.

use std::process::Command;
use std::time::Duration;

use tests::binaries::{binary, workspace_root};
use tests::process::{Running, processes_with};
use tests::wait::wait_for;

/// It takes a quarter of this on two idle cores; other tests run beside this one.
const DEADLINE: Duration = Duration::from_secs(300);

#[test]
fn the_chaos_demo_ends_with_the_undisturbed_loss_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("demo.log");
    let bin_dir = binary("rsctl").parent().unwrap().to_owned();
    let mut command = Command::new(workspace_root().join("tests/chaos-demo.sh"));
    command.env("RUSTSPEED_BIN_DIR", bin_dir).env("TMPDIR", folder.path());
    let mut demo = Running::start(&mut command, &log);
    let ended = demo.wait(DEADLINE);
    let told = demo.output();
    assert!(ended.success(), "{ended}\n{told}");
    for part in ["rank 1's trainer", "kill -9 of worker", "the coordinator", "The same final loss"]
    {
        assert!(told.contains(part), "no `{part}` in:\n{told}");
    }
    wait_for("no process of the demo", Duration::from_secs(20), || {
        processes_with(folder.path().to_str()?).is_empty().then_some(())
    });
    let left: Vec<_> = fs_err::read_dir(folder.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "only our own log is left: {left:?}");
}

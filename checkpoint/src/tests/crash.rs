//! Processes that die in a save, and disks that are full: earlier checkpoints stay, and no listing
//! ever shows a torn one (A9). The dying process is this test binary, started again.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::fixture::{Fixture, fence, names, write, write_shard};
use crate::shard::ShardName;
use crate::{DataType, Error, Fence, Root, SliceMeta, TensorKind, retention, tag, verify};

/// Set for a child: the root that it works on.
const ROOT: &str = "CHECKPOINT_TEST_ROOT";
/// Set for a child: its generation.
const GENERATION: &str = "CHECKPOINT_TEST_GENERATION";

fn given(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// This binary, to run one test of this module with `root`.
fn again(test: &str, root: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("tests::crash::{test}"), "--nocapture", "--test-threads=1"]);
    command.env(ROOT, root);
    command
}

/// Says that a test proves nothing here: past the test runner, which hides what a passing one prints.
fn skipped(why: &str) {
    std::io::stderr().write_all(format!("SKIPPED: {why}\n").as_bytes()).unwrap();
}

fn steps(root: &Root, from: u64, last: Option<u64>, fence: &Fence) {
    for step in from.. {
        let manifest = write(root, fence, step, 3).unwrap();
        root.commit(&manifest).unwrap();
        let keep = retention::Keep { last: 2, best: 1 };
        let plan = retention::plan(&root.list().unwrap().whole, keep);
        root.prune(&plan, Some(fence)).unwrap();
        if last == Some(step) {
            return;
        }
    }
}

/// As a child: saves and prunes until it is killed. By itself: a few steps.
#[test]
fn a_saver_saves_and_prunes_step_after_step() {
    let Some(root) = given(ROOT) else {
        let fixture = Fixture::new();
        steps(&fixture.root, 1, Some(5), &fixture.fence);
        // Each step has the lowest loss so far: the last two are also the best.
        assert_eq!(fixture.tags(), [tag(5), tag(4)]);
        return;
    };
    let root = Root::open(&root).unwrap();
    let fence = fence("job-a", given(GENERATION).unwrap().parse().unwrap());
    root.raise_generation(&fence).unwrap();
    root.sweep(&fence).unwrap();
    let newest = root.list().unwrap().whole.first().map_or(0, |found| found.step);
    steps(&root, newest + 1, None, &fence);
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself; `wait` then still reaps it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn kill_9_in_the_middle_of_saves_never_shows_a_torn_checkpoint() {
    const ROUNDS: u64 = 12;
    let mut fixture = Fixture::new();
    let mut newest = 0;
    for generation in 1..=ROUNDS {
        let child = again("a_saver_saves_and_prunes_step_after_step", fixture.root.path())
            .env(GENERATION, generation.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut child = Killed(child);
        // Some commits, then a moment that differs from round to round.
        let deadline = Instant::now() + Duration::from_secs(60);
        let goal = newest + 1 + generation % 3;
        let mut listings = 0;
        loop {
            let listing = fixture.root.list().unwrap();
            check_whole(&fixture.root, &listing.whole);
            // A save or a removal that is under way is unfinished, never damaged.
            let is_damaged = listing.incomplete.iter().any(crate::Incomplete::is_damaged);
            assert!(!is_damaged, "{:?}", listing.incomplete);
            listings += 1;
            if listing.whole.first().is_some_and(|found| found.step >= goal) {
                break;
            }
            assert_eq!(child.0.try_wait().unwrap(), None, "the saver ended by itself");
            assert!(Instant::now() < deadline, "no step {goal} after {listings} listings");
        }
        let spins = generation * generation * 2000;
        (0..spins).for_each(|turn| {
            std::hint::black_box(turn);
        });
        child.0.kill().unwrap();
        assert_eq!(child.0.wait().unwrap().signal(), Some(9));

        let whole = fixture.root.list().unwrap().whole;
        check_whole(&fixture.root, &whole);
        assert!(whole[0].step >= goal, "what was committed stays (A14)");
        newest = whole[0].step;
    }
    fixture.raise(ROUNDS + 1);
    fixture.root.sweep(&fixture.fence).unwrap();
    let listing = fixture.root.list().unwrap();
    assert!(listing.incomplete.is_empty(), "{:?}", listing.incomplete);
    assert!(listing.whole.iter().all(|found| names(&found.path).len() == 4));
}

/// Every listed checkpoint is sound, unless retention took it since.
fn check_whole(root: &Root, listed: &[crate::Found]) {
    for found in listed {
        let sound = verify(&found.path).map(|report| report.is_sound());
        let still_there = || root.list().unwrap().whole.iter().any(|now| now.step == found.step);
        assert!(matches!(sound, Ok(true)) || !still_there(), "{}: {sound:?}", found.tag);
    }
}

/// One tensor of so many bytes.
fn large(bytes: usize) -> Vec<(SliceMeta, Vec<u8>)> {
    let meta = SliceMeta {
        name: "w".to_owned(),
        kind: TensorKind::Parameter,
        dtype: DataType::U8,
        global_shape: vec![bytes as u64],
        offset: 0,
        len: bytes as u64,
    };
    vec![(meta, vec![3; bytes])]
}

/// As a child, on a disk with room for one small checkpoint: the large one is refused.
#[test]
fn a_write_that_does_not_fit_is_typed_and_leaves_the_older_checkpoint() {
    let Some(path) = given(ROOT) else {
        on_a_small_disk();
        with_a_file_size_limit();
        return;
    };
    let root = Root::open(&path).unwrap();
    let fence = fence("job-a", 1);
    root.raise_generation(&fence).unwrap();
    root.commit(&write(&root, &fence, 1, 2).unwrap()).unwrap();

    const TOO_LARGE: usize = 4 * 1024 * 1024;
    let name = ShardName { rank: 0, world: 1, generation: fence.generation };
    let folder = root.folder(2);
    match write_shard(&folder, name, &large(TOO_LARGE)).unwrap_err() {
        Error::DiskFull { path, needed, available, source } => {
            assert_eq!(path, folder.join(name.to_string()));
            assert!(needed > TOO_LARGE as u64);
            assert!(available.is_some(), "{source}");
        }
        other => panic!("{other:?}"),
    }
    assert!(names(&folder).is_empty(), "the temporary file is gone");
    root.discard(2, &fence).unwrap();
    assert!(!folder.exists());
    assert!(verify(&root.folder(1)).unwrap().is_sound());
    root.commit(&write(&root, &fence, 3, 2).unwrap()).unwrap();
    eprintln!("refused as it must be");
}

fn on_a_small_disk() {
    let folder = tempfile::tempdir().unwrap();
    let inner =
        again("a_write_that_does_not_fit_is_typed_and_leaves_the_older_checkpoint", folder.path());
    // A mount namespace of our own: nothing of it is seen outside, and it ends with the command.
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs -o size=512k none \"$0\" || exit 77; exec \"$@\"";
    command.args(["-m", "sh", "-c", script]).arg(folder.path());
    command.arg(inner.get_program()).args(inner.get_args()).env(ROOT, folder.path());
    let Ok(done) = command.output() else { return skipped("no `unshare` to mount a small disk") };
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let not_permitted = done.status.code() == Some(77) || said.contains("unshare failed");
    if not_permitted {
        return skipped("mounting a small disk is not permitted here");
    }
    assert!(done.status.success() && said.contains("refused as it must be"), "{said}");
}

/// EFBIG instead of ENOSPC, which needs no rights. By default SIGXFSZ would end the child first.
fn with_a_file_size_limit() {
    let folder = tempfile::tempdir().unwrap();
    let inner =
        again("a_write_that_does_not_fit_is_typed_and_leaves_the_older_checkpoint", folder.path());
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$0\" \"$@\""]);
    command.arg(inner.get_program()).args(inner.get_args()).env(ROOT, folder.path());
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && said.contains("refused as it must be"), "{said}");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let fixture = Fixture::new();
    let file: PathBuf = fixture.root.folder(1);
    fs_err::write(&file, "in the way").unwrap();
    let error = write(&fixture.root, &fixture.fence, 1, 1).unwrap_err();
    assert!(error.chain().contains("step-00000001"), "{}", error.chain());
}

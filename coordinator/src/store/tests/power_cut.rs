//! A power cut: what the page cache holds is gone. An ext4 image on a loop device is copied as it
//! is while the writer stands still, and the copy is mounted and opened.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::store::open;
use crate::store::tests::kill::{acknowledged, start};
use crate::store::tests::payload;

const IMAGE_BYTES: u64 = 48 << 20;

/// Unmounts on drop.
struct Mount(std::path::PathBuf);

impl Mount {
    fn new(image: &Path, at: &Path) -> Option<Self> {
        fs_err::create_dir_all(at).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at))
            .then(|| Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(&self.0));
    }
}

fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk");
    fs_err::File::create(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
    let is_made = run(Command::new("mkfs.ext4").arg("-q").arg(&image));
    let live = is_made.then(|| Mount::new(&image, &folder.path().join("live"))).flatten();
    let Some(live) = live else {
        // Past the test runner, which hides what a passing test prints.
        let said =
            b"SKIPPED what_was_acknowledged_survives_a_power_cut: needs root, loop devices\n";
        std::io::stderr().write_all(said).unwrap();
        return;
    };
    let (mut child, mut stdout) = start(&live.0.join("store"));
    for cut in 0..3 {
        let newest = acknowledged(&mut stdout, 150);
        let pid = Pid::from_raw(child.id().cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        let copy = folder.path().join(format!("disk-{cut}"));
        fs_err::copy(&image, &copy).unwrap();
        kill(pid, Signal::SIGCONT).unwrap();
        let after = Mount::new(&copy, &folder.path().join(format!("after-{cut}"))).unwrap();
        let opened = open(&after.0.join("store")).unwrap();
        assert_eq!(opened.recovery, None, "cut {cut}");
        assert!(opened.events.len() >= newest, "{} of {newest} are left", opened.events.len());
        let expected: Vec<Vec<u8>> = (0..opened.events.len()).map(payload).collect();
        assert!(opened.events == expected, "cut {cut}: events differ");
        opened.log.close().unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

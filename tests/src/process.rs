//! A child that never outlives its test, and looking at processes from outside.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::wait_for;

/// Far more than a coordinator takes to read a test's store.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);

/// A running program with its output in a file; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pub log: std::path::PathBuf,
    /// Bytes of the log that are of its former lives.
    earlier: usize,
}

impl Running {
    /// Starts `command` with stdout and stderr appended to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let earlier = fs_err::read_to_string(log).unwrap_or_default().len();
        let file =
            fs_err::OpenOptions::new().create(true).append(true).open(log).expect("open log");
        let stderr = file.file().try_clone().expect("clone log handle");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.into_parts().0)
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self { child, log: log.to_owned(), earlier }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        // The child is ours and not yet reaped, so the pid is its own.
        let _ = kill(Pid::from_raw(self.pid().cast_signed()), signal);
    }

    /// Waits for the end; panics with the log after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("end of process {}", self.pid());
        wait_for(&what, deadline, || self.child.try_wait().expect("wait for own child"))
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait for own child").is_none()
    }

    pub fn output(&self) -> String {
        fs_err::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it, a coordinator, says where it listens.
    pub fn listening(&mut self) -> String {
        wait_for("the coordinator's `listening` line", LISTENS_WITHIN, || {
            let output = self.output();
            assert!(self.is_running(), "the coordinator ended: {output}");
            let mut lines = output.get(self.earlier..)?.lines();
            let address = lines.find_map(|line| line.strip_prefix("listening "))?;
            address.split_whitespace().next().map(str::to_owned)
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Either it has ended already or it must end now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Is there a process (not a zombie) with this pid?
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs_err::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    !matches!(state, None | Some("Z" | "X"))
}

/// Pids of all processes whose command line holds `needle`, a text only this test can know.
pub fn processes_with(needle: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc").expect("list /proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let read = |file: &str| fs_err::read(entry.path().join(file)).unwrap_or_default();
        let text = [read("cmdline"), read("environ")].concat();
        if pid != std::process::id()
            && is_alive(pid)
            && text.windows(needle.len()).any(|window| window == needle.as_bytes())
        {
            found.push(pid);
        }
    }
    found
}

/// Whether a process stands still by SIGSTOP, with all its threads.
pub fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = fs_err::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| {
        let stat = fs_err::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
        state == Some("T")
    })
}

/// Pids of all processes whose working folder lies below `folder`: a trainer's is its run's.
pub fn working_below(folder: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc").expect("list /proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let works_below = fs_err::read_link(entry.path().join("cwd"));
        if works_below.is_ok_and(|cwd| cwd.starts_with(folder)) && is_alive(pid) {
            found.push(pid);
        }
    }
    found
}

/// The children of a process, by its threads.
pub fn children_of(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    let Ok(threads) = fs_err::read_dir(format!("/proc/{pid}/task")) else { return children };
    for thread in threads.flatten() {
        let list = fs_err::read_to_string(thread.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    children
}

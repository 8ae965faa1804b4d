//! Kills for lack of memory, by the kernel's own evidence: its log where it names the process, else
//! the counter of the process's cgroup, else the machine's, which also moves for other people's
//! processes and says so. Told with what the process had and might have.

mod cgroup;
mod kernel_log;

use std::path::{Path, PathBuf};

use common::process::status_bytes;
use common::units::display_bytes;
use fs_err as fs;

use self::cgroup::Cgroup;
use self::kernel_log::KernelLog;

/// The machine's counter, since boot.
const MACHINE: &str = "/proc/vmstat";

/// What is watched of one process's memory.
#[derive(Debug)]
pub(crate) struct Memory {
    pid: u32,
    counter: Option<Counter>,
    log: Option<KernelLog>,
    limit: Option<u64>,
    /// The most that was seen.
    resident: u64,
}

/// Where the kernel counts, and how many kills there were at some moment.
#[derive(Debug)]
struct Counter {
    file: PathBuf,
    before: u64,
}

impl Memory {
    /// From the process's begin.
    pub(crate) fn of(pid: u32) -> Self {
        let cgroup = Cgroup::of(pid);
        let counter = cgroup.counters().chain([MACHINE.into()]).find_map(Counter::now);
        let limit = cgroup.limit();
        Self { pid, counter, log: KernelLog::from_now_on(), limit, resident: 0 }
    }

    /// Looks at the process while it lives.
    pub(crate) fn look(&mut self) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid));
        let resident = status.ok().and_then(|status| status_bytes(&status, "VmHWM:"));
        self.resident = resident.unwrap_or(0).max(self.resident);
    }

    /// Why it seems that a SIGKILL of this process was for lack of memory; None: nothing says so.
    pub(crate) fn ran_out(&mut self) -> Option<String> {
        let named = self.log.as_mut().and_then(|log| log.kill_of(self.pid));
        let evidence = match named {
            Some(line) => format!("the kernel's log says `{line}`"),
            None => self.counter.as_ref()?.since()?,
        };
        let seen = match self.resident {
            0 => String::new(),
            bytes => format!("; it had up to {} resident", display_bytes(bytes)),
        };
        let limit = match self.limit {
            None => "; no limit but the machine's memory holds for it".to_owned(),
            Some(limit) => format!("; its cgroup's limit is {}", display_bytes(limit)),
        };
        Some(format!("{evidence}{seen}{limit}"))
    }
}

impl Counter {
    fn now(file: PathBuf) -> Option<Self> {
        let before = count(&file)?;
        Some(Self { file, before })
    }

    /// What the counter says of the time since then; None: nothing was killed.
    fn since(&self) -> Option<String> {
        let killed = count(&self.file)?.checked_sub(self.before).filter(|killed| *killed > 0)?;
        let es = if killed == 1 { "" } else { "es" };
        let whose = match self.file == Path::new(MACHINE) {
            true => "of this machine, whosever they were,",
            false => "of the trainer's cgroup",
        };
        let file = self.file.display();
        Some(format!("`{file}` counts {killed} process{es} {whose} killed since it started"))
    }
}

fn count(file: &Path) -> Option<u64> {
    kills(&fs::read_to_string(file).ok()?)
}

/// All three files have it on a line of its own.
fn kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_read_from_each_kind_of_file() {
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(kills("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(kills("oom_kill_disable 0\n"), None, "before Linux 4.13");
    }

    #[test]
    fn what_was_killed_is_told_with_whose_counter_it_is_and_what_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memory.events");
        fs::write(&file, "oom_kill 2\n").unwrap();
        let mut memory = Memory {
            pid: std::process::id(),
            counter: Counter::now(file.clone()),
            log: None,
            limit: Some(2 << 30),
            resident: 0,
        };
        assert_eq!(memory.ran_out(), None);
        fs::write(&file, "oom_kill 3\n").unwrap();
        memory.look();
        let said = memory.ran_out().unwrap();
        assert!(said.contains("counts 1 process of the trainer's cgroup"), "{said}");
        assert!(said.contains("it had up to ") && said.ends_with("limit is 2.0 GiB"), "{said}");
        let machine = Counter { file: MACHINE.into(), before: 0 };
        assert!(machine.since().is_none_or(|said| said.contains("of this machine, whosever")));
    }
}

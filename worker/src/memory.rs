//! Kills for lack of memory, as the kernel counts them: in the cgroup of this worker and its
//! trainers where that is to be found, else on the whole machine. Says which of the two it was,
//! because the machine's counter also moves for other people's processes.

use std::path::{Path, PathBuf};

use fs_err as fs;

/// The machine's counter, since boot.
const MACHINE: &str = "/proc/vmstat";

/// Where the kernel counts, and how many kills there were at some moment.
#[derive(Debug)]
pub(crate) struct Kills {
    file: PathBuf,
    before: u64,
}

impl Kills {
    /// None: this kernel counts nowhere.
    pub(crate) fn now() -> Option<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut files = counters(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        files.push(MACHINE.into());
        files.into_iter().find_map(|file| {
            let before = count(&file)?;
            Some(Self { file, before })
        })
    }

    /// What the counter says of the time since then; None: nothing was killed.
    pub(crate) fn since(&self) -> Option<String> {
        let killed = count(&self.file)?.checked_sub(self.before).filter(|killed| *killed > 0)?;
        let es = if killed == 1 { "" } else { "es" };
        let whose = match self.file == Path::new(MACHINE) {
            true => "of this machine, whosever they were,",
            false => "of this worker's cgroup",
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

/// Files that may count for this process's cgroup, by `/proc/self/cgroup` and
/// `/proc/self/mountinfo`. Version 1 counts where its memory controller is mounted.
fn counters(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let memberships = cgroup.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        match controllers {
            "" => Some(("cgroup2", "memory.events", path)),
            list if list.split(',').any(|one| one == "memory") => {
                Some(("cgroup", "memory.oom_control", path))
            }
            _ => None,
        }
    });
    let file = |(kind, file, path): (&str, &str, &str)| {
        let folder = mountinfo.lines().find_map(|line| folder_of(line, kind, path))?;
        Some(folder.join(file))
    };
    memberships.filter_map(file).collect()
}

/// Where the mount of one line of mountinfo shows `path`: inside a container the mount's root is
/// not the hierarchy's. Fields as `man 5 proc_pid_mountinfo` numbers them.
fn folder_of(line: &str, kind: &str, path: &str) -> Option<PathBuf> {
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ').skip(3);
    let (root, mount_point) = (fields.next()?, fields.next()?);
    let mut fields = right.split(' ');
    let is_kind = fields.next()? == kind;
    let options = fields.nth(1).unwrap_or_default();
    if !is_kind || (kind == "cgroup" && !options.split(',').any(|one| one == "memory")) {
        return None;
    }
    let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    Some(Path::new(mount_point).join(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "9:name=systemd:/\n4:cpu,memory:/jobs/7\n0::/\n";
    const V1_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory
";

    #[test]
    fn version_1_counts_in_the_folder_of_the_memory_controller() {
        let file = "/sys/fs/cgroup/memory/jobs/7/memory.oom_control";
        assert_eq!(counters(V1, V1_MOUNTS), [Path::new(file)]);
    }

    #[test]
    fn version_2_counts_in_the_processs_own_folder() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let file = "/sys/fs/cgroup/system.slice/worker.service/memory.events";
        assert_eq!(counters("0::/system.slice/worker.service\n", mounts), [Path::new(file)]);
    }

    #[test]
    fn in_a_container_the_path_starts_at_the_mounts_root() {
        let mounts = "30 23 0:26 /docker/ab /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let file = "/sys/fs/cgroup/inner/memory.events";
        assert_eq!(counters("0::/docker/ab/inner\n", mounts), [Path::new(file)]);
        let file = "/sys/fs/cgroup/memory.events";
        assert_eq!(counters("0::/elsewhere\n", mounts), [Path::new(file)]);
    }

    #[test]
    fn the_counter_is_read_from_each_kind_of_file() {
        assert_eq!(kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(kills("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(kills("oom_kill_disable 0\n"), None, "before Linux 4.13");
    }

    #[test]
    fn what_was_killed_is_told_with_whose_counter_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("memory.events");
        fs::write(&file, "oom_kill 2\n").unwrap();
        let kills = Kills { file: file.clone(), before: 2 };
        assert_eq!(kills.since(), None);
        fs::write(&file, "oom_kill 3\n").unwrap();
        let said = kills.since().unwrap();
        assert!(said.contains("counts 1 process of this worker's cgroup"), "{said}");
        let machine = Kills { file: MACHINE.into(), before: 0 };
        assert!(machine.since().is_none_or(|said| said.contains("of this machine, whosever")));
    }
}

//! Where the kernel accounts for a process's memory: its cgroup's files, of either version.

use std::path::{Path, PathBuf};

use fs_err as fs;

/// A limit that is none: version 1 says it with a number near 2^63.
const NO_LIMIT: u64 = 1 << 60;

/// The cgroups of one process that account for memory, and the folders above them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cgroup {
    folders: Vec<PathBuf>,
}

impl Cgroup {
    pub(super) fn of(pid: u32) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mounts = read("/proc/self/mountinfo");
        Self { folders: folders(&read(&format!("/proc/{pid}/cgroup")), &mounts) }
    }

    /// Files that count kills of processes of this cgroup.
    pub(super) fn counters(&self) -> impl Iterator<Item = PathBuf> {
        let names = ["memory.oom_control", "memory.events"];
        let files = self.folders.iter().flat_map(move |f| names.map(|name| f.join(name)));
        files.filter(|file| file.is_file())
    }

    /// The smallest limit that holds here, of this cgroup or one above it.
    pub(super) fn limit(&self) -> Option<u64> {
        let above = self.folders.iter().flat_map(|folder| folder.ancestors());
        let files = above.flat_map(|f| ["memory.limit_in_bytes", "memory.max"].map(|n| f.join(n)));
        let limits = files.filter(|f| f.is_file()).filter_map(|f| fs::read_to_string(f).ok());
        limits.filter_map(|text| text.trim().parse().ok()).filter(|limit| *limit < NO_LIMIT).min()
    }
}

/// The folders of a process's memory cgroups, by its `cgroup` file and the mounts. Version 1 accounts
/// where its memory controller is mounted; version 2 may be mounted beside it and know nothing.
fn folders(cgroup: &str, mountinfo: &str) -> Vec<PathBuf> {
    let memberships = cgroup.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        match controllers {
            "" => Some(("cgroup2", path)),
            list if list.split(',').any(|one| one == "memory") => Some(("cgroup", path)),
            _ => None,
        }
    });
    let folder =
        |(kind, path): (&str, &str)| mountinfo.lines().find_map(|line| folder_of(line, kind, path));
    memberships.filter_map(folder).collect()
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
    fn version_1_accounts_in_the_folder_of_the_memory_controller() {
        let folder = "/sys/fs/cgroup/memory/jobs/7";
        assert_eq!(folders(V1, V1_MOUNTS), [Path::new(folder)]);
    }

    #[test]
    fn version_2_accounts_in_the_processs_own_folder() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let folder = "/sys/fs/cgroup/system.slice/worker.service";
        assert_eq!(folders("0::/system.slice/worker.service\n", mounts), [Path::new(folder)]);
    }

    #[test]
    fn in_a_container_the_path_starts_at_the_mounts_root() {
        let mounts = "30 23 0:26 /docker/ab /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let folder = "/sys/fs/cgroup/inner";
        assert_eq!(folders("0::/docker/ab/inner\n", mounts), [Path::new(folder)]);
        let folder = "/sys/fs/cgroup";
        assert_eq!(folders("0::/elsewhere\n", mounts), [Path::new(folder)]);
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_holds() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let cgroup = Cgroup { folders: vec![inner.clone()] };
        fs::write(inner.join("memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        assert_eq!(cgroup.limit(), None);
        fs::write(root.path().join("a/memory.max"), "4096\n").unwrap();
        fs::write(root.path().join("memory.max"), "8192\n").unwrap();
        assert_eq!(cgroup.limit(), Some(4096));
    }
}

//! What this node has: cores, memory, a name. Absent evidence is a smaller answer, never an error.

use std::num::NonZeroU32;

use fs_err as fs;

/// Cores that this process may use: its affinity mask and its cgroup's CPU quota both count.
pub(crate) fn cores() -> NonZeroU32 {
    std::thread::available_parallelism()
        .ok()
        .and_then(|n| u32::try_from(n.get()).ok())
        .and_then(NonZeroU32::new)
        .unwrap_or(NonZeroU32::MIN)
}

/// Bytes of memory: the machine's, or the cgroup's limit where that is lower. 0: unknown.
pub(crate) fn memory_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_total(&text));
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    match (machine, limit) {
        (Some(machine), Some(limit)) => machine.min(limit),
        (machine, limit) => machine.or(limit).unwrap_or(0),
    }
}

fn meminfo_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// This machine's name.
pub(crate) fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::meminfo_total;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(meminfo_total("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16384 * 1024));
        assert_eq!(meminfo_total("MemTotal: many\n"), None);
        assert!(super::memory_bytes() > 0);
    }
}

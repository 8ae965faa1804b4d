//! What the kernel tells of a process in `/proc/PID/status`. Reads text, not files.

/// A size such as `VmRSS:` (resident now) or `VmHWM:` (the most ever), in bytes; None where the text
/// does not have it.
pub fn status_bytes(status: &str, key: &str) -> Option<u64> {
    let size = status.lines().find_map(|line| line.strip_prefix(key))?;
    size.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_told_in_bytes() {
        let status = "Name:\ttrainer\nVmHWM:\t    2048 kB\nThreads:\t3\n";
        assert_eq!(status_bytes(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(status_bytes(status, "Threads:"), None, "no size");
        assert_eq!(status_bytes(status, "VmRSS:"), None);
        assert_eq!(status_bytes("VmRSS: 99999999999999999999 kB", "VmRSS:"), None);
    }
}

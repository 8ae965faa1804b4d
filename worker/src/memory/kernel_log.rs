//! What the kernel's log says of kills for lack of memory. Readable for root and with the right
//! capability; inside a PID namespace its numbers are not ours, and then nothing is found.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

/// One record of the log; longer ones do not exist.
const RECORD_BYTES: usize = 8192;

/// Records that are looked at; the kernel writes a page of them per kill.
const MAX_RECORDS: usize = 10_000;

/// The log from a moment on.
#[derive(Debug)]
pub(super) struct KernelLog {
    file: File,
}

impl KernelLog {
    /// None: it cannot be read here.
    pub(super) fn from_now_on() -> Option<Self> {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
        let mut file = options.open("/dev/kmsg").ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(Self { file })
    }

    /// What was written of this process's kill, if it was one for lack of memory.
    pub(super) fn kill_of(&mut self, pid: u32) -> Option<String> {
        let mut record = [0; RECORD_BYTES];
        for _ in 0..MAX_RECORDS {
            match self.file.read(&mut record) {
                Ok(len) => {
                    let text = String::from_utf8_lossy(&record[..len]);
                    if let Some(line) = kill_in(&text, pid) {
                        return Some(line.to_owned());
                    }
                }
                // Records that were overwritten before they were read.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        None
    }
}

/// `6,977,5140900,-;Out of memory: Killed process 77 (trainer) total-vm:4kB, anon-rss:2kB, ...` and
/// the same of a cgroup.
fn kill_in(record: &str, pid: u32) -> Option<&str> {
    let (_, text) = record.split_once(';')?;
    let text = text.lines().next()?;
    let (_, rest) = text.split_once("Killed process ")?;
    let (killed, _) = rest.split_once(' ')?;
    (killed.parse() == Ok(pid)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "3,977,5140900,-;Memory cgroup out of memory: Killed process 77 (trainer) \
        total-vm:524288kB, anon-rss:262144kB, file-rss:4kB\n SUBSYSTEM=x\n";

    #[test]
    fn a_kill_is_found_by_its_process() {
        let found = kill_in(RECORD, 77).unwrap();
        assert!(
            found.starts_with("Memory cgroup out of memory") && found.ends_with("file-rss:4kB")
        );
        assert_eq!(kill_in(RECORD, 7), None);
        assert_eq!(kill_in("6,1,2,-;usb 1-1: new device", 77), None);
    }
}

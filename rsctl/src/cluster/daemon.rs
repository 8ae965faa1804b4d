//! One daemon of the private cluster: its own process group, a pipe that holds it alive, its log
//! in a file.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::cluster::Error;

/// Lines of a log that a message repeats.
const LAST_LINES: usize = 15;

#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    process: Child,
    /// The process group; the child's own pid, which stays ours until it is reaped.
    group: Option<Pid>,
    /// Its end stops the daemon.
    _alive: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn start(
        name: &str,
        binary: &Path,
        arguments: &[&str],
        log: &Path,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Start { name: name.to_owned(), source };
        let file = fs_err::File::create(log).map_err(failed)?.into_parts().0;
        let mut process = Command::new(binary)
            .args(arguments)
            // Settings for a cluster in the caller's environment are not meant for this one.
            .env_remove("RUSTSPEED_MASTER")
            .env_remove("RUSTSPEED_CONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file)
            // Ctrl-C in the terminal reaches rsctl alone.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        Ok(Self {
            name: name.to_owned(),
            group: process.id().map(|pid| Pid::from_raw(pid.cast_signed())),
            _alive: process.stdin.take(),
            stdout: process.stdout.take().map(BufReader::new),
            process,
            log: log.to_owned(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Reads `listening ADDRESS`, the first line of its stdout.
    pub(crate) async fn address(&mut self, within: Duration) -> Result<String, Error> {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().expect("stdout is piped and stays with the daemon");
        let read = tokio::time::timeout(within, stdout.read_line(&mut line)).await;
        match read {
            Err(_) => return Err(self.not_ready(within)),
            Ok(Ok(0)) => {
                let ended = tokio::time::timeout(within, self.process.wait()).await;
                return Err(match ended {
                    Ok(Ok(status)) => self.ended(status),
                    _ => self.not_ready(within),
                });
            }
            Ok(Err(source)) => return Err(Error::Start { name: self.name.clone(), source }),
            Ok(Ok(_)) => {}
        }
        match line.trim_end().strip_prefix("listening ") {
            Some(address) => Ok(address.to_owned()),
            None => Err(Error::FirstLine {
                name: self.name.clone(),
                line: line.trim_end().to_owned(),
                log: self.last_words(),
            }),
        }
    }

    pub(crate) fn check_running(&mut self) -> Result<(), Error> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status)),
            Err(source) => Err(Error::Start { name: self.name.clone(), source }),
        }
    }

    fn ended(&mut self, status: std::process::ExitStatus) -> Error {
        self.group = None;
        Error::Ended { name: self.name.clone(), status, log: self.last_words() }
    }

    pub(crate) fn not_ready(&self, after: Duration) -> Error {
        Error::NotReady { name: self.name.clone(), after, log: self.last_words() }
    }

    /// The end of its log under a heading; empty when it said nothing.
    pub(crate) fn last_words(&self) -> String {
        let log = fs_err::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        if last.is_empty() {
            return String::new();
        }
        let quoted: String = last.iter().map(|line| format!("\n  | {line}")).collect();
        format!("\nlast lines of {}:{quoted}", self.name)
    }

    /// SIGTERM, and SIGKILL for the whole group when it has not ended `within`.
    pub(crate) async fn stop(&mut self, within: Duration) {
        let Some(group) = self.group else { return };
        // A daemon that has just ended is no failure: it was to end.
        let _ = killpg(group, Signal::SIGTERM);
        if tokio::time::timeout(within, self.process.wait()).await.is_err() {
            let _ = killpg(group, Signal::SIGKILL);
            // After SIGKILL the wait ends as soon as the kernel has buried it.
            let _ = self.process.wait().await;
        }
        self.group = None;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // The child was not reaped yet, so the group is still its own.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

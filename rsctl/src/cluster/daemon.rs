//! A program that lives as long as this one wants: its own process group, a pipe that holds it
//! alive, its log in a file.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::cluster::Error;

/// Lines of a log that a message repeats.
const LAST_LINES: usize = 15;

/// Bytes of a log that are read for them.
const LAST_BYTES: u64 = 1 << 20;

/// The kernel buries what it can at once; what hangs in it is left to it.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// Settings for a cluster in the caller's environment: they are not meant for one that rsctl starts itself, and
/// least of all who may have programs run, or rsctl's own secret.
pub(crate) const NOT_MEANT: &[&str] = &[
    "RUSTSPEED_MASTER",
    "RUSTSPEED_ALLOW_COMMANDS",
    "RUSTSPEED_COMMAND_SECRET",
    "RUSTSPEED_HOSTFILE",
    "RUSTSPEED_ALLOCATION",
    "RUSTSPEED_LEAVE_AFTER",
];

/// What to start.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// For messages.
    pub(crate) name: &'a str,
    pub(crate) program: &'a Path,
    pub(crate) arguments: &'a [&'a str],
    pub(crate) log: &'a Path,
    pub(crate) stdout: Stdout,
    /// Variables that it does not inherit.
    pub(crate) without: &'a [&'a str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stdout {
    /// Its first line tells something.
    Read,
    /// It goes where stderr goes.
    Logged,
}

#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    process: Child,
    /// The process group; the child's own pid, which stays ours until it is reaped.
    group: Option<Pid>,
    /// Its end stops the daemon.
    alive: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn start(launch: &Launch<'_>) -> Result<Self, Error> {
        let Launch { name, program, arguments, log, stdout, without } = *launch;
        let failed = |source| Error::Start { name: name.to_owned(), source };
        let file = fs_err::File::create(log).map_err(failed)?.into_parts().0;
        let stdout = match stdout {
            Stdout::Read => Stdio::piped(),
            Stdout::Logged => file.try_clone().map_err(failed)?.into(),
        };
        let mut command = Command::new(program);
        for variable in NOT_MEANT.iter().chain(without) {
            command.env_remove(variable);
        }
        let mut process = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(file)
            // Ctrl-C in the terminal reaches rsctl alone.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        Ok(Self {
            name: name.to_owned(),
            group: process.id().map(|pid| Pid::from_raw(pid.cast_signed())),
            alive: process.stdin.take(),
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
        let stdout = self.stdout.as_mut().expect("a daemon with an address was started to be read");
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
        match self.has_ended()? {
            None => Ok(()),
            Some(status) => Err(self.ended(status)),
        }
    }

    /// How it ended; None while it runs.
    pub(crate) fn has_ended(&mut self) -> Result<Option<std::process::ExitStatus>, Error> {
        match self.process.try_wait() {
            Ok(status) => {
                if status.is_some() {
                    self.group = None;
                }
                Ok(status)
            }
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

    /// What it has said, of much the end; empty where that cannot be read.
    pub(crate) fn log(&self) -> String {
        let end = || -> std::io::Result<Vec<u8>> {
            let mut file = fs_err::File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(LAST_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        String::from_utf8_lossy(&end().unwrap_or_default()).into_owned()
    }

    /// The end of its log under a heading; empty when it said nothing.
    pub(crate) fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        if last.is_empty() {
            return String::new();
        }
        let quoted: String = last.iter().map(|line| format!("\n  | {line}")).collect();
        format!("\nlast lines of {}:{quoted}", self.name)
    }

    /// To the process alone. One that has ended gets nothing.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(process) = self.group {
            // Not reaped yet, so the number is still its own.
            let _ = kill(process, signal);
        }
    }

    /// Writes to its standard input, which stays open.
    pub(crate) async fn feed(&mut self, text: &str) {
        if let Some(stdin) = &mut self.alive {
            // One that has ended says why in its log.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
    }

    /// Ends its standard input.
    pub(crate) fn hang_up(&mut self) {
        self.alive = None;
    }

    /// Gives it time to end by itself.
    pub(crate) async fn ended_within(&mut self, within: Duration) {
        // `stop` comes next, for those that need it.
        if let Ok(Ok(_)) = tokio::time::timeout(within, self.process.wait()).await {
            self.group = None;
        }
    }

    /// SIGTERM, and SIGKILL for the whole group when it has not ended `within`.
    pub(crate) async fn stop(&mut self, within: Duration) {
        let Some(group) = self.group else { return };
        // A daemon that has just ended is no failure: it was to end.
        let _ = killpg(group, Signal::SIGTERM);
        if tokio::time::timeout(within, self.process.wait()).await.is_err() {
            let _ = killpg(group, Signal::SIGKILL);
            let _ = tokio::time::timeout(KILLED_WITHIN, self.process.wait()).await;
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

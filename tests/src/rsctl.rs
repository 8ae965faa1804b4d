//! Running `rsctl` as a user does and reading what it prints.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use common::exit::ExitCode;
use serde_json::Value;

use crate::binaries::binary;
use crate::wait::wait_for;

/// A coordinator that does not answer for so long, on a machine that stands still now and then, does
/// not answer any more.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// One finished call of `rsctl`.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    /// The one JSON document on stdout.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is no JSON ({error}): {self:?}"))
    }

    /// Panics with everything that was printed unless the exit code is `code`.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Panics unless stderr holds each of `parts`.
    pub fn expect_stderr(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "no `{part}` in:\n{}", self.stderr);
        }
        self
    }
}

/// A way to call `rsctl`: its folder and its coordinator.
#[derive(Debug, Clone)]
pub struct Rsctl {
    pub folder: PathBuf,
    pub master: Option<String>,
}

impl Rsctl {
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("rsctl"));
        command.args(arguments).current_dir(&self.folder).env_remove("RUSTSPEED_MASTER");
        if let Some(master) = &self.master {
            command.env("RUSTSPEED_MASTER", master);
        }
        command
    }

    /// Runs to the end; panics after `deadline`, so that a hang is a failure.
    pub fn call_within(&self, deadline: Duration, arguments: &[&str]) -> Answer {
        run_to_end(self.command(arguments), deadline)
    }

    /// The JSON that a question is answered with. One that does not reach the coordinator in time is
    /// asked again.
    pub fn read(&self, arguments: &[&str]) -> Value {
        let what = format!("an answer to `rsctl {}`", arguments.join(" "));
        wait_for(&what, ANSWERS_WITHIN, || {
            let answer = self.call(arguments);
            let is_reached = answer.code != ExitCode::CoordinatorUnreachable as i32;
            is_reached.then(|| answer.expect_code(0).json())
        })
    }

    /// Runs to the end within a minute.
    pub fn call(&self, arguments: &[&str]) -> Answer {
        self.call_within(Duration::from_secs(60), arguments)
    }
}

/// Runs a command to its end; panics after `deadline`.
pub fn run_to_end(mut command: Command, deadline: Duration) -> Answer {
    let mut child = command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("start rsctl");
    let pid = child.id();
    let stdout = drain(child.stdout.take().expect("stdout is piped"));
    let stderr = drain(child.stderr.take().expect("stderr is piped"));
    let arguments: Vec<_> = command.get_args().map(|text| text.to_string_lossy()).collect();
    let what = format!("end of `rsctl {}` (pid {pid})", arguments.join(" "));
    let status = wait_for(&what, deadline, || child.try_wait().expect("wait for rsctl"));
    let text = |reader: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().expect("reader ends at end-of-file")).into_owned()
    };
    answer(Output { status, stdout: Vec::new(), stderr: Vec::new() }, text(stdout), text(stderr))
}

fn drain(mut from: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("read a pipe of our child");
        bytes
    })
}

fn answer(output: Output, stdout: String, stderr: String) -> Answer {
    use std::os::unix::process::ExitStatusExt;
    let signal = output.status.signal().unwrap_or(0);
    Answer { code: output.status.code().unwrap_or(128 + signal), stdout, stderr }
}

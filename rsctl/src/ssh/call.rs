//! One call: a script goes to a shell on a host, or on this machine, and lines come back.

use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::cluster::daemon::NOT_MEANT;
use crate::ssh::script::MARK;
use crate::ssh::words::{Refusal, essence, plain};

/// What no host of ours comes near; a shell that talks for ever is left.
const MAX_ANSWER: u64 = 1 << 20;
/// ssh's own code.
const SSH_FAILED: i32 = 255;

/// ssh and its arguments, up to those that are ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Ssh(Vec<String>);

impl Ssh {
    /// `words` is a program and its arguments.
    pub(crate) fn new(words: Vec<String>) -> Self {
        Self(words)
    }

    fn program(&self) -> &str {
        self.0.first().map_or("ssh", String::as_str)
    }
}

/// Where a script is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shell {
    /// On this machine, without ssh.
    Here,
    Over {
        ssh: Ssh,
        host: String,
    },
}

impl Shell {
    /// The program and its arguments. What users gave comes first, as ssh takes the first of two equal
    /// options; a login shell of any kind understands the command.
    pub(crate) fn command(&self) -> (String, Vec<String>) {
        match self {
            Self::Here => ("sh".to_owned(), Vec::new()),
            Self::Over { ssh, host } => {
                let given = ssh.0.iter().skip(1).map(String::as_str);
                let ours = [
                    "-o",
                    "ConnectTimeout=10",
                    "-o",
                    "ServerAliveInterval=15",
                    "-T",
                    "--",
                    host,
                    "exec sh",
                ];
                let arguments = given.chain(ours).map(str::to_owned).collect();
                (ssh.program().to_owned(), arguments)
            }
        }
    }

    pub(crate) fn is_here(&self) -> bool {
        matches!(self, Self::Here)
    }
}

/// Why a script has not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("start `{program}`")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("ssh fails{}", quoted(.words))]
    Ssh { refusal: Refusal, words: String },
    #[error("the login shell ends with {status} and does not do what it is told{}", quoted(.words))]
    Shell { status: String, words: String },
}

impl Error {
    pub(crate) fn hint(&self, host: &str) -> Option<String> {
        Some(match self {
            Self::Start { program, .. } => {
                format!("install an ssh client, or name another with --ssh; `{program}` is not it")
            }
            Self::Late(_) => {
                format!("does `ssh {host} true` come back? A start-up file of the shell may wait")
            }
            Self::Ssh { refusal, .. } => refusal.hint(host),
            Self::Shell { .. } => {
                format!("`ssh {host} 'exec sh -c true'` must succeed; see the user's login shell")
            }
        })
    }
}

/// Behind a colon, or below where it is several lines.
pub(crate) fn quoted(words: &str) -> String {
    match words.trim_end().lines().collect::<Vec<_>>().as_slice() {
        [] => String::new(),
        [line] => format!(": {line}"),
        lines => lines.iter().map(|line| format!("\n    | {line}")).collect(),
    }
}

/// What a script said: keys and values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reply(Vec<(String, String)>);

impl Reply {
    /// Other lines are those of start-up files.
    pub(crate) fn read(stdout: &str) -> Self {
        let said = stdout.lines().filter_map(|line| {
            let (key, value) = line.strip_prefix(MARK)?.split_once(' ')?;
            Some((key.to_owned(), plain(value)))
        });
        Self(said.collect())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Lines, such as those of a log.
    pub(crate) fn text(&self, key: &str) -> String {
        let lines = self.0.iter().filter(|(name, _)| name == key);
        lines.map(|(_, value)| value.as_str()).collect::<Vec<_>>().join("\n")
    }
}

/// Executes a script and gives what it said. Dropped, it ends ssh; the script may go on.
pub(crate) async fn call(shell: &Shell, script: &str, within: Duration) -> Result<Reply, Error> {
    let (program, arguments) = shell.command();
    let failed = |source| Error::Start { program: program.clone(), source };
    let mut command = Command::new(&program);
    for variable in NOT_MEANT {
        command.env_remove(variable);
    }
    let mut child = command
        .args(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C in the terminal reaches rsctl alone.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async {
        if let Some(mut stdin) = stdin {
            // One that has ended says why on its stderr.
            let _ = stdin.write_all(script.as_bytes()).await;
        }
    };
    let talk = async { tokio::join!(tell, text(stdout), text(stderr), child.wait()) };
    let Ok(((), stdout, stderr, status)) = tokio::time::timeout(within, talk).await else {
        return Err(Error::Late(within));
    };
    let status = status.map_err(failed)?;
    let reply = Reply::read(&stdout);
    if status.success() && reply.get("end").is_some() {
        return Ok(reply);
    }
    let words = essence(&stderr);
    Err(match status.code() {
        Some(SSH_FAILED) if !shell.is_here() => {
            Error::Ssh { refusal: Refusal::read(&stderr), words }
        }
        _ => {
            let words = if words.is_empty() { essence(&stdout) } else { words };
            Error::Shell { status: status.to_string(), words }
        }
    })
}

async fn text(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What came before an error is still worth reading.
        let _ = from.take(MAX_ANSWER).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

//! SLURM's own commands, each with a bound on its time and on what it may say.

use std::fmt;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tracing::warn;

use common::slurm::queue::{self, FORMAT, Row};
use control::coordinator::AllocationNews;

/// SLURM's clients give up on a controller by themselves after less.
const WITHIN: Duration = Duration::from_secs(30);

/// Of SLURM's words; they go into the job's reason.
const MAX_WORDS: usize = 400;

/// Where SLURM says one of these, the same may succeed a moment later.
const PASSING: &[&str] = &[
    "unable to contact slurm controller",
    "could not establish a configuration source",
    "socket timed out",
    "temporarily unable to accept",
    "resource temporarily unavailable",
    "zero bytes were transmitted",
    "connection refused",
    "connection reset",
    "transport endpoint",
    "controller is in standby mode",
    "unexpected message received",
    "protocol authentication error",
    "job submit limit",
    "maxsubmitjobs",
];

/// Why SLURM has not done what it was asked for.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There is no such program.
    Missing {
        program: &'static str,
    },
    /// SLURM's words.
    Refused {
        words: String,
    },
    Passing {
        words: String,
    },
}

impl Trouble {
    /// Of an allocation that is asked for.
    pub(super) fn news(&self) -> AllocationNews {
        let words = self.to_string();
        match self {
            Self::Missing { .. } | Self::Refused { .. } => AllocationNews::Refused { words },
            Self::Passing { .. } => AllocationNews::Delayed { words },
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { program } => write!(
                f,
                "{program} is not in the coordinator's PATH: load SLURM's module before \
                 `coordinator serve`, and submit again"
            ),
            Self::Refused { words } | Self::Passing { words } => f.write_str(words),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Commands(());

impl Commands {
    /// Our user's jobs, also those that ended within SLURM's `MinJobAge`.
    pub(super) async fn queue(&self) -> Result<Vec<Row>, Trouble> {
        let user = format!("--user={}", nix::unistd::geteuid());
        let format = format!("--format={FORMAT}");
        let arguments: [&str; 4] = ["--noheader", "--states=all", &user, &format];
        let said = run("squeue", &arguments, None).await;
        match said {
            Ok(said) => Ok(queue::rows(&said)),
            // Nothing about one allocation follows from it.
            Err(Trouble::Refused { words }) => Err(Trouble::Passing { words }),
            Err(trouble) => Err(trouble),
        }
    }

    /// Submits a script; gives SLURM's number.
    pub(super) async fn submit(&self, script: String) -> Result<u64, Trouble> {
        let said = run("sbatch", &["--parsable"], Some(script)).await?;
        queue::submitted(&said).ok_or_else(|| Trouble::Passing {
            words: format!("sbatch told no job number but `{}`", shortened(&said)),
        })
    }

    /// Sends SIGTERM to the workers alone.
    pub(super) async fn tell_to_leave(&self, id: u64) {
        self.scancel(&["--signal=TERM", &id.to_string()]).await;
    }

    pub(super) async fn cancel(&self, id: u64) {
        self.scancel(&[&id.to_string()]).await;
    }

    /// Where it fails the next round tries again, and the round after that.
    async fn scancel(&self, arguments: &[&str]) {
        if let Err(trouble) = run("scancel", arguments, None).await {
            warn!(%trouble, "scancel");
        }
    }
}

/// Runs a command to its end; gives its standard output.
async fn run(
    program: &'static str,
    arguments: &[&str],
    input: Option<String>,
) -> Result<String, Trouble> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // A coordinator inside an allocation must not hand that one's variables on.
    for (name, _) in std::env::vars_os() {
        let is_of_a_job =
            name.to_str().is_some_and(|n| n.starts_with("SLURM_") && n != "SLURM_CONF");
        if is_of_a_job {
            command.env_remove(name);
        }
    }
    let passing = |words: String| Trouble::Passing { words };
    let finished = tokio::time::timeout(WITHIN, async {
        let mut child = command.spawn()?;
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            // One that has ended already says why.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        child.wait_with_output().await
    });
    match finished.await {
        Err(_) => Err(passing(format!("{program} gave no answer within {} s", WITHIN.as_secs()))),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Trouble::Missing { program })
        }
        Ok(Err(error)) => Err(passing(format!("start {program}: {error}"))),
        Ok(Ok(output)) => judged(program, &output),
    }
}

fn judged(program: &str, output: &Output) -> Result<String, Trouble> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let said = text(&output.stderr);
    let said = if said.trim().is_empty() { text(&output.stdout) } else { said };
    let words = match said.trim() {
        "" => format!("{program} ended with {}", output.status),
        said => shortened(said),
    };
    let lower = words.to_ascii_lowercase();
    Err(match PASSING.iter().any(|passing| lower.contains(passing)) {
        true => Trouble::Passing { words },
        false => Trouble::Refused { words },
    })
}

/// SLURM's lines as one sentence.
fn shortened(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let words = lines.join("; ");
    match words.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => format!("{}...", &words[..end]),
        None => words,
    }
}

#[cfg(test)]
mod tests;

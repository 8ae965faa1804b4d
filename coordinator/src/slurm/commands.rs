//! SLURM's own commands, each with a bound on its time and on what it may say.

use std::fmt;
use std::process::{Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tracing::warn;

use common::slurm::queue::{self, FORMAT, Row};
use control::coordinator::AllocationNews;

/// SLURM's clients give up on a controller by themselves after less.
const WITHIN: Duration = Duration::from_secs(30);

/// Of SLURM's words; they go into the job's reason.
const MAX_WORDS: usize = 400;

/// Of a command's output; it waits until it is read.
const MAX_OUTPUT: u64 = 64 << 20;
const MAX_ERRORS: u64 = 1 << 20;

/// What a site's module sets for those that say nothing: our options stand on the command line, which
/// wins. Any other `SBATCH_` could make an allocation that is not found again.
const SITE_DEFAULTS: &[&str] = &[
    "SBATCH_ACCOUNT",
    "SBATCH_CONSTRAINT",
    "SBATCH_MEM_PER_CPU",
    "SBATCH_MEM_PER_NODE",
    "SBATCH_PARTITION",
    "SBATCH_QOS",
    "SBATCH_RESERVATION",
    "SBATCH_TIMELIMIT",
];

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
    "invalid authentication credential",
    "munge",
    "connection failure",
    "receive failure",
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

    /// Submits a script; gives SLURM's number. The script's options are said once more, as those of
    /// the command line win over the environment.
    pub(super) async fn submit(&self, script: String, options: &[String]) -> Result<u64, Trouble> {
        let options = options.iter().map(String::as_str);
        let arguments: Vec<&str> = ["--parsable"].into_iter().chain(options).collect();
        let said = run("sbatch", &arguments, Some(script)).await?;
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
    for (name, _) in std::env::vars_os() {
        if !name.to_str().is_some_and(is_handed_on) {
            command.env_remove(name);
        }
    }
    // A signal to the coordinator's group, as of Ctrl-C, is none to SLURM's programs.
    command.process_group(0);
    let passing = |words: String| Trouble::Passing { words };
    let mut group = Group(None);
    let finished = tokio::time::timeout(WITHIN, async {
        let mut child = command.spawn()?;
        group.0 = child.id();
        finish(&mut child, input).await
    });
    match finished.await {
        Err(_) => Err(passing(format!("{program} gave no answer within {} s", WITHIN.as_secs()))),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Trouble::Missing { program })
        }
        Ok(Err(error)) => Err(passing(format!("start {program}: {error}"))),
        Ok(Ok(output)) => {
            group.0 = None;
            judged(program, &output)
        }
    }
}

/// A coordinator inside an allocation must not hand that one's variables on, nor its own to the nodes;
/// and `SCANCEL_INTERACTIVE`, `SQUEUE_PARTITION` and the like would change what the programs do.
fn is_handed_on(name: &str) -> bool {
    let ours = ["SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "RUSTSPEED_"];
    let is_kept = name == "SLURM_CONF" || SITE_DEFAULTS.contains(&name);
    is_kept || !ours.iter().any(|prefix| name.starts_with(prefix))
}

/// The program and what it has started, while it has not ended: killed together.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.and_then(|pid| i32::try_from(pid).ok());
        if let Some(group) = group {
            // It may have just ended.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

async fn finish(child: &mut Child, input: Option<String>) -> std::io::Result<Output> {
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // One that has ended already says why.
        let _ = stdin.write_all(text.as_bytes()).await;
    }
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let no_pipe = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    let mut said = child.stdout.take().ok_or_else(no_pipe)?.take(MAX_OUTPUT);
    let mut errors = child.stderr.take().ok_or_else(no_pipe)?.take(MAX_ERRORS);
    tokio::try_join!(said.read_to_end(&mut stdout), errors.read_to_end(&mut stderr))?;
    let status = child.wait().await?;
    Ok(Output { status, stdout, stderr })
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
    // The whole of it: a site's greeting may be long.
    let lower = said.to_ascii_lowercase();
    // One that was killed has not said whether it had done it.
    let is_killed = output.status.code().is_none();
    Err(match is_killed || PASSING.iter().any(|passing| lower.contains(passing)) {
        true => Trouble::Passing { words },
        false => Trouble::Refused { words },
    })
}

/// SLURM's lines as one sentence.
fn shortened(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let words = lines.join("; ");
    // SLURM's own error is the last that is said.
    let surplus = words.chars().count().saturating_sub(MAX_WORDS);
    match words.char_indices().nth(surplus) {
        Some((begin, _)) if surplus > 0 => format!("...{}", &words[begin..]),
        _ => words,
    }
}

#[cfg(test)]
mod tests;

//! Programs of the user's own on other hosts: `docs/launch.md`, command by command, over a real sshd and
//! on a real SLURM.

mod over_ssh;
mod under_slurm;

use std::path::Path;
use std::time::Duration;

use tests::binaries::workspace_root;
use tests::wait::wait_for;

const SSH: &str = "Over ssh";
const SLURM: &str = "On SLURM";

/// The beginnings of the page's commands. Each is executed by a story.
const LAUNCH: &str = "rsctl launch --hostfile";
const RUN: &str = "rsctl run ";
const UP: &str = "rsctl cluster up ";
const ON_CLUSTER: &str = "RUSTSPEED_COMMAND_SECRET=";
const DOWN: &str = "rsctl cluster down";
const SBATCH: &str = "sbatch ";
const SERVE: &str = "coordinator serve ";
const SUBMIT: &str = "rsctl submit --slurm ";

fn commands(heading: &str) -> Vec<String> {
    let page = fs_err::read_to_string(workspace_root().join("docs/launch.md")).unwrap();
    let section =
        page.split(&format!("\n## {heading}\n")).nth(1).expect("the page has the section");
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("\n```\n").skip(1).step_by(2);
    let line = |line: &str| line.split("  #").next().unwrap().trim().to_owned();
    blocks.flat_map(str::lines).map(line).collect()
}

/// The section's command that begins so.
fn command(heading: &str, beginning: &str) -> String {
    let mut fitting = commands(heading).into_iter().filter(|line| line.starts_with(beginning));
    let first = fitting.next().unwrap_or_else(|| panic!("{heading} has no `{beginning}`"));
    assert_eq!(fitting.next(), None, "one command is enough");
    first
}

#[test]
fn every_command_of_the_page_is_executed_by_a_story() {
    let known =
        [(SSH, &[LAUNCH, RUN, UP, ON_CLUSTER, DOWN][..]), (SLURM, &[SBATCH, SERVE, SUBMIT][..])];
    for (heading, known) in known {
        let commands = commands(heading);
        assert_eq!(commands.len(), known.len(), "{commands:?}");
        for beginning in known {
            command(heading, beginning);
        }
    }
}

/// A job whose two ranks say where they are and go on until there is a file `go`.
const WAITING: &str = "\
[job]
name = \"script\"
output-dir = \"runs\"
command = [\"sh\", \"-c\", \"\"\"
echo $RANK of $WORLD_SIZE on node $GROUP_RANK of $GROUP_WORLD_SIZE > told.$RANK
echo ${MASTER_ADDR:?}:${MASTER_PORT:?} > master.$RANK
while [ ! -e go ]; do sleep 0.1; done
\"\"\"]
[resources]
world-size = 2
[restart]
backoff = \"1ms\"
max-backoff = \"1ms\"
";

/// Waits until both ranks are there, each on a node of its own.
fn expect_two_ranks(folder: &Path) {
    let told = |name: String| fs_err::read_to_string(folder.join(name)).unwrap_or_default();
    for rank in 0..2 {
        let expected = format!("{rank} of 2 on node {rank} of 2\n");
        wait_for(&format!("rank {rank}"), Duration::from_secs(60), || {
            (told(format!("told.{rank}")) == expected).then_some(())
        });
    }
    wait_for("where rank 0 is", Duration::from_secs(10), || {
        let (first, second) = (told("master.0".to_owned()), told("master.1".to_owned()));
        (!first.is_empty() && first == second).then_some(())
    });
}

/// What only the owner of the coordinator's data may know stands in none of these.
fn expect_secret(secret: &str, pids: &[u32], files: &[(&str, String)]) {
    assert!(secret.len() >= 20, "{secret}");
    for pid in pids {
        for file in ["cmdline", "environ"] {
            let text = fs_err::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).replace('\0', " ");
            assert!(!text.contains(secret), "{file} of process {pid}: {text}");
        }
    }
    for (name, text) in files {
        assert!(!text.contains(secret), "{name}: {text}");
    }
}

/// The command line of a process.
fn line_of(pid: u32) -> String {
    let line = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ")
}

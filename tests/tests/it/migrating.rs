//! `docs/migrating.md`: every command of the right-hand columns runs, on a cluster of four hosts and at
//! small size. What goes to SLURM is run by the stories of `slurm.rs`.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use tests::binaries::{binary, workspace_root};
use tests::cluster::Cluster;
use tests::process::Running;

/// The headings above tables. Each is run by a story below.
const SECTIONS: [&str; 5] = [
    "LSTM forecasting on synthetic series",
    "LSTM on a sine wave",
    "launch_distributed.sh and its kin",
    "The template for language models",
    "The collection of configurations",
];

/// First words of commands; a code span that begins otherwise only names something.
const PROGRAMS: [&str; 5] = ["rsctl", "bash", "coordinator", "worker", "sbatch"];

const HOSTS: [&str; 4] = ["gpu-node-01", "gpu-node-02", "gpu-node-03", "gpu-node-04"];

/// A run of a debug build takes two seconds; a busy machine takes its time.
const COMMAND_WITHIN: Duration = Duration::from_secs(180);

fn page() -> String {
    fs_err::read_to_string(workspace_root().join("docs/migrating.md")).unwrap()
}

/// Right-hand sides of the tables of `text`.
fn right_hand_sides(text: &str) -> Vec<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let sides = rows.map(|row| {
        let (_, right) = row.split_once(" | ").unwrap_or_else(|| panic!("two columns: {row}"));
        assert!(!right.contains(" | "), "two columns: {row}");
        right.to_owned()
    });
    sides.filter(|right| right != "here").collect()
}

/// The commands in a right-hand side.
fn commands(right: &str) -> Vec<String> {
    let spans = right.split('`').skip(1).step_by(2);
    let is_command = |span: &&str| {
        let is_variable = |word: &&str| word.contains('=') && !word.starts_with('-');
        let program = span.split_whitespace().find(|word| !is_variable(word));
        program.is_some_and(|program| PROGRAMS.contains(&program)) && span.contains(' ')
    };
    spans.filter(is_command).map(str::to_owned).collect()
}

/// As it stands on the page, so small that a test can run it.
fn small(command: &str) -> String {
    const SMALL: &str = "--set model.hidden-size=8 --set training.max-steps=2 \
                         --set training.max-eval-steps=1";
    let daemon = ["worker join", "coordinator serve"].iter().any(|word| command.contains(word));
    let trains = ["rsctl run", "rsctl submit", "bash deploy/"];
    if daemon {
        format!("{command} --check-config")
    } else if !trains.iter().any(|word| command.starts_with(word)) {
        command.to_owned()
    } else if command.contains("--gpus 1 ") || command.ends_with("--gpus 1") {
        format!("{command} {SMALL}")
    } else {
        format!("{command} {SMALL} --set resources.world-size=2")
    }
}

/// A cluster of the page's hosts, in whose folder the page's paths are.
fn cluster() -> Cluster {
    let mut cluster = Cluster::start(&[]);
    for name in HOSTS {
        let worker = cluster.worker_command(name, 8);
        cluster.add_worker(name, worker);
    }
    for name in ["configs", "data", "deploy"] {
        symlink(workspace_root().join(name), cluster.path().join(name)).unwrap();
    }
    let hosts: String = HOSTS.iter().map(|name| format!("{name} slots=8\n")).collect();
    cluster.write("hostfile.txt", &hosts);
    cluster.wait_until_ready(HOSTS.len());
    cluster
}

/// A line of a shell in the cluster's folder; gives its exit code and all that it said.
fn run(cluster: &Cluster, line: &str) -> (Option<i32>, String) {
    let bin_dir = binary("rsctl").parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let log = cluster.path().join("command.log");
    // Each command's own.
    let _ = fs_err::remove_file(&log);
    let mut command = Command::new("bash");
    command
        .args(["-c", line])
        .current_dir(cluster.path())
        .env("PATH", format!("{bin_dir}:{path}"))
        .env("RUSTSPEED_MASTER", &cluster.master);
    let mut running = Running::start(&mut command, &log);
    let status = running.wait(COMMAND_WITHIN);
    (status.code(), running.output())
}

/// Runs every command of a section, in the order of the page.
fn run_section(heading: &str) {
    let page = page();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect(heading);
    let section = section.split("\n## ").next().unwrap();
    let all: Vec<_> = right_hand_sides(section).iter().flat_map(|right| commands(right)).collect();
    assert!(all.len() >= 5, "{heading}: {all:?}");
    let cluster = cluster();
    let job = "rsctl submit configs/jobs/timeseries-lstm.toml --watch --set training.max-steps=1 \
               --set model.hidden-size=8 --set training.max-eval-steps=1";
    let needs_job = all.iter().any(|command| command.contains("JOB"));
    if needs_job {
        let (code, said) = run(&cluster, job);
        assert_eq!(code, Some(0), "{job}\n{said}");
    }
    for command in all.iter().filter(|command| !command.starts_with("sbatch ")) {
        // The first job's name is the beginning of its id, and of no other's but its successors'.
        let first = || cluster.rsctl().call(&["jobs", "--json"]).expect_code(0).json();
        let line = match command.contains("JOB") {
            true => command.replace("JOB", first()[0]["job_id"].as_str().unwrap()),
            false => command.clone(),
        };
        let (code, said) = run(&cluster, &small(&line));
        assert_eq!(code, Some(0), "{command}\n{said}");
    }
}

#[test]
fn forecasting_on_synthetic_series() {
    run_section(SECTIONS[0]);
}

#[test]
fn a_sine_wave() {
    run_section(SECTIONS[1]);
}

#[test]
fn the_launchers_of_the_guide() {
    run_section(SECTIONS[2]);
}

#[test]
fn the_template_for_language_models() {
    run_section(SECTIONS[3]);
}

#[test]
fn the_collection_of_configurations() {
    run_section(SECTIONS[4]);
}

#[test]
fn every_table_is_run_by_a_story_and_every_command_is_seen() {
    let page = page();
    let sections: Vec<_> = page.split("\n## ").skip(1).collect();
    let with_tables = sections.iter().filter(|section| section.contains("\n| "));
    let headings: Vec<_> = with_tables.map(|section| section.lines().next().unwrap()).collect();
    assert_eq!(headings, SECTIONS);
    for right in right_hand_sides(&page) {
        let is_empty = commands(&right).is_empty();
        assert!(!right.starts_with('`') || !is_empty, "no program that is known: {right}");
    }
}

#[test]
fn a_launcher_tells_all_mistakes_and_what_would_be_right() {
    let cluster = Cluster::start(&[]);
    symlink(workspace_root().join("deploy"), cluster.path().join("deploy")).unwrap();
    let refused = |line: &str, parts: &[&str]| {
        let (code, said) = run(&cluster, line);
        assert_eq!(code, Some(2), "{line}\n{said}");
        for part in parts {
            assert!(said.contains(part), "{line}: no `{part}` in:\n{said}");
        }
    };
    let all = [
        "MODEL `mobilenet` does not exist here yet; there are: lstm gru cnn",
        "STRATEGY `fsdp` is unknown; there are: ddp (ZeRO stage 1), fsdp_stage2",
        "GPUS `0` is no number",
        "BATCH `many` is no number",
        "`7` is one too many after EPOCHS",
        "hint: launch_distributed.sh --help",
    ];
    refused("bash deploy/launch_distributed.sh mobilenet fsdp 0 many 5 7", &all);
    refused("bash deploy/launch_distributed.sh lstm ddp 4", &["no BATCH EPOCHS"]);
    let nodes = ["NODES `x` is no number", "MODEL `lsmt` is unknown; there are: lstm gru cnn"];
    refused("bash deploy/launch_multi_node.sh lsmt ddp x 8 8 100", &nodes);
    refused(
        "bash deploy/slurm_distributed.sh lstm ddp 8 16 100",
        &["not inside a SLURM", "sbatch"],
    );

    let (code, said) =
        run(&cluster, "RSCTL=nowhere bash deploy/launch_distributed.sh lstm ddp 2 8 1");
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("nowhere is not in PATH"), "{said}");
    let (code, said) =
        run(&cluster, "HOSTFILE=x bash deploy/launch_multi_node.sh lstm ddp 2 2 8 1");
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("read hostfile"), "{said}");
    for script in ["launch_distributed", "launch_multi_node", "slurm_distributed"] {
        let (code, said) = run(&cluster, &format!("bash deploy/{script}.sh --help"));
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("Examples:") && said.contains("MODEL STRATEGY"), "{said}");
    }
}

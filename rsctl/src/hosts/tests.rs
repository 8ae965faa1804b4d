//! Claims about the flags that say on which hosts a job runs.

use clap::Parser as _;

use common::spec::Resources;

use super::*;
use crate::job::JobArgs;

#[derive(Debug, clap::Parser)]
struct Line {
    #[command(flatten)]
    job: JobArgs,
}

/// A small job in a folder with a hostfile, read with these flags; `F` stands for the hostfile.
fn load(hostfile: &str, flags: &[&str]) -> Result<(Resources, Vec<String>), Failure> {
    let folder = tempfile::tempdir().unwrap();
    let (hosts, job) = (folder.path().join("hosts.txt"), folder.path().join("job.toml"));
    fs_err::write(&hosts, hostfile).unwrap();
    fs_err::write(&job, "data.kind = \"sine\"\n").unwrap();
    let hosts = hosts.display().to_string();
    let flags = flags.iter().map(|flag| if *flag == "F" { hosts.as_str() } else { *flag });
    let line = Line::try_parse_from(["rsctl"].into_iter().chain(flags)).expect("flags parse");
    let loaded = line.job.load(&job).map_err(Failure::from)?.loaded;
    Ok((loaded.spec.resources, loaded.warnings))
}

fn check(flags: &[&str], hosts: &str, world: u32) {
    let (resources, _) = load("a slots=4\nb slots=4\n", flags).unwrap();
    let shown = resources.hosts.map_or_else(String::new, |hosts| hosts.to_string());
    assert_eq!((shown.as_str(), resources.world_size), (hosts, Some(world)), "{flags:?}");
}

#[test]
fn a_hostfile_and_its_filters_name_the_hosts_and_the_world() {
    check(&["--hostfile", "F"], "a slots=4, b slots=4", 8);
    check(&["--hostfile", "F", "--include", "b:1,3"], "b:1,3", 2);
    check(&["--hostfile", "F", "--exclude", "a@b:0"], "b:1,2,3", 3);
    check(&["--hostfile", "F", "--num-nodes", "1", "--num-gpus", "2"], "a slots=2", 2);
    check(&["--hostfile", "F", "--num_nodes", "2", "--num_gpus", "1"], "a slots=1, b slots=1", 2);
    check(&["--hostfile", "F", "--gpus", "3"], "a slots=4, b slots=4", 3);
    check(&["--hostfile", "F", "--set", "resources.world-size=5"], "a slots=4, b slots=4", 5);
}

#[test]
fn without_a_hostfile_num_gpus_is_the_world() {
    check(&["--num-gpus", "3"], "", 3);
    check(&["--num_gpus", "3"], "", 3);
    check(&["--gpus", "3"], "", 3);
    let parsed = |flags: &[&str]| Line::try_parse_from([&["rsctl"][..], flags].concat());
    assert!(parsed(&["--gpus", "3", "--num-gpus", "3"]).is_err(), "either");
    assert!(parsed(&["--include", "a"]).is_err(), "of which file?");
}

#[test]
fn what_is_wrong_has_its_exit_code_and_what_to_do() {
    let refused = |hostfile: &str, flags: &[&str]| load(hostfile, flags).unwrap_err();
    let failure = refused("", &["--hostfile", "/nowhere/hosts.txt"]);
    assert_eq!(failure.code, ExitCode::BadConfiguration);
    assert!(failure.render().starts_with("error: read hostfile: "), "{}", failure.render());
    assert!(failure.render().contains("hint: nothing runs without it"), "{}", failure.render());
    let failure = refused("a\nb\n", &["--hostfile", "F"]);
    assert_eq!(failure.code, ExitCode::BadConfiguration);
    assert!(failure.render().contains("hosts.txt has 2 mistakes:\n  "), "{}", failure.render());
    assert!(failure.render().contains("hosts.txt:2: `b` is no entry"), "{}", failure.render());
    let failure = refused("a slots=1\n", &["--hostfile", "F", "--include", "c"]);
    assert_eq!(failure.code, ExitCode::BadConfiguration);
    let failure = refused("a slots=1\n", &["--hostfile", "F", "--include", "a@"]);
    assert_eq!(failure.code, ExitCode::Usage);
}

#[test]
fn ignored_ends_of_lines_are_warnings() {
    let lines: String = (0..7).map(|i| format!("h{i} slots=1 max_slots=2\n")).collect();
    let (_, warnings) = load(&lines, &["--hostfile", "F"]).unwrap();
    assert_eq!(warnings.len(), 6, "{warnings:?}");
    assert!(warnings[0].ends_with("hosts.txt:1: ignored: `max_slots=2`"), "{warnings:?}");
    assert!(warnings[5].ends_with("the ends of 2 more lines are ignored"), "{warnings:?}");
}

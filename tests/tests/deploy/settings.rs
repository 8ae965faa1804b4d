//! Every key and variable that `deploy/` names is one that the daemons have, with a value that they take,
//! and whoever stops a worker gives it the time to save.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::binaries::{binary, workspace_root};

use crate::linter::{verdict, yaml};
use crate::units::Unit;

const DAEMONS: [(&str, &str); 2] = [("coordinator", "serve"), ("worker", "join")];

/// A daemon with its shipped configuration and nothing else.
fn daemon((name, verb): (&str, &str), config: &Path, flag: &str) -> Command {
    let mut command = Command::new(binary(name));
    command.arg(verb).arg("--config").arg(config).arg(flag).env_clear().env("HOME", "/nonexistent");
    command
}

fn shipped(name: &str) -> std::path::PathBuf {
    workspace_root().join("deploy/config").join(name).with_extension("toml")
}

/// The lines of `--print-config`: key -> value, without those that are not set.
fn effective(which: (&str, &str)) -> BTreeMap<String, String> {
    let (is_content, said) = verdict(&mut daemon(which, &shipped(which.0), "--print-config"));
    assert!(is_content, "{said}");
    let lines = said.lines().map(|line| {
        // Unset keys read `# advertise is not set  # default`.
        let line = line.strip_prefix("# ").unwrap_or(line);
        let value = line.split("  #").next().unwrap();
        let (key, value) = value.split_once(" = ").or_else(|| value.split_once(" is ")).unwrap();
        (key.to_owned(), value.trim_matches('"').to_owned())
    });
    lines.collect()
}

#[test]
fn the_shipped_configuration_is_accepted_also_with_every_example_taken() {
    let folder = tempfile::tempdir().unwrap();
    // What an example names is there.
    let hostfile = folder.path().join("hostfile");
    fs_err::write(&hostfile, "node1 slots=2\n").unwrap();
    for which in DAEMONS {
        let (is_content, said) = verdict(&mut daemon(which, &shipped(which.0), "--check-config"));
        assert!(is_content, "{said}");
        // `# key = value` is a key that somebody may uncomment.
        let text = fs_err::read_to_string(shipped(which.0)).unwrap();
        let text = text.replace("/etc/rustspeed/hostfile", hostfile.to_str().unwrap());
        let is_key = |line: &str| {
            let key = line.split(" = ").next().unwrap_or_default();
            !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        };
        let taken = text.lines().map(|line| match line.strip_prefix("# ") {
            Some(commented) if commented.contains(" = ") && is_key(commented) => commented,
            _ => line,
        });
        let taken: Vec<_> = taken.collect();
        let all = folder.path().join(which.0);
        fs_err::write(&all, taken.join("\n")).unwrap();
        let (is_content, said) = verdict(&mut daemon(which, &all, "--check-config"));
        assert!(is_content, "{}\n{said}", taken.join("\n"));
        // What a person can set is in the file, but for what units and batch scripts set, and a moment.
        let named: BTreeSet<_> =
            taken.iter().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key).collect();
        for key in effective(which).keys() {
            let is_elsewhere = which.0 == "worker"
                && ["name", "state-dir", "ends-at", "allocation"].contains(&key.as_str());
            assert!(is_elsewhere || named.contains(key.as_str()), "{}.toml has no {key}", which.0);
        }
        for key in named {
            assert!(effective(which).contains_key(key), "{}.toml: {key} is no key", which.0);
        }
    }
}

#[test]
fn every_variable_in_deploy_is_one_that_is_read() {
    let mut known: BTreeSet<String> =
        DAEMONS.into_iter().flat_map(|which| effective(which).into_keys()).collect();
    // Read by the build, by set-up, by trainers, and by a script that SLURM has copied.
    known.extend(["portable", "cache", "nccl-lib", "deploy"].map(str::to_owned));
    let mut count = 0;
    for file in files_below(&workspace_root().join("deploy")) {
        let text = fs_err::read_to_string(&file).unwrap();
        for rest in text.split("RUSTSPEED_").skip(1) {
            let end = rest.find(|c: char| !(c.is_ascii_uppercase() || c == '_'));
            let name = &rest[..end.unwrap_or(rest.len())];
            let key = name.to_lowercase().replace('_', "-");
            let is_pattern = rest[name.len()..].starts_with('*');
            assert!(is_pattern || known.contains(&key), "{}: RUSTSPEED_{name}", file.display());
            count += 1;
        }
    }
    assert!(count >= 8, "{count} variables");
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn whoever_stops_a_worker_gives_it_the_time_to_save() {
    let settings = effective(("worker", "join"));
    let grace = serde_json::Value::from(settings["notice-grace"].as_str());
    let grace: Duration = common::units::duration::deserialize(grace).unwrap();
    // Its own end, and that of trainers that have to be killed.
    let needed = grace + Duration::from_secs(10);
    let seconds = |value: &serde_json::Value| -> Duration {
        let number = value.as_u64().or_else(|| value.as_str()?.strip_suffix('s')?.parse().ok());
        Duration::from_secs(number.unwrap_or_else(|| panic!("{value} is not like 90s")))
    };
    let compose = &yaml("deploy/docker/compose.yaml")[0]["services"]["worker"]["stop_grace_period"];
    let pod = &yaml("deploy/kubernetes/worker.yaml")[0]["spec"]["template"]["spec"];
    for (file, given) in [
        ("systemd", Unit::shipped("rustspeed-worker@.service").stops_within()),
        ("compose.yaml", seconds(compose)),
        ("worker.yaml", seconds(&pod["terminationGracePeriodSeconds"])),
    ] {
        assert!(given >= needed, "{file} gives {given:?}, a notice needs {needed:?}");
    }
}

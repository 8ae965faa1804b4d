//! Checks on the tree: which room may use which, who uses the given libraries, sizes of files,
//! completeness of the map. A rule that fails here names the file and what to do.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tests::binaries::workspace_root;

/// The allowed edges of ARCHITECTURE.md: room -> rooms it may use.
const EDGES: &[(&str, &[&str])] = &[
    ("common", &[]),
    ("proto", &["common"]),
    ("control", &["common"]),
    ("service", &["common"]),
    ("checkpoint", &["common"]),
    ("collectives", &["common"]),
    ("kernels", &[]),
    ("coordinator", &["common", "proto", "control", "service", "checkpoint"]),
    ("worker", &["common", "proto", "control", "service"]),
    ("engine", &["common", "checkpoint", "collectives", "kernels"]),
    ("trainer", &["common", "proto", "service", "collectives", "engine"]),
    ("rsctl", &["common", "proto", "service", "checkpoint"]),
    ("tests", &["common", "proto", "control", "service", "checkpoint", "collectives"]),
];

/// The libraries that are given, and the rooms that must (and alone may) use them.
const GIVEN: &[(&str, &[&str])] = &[
    ("tch", &["engine"]),
    ("sled", &["coordinator"]),
    ("config", &["service", "coordinator", "worker"]),
    ("prost", &["proto", "coordinator", "worker"]),
    ("tracing-subscriber", &["service"]),
    ("tonic", &["proto", "service", "coordinator", "worker", "trainer", "rsctl"]),
    ("tokio", &["service", "coordinator", "worker", "trainer", "rsctl"]),
];

/// Libraries that must not appear in a room: its promise depends on their absence.
const BANNED: &[(&str, &[&str])] = &[
    ("common", &["tokio", "tonic", "tch"]),
    ("control", &["tokio", "tonic", "rand", "tracing"]),
    ("checkpoint", &["tokio", "tch"]),
    ("collectives", &["tokio", "tch"]),
    ("worker", &["tch"]),
    ("engine", &["tokio"]),
];

fn manifest(room: &str) -> toml::Table {
    let path = workspace_root().join(room).join("Cargo.toml");
    fs_err::read_to_string(&path).unwrap().parse().unwrap_or_else(|e| panic!("{room}: {e}"))
}

/// Names in `[dependencies]`; `[dev-dependencies]` too where `with_dev`.
fn dependencies(room: &str, with_dev: bool) -> BTreeSet<String> {
    let manifest = manifest(room);
    let names = |table: &str| -> Vec<String> {
        let table = manifest.get(table).and_then(toml::Value::as_table);
        table.map(|t| t.keys().cloned().collect()).unwrap_or_default()
    };
    let mut all: BTreeSet<_> = names("dependencies").into_iter().collect();
    if with_dev {
        all.extend(names("dev-dependencies"));
    }
    all
}

fn files(extension: &str) -> Vec<PathBuf> {
    let listed = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace_root())
        .output()
        .expect("run git ls-files");
    let listed = String::from_utf8(listed.stdout).expect("our paths are UTF-8");
    listed
        .lines()
        .map(|line| workspace_root().join(line))
        .filter(|path| path.is_file() && path.extension().is_some_and(|e| e == extension))
        .collect()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(workspace_root()).expect("listed in the workspace").display().to_string()
}

#[test]
fn rooms_use_only_the_rooms_that_architecture_allows() {
    let rooms: BTreeSet<_> = EDGES.iter().map(|(room, _)| *room).collect();
    for (room, allowed) in EDGES {
        for used in dependencies(room, false) {
            let is_ours = rooms.contains(used.as_str());
            assert!(
                !is_ours || allowed.contains(&used.as_str()),
                "{room} uses {used}; ARCHITECTURE.md allows it {allowed:?}"
            );
        }
    }
}

#[test]
fn every_member_is_a_known_room() {
    let root: toml::Table =
        fs_err::read_to_string(workspace_root().join("Cargo.toml")).unwrap().parse().unwrap();
    let members = root["workspace"]["members"].as_array().unwrap();
    let known: BTreeMap<_, _> = EDGES.iter().copied().collect();
    for member in members {
        let member = member.as_str().unwrap();
        assert!(known.contains_key(member), "{member} is missing in EDGES and ARCHITECTURE.md");
        assert_eq!(
            manifest(member)["lints"]["workspace"].as_bool(),
            Some(true),
            "{member} must inherit the workspace's lints"
        );
    }
}

#[test]
fn the_given_libraries_are_used_where_architecture_says() {
    for (library, rooms) in GIVEN {
        for (room, _) in EDGES {
            let uses = dependencies(room, false).contains(*library);
            assert!(!uses || rooms.contains(room), "{room} must not use {library}: {rooms:?} do");
        }
        assert!(
            rooms.iter().any(|room| is_mentioned(room, library)),
            "{library} is a dependency of {rooms:?} but no source file mentions it"
        );
    }
    for (room, banned) in BANNED {
        let used = dependencies(room, false);
        for library in *banned {
            assert!(!used.contains(*library), "{room} must not use {library}");
        }
    }
}

fn is_mentioned(room: &str, library: &str) -> bool {
    let name = library.replace('-', "_");
    let prefix = workspace_root().join(room);
    files("rs").iter().filter(|path| path.starts_with(&prefix)).any(|path| {
        let text = fs_err::read_to_string(path).unwrap();
        text.contains(&format!("{name}::"))
    })
}

#[test]
fn a_source_file_has_one_subject_and_at_most_800_lines() {
    for path in files("rs") {
        let lines = fs_err::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 800, "{} has {lines} lines: split it by noun", relative(&path));
    }
}

#[test]
fn a_module_opens_with_its_promise() {
    // The names of tests say what a test module claims.
    let is_test = |path: &PathBuf| relative(path).contains("/tests");
    for path in files("rs").into_iter().filter(|path| !is_test(path)) {
        let text = fs_err::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} has no module doc", relative(&path));
    }
}

#[test]
fn every_adr_has_a_status() {
    let folder = workspace_root().join("docs/adr");
    let mut count = 0;
    for path in files("md").into_iter().filter(|path| path.starts_with(&folder)) {
        let text = fs_err::read_to_string(&path).unwrap();
        let has_status = text.lines().any(|line| line.starts_with("Status: "));
        assert!(has_status, "{} has no `Status: ` line", relative(&path));
        count += 1;
    }
    assert!(count > 0, "docs/adr is empty");
}

#[test]
fn unwrap_stays_in_tests() {
    for path in files("rs") {
        let name = relative(&path);
        if name.contains("/tests")
            || name.starts_with("tests/")
            || name.contains("/examples/")
            || name.ends_with("/fixture.rs")
        {
            continue;
        }
        let text = fs_err::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            assert!(is_comment || !line.contains(".unwrap()"), "{name}:{}: {line}", number + 1);
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for path in files("md") {
        let text = fs_err::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let folder = path.parent().expect("a file has a folder");
            assert!(folder.join(target).exists(), "{}: dead link {link}", relative(&path));
        }
    }
}

//! Programs that judge our files: those of `tests/requirements.txt`, else of the machine.

use std::path::PathBuf;
use std::process::Command;

use tests::binaries::{python, run_python};
use tests::wait::skipped;

/// Where a program is; None, said, where it is not.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let installed = python().with_file_name(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|folder| folder.join(name));
    let found = std::iter::once(installed).chain(places).find(|place| place.is_file());
    if found.is_none() {
        skipped(&format!("{name} is not installed: what it would judge in deploy/ is not judged"));
    }
    found
}

/// Whether it was content, and everything that it said.
pub(crate) fn verdict(command: &mut Command) -> (bool, String) {
    let done = command.output().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// The documents of a YAML file.
pub(crate) fn yaml(file: &str) -> Vec<serde_json::Value> {
    let path = tests::binaries::workspace_root().join(file);
    let script =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let text = run_python(script, &[path.to_str().unwrap()]);
    serde_json::from_str(&text).unwrap()
}

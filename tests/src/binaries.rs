//! Where the four binaries are: `make test` builds them first and says where.

use std::path::{Path, PathBuf};

/// The checkout that these tests belong to.
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace")
}

/// The path of one of our binaries; panics with what to do when it is not built.
pub fn binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("RUSTSPEED_BIN_DIR").map_or_else(
        || {
            let target = std::env::var_os("CARGO_TARGET_DIR")
                .map_or_else(|| workspace_root().join("target"), PathBuf::from);
            target.join("debug")
        },
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(path.is_file(), "{} is missing: run `make build` first", path.display());
    path
}

/// A Python with the readers of `tests/requirements.txt`, which `make setup` installs.
pub fn python() -> PathBuf {
    let cache = std::env::var_os("RUSTSPEED_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .unwrap_or_else(|| {
                Path::new(&std::env::var_os("HOME").expect("HOME is set")).join(".cache")
            })
            .join("rustspeed")
    });
    let python = cache.join("test-venv/bin/python");
    assert!(python.is_file(), "{} is missing: run `make setup` first", python.display());
    python
}

/// Runs a script in that Python; gives its stdout, panics with its stderr.
pub fn run_python(script: &str, arguments: &[&str]) -> String {
    let done = std::process::Command::new(python()).arg("-c").arg(script).args(arguments).output();
    let done = done.expect("start python");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("our scripts print UTF-8")
}

//! An installed tree: what `make install` lays, of the binaries of this build.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::binaries::{binary, workspace_root};

/// Removed when dropped.
pub(crate) struct Installed {
    folder: tempfile::TempDir,
}

impl Installed {
    pub(crate) fn lay() -> Self {
        let folder = tempfile::Builder::new().prefix("rustspeed-deploy-").tempdir().unwrap();
        let binaries = binary("trainer").parent().unwrap().to_owned();
        // As an administrator with a tight umask.
        let done = Command::new("bash")
            .args(["-c", "umask 077; exec \"$@\"", "bash"])
            .arg(workspace_root().join("tools/install.sh"))
            .arg(binaries)
            .arg(folder.path().join("usr"))
            // libtorch is large and need not be copied to be found.
            .env("COPY", "ln -s")
            .output()
            .expect("start tools/install.sh");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self { folder }
    }

    /// A folder for whatever a test needs beside the tree.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn prefix(&self) -> PathBuf {
        self.folder.path().join("usr")
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.prefix().join("bin").join(name)
    }

    pub(crate) fn unit(&self, name: &str) -> PathBuf {
        self.prefix().join("lib/systemd/system").join(name)
    }

    /// The shipped configuration, where a person would copy it to.
    pub(crate) fn configure(&self) -> PathBuf {
        let to = self.folder.path().join("etc/rustspeed");
        fs_err::create_dir_all(&to).unwrap();
        for name in ["coordinator.toml", "worker.toml"] {
            let from = self.prefix().join("share/rustspeed/config").join(name);
            fs_err::copy(from, to.join(name)).unwrap();
        }
        to
    }
}

#[test]
fn an_installed_trainer_runs_on_the_libtorch_beside_it() {
    let installed = Installed::lay();
    // The loader's own words; no LD_LIBRARY_PATH helps it.
    let list = Command::new("ldd")
        .arg(installed.program("trainer"))
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .expect("start ldd");
    let list = String::from_utf8(list.stdout).unwrap();
    let ours = fs_err::read_dir(installed.prefix().join("lib/rustspeed")).unwrap();
    let ours: Vec<String> =
        ours.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(ours.iter().any(|name| name == "libtorch_cpu.so"), "{ours:?}");
    for name in ours {
        let line = list.lines().find(|line| line.trim().starts_with(&format!("{name} => ")));
        let line = line.unwrap_or_else(|| panic!("the trainer does not need {name}:\n{list}"));
        assert!(line.contains("/lib/rustspeed/"), "{line}");
    }
    assert!(!list.contains("not found"), "{list}");
}

/// `make deb` needs cargo-deb, and this does not: whatever is laid is packed, and nothing else is.
#[test]
fn the_debian_package_holds_the_installed_tree() {
    let installed = Installed::lay();
    let manifest: toml::Table =
        fs_err::read_to_string(workspace_root().join("rsctl/Cargo.toml")).unwrap().parse().unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let mut packed: Vec<PathBuf> = Vec::new();
    for asset in deb["assets"].as_array().unwrap() {
        let (from, to) = (asset[0].as_str().unwrap(), asset[1].as_str().unwrap());
        let folder =
            from.strip_prefix("../target/deb/usr/").and_then(|from| from.strip_suffix("/*"));
        let folder = folder.unwrap_or_else(|| panic!("{from}"));
        assert!(to == format!("usr/{folder}/") || to == "etc/rustspeed/", "{from} -> {to}");
        packed.push(installed.prefix().join(folder));
    }
    let mut folders = vec![installed.prefix()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(&folder).unwrap().map(Result::unwrap) {
            let is_folder = entry.file_type().unwrap().is_dir();
            assert!(is_folder || packed.contains(&folder), "{}", entry.path().display());
            // Daemons run as other users. Links are those of tests.
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o044, 0o044, "{}", entry.path().display());
            folders.extend(is_folder.then(|| entry.path()));
        }
    }
    // Without these cargo-deb refuses.
    let license = fs_err::read_to_string(workspace_root().join("LICENSE")).unwrap();
    assert!(license.contains(&format!("Copyright (c) {}\n", deb["copyright"].as_str().unwrap())));
    assert!(deb["maintainer"].as_str().unwrap().contains('@'));
    for file in deb["conf-files"].as_array().unwrap() {
        let name = file.as_str().unwrap().strip_prefix("/etc/rustspeed/").unwrap();
        assert!(installed.prefix().join("share/rustspeed/config").join(name).is_file(), "{name}");
    }
    let scripts = workspace_root().join("rsctl").join(deb["maintainer-scripts"].as_str().unwrap());
    for script in ["postinst", "prerm", "postrm"] {
        let checked = Command::new("sh").arg("-n").arg(scripts.join(script)).status().unwrap();
        assert!(checked.success(), "{script}");
    }
}

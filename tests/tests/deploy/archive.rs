//! What `make dist` makes, of the binaries of this build: whole, the same each time, and installed as
//! `docs/deploy.md` says, up to what only a running systemd can do.

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::binaries::{binary, workspace_root};

use crate::linter::{program, verdict};
use crate::page::blocks;

/// An archive without the debug information, which takes long to compress, and with links to libtorch.
fn pack(folder: &Path) -> PathBuf {
    let small = folder.join("small");
    fs_err::create_dir_all(&small).unwrap();
    for name in ["coordinator", "worker", "trainer", "rsctl"] {
        run(Command::new("strip").arg("-o").arg(small.join(name)).arg(binary(name)));
    }
    let mut dist = Command::new(workspace_root().join("tools/dist.sh"));
    dist.arg(&small).arg(folder.join("dist")).env("COPY", "ln -s").env("SOURCE_DATE_EPOCH", "1");
    let said = run(&mut dist);
    let line = said.lines().find(|line| line.ends_with(".tar.gz"));
    PathBuf::from(line.unwrap_or_else(|| panic!("it names no archive: {said}")))
}

fn run(command: &mut Command) -> String {
    let (is_content, said) = verdict(command);
    assert!(is_content, "{command:?}: {said}");
    said
}

/// A line of the page as root of `root` would type it; None where it needs a running systemd.
fn on_root(line: &str, root: &Path) -> Option<String> {
    let line = line.strip_prefix("sudo ").unwrap();
    if line == "systemctl daemon-reload" {
        return None;
    }
    let root = root.to_str().unwrap();
    let line = match line.strip_prefix("systemctl ") {
        Some(verb) => format!("systemctl --root={root} {}", verb.replace(" --now", "")),
        None => line.replace("systemd-sysusers", &format!("systemd-sysusers --root={root}")),
    };
    Some(
        line.replace(" /usr/local", &format!(" {root}/usr/local"))
            .replace(" /etc/", &format!(" {root}/etc/")),
    )
}

#[test]
fn the_archive_is_installed_as_the_page_says() {
    let folder = tempfile::Builder::new().prefix("rustspeed-archive-").tempdir().unwrap();
    let archive = pack(folder.path());
    let first = fs_err::read(&archive).unwrap();
    let dist = archive.parent().unwrap();
    let name = archive.file_name().unwrap().to_str().unwrap();
    run(Command::new("sha256sum").arg("-c").arg(format!("{name}.sha256")).current_dir(dist));
    assert!(pack(folder.path()) == archive && fs_err::read(&archive).unwrap() == first);

    let root = folder.path().join("root");
    for made in ["etc", "usr/local"] {
        fs_err::create_dir_all(root.join(made)).unwrap();
    }
    let bash = |line: &str| run(Command::new("bash").args(["-ec", line]).current_dir(dist));
    let is_systemd_here =
        ["systemctl", "systemd-sysusers"].iter().all(|name| program(name).is_some());
    let blocks = blocks("sh");
    // Unpack; configure and make the user; enable.
    assert!(blocks[0].contains(name), "the page names another archive than {name}");
    bash(&on_root(blocks[0].trim(), &root).unwrap());
    let worker = root.join("usr/local/bin/worker");
    let config = root.join("etc/rustspeed/worker.toml");
    let systemd = blocks[1..3].iter().flat_map(|block| block.lines());
    for line in systemd.filter_map(|line| on_root(line, &root)) {
        if is_systemd_here || !line.starts_with("system") {
            bash(&line);
        }
    }
    run(Command::new(&worker).args(["join", "--check-config", "--config"]).arg(config));
    if is_systemd_here {
        check_systemd(&root);
    }
}

/// The workers' user is there, and both daemons start with the machine.
fn check_systemd(root: &Path) {
    let users = fs_err::read_to_string(root.join("etc/passwd")).unwrap();
    assert!(users.lines().any(|line| line.starts_with("rustspeed:")), "{users}");
    let wanted = fs_err::read_dir(root.join("etc/systemd/system/multi-user.target.wants")).unwrap();
    let mut wanted: Vec<_> =
        wanted.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    wanted.sort();
    assert_eq!(wanted.len(), 2, "{wanted:?}");
    assert_eq!(wanted[0], "rustspeed-coordinator.service");
    assert!(wanted[1].starts_with("rustspeed-worker@"), "{wanted:?}");
}

//! The systemd units: systemd accepts them, and what they start is a cluster that trains.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::job::TinyJob;
use tests::process::Running;
use tests::rsctl::Rsctl;
use tests::wait::wait_for;

use crate::installed::Installed;
use crate::linter;

const COORDINATOR: &str = "rustspeed-coordinator.service";
const WORKER: &str = "rustspeed-worker@.service";
/// Names of nodes hold dashes, which systemd would escape in paths.
const NODE: &str = "node-1";

/// A unit file by its lines.
pub(crate) struct Unit {
    text: String,
}

impl Unit {
    pub(crate) fn read(path: &Path) -> Self {
        Self { text: fs_err::read_to_string(path).unwrap() }
    }

    pub(crate) fn shipped(name: &str) -> Self {
        Self::read(&tests::binaries::workspace_root().join("deploy/systemd").join(name))
    }

    pub(crate) fn value(&self, key: &str) -> &str {
        let lines = self.text.lines().filter_map(|line| line.split_once('='));
        let values: Vec<_> = lines.filter(|(name, _)| *name == key).map(|(_, v)| v).collect();
        assert_eq!(values.len(), 1, "{key}: {values:?}");
        values[0]
    }

    /// `TimeoutStopSec=`; we write seconds.
    pub(crate) fn stops_within(&self) -> Duration {
        let text = self.value("TimeoutStopSec");
        let seconds = text.strip_suffix('s').and_then(|number| number.parse().ok());
        Duration::from_secs(seconds.unwrap_or_else(|| panic!("{text} is not like 90s")))
    }

    /// `ExecStart=` of this instance, with systemd's folders below `root`.
    fn command(&self, root: &Path) -> Command {
        let mut words = self.value("ExecStart").split(' ').map(|word| {
            let state = root.join("state");
            word.replace("%i", NODE)
                .replace("%S", state.to_str().unwrap())
                .replace("/etc/", &format!("{}/etc/", root.display()))
        });
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env_clear().current_dir("/");
        command
    }
}

/// The unit files as `systemd-analyze` wants to see them: an instance instead of the template.
fn instances(installed: &Installed) -> [PathBuf; 2] {
    let instance = installed.unit(&WORKER.replace('@', &format!("@{NODE}")));
    fs_err::copy(installed.unit(WORKER), &instance).unwrap();
    [installed.unit(COORDINATOR), instance]
}

#[test]
fn systemd_accepts_the_units() {
    let Some(analyze) = linter::program("systemd-analyze") else { return };
    let installed = Installed::lay();
    let verify = |unit: &Path| {
        let (is_content, said) =
            linter::verdict(Command::new(&analyze).args(["verify", "--man=no"]).arg(unit));
        // Keys that it does not know are no failure for it; units of the machine are not our affair.
        let ours = said.lines().filter(|line| line.contains("rustspeed"));
        (is_content, ours.collect::<Vec<_>>().join("\n"))
    };
    for unit in instances(&installed) {
        assert_eq!(verify(&unit), (true, String::new()), "{}", unit.display());
    }
    // It would have said so.
    let unit = installed.unit(COORDINATOR);
    let text = fs_err::read_to_string(&unit).unwrap();
    fs_err::write(&unit, text.replace("DynamicUser=", "DynamicUsers=")).unwrap();
    let (_, said) = verify(&unit);
    assert!(said.contains("DynamicUsers"), "{said}");
    fs_err::write(&unit, text.replace("/bin/coordinator", "/bin/coordinate")).unwrap();
    let (is_content, said) = verify(&unit);
    assert!(!is_content && said.contains("/bin/coordinate"), "{said}");
}

/// systemd's own score: 0 is a sandbox, 10 is a shell of root. The worker's trainers need devices and the
/// jobs' files, so it stays above the coordinator.
#[test]
fn the_units_expose_no_more_than_they_must() {
    let Some(analyze) = linter::program("systemd-analyze") else { return };
    let installed = Installed::lay();
    for (unit, tenths) in instances(&installed).iter().zip(["20", "50"]) {
        let threshold = format!("--threshold={tenths}");
        let (is_content, said) = linter::verdict(
            Command::new(&analyze)
                .args(["security", "--no-pager", "--offline=true", &threshold])
                .arg(unit),
        );
        assert!(is_content, "{said}");
    }
}

#[test]
fn the_units_start_a_cluster_that_trains_and_stops() {
    let installed = Installed::lay();
    let root = installed.folder();
    installed.configure();
    let (coordinator, worker) =
        (Unit::read(&installed.unit(COORDINATOR)), Unit::read(&installed.unit(WORKER)));
    // What the shipped files say is this machine's; a test has a port and folders of its own.
    let mut command = coordinator.command(root);
    command.env("RUSTSPEED_LISTEN", "127.0.0.1:0");
    command.env("RUSTSPEED_DATA_DIR", root.join("data"));
    let mut serving = Running::start(&mut command, &root.join("coordinator.log"));
    let master = serving.listening();
    // As worker-NAME.env would.
    let mut command = worker.command(root);
    command.env("RUSTSPEED_MASTER", &master).env("RUSTSPEED_SLOTS", "2");
    let mut joined = Running::start(&mut command, &root.join("worker.log"));
    let rsctl = Rsctl { folder: root.to_owned(), master: Some(master) };
    wait_for("the worker", Duration::from_secs(15), || {
        assert!(joined.is_running(), "the worker ended: {}", joined.output());
        let rows = rsctl.read(&["workers", "--json"]);
        (rows[0]["name"] == NODE && rows[0]["state"] == "ready").then_some(())
    });
    fs_err::write(root.join("job.toml"), TinyJob::default().toml()).unwrap();
    rsctl.call(&["submit", "job.toml", "--watch"]).expect_code(0);
    for (process, unit) in [(&mut joined, &worker), (&mut serving, &coordinator)] {
        process.signal(Signal::SIGTERM);
        let status = process.wait(unit.stops_within());
        assert!(status.success(), "{status}: {}", process.output());
    }
    let state = root.join("state").join(worker.value("StateDirectory").replace("%i", NODE));
    assert!(state.is_dir(), "StateDirectory= is not the state folder, {}", state.display());
}

#[test]
fn what_would_be_wrong_again_is_not_started_again() {
    for unit in [COORDINATOR, WORKER].map(Unit::shipped) {
        // Usage, bad configuration.
        assert_eq!(unit.value("RestartPreventExitStatus"), "2 78");
        assert_eq!(unit.value("Restart"), "on-failure");
    }
    // Trainers are the worker's to stop; only what it leaves is systemd's.
    let worker = Unit::shipped(WORKER);
    assert_eq!((worker.value("KillMode"), worker.value("OOMPolicy")), ("mixed", "continue"));
}

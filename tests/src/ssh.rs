//! A real sshd on loopback, with keys and configuration of its own, and an ssh that knows a few hosts
//! by it. Needs Debian's openssh-server and openssh-client, which `make setup` installs.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::binaries::binary;
use crate::process::{Running, processes_with};
use crate::rsctl::{Answer, Rsctl, run_to_end};
use crate::wait::{report, skipped, wait_for};

/// Ports are free when they are looked for; another process may be faster.
const TRIES: usize = 5;

/// Ends everything it started when dropped.
#[derive(Debug)]
pub struct Sshd {
    folder: tempfile::TempDir,
    _daemon: Running,
    ssh: PathBuf,
}

impl Sshd {
    /// Hosts `n1` and `n2` let us in; `stranger` does not know our key, `newcomer` is not known here,
    /// `changed` has another key than is known, `closed` has no sshd. None, said, where there is none.
    pub fn start() -> Option<Self> {
        let programs = (find("sshd"), find("ssh"), find("ssh-keygen"));
        let (Some(sshd), Some(ssh), Some(keygen)) = programs else {
            skipped("no sshd, ssh or ssh-keygen: `make setup` as root installs them");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("rustspeed-ssh-").tempdir();
        let folder = folder.expect("temp folder");
        for key in ["host", "other-host", "user", "other-user"] {
            let path = folder.path().join(key);
            let made = Command::new(&keygen)
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(&path)
                .status();
            assert!(made.expect("start ssh-keygen").success());
        }
        if nix::unistd::geteuid().is_root() {
            // sshd keeps privileges apart there; Debian's own service makes it when it starts.
            fs_err::create_dir_all("/run/sshd").expect("make sshd's folder");
        }
        let (daemon, port) = serve(&sshd, folder.path());
        write_ssh_config(folder.path(), port);
        fs_err::create_dir(folder.path().join("work")).expect("make our own folder");
        Some(Self { folder, _daemon: daemon, ssh })
    }

    /// Where `rsctl` is called.
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    pub fn write(&self, name: &str, text: &str) {
        fs_err::write(self.work().join(name), text).expect("write into our own folder");
    }

    /// The ssh that knows the hosts.
    pub fn program(&self) -> String {
        format!("{} -F {}", self.ssh.display(), self.folder.path().join("ssh_config").display())
    }

    /// An `rsctl` that uses it; what it keeps is in our folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Rsctl { folder: self.work(), master: None }.command(arguments);
        self.at_home(&mut command);
        command
    }

    /// A line of a shell, with such an `rsctl` in its PATH.
    pub fn line(&self, line: &str) -> Command {
        let rsctl = binary("rsctl");
        let bin_dir = rsctl.parent().expect("a file has a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["-c", line])
            .current_dir(self.work())
            .env("PATH", format!("{}:{path}", bin_dir.display()))
            .env_remove("RUSTSPEED_MASTER");
        self.at_home(&mut command);
        command
    }

    fn at_home(&self, command: &mut Command) {
        command
            .env("RUSTSPEED_SSH", self.program())
            .env("XDG_STATE_HOME", self.folder.path().join("here"))
            .env("TMPDIR", self.folder.path());
    }

    pub fn call(&self, arguments: &[&str]) -> Answer {
        run_to_end(self.command(arguments), Duration::from_secs(90))
    }

    /// The folder of a worker's state on its host.
    pub fn state_of(&self, cluster: &str, worker: &str) -> PathBuf {
        self.folder
            .path()
            .join("there/rustspeed/cluster")
            .join(cluster)
            .join("workers")
            .join(worker)
    }

    /// `n2` is as if it were off, or on again.
    pub fn switch_n2(&self, is_on: bool) {
        let path = self.folder.path().join("ssh_config");
        let config = fs_err::read_to_string(&path).expect("our own file");
        let (known, away) = ("Host n1 n2\n", "Host n1\n");
        let (from, to) = if is_on { (away, known) } else { (known, away) };
        assert!(config.contains(from), "{config}");
        fs_err::write(&path, config.replace(from, to)).expect("write into our own folder");
    }

    /// The data of the coordinator that `rsctl cluster up` starts here.
    pub fn folder_here(&self) -> PathBuf {
        self.folder.path().join("here/rustspeed/cluster/default/coordinator")
    }

    /// Coordinators, workers and trainers that have to do with this folder.
    pub fn daemons(&self) -> Vec<u32> {
        let folder = self.folder.path().display().to_string();
        let is_ours = |pid: &u32| {
            let name = fs_err::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            ["coordinator", "worker", "trainer"].contains(&name.trim())
        };
        processes_with(&folder).into_iter().filter(is_ours).collect()
    }

    pub fn wait_until_empty(&self) {
        wait_for("no daemon is left", Duration::from_secs(20), || {
            self.daemons().is_empty().then_some(())
        });
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let script = "find . -name '*.log*' | while read -r f; do echo \"--- $f\"; \
                          tail -n 25 \"$f\"; done";
            let told = Command::new("sh").args(["-c", script]).current_dir(&self.folder).output();
            report(&String::from_utf8_lossy(&told.map(|told| told.stdout).unwrap_or_default()));
        }
        // After a failure something may still be there.
        for pid in self.daemons() {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    folders.map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

fn serve(sshd: &Path, folder: &Path) -> (Running, u16) {
    for _ in 0..TRIES {
        let free = TcpListener::bind("127.0.0.1:0").expect("bind loopback");
        let port = free.local_addr().expect("a bound socket has an address").port();
        drop(free);
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {0}/host\nPidFile none\nUsePAM no\n\
             AuthorizedKeysFile {0}/user.pub\nStrictModes no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             MaxStartups 100\nSetEnv XDG_STATE_HOME={0}/there TMPDIR={0}\n",
            folder.display()
        );
        let path = folder.join("sshd_config");
        fs_err::write(&path, config).expect("write into our own folder");
        let mut command = Command::new(sshd);
        command.args(["-D", "-e", "-f"]).arg(&path);
        let mut daemon = Running::start(&mut command, &folder.join("sshd.log"));
        let listens = wait_for("sshd to listen, or to end", Duration::from_secs(10), || {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(_) => Some(daemon.is_running()),
                Err(_) => (!daemon.is_running()).then_some(false),
            }
        });
        if listens {
            return (daemon, port);
        }
    }
    panic!("no sshd: {}", fs_err::read_to_string(folder.join("sshd.log")).unwrap_or_default());
}

fn write_ssh_config(folder: &Path, port: u16) {
    let key = |name: &str| fs_err::read_to_string(folder.join(name)).expect("our own key");
    let write = |name: &str, text: String| {
        fs_err::write(folder.join(name), text).expect("write into our own folder");
    };
    write("known", format!("box {}", key("host.pub")));
    write("known-before", format!("box {}", key("other-host.pub")));
    // The first value of two counts.
    let host = |name: &str, settings: &str| format!("Host {name}\n{settings}\n");
    let folder = folder.display();
    let all = format!(
        "HostName 127.0.0.1\nPort {port}\nHostKeyAlias box\nStrictHostKeyChecking yes\n\
         IdentityFile {folder}/user\nIdentitiesOnly yes\nIdentityAgent none\n\
         UserKnownHostsFile {folder}/known\nGlobalKnownHostsFile /dev/null\n"
    );
    let stranger = all.replace("/user\n", "/other-user\n");
    let newcomer = all.replace(&format!("{folder}/known\n"), "/dev/null\n");
    let changed = all.replace("/known\n", "/known-before\n");
    // Nothing listens at port 1.
    let closed = all.replace(&format!("Port {port}\n"), "Port 1\n");
    let config = [
        host("n1 n2", &all),
        host("stranger", &stranger),
        host("newcomer", &newcomer),
        host("changed", &changed),
        host("closed", &closed),
    ];
    fs_err::write(Path::new(&folder.to_string()).join("ssh_config"), config.concat())
        .expect("write into our own folder");
}

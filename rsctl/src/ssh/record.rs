//! What `rsctl cluster up` has started, in a file that `down` and `status` read: `cluster.json` in
//! `$XDG_STATE_HOME/rustspeed/cluster/NAME`, beside the coordinator's data and log. Only its owner may
//! read it; it is replaced as a whole, before and after each start.

use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use serde::{Deserialize, Serialize};

use common::exit::ExitCode;
use service::exit::Failure;
use service::files;
use service::lock::FolderLock;

use crate::job;
use crate::ssh::call::{Shell, Ssh};
use crate::ssh::script::Known;
use crate::ssh::target::Target;

const FILE: &str = "cluster.json";
const COORDINATOR: &str = "coordinator";
/// Raised when older builds could misread it.
const VERSION: u32 = 1;
/// As for a worker's name.
const MAX_NAME: usize = 64;

/// A process that no other can be taken for: a pid is given again, not with this start under this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// In clock ticks since the boot.
    pub(crate) start: u64,
    /// The kernel's random id of it.
    pub(crate) boot: String,
}

impl Process {
    /// `PID START BOOT`, as scripts say it.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let (pid, start, boot) = (words.next()?, words.next()?, words.next()?);
        let boot = boot.to_owned();
        Some(Self { pid: pid.parse().ok()?, start: start.parse().ok()?, boot })
    }
}

/// Everything that was started and not stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    version: u32,
    /// How the hosts are reached.
    pub(crate) ssh: Ssh,
    /// The coordinator, from this machine.
    pub(crate) master: String,
    /// None: another's, given by --master.
    pub(crate) coordinator: Option<Started>,
    /// All of it was started with --allow-commands.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) allows_commands: bool,
    pub(crate) hosts: Vec<HostRecord>,
}

/// A program that was told to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Started {
    /// Its path, by which it was called.
    pub(crate) program: String,
    pub(crate) directory: String,
    pub(crate) log: String,
    /// None: it was to be started, and has not said that it is.
    pub(crate) process: Option<Process>,
}

impl Started {
    pub(crate) fn known(&self) -> Known<'_> {
        Known { directory: &self.directory, log: &self.log, process: self.process.as_ref() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HostRecord {
    /// As for ssh.
    pub(crate) host: String,
    pub(crate) worker: String,
    pub(crate) slots: Option<u32>,
    pub(crate) is_here: bool,
    pub(crate) started: Started,
    /// Who the worker said it is.
    pub(crate) uuid: Option<String>,
    pub(crate) incarnation: Option<u64>,
}

impl HostRecord {
    pub(crate) fn new(target: &Target, started: Started) -> Self {
        Self {
            host: target.host.clone(),
            worker: target.worker.clone(),
            slots: target.slots,
            is_here: target.is_here,
            started,
            uuid: None,
            incarnation: None,
        }
    }
}

impl Record {
    pub(crate) fn new(ssh: Ssh, master: String) -> Self {
        let (coordinator, hosts) = (None, Vec::new());
        Self { version: VERSION, ssh, master, coordinator, allows_commands: false, hosts }
    }

    pub(crate) fn shell(&self, host: &HostRecord) -> Shell {
        match host.is_here {
            true => Shell::Here,
            false => Shell::Over { ssh: self.ssh.clone(), host: host.host.clone() },
        }
    }

    pub(crate) fn host(&mut self, worker: &str) -> Option<&mut HostRecord> {
        self.hosts.iter_mut().find(|host| host.worker == worker)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.coordinator.is_none() && self.hosts.is_empty()
    }
}

/// Where one cluster is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) cluster: String,
    path: PathBuf,
}

impl Folder {
    /// `folder` in the place of the user's own.
    pub(crate) fn of(cluster: &str, folder: Option<&Path>) -> Result<Self, Failure> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_name = (1..=MAX_NAME).contains(&cluster.len())
            && cluster.chars().all(is_plain)
            && !cluster.starts_with(['.', '-']);
        if !is_name {
            let error = anyhow!("--cluster `{cluster}`: expected letters, digits, `.`, `_`, `-`");
            return Err(Failure::new(ExitCode::Usage, error)
                .hint(format!("at most {MAX_NAME} of them, the first a letter, a digit or `_`")));
        }
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let state = set("XDG_STATE_HOME").map(PathBuf::from);
        let state = state.or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/state")));
        let path = match (folder, state) {
            (Some(folder), _) => folder.to_owned(),
            (None, Some(state)) => state.join("rustspeed/cluster").join(cluster),
            (None, None) => {
                let error = anyhow!("no HOME to keep the cluster's state in");
                return Err(Failure::new(ExitCode::BadConfiguration, error)
                    .hint("name a folder with --state-dir"));
            }
        };
        let path = std::path::absolute(&path).unwrap_or(path);
        Ok(Self { cluster: cluster.to_owned(), path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn coordinator(&self) -> PathBuf {
        self.path.join(COORDINATOR)
    }

    pub(crate) fn coordinator_log(&self) -> PathBuf {
        self.path.join("coordinator.log")
    }

    /// One `up` or `down` at a time.
    pub(crate) fn lock(&self) -> Result<FolderLock, Failure> {
        Ok(FolderLock::acquire(&self.path, "the cluster's folder", "--cluster NAME")?)
    }

    /// None: nothing is up.
    pub(crate) fn read(&self) -> Result<Option<Record>, Failure> {
        let path = self.path.join(FILE);
        let text = match job::read_regular(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error, "read what is up")),
        };
        let owner =
            fs_err::metadata(&path).map_err(|error| failed(error, "read what is up"))?.uid();
        check_owner(&path, owner)?;
        let damaged = |error: anyhow::Error| {
            let error = error.context(format!("`{}` cannot be read", path.display()));
            Failure::new(ExitCode::Failed, error).hint(
                "workers that it knew go on: see `rsctl workers`, stop them by hand, then remove it",
            )
        };
        #[derive(Deserialize)]
        struct Any {
            version: u32,
        }
        let any: Any = serde_json::from_str(&text).map_err(|error| damaged(error.into()))?;
        if any.version != VERSION {
            let error = anyhow!("it is of version {}, this rsctl writes {VERSION}", any.version);
            return Err(damaged(error).hint("use the rsctl that has started the cluster"));
        }
        serde_json::from_str(&text).map(Some).map_err(|error| damaged(error.into()))
    }

    /// An empty record is none. Its hosts are few and the disk is local: nothing waits for it.
    pub(crate) fn write(&self, record: &Record) -> Result<(), Failure> {
        let path = self.path.join(FILE);
        let written = match record.is_empty() {
            true => match fs_err::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            false => self.replace(&path, record),
        };
        written.map_err(|error| failed(error, "remember what is up"))
    }

    /// As [`files::replace`], for its owner alone.
    fn replace(&self, path: &Path, record: &Record) -> io::Result<()> {
        let json = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
        // Such files are 0600 from the start.
        let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
        file.write_all(&json)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        files::sync_folder(&self.path)
    }
}

/// What is in the file is executed: `down` and `status` start the ssh that it names.
pub(super) fn check_owner(path: &Path, owner: u32) -> Result<(), Failure> {
    let user = nix::unistd::geteuid().as_raw();
    if owner == user {
        return Ok(());
    }
    let path = path.display();
    let error = anyhow!("`{path}` is of user {owner}, and this is user {user}");
    Err(Failure::new(ExitCode::BadConfiguration, error)
        .hint("it names programs to start: only who has brought a cluster up looks after it"))
}

fn failed(error: io::Error, what: &'static str) -> Failure {
    Failure::new(ExitCode::Failed, anyhow::Error::new(error).context(what))
}

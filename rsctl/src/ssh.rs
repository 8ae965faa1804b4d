//! Hosts that are reached over ssh: workers are started there, looked after, and stopped.
//!
//! Promise: the system's own ssh is used, so `~/.ssh/config`, agents and jump hosts count; it never
//! asks; what it says is repeated with the host and with what to do. What was started is stopped by
//! its pid, and only while that pid is still the same process. Refusal: nothing but a fixed command
//! stands on ssh's command line, everything else goes through its standard input.

pub(crate) mod call;
pub(crate) mod environment;
pub(crate) mod look;
pub(crate) mod record;
pub(crate) mod row;
pub(crate) mod script;
pub(crate) mod site;
pub(crate) mod state;
pub(crate) mod stop;
pub(crate) mod target;
pub(crate) mod words;

use std::future::Future;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;

use crate::ssh::call::Ssh;

/// Hosts that are talked to at the same time: an sshd on a login node, and a person's agent, take no more
/// at once without refusing some.
const MAX_AT_ONCE: usize = 32;

/// How the hosts are reached.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SshArgs {
    /// The ssh program, and its first arguments, parted by blanks
    #[arg(
        long,
        value_name = "PROGRAM",
        env = "RUSTSPEED_SSH",
        hide_env_values = true,
        default_value = "ssh"
    )]
    ssh: String,
    /// Port of the hosts' sshd [default: as ~/.ssh/config has it, else 22]
    #[arg(long, value_name = "PORT", alias = "ssh_port")]
    ssh_port: Option<NonZeroU16>,
    /// More arguments for ssh, parted by blanks
    #[arg(long, value_name = "ARGS", alias = "launcher_args", allow_hyphen_values = true)]
    launcher_args: Option<String>,
    /// Folder of worker and trainer on the hosts [default: rsctl's own, at the same path]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Name or address of this machine for the hosts [default: the one that their sshd sees]
    #[arg(long, value_name = "HOST")]
    pub(crate) advertise: Option<String>,
    /// Forward this variable of the environment to the hosts too (LD_LIBRARY_PATH); may repeat
    #[arg(long = "export", value_name = "NAME")]
    pub(crate) export: Vec<String>,
}

impl SshArgs {
    /// Flags that torchrun does not have, where they are given, in DeepSpeed's words.
    pub(crate) fn of_deepspeed(&self) -> Vec<&'static str> {
        let given = [
            ("--ssh_port", self.ssh_port.is_some()),
            ("--launcher_args", self.launcher_args.is_some()),
        ];
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(flag, _)| flag).collect()
    }

    pub(crate) fn ssh(&self) -> Ssh {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let mut program = words(&self.ssh);
        if program.is_empty() {
            program.push("ssh".to_owned());
        }
        program.extend(["-o", "BatchMode=yes"].map(str::to_owned));
        if let Some(port) = self.ssh_port {
            program.extend(["-p".to_owned(), port.to_string()]);
        }
        program.extend(self.launcher_args.as_deref().map(words).unwrap_or_default());
        Ssh::new(program)
    }

    /// `worker` and `trainer` on the hosts.
    pub(crate) fn programs(&self) -> Programs {
        let own = || std::env::current_exe().ok()?.parent().map(Path::to_owned);
        let folder = self.bin_dir.clone().or_else(own).unwrap_or_default();
        let path = |name: &str| folder.join(name).display().to_string();
        Programs { worker: path("worker"), trainer: path("trainer") }
    }
}

/// Their paths on every host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Programs {
    pub(crate) worker: String,
    pub(crate) trainer: String,
}

/// All of them, so many at a time; the answers are in the order of `of`.
pub(crate) async fn each<A, T, F: Future<Output = T>>(
    of: impl IntoIterator<Item = A>,
    ask: impl FnMut(A) -> F,
) -> Vec<T> {
    futures::stream::iter(of).map(ask).buffered(MAX_AT_ONCE).collect().await
}

/// What is wrong with one host.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Call(#[from] call::Error),
    #[error("`{path}` is not there")]
    NoProgram { path: String },
    #[error("`{path}` is there, and may not be executed")]
    NotExecutable { path: String },
    #[error("`{path} --version` fails{}", call::quoted(.words))]
    Broken { path: String, words: String },
    #[error("make the folder of the worker's state{}", call::quoted(.0))]
    Folder(String),
    #[error("it is the machine of `{other}` too ({hostname}), and both would offer the same GPUs")]
    SameGpus { other: String, hostname: String },
    #[error("a worker `{worker}` is in service at the coordinator already, on {node}")]
    InService { worker: String, node: String },
    #[error("its worker (pid {pid}) is of another coordinator, at {master}")]
    OtherCluster { pid: u32, master: String },
    #[error("it runs there already (pid {pid}): another `rsctl cluster up` was faster")]
    Held { pid: u32 },
    #[error("the coordinator is at {master}, which means the host itself there")]
    LoopbackMaster { master: String },
    #[error("the worker ended at once with exit code {code}{}", call::quoted(.log))]
    EndedAtOnce { code: String, log: String },
    #[error("the worker has ended{}", call::quoted(.log))]
    Ended { log: String },
    #[error(
        "the worker (pid {pid}) has not reached the coordinator at {master} within {within} s{}",
        call::quoted(.log)
    )]
    NotReady { pid: u32, master: String, within: u64, log: String },
    #[error("process {pid} goes on after SIGKILL")]
    Immortal { pid: u32 },
    #[error("not started: rsctl was interrupted")]
    Interrupted,
}

impl Error {
    pub(crate) fn hint(&self, host: &str) -> Option<String> {
        Some(match self {
            Self::Call(error) => return error.hint(host),
            Self::NoProgram { .. } => "install RustSpeed there: coordinator, worker, trainer and \
                                       rsctl in one folder. --bin-dir says which, where it is \
                                       not rsctl's own"
                .to_owned(),
            Self::NotExecutable { path } => format!("`chmod +x {path}` there"),
            Self::Broken { .. } => "is it built for this machine, and are its libraries there? \
                                    --bin-dir says where another build is"
                .to_owned(),
            Self::Folder(_) => {
                "the user that ssh logs in as must be able to write there".to_owned()
            }
            Self::SameGpus { .. } => "give that machine one line with all its slots".to_owned(),
            Self::InService { worker, .. } => format!(
                "stop that one, or leave the host out: `--exclude {worker}` (`rsctl workers` \
                 lists who is there)"
            ),
            Self::OtherCluster { pid, .. } => format!(
                "`rsctl cluster down` where that one was brought up, or `kill {pid}` there if nobody \
                 knows of it; --cluster NAME has a worker of its own beside it"
            ),
            Self::Held { .. } => "call it again: it goes on with what runs".to_owned(),
            Self::LoopbackMaster { .. } => {
                "give --master as the hosts know it, not as this machine does".to_owned()
            }
            Self::EndedAtOnce { .. } | Self::Ended { .. } => return None,
            Self::NotReady { .. } => "can the host reach that address, or does a firewall forbid \
                                      it? --advertise gives another name or address of this machine"
                .to_owned(),
            Self::Immortal { pid } => {
                format!(
                    "a process that the kernel holds, in D state perhaps: `ps -o stat,wchan {pid}`"
                )
            }
            Self::Interrupted => return None,
        })
    }
}

#[cfg(test)]
mod tests;

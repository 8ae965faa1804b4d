//! Starts child processes and buries them. One thread lives as long as the daemon and does all the
//! starting: the kernel's death signal fires when the *thread* that spawned a child ends. Knows
//! nothing of jobs; tells how a process ended, not what that means.

#![expect(unsafe_code, reason = "what a child does between fork and exec cannot be said safely")]

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SigHandler, Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

/// Starts that wait for the thread; more than a node's ranks never do.
const QUEUE: usize = 64;

/// A waiting thread needs almost no stack.
const WAITER_STACK_BYTES: usize = 64 << 10;

/// What to start.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// The whole environment; nothing else is inherited.
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) working_dir: PathBuf,
    /// CPUs that the child stays on with all that it starts; none: where this process may be.
    pub(crate) cpus: Vec<u32>,
    /// A socket that the child keeps open under its own number, named in [`LINK_FD`]: of our own
    /// programs, which are told to stop by it. None: a program that knows nothing of us.
    pub(crate) link: Option<OwnedFd>,
    /// Signals that it ignores, unless it says otherwise itself.
    pub(crate) deaf_to: &'static [Signal],
}

/// The environment variable that names the inherited socket's number.
pub(crate) const LINK_FD: &str = "RUSTSPEED_LINK_FD";

/// A started process, the promise of its end, and its output.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) process: Arc<Process>,
    pub(crate) ended: oneshot::Receiver<ExitStatus>,
    pub(crate) stdout: pipe::Receiver,
    pub(crate) stderr: pipe::Receiver,
}

/// A child that leads its own process group.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    /// Guards the pid's meaning: once the process is reaped its number may belong to another. Held
    /// for one system call.
    gone: Mutex<bool>,
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// SIGKILL to the process and everything that it started in its group.
    pub(crate) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// SIGTERM to the same.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    fn signal(&self, signal: Signal) {
        let gone = self.gone.lock().expect("no code panics while it holds this lock");
        if !*gone {
            // The only failure is that nobody is left to signal.
            let _ = killpg(self.pid, signal);
        }
    }
}

/// A handle on the starting thread; dropping the last one ends it, and with it every child.
#[derive(Debug, Clone)]
pub(crate) struct Spawner {
    requests: mpsc::SyncSender<Request>,
}

type Request = (Launch, oneshot::Sender<io::Result<Started>>);

struct Started {
    process: Arc<Process>,
    ended: oneshot::Receiver<ExitStatus>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Spawner {
    pub(crate) fn start() -> io::Result<Self> {
        let (requests, inbox) = mpsc::sync_channel::<Request>(QUEUE);
        thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            for (launch, reply) in inbox {
                // Nobody waits for it any more: the child finds its socket closed and exits.
                let _ = reply.send(spawn(launch));
            }
        })?;
        Ok(Self { requests })
    }

    pub(crate) async fn spawn(&self, launch: Launch) -> io::Result<Spawned> {
        let ended = || io::Error::other("the starting thread has ended");
        let (reply, answer) = oneshot::channel();
        self.requests.try_send((launch, reply)).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => {
                io::Error::other(format!("more than {QUEUE} processes wait to be started"))
            }
            mpsc::TrySendError::Disconnected(_) => ended(),
        })?;
        let started = answer.await.map_err(|_| ended())??;
        Ok(Spawned {
            process: started.process,
            ended: started.ended,
            stdout: pipe::Receiver::from_owned_fd(started.stdout)?,
            stderr: pipe::Receiver::from_owned_fd(started.stderr)?,
        })
    }
}

fn spawn(launch: Launch) -> io::Result<Started> {
    let link = launch.link.as_ref().map(|link| link.as_raw_fd());
    let deaf_to = launch.deaf_to;
    let parent = std::process::id();
    let cpus = cpu_set(&launch.cpus)?;
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        .env_clear()
        .envs(launch.env)
        .envs(link.map(|link| (LINK_FD, link.to_string())))
        .current_dir(&launch.working_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let prepare = move || {
        die_with(parent)?;
        if let Some(cpus) = &cpus {
            sched_setaffinity(Pid::from_raw(0), cpus)?;
        }
        ignore(deaf_to)?;
        link.map_or(Ok(()), inherit)
    };
    // SAFETY: the closure runs in the child between fork and exec and makes only system calls
    // that are async-signal-safe (prctl, getppid, sched_setaffinity, sigaction, fcntl); it neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
    let mut child = command.spawn()?;
    // The child has its own copy; ours would keep the socket open after the child's death.
    drop(launch.link);
    let output = "a piped output is there until it is taken";
    let stdout = OwnedFd::from(child.stdout.take().expect(output));
    let stderr = OwnedFd::from(child.stderr.take().expect(output));
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let process = Arc::new(Process { pid: Pid::from_raw(pid), gone: Mutex::new(false) });
    let (sender, ended) = oneshot::channel();
    let waiting = Arc::clone(&process);
    let waiter = thread::Builder::new()
        .name(format!("wait-{pid}"))
        .stack_size(WAITER_STACK_BYTES)
        .spawn(move || bury(child, &waiting, sender));
    if let Err(error) = waiter {
        // Nobody would reap it: it must not live.
        process.kill();
        return Err(error);
    }
    Ok(Started { process, ended, stdout, stderr })
}

/// None: anywhere.
fn cpu_set(cpus: &[u32]) -> io::Result<Option<CpuSet>> {
    if cpus.is_empty() {
        return Ok(None);
    }
    let mut set = CpuSet::new();
    cpus.iter().try_for_each(|&cpu| set.set(cpu as usize))?;
    Ok(Some(set))
}

/// In the child: be killed when the parent's starting thread ends.
fn die_with(parent: u32) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have ended before the line above.
    if std::os::unix::process::parent_id() == parent {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// In the child: ignore what is meant for the daemon. Some launchers (SLURM with
/// `proctrack/linuxproc`) send a signal to every process below the one that they started; the daemon
/// then gives its children the time to save that the signal itself would not.
fn ignore(signals: &[Signal]) -> io::Result<()> {
    for &signal in signals {
        // SAFETY: no handler of ours is replaced: exec resets those anyway, and keeps SIG_IGN.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
    }
    Ok(())
}

/// In the child: keep this descriptor over exec. Done here and not in the parent, so that no other
/// child that is started meanwhile inherits it.
fn inherit(fd: i32) -> io::Result<()> {
    // SAFETY: `fd` is open: the parent holds it until spawn returns, and fork copied it.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    Ok(())
}

/// Waits for the child's end, kills what is left of its group, reaps it and tells.
fn bury(mut child: Child, process: &Process, ended: oneshot::Sender<ExitStatus>) {
    // Without reaping: until then the number cannot be given to another process.
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(process.pid), flags) == Err(nix::errno::Errno::EINTR) {}
    let status = {
        let mut gone = process.gone.lock().expect("no code panics while it holds this lock");
        // What the process itself had started; usually nobody is left.
        let _ = killpg(process.pid, Signal::SIGKILL);
        *gone = true;
        child.wait()
    };
    if let Ok(status) = status {
        // The daemon may be ending and not care any more.
        let _ = ended.send(status);
    }
}

//! Where the threads that train are, on demand: a signal makes each of them write down its own
//! return addresses, which are then read and named elsewhere. The handler takes no lock and
//! allocates nothing of its own; the unwinder may still wait where the thread was interrupted inside
//! the loader, so every wait here has a deadline, and what cannot be had is said.

#![expect(unsafe_code, reason = "a signal handler, and signals to single threads")]

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet};
use tokio::time::{Instant, timeout};

/// Deep enough for libtorch's backward below the frames of ours.
const FRAMES: usize = 96;

/// A thread that computes takes the signal at once, one in a system call too.
const SIGNAL_DEADLINE: Duration = Duration::from_millis(500);

/// Reading the symbols of a debug build and of libtorch takes seconds on a busy machine, the first
/// time. With the signals of three threads this is less than a worker waits for.
const NAMES_DEADLINE: Duration = Duration::from_millis(2500);

/// Lines of one thread.
const LINES: usize = 24;

static ADDRESSES: [AtomicUsize; FRAMES] = [const { AtomicUsize::new(0) }; FRAMES];
static LEN: AtomicUsize = AtomicUsize::new(0);
static IS_DONE: AtomicBool = AtomicBool::new(false);
/// Whose addresses are wanted: one that answers after its deadline must not answer for the next.
static ASKED: AtomicI32 = AtomicI32::new(0);

/// One thread at a time writes its addresses; held over the asking of one.
static ASKING: Mutex<()> = Mutex::new(());

/// Installs the handler. Once, at the start.
pub(crate) fn record_on_demand() {
    let action = SigAction::new(SigHandler::Handler(record), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler keeps to what its doc says; nobody else uses this signal.
    if let Err(error) = unsafe { nix::sys::signal::sigaction(signal(), &action) } {
        tracing::warn!(%error, "stacks cannot be shown");
    }
}

/// Not used by libraries that we load, and ignored by default where it is not handled.
fn signal() -> nix::sys::signal::Signal {
    nix::sys::signal::Signal::SIGURG
}

/// In the signal handler: only atomics, and the unwinder.
extern "C" fn record(_: libc::c_int) {
    // SAFETY: takes nothing and always succeeds.
    if unsafe { libc::gettid() } != ASKED.load(Ordering::Acquire) {
        return;
    }
    let mut len = 0;
    // SAFETY: the crate's lock guards its symbols' cache, which is not touched by a trace.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            let Some(slot) = ADDRESSES.get(len) else { return false };
            slot.store(frame.ip() as usize, Ordering::Relaxed);
            len += 1;
            true
        });
    }
    LEN.store(len, Ordering::Relaxed);
    IS_DONE.store(true, Ordering::Release);
}

/// Lines for a person: each thread that trains, communicates or saves, and its frames. What is not
/// named in time is told as an address.
pub(crate) async fn of_training_threads() -> Vec<String> {
    let stacks = match tokio::task::spawn_blocking(addresses_of_all).await {
        Ok(Ok(stacks)) => stacks,
        Ok(Err(error)) => return vec![format!("no stack: list this process's threads: {error}")],
        Err(error) => return vec![format!("no stack: {error}")],
    };
    let stacks = Arc::new(stacks);
    let modules = Arc::new(Modules::read());
    let (ours, places) = (Arc::clone(&stacks), Arc::clone(&modules));
    let naming = tokio::task::spawn_blocking(move || {
        ours.iter().flat_map(|stack| stack.lines(|address| named(address, &places))).collect()
    });
    match timeout(NAMES_DEADLINE, naming).await {
        Ok(Ok(lines)) => lines,
        Ok(Err(_)) | Err(_) => {
            let bare = |address| vec![modules.place(address)];
            stacks.iter().flat_map(|stack| stack.lines(bare)).collect()
        }
    }
}

/// One thread's return addresses, or why there are none.
struct Stack {
    thread: String,
    addresses: Result<Vec<usize>, String>,
}

impl Stack {
    fn lines(&self, name: impl Fn(usize) -> Vec<String>) -> Vec<String> {
        let addresses = match &self.addresses {
            Ok(addresses) => addresses,
            Err(why) => return vec![format!("thread `{}`: no stack: {why}", self.thread)],
        };
        // A return address lies behind its call.
        let frames = addresses.iter().flat_map(|address| name(address.saturating_sub(1)));
        let mut lines: Vec<String> = frames.map(|frame| format!("  {frame}")).collect();
        // Above is our handler, below how std starts a thread.
        let has = |part: &'static str| move |line: &String| line.contains(part);
        let from = lines.iter().position(has(file!())).map_or(0, |last| last + 1);
        let end = lines.iter().position(has("__rust_begin_short_backtrace"));
        let end = end.unwrap_or(lines.len()).clamp(from, from + LINES).min(lines.len());
        let mut told = vec![format!("thread `{}`:", self.thread)];
        told.extend(lines.drain(from..end));
        told
    }
}

fn addresses_of_all() -> io::Result<Vec<Stack>> {
    let stack = |(tid, thread)| Stack { thread, addresses: addresses(tid) };
    Ok(threads()?.into_iter().map(stack).collect())
}

/// The threads whose stacks tell something, the training one first.
fn threads() -> io::Result<Vec<(i32, String)>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc/self/task")? {
        let entry = entry?;
        let Ok(tid) = entry.file_name().to_string_lossy().parse() else { continue };
        // A thread that has just ended is none to tell of.
        let Ok(name) = fs_err::read_to_string(entry.path().join("comm")) else { continue };
        let name = name.trim_end().to_owned();
        if name == "training" || name == "save" || name.starts_with("communicate") {
            found.push((tid, name));
        }
    }
    found.sort_by_key(|(tid, name)| (name != "training", *tid));
    Ok(found)
}

fn addresses(tid: i32) -> Result<Vec<usize>, String> {
    let _one = ASKING.lock().map_err(|_| "another asking has failed".to_owned())?;
    IS_DONE.store(false, Ordering::Release);
    ASKED.store(tid, Ordering::Release);
    // SAFETY: a signal with a handler of ours to a thread of this process; one that has ended
    // meanwhile gives an error.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signal() as i32) };
    if sent != 0 {
        return Err(io::Error::last_os_error().to_string());
    }
    let until = Instant::now() + SIGNAL_DEADLINE;
    while !IS_DONE.load(Ordering::Acquire) {
        if Instant::now() > until {
            return Err(format!("it did not answer a signal within {SIGNAL_DEADLINE:?}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let len = LEN.load(Ordering::Relaxed);
    Ok(ADDRESSES[..len].iter().map(|address| address.load(Ordering::Relaxed)).collect())
}

/// `engine::train::Trainer::step (engine/src/train/step.rs:57)`; several where calls were inlined.
fn named(address: usize, modules: &Modules) -> Vec<String> {
    let mut lines = Vec::new();
    backtrace::resolve(address as *mut std::ffi::c_void, |symbol| {
        let name = symbol.name().map_or_else(|| "?".to_owned(), |name| format!("{name:#}"));
        let place = symbol.filename().zip(symbol.lineno());
        let place = place.map(|(file, line)| format!(" ({}:{line})", file.display()));
        lines.push(format!("{name}{}", place.unwrap_or_default()));
    });
    if lines.is_empty() {
        lines.push(modules.place(address));
    }
    lines
}

/// What is mapped where. Read once: libtorch has hundreds of mappings.
struct Modules(Vec<Mapping>);

struct Mapping {
    addresses: Range<usize>,
    /// Of the file, at the first address.
    offset: usize,
    file: String,
}

impl Modules {
    fn read() -> Self {
        let maps = fs_err::read_to_string("/proc/self/maps").unwrap_or_default();
        Self(maps.lines().filter_map(Mapping::parse).collect())
    }

    /// `trainer+0x1f2e3`, as `addr2line` takes it.
    fn place(&self, address: usize) -> String {
        match self.0.iter().find(|mapping| mapping.addresses.contains(&address)) {
            Some(Mapping { addresses, offset, file }) => {
                format!("{file}+{:#x}", address - addresses.start + offset)
            }
            None => format!("{address:#x}"),
        }
    }
}

impl Mapping {
    /// A line of `/proc/PID/maps` that has a file.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let (from, to) = fields.next()?.split_once('-')?;
        let number = |hex: &str| usize::from_str_radix(hex, 16).ok();
        let addresses = number(from)?..number(to)?;
        let offset = number(fields.nth(1)?)?;
        let file = fields.nth(2)?.rsplit('/').next()?.to_owned();
        Some(Self { addresses, offset, file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn a_place_with_a_name(stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[tokio::test]
    async fn a_thread_tells_where_it_is() {
        record_on_demand();
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&stop);
        let named = std::thread::Builder::new().name("training".to_owned());
        let thread = named.spawn(move || a_place_with_a_name(&theirs)).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let lines = of_training_threads().await;
            if lines.iter().any(|line| line.contains("a_place_with_a_name")) {
                assert_eq!(lines[0], "thread `training`:");
                break;
            }
            assert!(Instant::now() < until, "{lines:#?}");
        }
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    }

    #[test]
    fn an_address_without_a_name_is_told_as_a_place_in_its_file() {
        let line = "7f00-7fff r-xp 00001000 08:01 42   /usr/lib/libtorch_cpu.so";
        let modules = Modules(Mapping::parse(line).into_iter().collect());
        assert_eq!(modules.place(0x7f10), "libtorch_cpu.so+0x1010");
        assert_eq!(modules.place(0x10), "0x10");
        assert!(Modules::read().place(named as *const () as usize).contains("trainer"));
    }
}

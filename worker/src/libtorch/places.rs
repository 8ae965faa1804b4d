//! Where a libtorch usually is. Asks `python3` where torch is, and imports nothing.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fs_err as fs;

use super::VERSION;

/// For programs that only look for files.
const DEADLINE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);

/// In the order of [`super::Wish::Auto`]; each is looked for when the ones before it did not do.
pub(super) fn usual() -> impl Iterator<Item = PathBuf> {
    [of_python, of_setup, of_setup_with_cuda].into_iter().filter_map(|place| place())
}

/// What a program says, if it ends well in time.
pub(crate) fn answer(mut command: Command) -> Option<String> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = quiet.spawn().ok()?;
    let until = Instant::now() + DEADLINE;
    // What is said here fits in the pipe, so nobody has to read before the end.
    while child.try_wait().ok()?.is_none() {
        if Instant::now() >= until {
            // The kill is what ends it, so the wait is short.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(LOOK);
    }
    let mut said = String::new();
    child.stdout.take()?.read_to_string(&mut said).ok()?;
    Some(said)
}

/// Where `python3` would import torch from.
fn of_python() -> Option<PathBuf> {
    const FIND: &str =
        "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s else '')";
    let mut command = Command::new("python3");
    command.args(["-c", FIND]);
    let origin = answer(command)?;
    let folder = Path::new(origin.trim()).parent()?;
    folder.ends_with("torch").then(|| folder.to_owned())
}

/// `make setup`.
fn of_setup() -> Option<PathBuf> {
    Some(cache()?.join(format!("libtorch-{VERSION}-cpu"))).filter(|folder| folder.exists())
}

/// `make setup DEVICE=cuda`.
fn of_setup_with_cuda() -> Option<PathBuf> {
    let lib = cache()?.join(format!("torch-{VERSION}-cuda/lib"));
    let pythons = fs::read_dir(lib).ok()?.flatten();
    let torch = |python: PathBuf| python.join("site-packages/torch");
    pythons.map(|python| torch(python.path())).find(|torch| torch.exists())
}

fn cache() -> Option<PathBuf> {
    let set = |key| std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("RUSTSPEED_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("rustspeed")))
        .or_else(|| Some(set("HOME")?.join(".cache/rustspeed")))
}

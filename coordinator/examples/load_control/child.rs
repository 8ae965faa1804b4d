//! The coordinator under load: started, killed, started again on the same port and store, and
//! watched through /proc.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::Outcome;

pub(crate) struct Coordinator {
    binary: PathBuf,
    folder: TempDir,
    child: Child,
    pub(crate) address: String,
}

/// What the coordinator used between two looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// 1.0 is one core.
    pub(crate) cores: f64,
    pub(crate) resident_mib: f64,
}

impl Coordinator {
    pub(crate) fn start(binary: &Path) -> Outcome<Self> {
        let folder = tempfile::tempdir()?;
        let (child, address) = spawn(binary, folder.path(), "127.0.0.1:0")?;
        Ok(Self { binary: binary.to_owned(), folder, child, address })
    }

    pub(crate) fn kill(&mut self) -> Outcome<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// A new life on the same store and port.
    pub(crate) fn start_again(&mut self) -> Outcome<()> {
        let (child, _) = spawn(&self.binary, self.folder.path(), &self.address)?;
        self.child = child;
        Ok(())
    }

    /// Looks at the process for this long.
    pub(crate) async fn usage(&self, during: Duration) -> Outcome<Usage> {
        let (before, began) = (self.cpu_seconds()?, Instant::now());
        tokio::time::sleep(during).await;
        let cores = (self.cpu_seconds()? - before) / began.elapsed().as_secs_f64();
        Ok(Usage { cores, resident_mib: self.resident_mib()? })
    }

    fn cpu_seconds(&self) -> Outcome<f64> {
        let stat = fs_err::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let after_name = stat.rsplit_once(')').ok_or("no name in /proc stat")?.1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let ticks = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        // USER_HZ, which has been 100 on Linux for as long as /proc exists.
        Ok(ticks / 100.0)
    }

    pub(crate) fn resident_mib(&self) -> Outcome<f64> {
        let status = fs_err::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("it is gone")?;
        let kib: f64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.kill();
    }
}

fn spawn(binary: &Path, folder: &Path, listen: &str) -> Outcome<(Child, String)> {
    let log = fs_err::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("coordinator.log"))?;
    let mut child = Command::new(binary)
        .args(["serve", "--listen", listen, "--data-dir"])
        .arg(folder.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.into_parts().0)
        .spawn()?;
    let stdout = child.stdout.take().ok_or("stdout is piped")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    match line.trim().strip_prefix("listening ") {
        Some(address) => Ok((child, address.to_owned())),
        None => {
            let log = fs_err::read_to_string(folder.join("coordinator.log"))?;
            Err(format!("the coordinator said {line:?}: {log}").into())
        }
    }
}

//! The coordinator of a cluster over ssh, on this machine: one that an earlier call has left, or a new one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use tokio::net::TcpStream;
use tokio::time::Instant;

use common::exit::ExitCode;
use service::exit::Failure;

use super::{Attempt, PROBE_WITHIN, start};
use crate::cluster::here::Machine;
use crate::cluster::{Runs, binary, secret};
use crate::render;
use crate::ssh::call::{Shell, call, quoted};
use crate::ssh::record::Started;
use crate::ssh::{Error, script};

/// The coordinator opens its store and binds a port.
const LISTENING_WITHIN: Duration = Duration::from_secs(30);
const LISTENING_POLL: Duration = Duration::from_millis(20);
/// To an address of this machine itself.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

impl Attempt<'_> {
    /// One that an earlier call has started, and that still runs.
    pub(super) async fn has_coordinator(&mut self) -> Result<bool, Failure> {
        let Some(coordinator) = &self.record.coordinator else { return Ok(false) };
        let probe = script::probe(coordinator.known());
        let reply = call(&Shell::Here, &probe, PROBE_WITHIN).await;
        let reply = reply.map_err(|error| Failure::new(ExitCode::Failed, error))?;
        Ok(reply.get("running").is_some())
    }

    pub(super) async fn start_coordinator(&mut self, listen: &str) -> Result<(), Failure> {
        // Workers that still run look for it where it was.
        let port = match &self.record.coordinator {
            Some(_) => self.record.master.rsplit_once(':').and_then(|(_, port)| port.parse().ok()),
            None => None,
        };
        let is_again = port.is_some();
        let port: u16 = port.unwrap_or(self.order.port);
        let text = |path: &Path| path.display().to_string();
        let log = self.folder.coordinator_log();
        let started = Started {
            program: text(&binary("coordinator")?),
            directory: text(self.folder.path()),
            log: text(&log),
            process: None,
        };
        let listen = format!("{listen}:{port}");
        let data_dir = text(&self.folder.coordinator());
        if self.order.runs == Runs::Commands {
            secret::keep(&self.folder.coordinator()).map_err(|error| {
                let error = anyhow::Error::new(error).context("keep the coordinator's secret");
                Failure::new(ExitCode::Failed, error)
            })?;
        }
        let arguments = ["serve", "--listen", &listen, "--data-dir", &data_dir];
        let arguments = arguments.iter().chain(self.order.runs.flags());
        let arguments: Vec<String> = arguments.map(|&word| word.to_owned()).collect();
        let before = self.record.coordinator.replace(started.clone());
        self.folder.write(self.record)?;
        self.has_started_coordinator = true;
        let process = start(&Shell::Here, &started, &arguments, &self.order.variables).await;
        if matches!(process, Err(Error::Held { .. })) {
            // Not ours to stop.
            self.has_started_coordinator = false;
            self.record.coordinator = before;
            self.folder.write(self.record)?;
        }
        let process = process.map_err(|error| coordinator_failed(&error, &listen, is_again))?;
        self.record.coordinator = Some(Started { process: Some(process), ..started });
        let port = listening(&log).await?;
        self.record.master = format!("127.0.0.1:{port}");
        self.folder.write(self.record)?;
        render::talk(format_args!("the coordinator listens at port {port} of this machine"));
        Ok(())
    }
}

/// A coordinator that is up may listen where the hosts of an earlier call could reach it, and those of
/// this one cannot: on loopback alone.
pub(super) async fn check_listens(masters: &[String], machine: &Machine) -> Result<(), Failure> {
    let parsed = masters.iter().filter_map(|master| master.parse::<SocketAddr>().ok());
    let ours: BTreeSet<SocketAddr> =
        parsed.filter(|at| !at.ip().is_loopback() && (machine.has_address)(at.ip())).collect();
    for address in ours {
        let connecting = TcpStream::connect(address);
        if !matches!(tokio::time::timeout(CONNECT_WITHIN, connecting).await, Ok(Ok(_))) {
            let error =
                anyhow!("the coordinator that is up does not listen at {address} for the hosts");
            return Err(Failure::new(ExitCode::Failed, error)
                .hint("`rsctl cluster down`, then `rsctl cluster up` with all of the hosts"));
        }
    }
    Ok(())
}

fn coordinator_failed(error: &Error, listen: &str, is_again: bool) -> Failure {
    if let Error::Held { pid } = error {
        let error = anyhow!("the coordinator of this cluster runs already (pid {pid})");
        return Failure::new(ExitCode::Failed, error).hint(format!(
            "another `rsctl cluster up` was faster: call this again; or what was known of it is lost: \
             `kill {pid}` first"
        ));
    }
    let (words, what) = match error {
        Error::EndedAtOnce { log, .. } => (quoted(log), "the coordinator ended at once"),
        other => (quoted(&service::exit::chain(other)), "start the coordinator"),
    };
    let is_taken = words.to_lowercase().contains("in use");
    let failure = Failure::new(ExitCode::Failed, anyhow!("{what}{words}"));
    match (is_taken, is_again) {
        (true, true) => failure.hint(format!(
            "{listen} is taken, where the workers that are up look for their coordinator: `rsctl \
             cluster down` first, or free it"
        )),
        (true, false) => failure.hint(format!(
            "{listen} is taken: --port 0 takes a free port, --master joins the coordinator that \
             may be there"
        )),
        (false, _) => failure,
    }
}

/// The port in the line by which a coordinator says that it listens.
async fn listening(log: &Path) -> Result<u16, Failure> {
    let began = Instant::now();
    loop {
        let text = fs_err::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let address = whole.lines().find_map(|line| line.strip_prefix("listening "));
        if let Some(port) = address.and_then(|address| address.rsplit_once(':')?.1.parse().ok()) {
            return Ok(port);
        }
        // Its last words.
        if text.lines().any(|line| line.starts_with("error: ")) {
            let error = anyhow!("the coordinator has ended{}", quoted(&text));
            return Err(Failure::new(ExitCode::Failed, error));
        }
        if began.elapsed() > LISTENING_WITHIN {
            let after = LISTENING_WITHIN.as_secs();
            let error = anyhow!("the coordinator does not listen after {after} s{}", quoted(&text));
            return Err(Failure::new(ExitCode::Failed, error));
        }
        tokio::time::sleep(LISTENING_POLL).await;
    }
}

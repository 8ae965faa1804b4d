//! Brings a cluster up: looks at every host, starts a coordinator here where none is given, starts a
//! worker on each host, waits until all of them have joined. Where one cannot, what this call has
//! started is stopped again.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;

use common::exit::ExitCode;
use common::status::WorkerRow;
use service::exit::Failure;

use crate::cluster::Runs;
use crate::cluster::here::Machine;
use crate::commands;
use crate::interrupts::{Interrupts, interrupted};
use crate::render;
use crate::ssh::call::{Shell, Ssh, call};
use crate::ssh::environment::Variables;
use crate::ssh::look::{self, Seen};
use crate::ssh::record::{Folder, HostRecord, Process, Record, Started};
use crate::ssh::row::{Row, failed_hosts};
use crate::ssh::target::Target;
use crate::ssh::{Error, Programs, each, script, stop};

mod head;
mod ready;
mod refuse;

/// As of [`look::look`], and half a second in which the script watches what it has started.
const START_WITHIN: Duration = Duration::from_secs(45);
const PROBE_WITHIN: Duration = Duration::from_secs(30);
/// Of workers that are stopped because others could not start: no job has been given to them yet.
const UNDO_GRACE: Duration = Duration::from_secs(10);

/// What is to be up.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) targets: Vec<Target>,
    pub(crate) ssh: Ssh,
    pub(crate) programs: Programs,
    pub(crate) variables: Variables,
    /// What the hosts are to call this machine.
    pub(crate) advertise: Option<String>,
    /// The coordinator of somebody else.
    pub(crate) master: Option<String>,
    /// Of a coordinator that is started here; 0 takes a free one.
    pub(crate) port: u16,
    pub(crate) is_cuda: bool,
    /// What could start goes on where others could not.
    pub(crate) is_kept: bool,
    pub(crate) runs: Runs,
    /// A folder that each host makes for itself and that ends with its worker.
    pub(crate) scratch: Option<PathBuf>,
    /// `CUDA_VISIBLE_DEVICES` on each host is the slots that are meant there, as DeepSpeed sets it.
    pub(crate) shows_slots: bool,
}

/// How far it came.
#[derive(Debug)]
pub(crate) struct Up {
    pub(crate) rows: Vec<Row>,
    pub(crate) failure: Option<Failure>,
}

impl Order {
    pub(crate) fn shell(&self, target: &Target) -> Shell {
        match target.is_here {
            true => Shell::Here,
            false => Shell::Over { ssh: self.ssh.clone(), host: target.host.clone() },
        }
    }

    /// What the worker of a host is called with, whoever holds it.
    pub(crate) fn arguments(&self, target: &Target, master: &str) -> Vec<String> {
        let slots = target.slots.map_or_else(|| "auto".to_owned(), |slots| slots.to_string());
        let mut arguments = ["join", "--master", master, "--name", &target.worker].to_vec();
        arguments.extend(["--slots", &slots, "--trainer", &self.programs.trainer]);
        if self.is_cuda {
            arguments.extend(["--device", "cuda"]);
        }
        arguments.extend(self.runs.flags());
        arguments.into_iter().map(str::to_owned).collect()
    }

    /// What a host's worker gets, which its jobs' own programs have from it.
    pub(crate) fn variables_of(&self, target: &Target) -> Variables {
        let mut variables = self.variables.clone();
        if self.shows_slots && !target.listed.is_empty() {
            let slots: Vec<String> = target.listed.iter().map(u32::to_string).collect();
            variables.set("CUDA_VISIBLE_DEVICES", slots.join(","));
        }
        variables
    }

    /// Asks every host at once; failures are told as they come.
    pub(crate) async fn look(&self, cluster: &str) -> Vec<Result<Seen, Error>> {
        let mut seen = each(&self.targets, |target| async move {
            let shell = self.shell(target);
            let seen = look::look(&shell, cluster, &target.worker, &self.programs).await;
            if let Err(error) = &seen {
                Row::of_target(target, "").failed(error).tell(&target.place);
            }
            seen
        })
        .await;
        let of: Vec<Option<&Seen>> = seen.iter().map(|seen| seen.as_ref().ok()).collect();
        if !self.is_cuda {
            // Where a slot is a device that its program picks, nothing is known of cores.
            if !self.shows_slots {
                look::crowding(&self.targets, &of).iter().for_each(render::warning);
            }
            return seen;
        }
        let same = look::same_machines(&of);
        for (index, other) in same.into_iter().enumerate() {
            let (Some(other), Some(Ok(Seen { hostname, .. }))) = (other, seen.get(index)) else {
                continue;
            };
            let (other, hostname) = (self.targets[other].host.clone(), hostname.clone());
            let error = Error::SameGpus { other, hostname };
            Row::of_target(&self.targets[index], "")
                .failed(&error)
                .tell(&self.targets[index].place);
            seen[index] = Err(error);
        }
        seen
    }
}

/// Brings it up; `record` is what is up already, and what is up after it, whatever happens.
pub(crate) async fn up(
    order: &Order,
    folder: &Folder,
    record: &mut Record,
    interrupts: &mut Interrupts,
) -> Up {
    let mut attempt = Attempt {
        order,
        folder,
        record,
        rows: order.targets.iter().map(|target| Row::of_target(target, "not started")).collect(),
        started: Vec::new(),
        earlier: vec![None; order.targets.len()],
        has_started_coordinator: false,
    };
    let result = attempt.run(interrupts).await;
    if let Err(failure) = &result
        && (failure.code == ExitCode::Cancelled || !attempt.is_kept())
    {
        attempt.undo().await;
    }
    Up { rows: attempt.rows, failure: result.err() }
}

struct Attempt<'a> {
    order: &'a Order,
    folder: &'a Folder,
    record: &'a mut Record,
    /// Of the targets, in their order.
    rows: Vec<Row>,
    /// Workers that this call has begun to start.
    started: Vec<String>,
    /// Of each target, the life of its worker that the coordinator knew before this call.
    earlier: Vec<Option<(String, u64)>>,
    has_started_coordinator: bool,
}

impl Attempt<'_> {
    async fn run(&mut self, interrupts: &mut Interrupts) -> Result<(), Failure> {
        let seen = tokio::select! {
            seen = self.order.look(&self.folder.cluster) => seen,
            () = interrupts.next() => return Err(interrupted()),
        };
        for (row, seen) in self.rows.iter_mut().zip(&seen) {
            if let Err(error) = seen {
                *row = row.clone().failed(error);
            }
        }
        self.check()?;
        let seen: Vec<Option<Seen>> = seen.into_iter().map(Result::ok).collect();
        // A coordinator that is being started must come to be known, so that it can be stopped.
        let (masters, is_interrupted) = to_its_end(self.masters(&seen), interrupts).await;
        let masters = masters?;
        if is_interrupted {
            return Err(interrupted());
        }
        let mut coordinator = commands::connect_to_address(&self.record.master).await?;
        self.refuse_others(&mut coordinator, &seen, &masters).await?;
        self.start_workers(&seen, &masters, interrupts).await?;
        let ready = tokio::select! {
            ready = self.ready(&mut coordinator, &masters) => ready,
            () = interrupts.next() => return Err(interrupted()),
        };
        ready?;
        self.conclude()
    }

    /// Goes on only if nothing has failed, or what could start is to be kept.
    fn check(&self) -> Result<(), Failure> {
        if self.is_kept() { Ok(()) } else { self.conclude() }
    }

    fn is_kept(&self) -> bool {
        self.order.is_kept && failed_hosts(&self.rows).0 < self.rows.len()
    }

    fn conclude(&self) -> Result<(), Failure> {
        let (failed, named) = failed_hosts(&self.rows);
        if failed == 0 {
            return Ok(());
        }
        let error = anyhow!("no worker on {failed} of {} hosts: {named}", self.rows.len());
        let has_started = !self.started.is_empty() || self.has_started_coordinator;
        Err(Failure::new(ExitCode::Failed, error).hint(match (self.is_kept(), has_started) {
            (true, _) => "the others go on (--keep); call it again when those hosts are mended",
            (false, true) => "what was started is stopped again; --keep lets the others go on",
            (false, false) => "nothing was started; --keep starts those that can be",
        }))
    }

    /// The coordinator, and by which address each host is told to find it.
    async fn masters(&mut self, seen: &[Option<Seen>]) -> Result<Vec<String>, Failure> {
        let order = self.order;
        if let Some(master) = &order.master {
            self.record.master.clone_from(master);
            return Ok(vec![master.clone(); order.targets.len()]);
        }
        let of: Vec<Option<&Seen>> = seen.iter().map(Option::as_ref).collect();
        let machine = Machine::this();
        let reach = look::reach(&order.targets, &of, order.advertise.as_deref(), &machine);
        reach.warnings.iter().for_each(render::warning);
        let is_up = self.has_coordinator().await?;
        if !is_up {
            self.start_coordinator(&reach.listen).await?;
        }
        let port = self.record.master.rsplit_once(':').map_or("", |(_, port)| port).to_owned();
        let masters: Vec<String> =
            reach.masters.into_iter().map(|master| format!("{master}:{port}")).collect();
        if is_up {
            head::check_listens(&masters, &machine).await?;
        }
        Ok(masters)
    }

    /// All of them at once. An interrupt starts no more and waits for those that are being started: a
    /// host must not be left with a worker that nobody knows of.
    async fn start_workers(
        &mut self,
        seen: &[Option<Seen>],
        masters: &[String],
        interrupts: &mut Interrupts,
    ) -> Result<(), Failure> {
        let mut plans = Vec::new();
        for (index, target) in self.order.targets.iter().enumerate() {
            let (Some(Some(seen)), false) = (seen.get(index), self.rows[index].is_failed()) else {
                continue;
            };
            let started = Started {
                program: self.order.programs.worker.clone(),
                log: format!("{}/worker.log", seen.directory),
                directory: seen.directory.clone(),
                process: seen.process.clone(),
            };
            let record = HostRecord::new(target, started);
            match seen.process {
                Some(_) => self.rows[index] = self.keep_running(record),
                None => {
                    self.started.push(target.worker.clone());
                    self.remember(record.clone());
                    plans.push((index, record, self.order.arguments(target, &masters[index])));
                }
            }
        }
        // Before anything starts: whoever finds this file knows where to look.
        self.folder.write(self.record)?;
        let is_interrupted = std::cell::Cell::new(false);
        let order = self.order;
        let starting = each(plans, |(index, record, mut arguments)| {
            let is_interrupted = &is_interrupted;
            async move {
                if is_interrupted.get() {
                    return (index, record, Err(Error::Interrupted));
                }
                let target = &order.targets[index];
                arguments.extend(["--state-dir".to_owned(), record.started.directory.clone()]);
                let shell = order.shell(target);
                let started = start(&shell, &record.started, &arguments, &order.variables).await;
                match &started {
                    Ok(process) => render::talk(format_args!(
                        "{}: worker started, pid {}",
                        target.host, process.pid
                    )),
                    Err(error) => Row::of(&record, "").failed(error).tell(&target.place),
                }
                (index, record, started)
            }
        });
        let results = {
            let mut starting = std::pin::pin!(starting);
            tokio::select! {
                results = &mut starting => results,
                () = interrupts.next() => {
                    is_interrupted.set(true);
                    render::talk("interrupted: waiting for the hosts that are starting a worker");
                    starting.await
                }
            }
        };
        for (index, record, started) in results {
            self.note(index, record, started);
        }
        self.folder.write(self.record)?;
        if is_interrupted.get() { Err(interrupted()) } else { self.check() }
    }

    /// What became of one start.
    fn note(&mut self, index: usize, mut record: HostRecord, started: Result<Process, Error>) {
        match started {
            Ok(process) => {
                record.started.process = Some(process);
                self.rows[index] = Row::of(&record, "started");
                self.remember(record);
            }
            Err(error) => {
                self.rows[index] = Row::of(&record, "").failed(&error);
                if matches!(error, Error::Held { .. }) {
                    self.disown(&record.worker);
                }
            }
        }
    }

    /// A worker of an earlier call goes on as it is.
    fn keep_running(&mut self, record: HostRecord) -> Row {
        let row = Row::of(&record, "running");
        row.tell("");
        match self.record.host(&record.worker) {
            Some(known) => {
                if known.started.program != record.started.program {
                    render::warning(format_args!(
                        "{}: its worker was started as {} and goes on: `rsctl cluster down` first",
                        known.host, known.started.program
                    ));
                }
                if known.slots != record.slots {
                    let slots =
                        |slots: Option<u32>| slots.map_or("all".to_owned(), |n| n.to_string());
                    render::warning(format_args!(
                        "{}: its worker was started with {} slots and keeps them; the file says \
                         {}: `rsctl cluster down` first",
                        known.host,
                        slots(known.slots),
                        slots(record.slots)
                    ));
                }
                known.started.process = record.started.process;
            }
            None => self.remember(record),
        }
        row
    }

    fn remember(&mut self, record: HostRecord) {
        match self.record.host(&record.worker) {
            Some(known) => *known = record,
            None => self.record.hosts.push(record),
        }
    }

    /// What runs there is somebody else's, to be stopped by him alone.
    fn disown(&mut self, worker: &str) {
        self.started.retain(|started| started != worker);
        self.record.hosts.retain(|host| host.worker != worker);
    }

    /// Stops what this call has started; says so of each host.
    async fn undo(&mut self) {
        let (folder, started) = (self.folder, std::mem::take(&mut self.started));
        let stopped = stop::stop_workers(folder, self.record, &started, UNDO_GRACE).await;
        let stopped = stopped.unwrap_or_else(|failure| {
            render::warning(service::exit::chain(failure.error.as_ref()));
            Vec::new()
        });
        let mut left = Vec::new();
        for stopped in stopped {
            if stopped.is_failed() {
                left.push(stopped.host.clone());
            }
            let row = self.rows.iter_mut().find(|row| row.worker == stopped.worker);
            if let Some(row) = row.filter(|row| !row.is_failed()) {
                *row = stopped;
            }
        }
        if self.has_started_coordinator
            && let Err(error) = stop::stop_coordinator(folder, self.record).await
        {
            left.push(format!("the coordinator ({})", service::exit::chain(&error)));
        }
        if !left.is_empty() {
            let cluster = &folder.cluster;
            render::warning(format_args!(
                "still to be stopped: {}; `rsctl cluster down --cluster {cluster}` tries again",
                left.join(", ")
            ));
        }
    }
}

/// What comes of it, and whether an interrupt came meanwhile.
async fn to_its_end<T>(work: impl Future<Output = T>, interrupts: &mut Interrupts) -> (T, bool) {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => (done, false),
        () = interrupts.next() => (work.await, true),
    }
}

/// Starts a program that goes on without us.
async fn start(
    shell: &Shell,
    started: &Started,
    arguments: &[String],
    variables: &Variables,
) -> Result<Process, Error> {
    let Started { directory, log, program, .. } = started;
    let script = script::start(&script::Start { directory, log, program, arguments, variables });
    let reply = call(shell, &script, START_WITHIN).await?;
    if let Some(pid) = reply.get("held") {
        return Err(Error::Held { pid: pid.parse().unwrap_or(0) });
    }
    if let Some(words) = reply.get("folder") {
        return Err(Error::Folder(words.to_owned()));
    }
    match (reply.get("code"), reply.get("process").and_then(Process::read)) {
        (None, Some(process)) => Ok(process),
        (code, _) => {
            let code = code.unwrap_or("unknown").to_owned();
            Err(Error::EndedAtOnce { code, log: reply.text("log") })
        }
    }
}

/// There is a daemon of that name that the coordinator is in touch with.
fn is_connected(row: &WorkerRow) -> bool {
    ["ready", "excluded", "draining", "drained"].contains(&row.state.as_str())
}

#[cfg(test)]
mod tests;

//! What the coordinator says, and what follows from it here.

use std::time::Duration;

use proto::v1::coordinator_message::Kind as Said;
use proto::v1::worker_message::Kind;
use proto::v1::{
    Assignment, CoordinatorMessage, EndsAcknowledged, PrepareFailed, ProbeOrder, RankTable,
    ShowStacks, StartTrainers, StopJob, Welcome, WorkerMessage,
};
use service::tasks;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::{Link, Node, PreparedJob};
use crate::config::Device;
use crate::local_job::{LocalJob, Phase};
use crate::network::Door;
use crate::prepare::{self, Prepared, Runs};
use crate::spool::Key;
use crate::trainer_process::{self, News, Order, Plan};
use crate::uplink::LinkEvent;
use crate::{files, local_job, probe};

/// Orders that wait for one trainer.
pub(super) const ORDERS: usize = 16;

/// Bounds on what a coordinator may ask of the heartbeat.
const HEARTBEAT_MIN: Duration = Duration::from_millis(50);
const HEARTBEAT_MAX: Duration = Duration::from_secs(60);

/// Jobs that were refused and are told of again after a reconnect.
const MAX_REFUSALS: usize = 64;

impl Node {
    /// Returns the heartbeat interval when a welcome has set it.
    pub(super) fn on_link(&mut self, event: LinkEvent) -> Option<Duration> {
        match event {
            LinkEvent::Up { link, outbox, local } => {
                let door = self.config.network.door(local);
                if door != self.door {
                    info!(advertise = %door.advertise, listen = door.place(), "ranks listen here");
                }
                self.door = door;
                self.on_up(link, outbox);
                None
            }
            LinkEvent::Down { link } => {
                if self.is_present(link) {
                    self.link = None;
                }
                None
            }
            LinkEvent::Said { link, message } if self.is_present(link) => self.on_said(message),
            LinkEvent::Said { .. } => None,
        }
    }

    fn is_present(&self, link: u64) -> bool {
        self.link.as_ref().is_some_and(|present| present.number == link)
    }

    fn on_up(&mut self, number: u64, outbox: mpsc::Sender<WorkerMessage>) {
        let message = WorkerMessage { kind: Some(Kind::Hello(self.hello())) };
        // A closed outbox belongs to a connection that is gone already.
        if outbox.try_send(message).is_ok() {
            self.link = Some(Link::new(number, outbox));
        }
    }

    fn on_said(&mut self, message: CoordinatorMessage) -> Option<Duration> {
        match message.kind {
            Some(Said::Welcome(welcome)) => return Some(self.on_welcome(&welcome)),
            Some(Said::Refused(refused)) if !refused.is_retryable => {
                self.refused = Some(refused.reason.clone());
                self.shutdown.fail(refused.reason);
                self.kill_all();
            }
            // The connection tells why it is down.
            Some(Said::Refused(_)) => self.link = None,
            Some(Said::Start(order)) => self.on_start(order),
            Some(Said::RankTable(table)) => self.on_rank_table(&table),
            Some(Said::Stop(stop)) => self.on_stop(&stop),
            Some(Said::Fetch(order)) => {
                let serving = files::serve(order, self.config.master.clone());
                tasks::spawn(tasks::Kind::Finish, "fetch", serving);
            }
            Some(Said::Probe(order)) => self.on_probe(order),
            Some(Said::Ends(ends)) => self.on_acknowledged(&ends),
            Some(Said::Ping(_)) => self.say_heartbeat(),
            Some(Said::ShowStacks(wanted)) => self.on_show_stacks(&wanted),
            None => warn!("a message of an unknown kind from the coordinator is ignored"),
        }
        None
    }

    fn on_probe(&self, order: ProbeOrder) {
        let node = probe::Node {
            name: self.config.name.clone(),
            door: self.door,
            master: self.config.master.clone(),
        };
        tasks::spawn(tasks::Kind::Finish, "probe", probe::serve(order, node));
    }

    fn on_welcome(&mut self, welcome: &Welcome) -> Duration {
        info!(coordinator = welcome.coordinator_incarnation, "joined");
        // What happened between the hello and now, and what a new coordinator cannot know. An end that
        // came between the two is in neither, and to hear one twice changes nothing.
        let retold = self.jobs.values().flat_map(LocalJob::retold);
        let mut retold: Vec<Kind> = retold.filter_map(|message| message.kind).collect();
        retold.extend(self.ends.values().cloned().map(Kind::TrainerEnded));
        if let Some(link) = &mut self.link {
            link.is_welcome = true;
            let said = link.say_all(retold);
            self.keep_link(said);
        }
        Duration::from_millis(welcome.heartbeat_ms).clamp(HEARTBEAT_MIN, HEARTBEAT_MAX)
    }

    fn on_start(&mut self, order: StartTrainers) {
        let known = self.jobs.get(&order.job_id);
        if known.is_some_and(|job| job.key.1 >= order.generation) {
            // A4; the same generation again means that the coordinator was not sure.
            debug!(job = order.job_id, generation = order.generation, "known already");
            return;
        }
        let problem = if self.is_leaving {
            Some("this worker is leaving".to_owned())
        } else if let Some(job) = known.filter(|job| job.is_alive()) {
            let reason = format!("generation {} supersedes this one", order.generation);
            job.order_all(|| Order::Abort { reason: reason.clone() });
            Some(format!("trainers of generation {} still run here", job.key.1))
        } else {
            impossible_slots(&order, self.config.slots.get())
        };
        if let Some(problem) = problem {
            let message = format!("worker `{}`: {problem}", self.config.name);
            return self.refuse(&order, false, message);
        }
        info!(
            job = order.job_id,
            generation = order.generation,
            ranks = order.ranks.len(),
            "preparing"
        );
        self.jobs.insert(order.job_id.clone(), LocalJob::preparing(&order));
        let (config, done) = (self.config.clone(), self.prepared.clone());
        tasks::spawn(tasks::Kind::Finish, "prepare", async move {
            let result = prepare::prepare(&order, &config).await;
            let answer: PreparedJob = (order, result);
            // A node that does not listen any more is ending.
            let _ = done.send(answer).await;
        });
    }

    pub(super) fn refuse(
        &mut self,
        order: &StartTrainers,
        is_configuration: bool,
        message: String,
    ) {
        warn!(job = order.job_id, generation = order.generation, message, "not started");
        let (job_id, generation) = (order.job_id.clone(), order.generation);
        let failure = PrepareFailed { job_id, generation, is_configuration, message };
        // An older generation that is still alive stays the one to watch.
        if self.jobs.get(&order.job_id).is_none_or(|job| !job.is_alive()) {
            let refused = LocalJob::refused(order, failure.clone());
            self.refusals.push_back(refused.key.clone());
            self.jobs.insert(order.job_id.clone(), refused);
            self.forget_old_refusals();
        }
        self.say(Kind::PrepareFailed(failure));
    }

    /// Nothing acknowledges a refusal: it is told after each welcome until newer ones take its place.
    fn forget_old_refusals(&mut self) {
        while self.refusals.len() > MAX_REFUSALS
            && let Some((job_id, generation)) = self.refusals.pop_front()
        {
            let is_still =
                |job: &LocalJob| job.key.1 == generation && matches!(job.phase, Phase::Refused(_));
            if self.jobs.get(&job_id).is_some_and(is_still) {
                self.jobs.remove(&job_id);
            }
        }
    }

    pub(super) fn on_prepared(
        &mut self,
        order: StartTrainers,
        result: Result<Prepared, prepare::Error>,
    ) {
        let Some(job) = self.jobs.get_mut(&order.job_id) else { return };
        let Phase::Preparing { stop } = job.phase else { return };
        match result {
            Err(error) => {
                job.ranks.clear();
                let message = service::exit::chain(&error);
                self.refuse(&order, error.is_configuration(), message);
            }
            Ok(_) if stop => {
                let ranks: Vec<u32> = job.ranks.keys().copied().collect();
                job.phase = Phase::Started;
                let key = job.key.clone();
                for rank in ranks {
                    self.on_news(&key, rank, News::Ended(trainer_process::Ended::before_start()));
                }
            }
            Ok(prepared) => match &prepared.runs {
                Runs::Trainer => self.start_trainers(&order, &prepared),
                Runs::Command(found) => self.start_commands(&order, &prepared, found),
            },
        }
    }

    fn start_trainers(&mut self, order: &StartTrainers, prepared: &Prepared) {
        let claims = self.claims(&order.job_id, prepared.threads);
        let Door { advertise, listen, ports } = self.door;
        let is_cuda = self.config.device == Device::Cuda;
        let mut env = prepared.env.clone();
        self.config.libtorch.lead(&mut env);
        let Some(job) = self.jobs.get_mut(&order.job_id) else { return };
        job.phase = Phase::Started;
        for ((&rank, local), claim) in job.ranks.iter_mut().zip(claims) {
            let (orders, inbox) = mpsc::channel(ORDERS);
            local.orders = Some(orders);
            let plan = Plan {
                program: self.config.trainer.clone(),
                env: env.clone(),
                run_dir: prepared.run_dir.clone(),
                assignment: Assignment {
                    job_id: order.job_id.clone(),
                    generation: order.generation,
                    attempt: order.attempt,
                    rank,
                    world: order.world,
                    spec_json: prepared.spec_json.clone(),
                    advertise: advertise.to_string(),
                    run_dir: prepared.run_dir.to_string_lossy().into_owned(),
                    slots: local.slots.clone(),
                    worker: self.config.name.clone(),
                    cores: claim.cpus().to_vec(),
                    cuda_device: local.slots.first().copied().filter(|_| is_cuda),
                    listen: listen.to_string(),
                    is_bound: claim.bound().is_some(),
                    port_range: ports.map_or_else(String::new, |ports| ports.to_string()),
                },
                claim,
            };
            let news = trainer_process::Teller::new(job.key.clone(), rank, self.told.clone());
            let running = trainer_process::run(plan, self.tools.clone(), inbox, news);
            tasks::spawn(tasks::Kind::Finish, "trainer", running);
        }
    }

    fn on_rank_table(&self, table: &RankTable) {
        match self.jobs.get(&table.job_id).filter(|job| job.key.1 == table.generation) {
            Some(job) => job.order_all(|| Order::Connect(table.clone())),
            None => debug!(job = table.job_id, generation = table.generation, "not here (A4)"),
        }
    }

    fn on_show_stacks(&self, wanted: &ShowStacks) {
        let job = self.jobs.get(&wanted.job_id).filter(|job| job.key.1 == wanted.generation);
        let living = job.iter().flat_map(|job| &job.ranks);
        let asked = living.filter(|(rank, _)| wanted.ranks.contains(rank));
        for orders in asked.filter_map(|(_, rank)| rank.orders.as_ref()) {
            // A trainer that lets orders pile up is told of as one that does not answer.
            let _ = orders.try_send(Order::ShowStacks);
        }
    }

    fn on_stop(&mut self, stop: &StopJob) {
        let Some(job) = self.jobs.get_mut(&stop.job_id) else { return };
        if job.key.1 != stop.generation {
            debug!(job = stop.job_id, generation = stop.generation, "stop of another one (A4)");
            return;
        }
        info!(job = stop.job_id, generation = stop.generation, reason = stop.reason, "stopping");
        if let local_job::Phase::Preparing { stop } = &mut job.phase {
            *stop = true;
        }
        if stop.gracefully {
            let grace = Duration::from_millis(stop.grace_ms);
            job.order_all(|| Order::StopGracefully { grace });
        } else {
            job.order_all(|| Order::Abort { reason: stop.reason.clone() });
        }
        // Who orders it again has not heard of those that have ended.
        let key = job.key.clone();
        self.retell_ends(&key);
    }

    /// Tells the ends of an attempt that are not acknowledged.
    fn retell_ends(&mut self, key: &Key) {
        let meant = self.ends.iter().filter(|((ended, _), _)| ended == key);
        for end in meant.map(|(_, end)| end.clone()).collect::<Vec<_>>() {
            self.say(Kind::TrainerEnded(end));
        }
    }

    pub(super) fn on_acknowledged(&mut self, ends: &EndsAcknowledged) {
        for end in &ends.ends {
            let key = (end.job_id.clone(), end.generation);
            if self.ends.remove(&(key, end.rank)).is_some() {
                self.outcomes.forget(&end.job_id, end.generation, end.rank);
            }
        }
        let Self { jobs, ends, tools, .. } = self;
        jobs.retain(|_, job| {
            let is_told = job.ranks.keys().all(|r| !ends.contains_key(&(job.key.clone(), *r)));
            let is_over = matches!(job.phase, Phase::Started) && !job.is_alive() && is_told;
            if is_over {
                tools.spool.forget_job(&job.key);
            }
            !is_over
        });
    }
}

/// What is wrong with the slots of an order, if anything.
fn impossible_slots(order: &StartTrainers, slots: u32) -> Option<String> {
    if order.ranks.is_empty() {
        return Some("no ranks to start".to_owned());
    }
    let mut taken = std::collections::BTreeSet::new();
    for rank in &order.ranks {
        for &slot in &rank.slots {
            if slot >= slots {
                return Some(format!("rank {} wants slot {slot}; there are {slots}", rank.rank));
            }
            if !taken.insert(slot) {
                return Some(format!("slot {slot} is given to two ranks"));
            }
        }
    }
    None
}

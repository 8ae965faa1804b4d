//! What one decision costs with 100,000 queued jobs on 1,000 workers: the pure machine, timed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::ids::{Incarnation, JobId, WorkerId};
use common::spec::JobSpec;
use control::coordinator::{
    Chance, Config, ConnectionId, Event, Ledger, Machine, Now, Submission, Ticket, Token,
    WorkerHello,
};
use serde_json::{Value, json};

use crate::spec;

const JOBS: u32 = 100_000;
const WORKERS: u32 = 1000;
const SLOTS: u32 = 4;
/// The queue is filled as the coordinator's loop would: so many at once.
const BATCH: usize = 512;
/// Decisions that are timed one by one.
const SUBMITS: usize = 200;

struct NoChance;

impl Chance for NoChance {
    fn token(&mut self) -> Token {
        Token([0; 16])
    }
}

/// How the queued jobs differ.
#[derive(Debug, Clone, Copy)]
struct Queue {
    /// So many different worlds.
    wishes: u32,
    /// Slots of a rank. Where it does not divide a worker's, idle slots are left that no
    /// reservation keeps, and a decision looks further down the queue.
    threads: u32,
}

/// The usual case and the bad ones.
pub(crate) fn measure() -> Value {
    json!({
        "equal_wishes": Case::fill(Queue { wishes: 1, threads: 1 }).measure(),
        "different_wishes": Case::fill(Queue { wishes: 4000, threads: 1 }).measure(),
        "awkward_wishes": Case::fill(Queue { wishes: 998, threads: 3 }).measure(),
    })
}

struct Case {
    machine: Machine,
    spec: JobSpec,
    queue: Queue,
    number: u32,
}

impl Case {
    /// A cluster of which one job holds almost everything, and the queue behind it.
    fn fill(queue: Queue) -> Self {
        let config = Config { max_open_jobs: JOBS as usize * 2, ..Config::default() };
        let machine = Machine::new(config, Ledger::default());
        let spec = serde_json::from_str(&spec::json("job", 1, 0)).expect("it is a spec");
        let mut case = Self { machine, spec, queue, number: 0 };
        case.decide(vec![Event::Started]);
        case.decide((0..WORKERS).map(hello).collect());
        let world = WORKERS * (SLOTS / queue.threads) - 1;
        let first = case.submission(world, queue.threads, 0);
        case.decide(vec![first]);
        while case.number < JOBS {
            let batch = (0..BATCH).map(|_| case.next()).collect();
            case.decide(batch);
        }
        case
    }

    fn measure(mut self) -> Value {
        let mut submits: Vec<Duration> = Vec::with_capacity(SUBMITS);
        for _ in 0..SUBMITS {
            let event = self.next();
            submits.push(self.decide(vec![event]));
        }
        // One that is served first, and cannot start: the whole order is looked at.
        let event = self.submission(WORKERS * SLOTS, 1, 5);
        let urgent = self.decide(vec![event]);
        let join = self.decide(vec![hello(WORKERS)]);
        submits.sort_unstable();
        json!({
            "queued": self.number,
            "submit_p50_ms": millis(submits[submits.len() / 2]),
            "submit_max_ms": millis(submits[submits.len() - 1]),
            "urgent_ms": millis(urgent),
            "join_ms": millis(join),
        })
    }

    fn decide(&mut self, events: Vec<Event>) -> Duration {
        let now = Now { uptime: Duration::from_secs(1), unix: 1000 };
        let began = Instant::now();
        self.machine.steps(events, now, &mut NoChance);
        began.elapsed()
    }

    /// The next job of the queue.
    fn next(&mut self) -> Event {
        let world = 2 + self.number % self.queue.wishes;
        self.submission(world, self.queue.threads, 0)
    }

    fn submission(&mut self, world: u32, threads: u32, priority: i32) -> Event {
        self.number += 1;
        let number = self.number;
        let mut spec = self.spec.clone();
        spec.resources.world_size = Some(world);
        spec.resources.threads_per_rank = threads;
        spec.job.priority = priority;
        let submission = Submission {
            request_id: format!("r{number}"),
            spec,
            job_toml: String::new(),
            uploads: BTreeMap::new(),
            group: None,
            after: Vec::new(),
            slurm: None,
            origin: None,
        };
        let job_id: JobId = format!("job-{number:06}").parse().expect("it is an id");
        Event::Submit { ticket: Ticket(number.into()), job_id, submission: Box::new(submission) }
    }
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn hello(number: u32) -> Event {
    let uuid = uuid::Uuid::from_u128(u128::from(number) + 1);
    let hello = WorkerHello {
        id: WorkerId { uuid, incarnation: Incarnation(1) },
        name: format!("w{number:05}"),
        advertise: "127.0.0.1".to_owned(),
        slots: SLOTS,
        device: "cpu".to_owned(),
        gpus: Default::default(),
        allows_commands: false,
        memory_bytes: 1 << 30,
        version: String::new(),
        hostname: String::new(),
        libtorch: String::new(),
        allocation: None,
        withdrawing: None,
        running: Vec::new(),
        unacknowledged: Vec::new(),
    };
    Event::Hello { connection: ConnectionId(number.into()), hello: Box::new(hello) }
}

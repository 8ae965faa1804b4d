//! One job and what happens to it.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tests::history::History;
use tests::process::is_alive;
use tests::rsctl::Rsctl;

use super::{Scene, WORKERS, checks};

/// A job takes seconds; one that takes so long hangs.
const DEADLINE: Duration = Duration::from_secs(90);

/// Between two looks at the job.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// How long a worker or the coordinator stays dead, in milliseconds.
const ABSENCE: std::ops::Range<u64> = 0..800;

/// How long a process stands still, in milliseconds: shorter and longer than the lease and the
/// collective timeout.
const STILLNESS: std::ops::Range<u64> = 50..4000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Trainer,
    Worker,
    Coordinator,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Stop,
}

const CASES: [(Victim, Fault); 6] = [
    (Victim::Trainer, Fault::Kill),
    (Victim::Worker, Fault::Kill),
    (Victim::Coordinator, Fault::Kill),
    (Victim::Trainer, Fault::Stop),
    (Victim::Worker, Fault::Stop),
    (Victim::Coordinator, Fault::Stop),
];

#[derive(Debug, Clone)]
struct Blow {
    victim: Victim,
    fault: Fault,
    /// Which of several.
    which: usize,
    /// As a part of the undisturbed run, after the blow before.
    after: f64,
    lasts: Duration,
}

#[derive(Debug)]
pub(super) struct Round {
    number: usize,
    blows: Vec<Blow>,
}

/// Every kind of blow comes once in six; all else is chance.
pub(super) fn plan(seed: u64, count: usize, most_faults: usize) -> Vec<Round> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut left: Vec<(Victim, Fault)> = Vec::new();
    let mut round = |number| {
        let blows = chance.random_range(1..=most_faults);
        let blow = |_| {
            if left.is_empty() {
                left = CASES.to_vec();
                left.shuffle(&mut chance);
            }
            let (victim, fault) = left.pop().expect("it was filled");
            let lasts = if fault == Fault::Kill { ABSENCE } else { STILLNESS };
            Blow {
                victim,
                fault,
                which: chance.random_range(0..WORKERS),
                after: chance.random_range(0.0..0.9),
                lasts: Duration::from_millis(chance.random_range(lasts)),
            }
        };
        Round { number, blows: (0..blows).map(blow).collect() }
    };
    (0..count).map(&mut round).collect()
}

impl Scene {
    /// Returns how many blows hit something, and whether an attempt broke off by them.
    pub(super) fn play(&mut self, round: &Round) -> (usize, bool) {
        self.cluster.wait_until_connected(WORKERS);
        let id = self.cluster.submit(&self.job);
        self.acknowledged.push(id.clone());
        let rsctl = self.cluster.rsctl();
        let (done, hits) = thread::scope(|scope| {
            let watching = scope.spawn(|| watch(&rsctl, &id));
            let hits = round.blows.iter().filter(|blow| self.strike(blow)).count();
            match watching.join() {
                Ok(done) => (done, hits),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        assert_eq!(done["state"], "succeeded", "round {}: {done:#}", round.number);
        History::of(&done).must_equal(&self.expected);
        checks::no_trainer_is_left(&self.cluster);
        checks::only_whole_checkpoints_are_left(&self.cluster, &done);
        checks::all_are_there(&self.cluster, &self.acknowledged);
        (hits, done["attempt"].as_u64() > Some(1))
    }

    /// False: there was nothing to hit.
    fn strike(&mut self, blow: &Blow) -> bool {
        // The moment is the case's: there is no state to wait for.
        thread::sleep(self.undisturbed.mul_f64(blow.after));
        let asked = self.ask_for_a_place();
        let is_hit = match blow.victim {
            Victim::Trainer => self.strike_trainer(blow),
            Victim::Worker => self.strike_worker(blow),
            Victim::Coordinator => self.strike_coordinator(blow),
        };
        self.hear(asked);
        is_hit
    }

    fn strike_trainer(&self, blow: &Blow) -> bool {
        let trainers = self.cluster.trainers();
        let Some(pid) = trainers.get(blow.which % trainers.len().max(1)).copied() else {
            return false;
        };
        match blow.fault {
            Fault::Kill => signal(pid, Signal::SIGKILL),
            Fault::Stop => stand_still(pid, blow.lasts),
        }
        true
    }

    fn strike_worker(&mut self, blow: &Blow) -> bool {
        let worker = &mut self.cluster.workers[blow.which];
        if blow.fault == Fault::Stop {
            stand_still(worker.pid(), blow.lasts);
            return true;
        }
        worker.signal(Signal::SIGKILL);
        worker.wait(Duration::from_secs(5));
        thread::sleep(blow.lasts);
        self.cluster.restart_worker(blow.which, 1);
        true
    }

    fn strike_coordinator(&mut self, blow: &Blow) -> bool {
        let coordinator = self.cluster.coordinator.as_mut().expect("it runs between blows");
        if blow.fault == Fault::Stop {
            stand_still(coordinator.pid(), blow.lasts);
            return true;
        }
        coordinator.signal(Signal::SIGKILL);
        coordinator.wait(Duration::from_secs(5));
        thread::sleep(blow.lasts);
        self.cluster.restart_coordinator();
        true
    }

    /// Submits at the very moment of a blow, and does not wait for the answer.
    fn ask_for_a_place(&self) -> Child {
        let arguments = ["submit", "--json", &self.waiting_job];
        let mut command = self.cluster.rsctl().command(&arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().expect("start rsctl")
    }

    /// What was acknowledged is remembered, and must not be in the way of later rounds.
    fn hear(&mut self, asked: Child) {
        let output = asked.wait_with_output().expect("wait for our own rsctl");
        if !output.status.success() {
            return;
        }
        let answer: Value = serde_json::from_slice(&output.stdout).expect("an answer is JSON");
        let id = answer["job_id"].as_str().expect("job_id is text").to_owned();
        self.cluster.rsctl().call(&["cancel", &id]).expect_code(0);
        self.acknowledged.push(id);
    }
}

fn signal(pid: u32, signal: Signal) {
    // It may have ended a moment ago, and our worker, its parent, is alone in burying it.
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

fn stand_still(pid: u32, lasts: Duration) {
    signal(pid, Signal::SIGSTOP);
    thread::sleep(lasts);
    if is_alive(pid) {
        signal(pid, Signal::SIGCONT);
    }
}

/// Looks at the job until its end; its step never falls within one attempt, nor does its attempt.
fn watch(rsctl: &Rsctl, id: &str) -> Value {
    let until = Instant::now() + DEADLINE;
    let mut seen = (0, 0);
    let mut last = Value::Null;
    loop {
        assert!(Instant::now() < until, "{id} does not end: {last:#}");
        thread::sleep(LOOK_EVERY);
        let answer = rsctl.call(&["status", "--json", id]);
        // The coordinator may be dead or stand still right now.
        if answer.code == 3 {
            continue;
        }
        let status = answer.expect_code(0).json();
        let attempt = status["attempt"].as_u64().expect("attempt is a number");
        // A coordinator that has just started knows the step when a worker has told it.
        let step = status["live"]["step"].as_u64();
        let now = (attempt, step.unwrap_or(if attempt == seen.0 { seen.1 } else { 0 }));
        assert!(now >= seen, "attempt and step fell from {seen:?} to {now:?}: {status:#}");
        seen = now;
        if ["succeeded", "failed", "cancelled"].contains(&status["state"].as_str().unwrap()) {
            return status;
        }
        last = status;
    }
}

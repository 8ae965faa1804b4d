//! Slots are kept for the job that has its turn: nobody behind it delays or starves it.

use std::time::Duration;

use common::spec::{Device, JobSpec};
use common::status::{JobState, TrainerEnd, WaitReason};

use super::world::{World, id, spec};

fn finish(w: &mut World, job: &str) {
    let world = w.places(job).len() as u32;
    (0..world).for_each(|rank| w.end(job, rank, TrainerEnd::Finished));
    assert_eq!(w.state(job), JobState::Succeeded);
}

fn on(device: Device, mut spec: JobSpec) -> JobSpec {
    spec.resources.device = device;
    spec
}

#[test]
fn slots_that_cannot_help_the_head_go_to_others() {
    let mut w = World::new(&[("a", 4)]);
    let mut gpu = w.hello("g", 2);
    gpu.device = "cuda".to_owned();
    w.send_hello(gpu);
    w.submit(on(Device::Cuda, spec("one", Some(1))));
    w.submit(on(Device::Cuda, spec("pair", Some(2))));
    w.submit(on(Device::Cuda, spec("small", Some(1))));
    w.submit(on(Device::Cpu, spec("cores", Some(3))));
    assert_eq!(w.state("pair"), JobState::Queued);
    assert_eq!(w.state("small"), JobState::Queued, "the idle GPU is kept");
    assert_eq!(w.state("cores"), JobState::Starting, "cores are of no use to it");
}

#[test]
fn slots_beyond_whole_ranks_go_to_others() {
    let mut w = World::new(&[("a", 5), ("b", 2)]);
    w.submit(spec("b-busy", Some(2)));
    assert_eq!(w.places("b-busy"), ["b", "b"]);
    let mut wide = spec("wide", Some(3));
    wide.resources.threads_per_rank = 2;
    w.submit(wide);
    w.submit(spec("first", Some(1)));
    w.submit(spec("second", Some(1)));
    assert_eq!(w.state("wide"), JobState::Queued);
    assert_eq!(w.places("first"), ["a"], "two ranks of two leave one of five slots");
    assert_eq!(w.state("second"), JobState::Queued);
}

#[test]
fn each_kind_of_device_has_a_head_of_its_own() {
    let mut w = World::new(&[("a", 3)]);
    let mut gpu = w.hello("g", 1);
    gpu.device = "cuda".to_owned();
    w.send_hello(gpu);
    w.submit(on(Device::Cuda, spec("gpu-busy", Some(1))));
    w.submit(on(Device::Cpu, spec("cpu-busy", Some(1))));
    w.submit(on(Device::Cuda, spec("gpu-head", Some(1))));
    w.submit(on(Device::Cpu, spec("cpu-head", Some(3))));
    w.submit(on(Device::Cpu, spec("cpu-small", Some(1))));
    assert_eq!(w.state("cpu-small"), JobState::Queued, "it would starve cpu-head");
    let behind = w.status("cpu-small").waiting.unwrap().reason;
    assert_eq!(behind, WaitReason::Behind { job_id: id("cpu-head") });
    let head = w.status("cpu-head").waiting.unwrap().reason;
    assert!(matches!(&head, WaitReason::Slots(s) if s.fits_now == 2), "{head:?}");
}

#[test]
fn where_running_jobs_say_when_they_end_only_what_the_head_needs_is_kept() {
    let mut w = World::new(&[("a", 4), ("b", 4)]);
    w.submit(spec("four", Some(4)));
    w.submit(spec("three", Some(3)));
    w.train("four");
    w.train("three");
    w.submit(spec("head", Some(5)));
    w.submit(spec("small", Some(1)));
    assert_eq!(w.state("small"), JobState::Queued, "nobody has said when it ends");
    assert_eq!(w.status("head").waiting.unwrap().earliest_start, None);
    w.progress("four", 10, 100.0);
    w.pass(Duration::from_secs(6));
    w.progress("three", 10, 500.0);
    // In 94 s the four slots of `four` and the idle one hold the head: no slot is left over.
    assert_eq!(w.state("small"), JobState::Queued);
    let waiting = w.status("head").waiting.unwrap();
    assert_eq!(waiting.earliest_start, Some((w.now.as_millis() as u64) + 94_000));
    w.join("c", 1);
    assert_eq!(w.state("small"), JobState::Starting, "of two idle slots the head needs one");
    finish(&mut w, "four");
    assert_eq!(w.state("head"), JobState::Starting);
}

#[test]
fn an_end_in_the_far_future_is_no_more_than_that() {
    let mut w = World::new(&[("a", 2)]);
    w.submit(spec("slow", Some(2)));
    w.train("slow");
    w.submit(spec("head", Some(2)));
    w.live_on(Duration::from_secs(3000));
    // The longest that a `Duration` holds; from now on it would be too long.
    let longest = (u64::MAX as f64).next_down();
    for (step, eta) in [(1, longest), (2, f64::MAX), (3, f64::NAN), (4, -1.0)] {
        w.progress("slow", step, eta);
        w.live_on(Duration::from_secs(6));
        assert_eq!(w.state("head"), JobState::Queued);
    }
    w.progress("slow", 5, 100.0);
    w.live_on(Duration::from_secs(6));
    finish(&mut w, "slow");
    assert_eq!(w.state("head"), JobState::Starting);
}

#[test]
fn an_estimate_that_was_wrong_is_not_believed_again() {
    let mut w = World::new(&[("a", 2), ("b", 1)]);
    w.submit(spec("liar", Some(2)));
    w.train("liar");
    w.progress("liar", 1, 1.0);
    w.submit(spec("head", Some(2)));
    w.submit(spec("filler", Some(1)));
    w.train("filler");
    assert_eq!(w.places("filler"), ["b"], "the head is to start on a");
    w.submit(spec("next", Some(1)));
    w.live_on(Duration::from_secs(40));
    w.progress("liar", 2, 1.0);
    finish(&mut w, "filler");
    assert_eq!(w.state("next"), JobState::Queued, "it is the head's now, whatever is promised");
}

#[test]
fn every_waiting_job_has_a_reason_for_programs() {
    let mut w = World::new(&[("a", 2)]);
    w.submit(spec("runs", Some(1)));
    w.submit(spec("head", Some(2)));
    w.submit(spec("behind", Some(1)));
    w.submit(spec("huge", Some(9)));
    let json = |job: &str| serde_json::to_value(w.status(job).waiting).unwrap();
    assert_eq!(json("runs"), serde_json::Value::Null);
    let head = json("head");
    assert_eq!((head["kind"].as_str(), head["fits_now"].as_u64()), (Some("slots"), Some(1)));
    assert_eq!(head["earliest_start"], serde_json::Value::Null);
    assert!(head["estimate"].as_str().unwrap().contains("have not said"), "{head}");
    let behind = json("behind");
    assert_eq!(behind["kind"], "behind");
    assert_eq!(behind["job_id"], id("head").as_str());
    let huge = json("huge");
    assert_eq!((huge["kind"].as_str(), huge["fits_idle"].as_u64()), (Some("too_large"), Some(2)));
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// Rounds that a job trains, and rounds in which small jobs keep coming.
const LENGTH: u64 = 6;
const ROUNDS: u64 = 40;

/// Rounds until an estimate that was wrong is not believed any more, rounded up.
const DISBELIEF: u64 = 10;

/// A stream of small jobs that never ends, and large ones among them. Nobody starves: while a job
/// is the first in line, it waits for no more than one drain of the cluster, whatever jobs of lower
/// rank do, and whatever running jobs say about their ends.
fn crowd(seed: u64) {
    let mut dice = Dice(seed);
    let (a, b) = (2 + dice.below(3) as u32, 1 + dice.below(4) as u32);
    let mut w = World::new(&[("a", a), ("b", b)]);
    let mut running: Vec<(String, u64)> = Vec::new();
    let mut waiting: Vec<(i32, u64, String)> = Vec::new();
    let mut head: Option<(String, u64)> = None;
    for round in 0..ROUNDS * LENGTH {
        if round >= ROUNDS && waiting.is_empty() {
            return;
        }
        if round < ROUNDS {
            let name = format!("j{round}");
            let is_large = dice.below(4) == 0;
            let ranks = if is_large { a + b } else { 1 + dice.below(2) as u32 };
            let mut spec = spec(&name, Some(ranks));
            spec.job.priority = dice.below(2) as i32;
            waiting.push((-spec.job.priority, round, name));
            w.submit(spec);
        }
        waiting.sort();
        let started: Vec<String> = waiting
            .iter()
            .filter(|(.., name)| w.state(name) != JobState::Queued)
            .map(|(.., name)| name.clone())
            .collect();
        waiting.retain(|(.., name)| !started.contains(name));
        for name in started {
            w.train(&name);
            let eta = [0.1, 3.0, 1000.0][dice.below(3) as usize];
            w.progress(&name, 1, eta);
            running.push((name, round + 1 + dice.below(LENGTH)));
        }
        match (waiting.first(), &head) {
            (Some((.., first)), Some((known, since))) if first == known => {
                let waited = round - since;
                assert!(
                    waited <= LENGTH + DISBELIEF,
                    "seed={seed}: {first} was first for {waited} rounds"
                );
            }
            (first, _) => head = first.map(|(.., name)| (name.clone(), round)),
        }
        let ended = running.iter().filter(|(_, end)| *end <= round).map(|(name, _)| name.clone());
        let ended: Vec<String> = ended.collect();
        running.retain(|(name, _)| !ended.contains(name));
        ended.iter().for_each(|name| finish(&mut w, name));
        w.live_on(Duration::from_secs(4));
    }
    panic!("seed={seed}: {waiting:?} never started");
}

#[test]
fn nobody_starves_in_a_crowd() {
    (0..20).for_each(crowd);
}

//! Pools of SLURM's nodes: what waiting jobs pull in, what goes back, and when a pool gives up.

use std::time::Duration;

use common::slurm::allocation::AllocationName;
use common::slurm::pool::{Pool, PoolState, PoolStatus};
use common::slurm::request::Request;
use common::spec::JobSpec;
use common::status::{JobState, TrainerEnd};

use super::world::{World, id, on_hosts, restarting, spec};
use crate::coordinator::{
    AllocationNews, AllocationOrder, Answer, CancelMode, PoolOrder, Refusal, WorkerHello,
};

/// Nodes of two slots, four at most.
fn pool() -> Pool {
    let request = Request { cpus_per_task: 2, ..Request::of(&spec("any", None).resources) };
    let (backlog, idle_timeout) = (2, Duration::from_secs(60));
    Pool { request, max_workers: 4, backlog, idle_timeout, folder: "/shared".into() }
}

fn with_pool(pool: Pool) -> World {
    let mut w = World::new(&[]);
    assert!(matches!(w.pool("small", PoolOrder::Add(Box::new(pool))), Answer::Pool(Some(_))));
    w.take();
    w
}

fn status(w: &World) -> PoolStatus {
    w.machine.pools().into_iter().next().unwrap()
}

/// What is wanted of SLURM: name, nodes, or that it is to be given back.
fn orders(w: &World) -> Vec<String> {
    let orders = w.machine.allocations();
    let order = |order: &AllocationOrder| match &order.wanted {
        Some(wanted) => format!("{} x{}", order.name, wanted.request.nodes),
        None => format!("back {}", order.name),
    };
    orders.iter().map(order).collect()
}

fn seen(state: &str) -> AllocationNews {
    let state = state.to_owned();
    AllocationNews::Seen { state, reason: String::new(), nodes: "n[1-9]".to_owned() }
}

/// SLURM gives the pool's `number`th allocation its nodes and their workers join.
fn give(w: &mut World, number: u32, nodes: u32) {
    let slurm_job = u64::from(number);
    w.slurm_of_pool("small", number, AllocationNews::Accepted { slurm_job });
    w.slurm_of_pool("small", number, seen("RUNNING"));
    for node in 1..=nodes {
        w.join_of_pool(&format!("n{node}-{number}"), 2, "small", number);
    }
}

fn finish(w: &mut World, job: &str) {
    for rank in 0..w.places(job).len() as u32 {
        w.end(job, rank, TrainerEnd::Finished);
    }
    assert_eq!(w.state(job), JobState::Succeeded);
}

fn job(name: &str, world: u32) -> JobSpec {
    restarting(name, Some(world))
}

#[test]
fn a_job_that_waits_pulls_its_nodes_in_and_idle_ones_go_back() {
    let mut w = with_pool(pool());
    assert!(orders(&w).is_empty(), "nobody waits");
    w.submit(job("a", 3));
    // Three ranks on nodes of two slots: two nodes, together.
    assert_eq!(orders(&w), ["pool@small.1 x2"]);
    let estimate = w.status("a").waiting.unwrap().estimate;
    assert!(estimate.contains("pool `small` has asked: SLURM is asked for 2 nodes"), "{estimate}");
    give(&mut w, 1, 2);
    assert_eq!(w.places("a"), ["n1-1", "n1-1", "n2-1"]);
    w.train("a");
    w.live_on(Duration::from_secs(120));
    assert_eq!(orders(&w), ["pool@small.1 x2"], "it is in use");
    finish(&mut w, "a");
    w.live_on(Duration::from_secs(59));
    // The next job finds them.
    w.submit(job("b", 1));
    w.train("b");
    finish(&mut w, "b");
    w.live_on(Duration::from_secs(59));
    assert_eq!(orders(&w), ["pool@small.1 x2"], "its idle time began anew");
    w.live_on(Duration::from_secs(2));
    assert_eq!(orders(&w), ["back pool@small.1"]);
    w.submit(job("c", 1));
    assert_eq!(w.state("c"), JobState::Queued, "nothing starts on what goes back");
    w.slurm_of_pool("small", 1, AllocationNews::Gone { state: "CANCELLED".to_owned() });
    assert_eq!(orders(&w), ["pool@small.2 x1"]);
    assert_eq!(status(&w).failures, 0);
}

#[test]
fn what_is_there_or_comes_is_counted_before_more_is_asked_for() {
    let mut w = with_pool(pool());
    w.join("own", 2);
    w.submit(job("a", 3));
    assert_eq!(orders(&w), ["pool@small.1 x1"], "the worker that is there holds two ranks");
    w.submit(job("b", 1));
    assert_eq!(orders(&w), ["pool@small.1 x1"], "a slot of the node that comes is left");
    w.submit(job("c", 4));
    assert_eq!(orders(&w), ["pool@small.1 x1", "pool@small.2 x2"]);
    w.submit(job("d", 2));
    assert_eq!(orders(&w).len(), 2, "two allocations may wait at once");
    give(&mut w, 1, 1);
    assert_eq!(orders(&w).last().unwrap(), "pool@small.3 x1", "one of the two has come");
    w.submit(job("e", 1));
    assert_eq!(orders(&w).len(), 3, "four nodes at most");
}

#[test]
fn jobs_that_a_pool_could_not_hold_ask_for_nothing_and_say_so() {
    let mut w = with_pool(pool());
    w.submit(job("large", 9));
    w.submit(on_hosts(job("named", 1), &["n1"]));
    assert!(orders(&w).is_empty());
    let told = |job: &str| w.status(job).waiting.unwrap().estimate;
    assert!(told("large").contains("could not hold it: 4 nodes of 2 slots"), "{}", told("large"));
    assert!(told("named").contains("the job names its hosts"), "{}", told("named"));
}

#[test]
fn an_elastic_job_is_asked_for_at_its_largest() {
    let mut w = with_pool(pool());
    let mut elastic = restarting("a", None);
    (elastic.resources.min_ranks, elastic.resources.max_ranks) = (Some(1), Some(6));
    w.submit(elastic);
    assert_eq!(orders(&w), ["pool@small.1 x3"]);
    w.submit(restarting("any", None));
    assert_eq!(orders(&w), ["pool@small.1 x3", "pool@small.2 x1"], "one that says nothing: a rank");
}

#[test]
fn nodes_that_nobody_waits_for_any_more_are_not_waited_for() {
    let mut w = with_pool(pool());
    w.submit(job("a", 2));
    w.slurm_of_pool("small", 1, AllocationNews::Accepted { slurm_job: 7 });
    w.slurm_of_pool("small", 1, seen("PENDING"));
    w.cancel("a", CancelMode::Now);
    assert_eq!(orders(&w), ["back pool@small.1"]);
    w.slurm_of_pool("small", 1, AllocationNews::Gone { state: "CANCELLED".to_owned() });
    assert_eq!(status(&w).failures, 0, "it was our wish");
}

#[test]
fn workers_that_are_faster_than_slurms_news_are_not_sent_back() {
    let mut w = with_pool(pool());
    w.submit(job("a", 2));
    w.slurm_of_pool("small", 1, AllocationNews::Accepted { slurm_job: 7 });
    w.slurm_of_pool("small", 1, seen("PENDING"));
    w.join_of_pool("n1-1", 2, "small", 1);
    w.train("a");
    finish(&mut w, "a");
    assert_eq!(orders(&w), ["pool@small.1 x1"]);
    w.slurm_of_pool("small", 1, seen("RUNNING"));
    w.live_on(Duration::from_secs(61));
    assert_eq!(orders(&w), ["back pool@small.1"]);
}

#[test]
fn failures_in_a_row_are_followed_by_rests_and_a_pause_that_says_why() {
    let mut w = with_pool(pool());
    w.submit(job("a", 2));
    for (number, rest) in [(1, 10), (2, 60), (3, 300), (4, 900)] {
        assert_eq!(orders(&w), [format!("pool@small.{number} x1")]);
        let words = "sbatch: error: invalid partition".to_owned();
        w.slurm_of_pool("small", number, AllocationNews::Refused { words });
        assert_eq!(status(&w).state, PoolState::Resting);
        assert!(w.status("a").waiting.unwrap().estimate.contains("invalid partition"));
        w.live_on(Duration::from_secs(rest - 1));
        assert!(orders(&w).is_empty(), "{number}");
        w.live_on(Duration::from_secs(2));
    }
    w.slurm_of_pool("small", 5, AllocationNews::Accepted { slurm_job: 5 });
    w.slurm_of_pool("small", 5, AllocationNews::Gone { state: "NODE_FAIL".to_owned() });
    let PoolStatus { state, reason, .. } = status(&w);
    assert_eq!(state, PoolState::Paused);
    assert!(reason.contains("5 allocations in a row") && reason.contains("NODE_FAIL"), "{reason}");
    assert!(reason.contains("/shared/.slurm"), "{reason}");
    w.restart();
    assert_eq!(status(&w).state, PoolState::Paused, "it is durable");
    w.pool("small", PoolOrder::Resume);
    assert_eq!(orders(&w), ["pool@small.6 x1"]);
    give(&mut w, 6, 1);
    assert_eq!((status(&w).failures, w.places("a").len()), (0, 2));
}

#[test]
fn nodes_whose_workers_do_not_come_are_a_failure_and_those_whose_do_are_none() {
    let mut w = with_pool(pool());
    w.submit(job("a", 3));
    give(&mut w, 1, 0);
    w.live_on(Duration::from_secs(121));
    assert_eq!(orders(&w), ["back pool@small.1"]);
    assert_eq!(status(&w).failures, 1);
    w.live_on(Duration::from_secs(11));
    assert_eq!(orders(&w), ["back pool@small.1", "pool@small.2 x2"]);
    give(&mut w, 2, 2);
    w.train("a");
    // SLURM takes them for another job: that is what it does.
    w.slurm_of_pool("small", 2, AllocationNews::Gone { state: "PREEMPTED".to_owned() });
    assert_eq!(status(&w).failures, 0);
}

#[test]
fn a_coordinator_that_comes_back_waits_for_its_workers_before_it_asks() {
    let mut w = with_pool(pool());
    w.submit(job("a", 2));
    give(&mut w, 1, 1);
    w.train("a");
    w.submit(job("b", 2));
    let before = ["pool@small.1 x1", "pool@small.2 x1"];
    assert_eq!(orders(&w), before);
    w.restart();
    w.submit(job("c", 2));
    assert_eq!(orders(&w), before, "who knows what comes back?");
    let allocation = Some(AllocationName::of_pool("small".parse().unwrap(), 1));
    let running = w.running_trainers("a", &[0, 1]);
    w.send_hello(WorkerHello { allocation, running, ..w.hello("n1-1", 2) });
    w.live_on(Duration::from_secs(31));
    assert_eq!(w.state("a"), JobState::Running);
    assert_eq!(orders(&w), [before[0], before[1], "pool@small.3 x1"]);
}

#[test]
fn a_pool_that_is_removed_gives_its_nodes_back_idle_ones_at_once() {
    let mut w = with_pool(pool());
    w.submit(job("a", 2));
    give(&mut w, 1, 1);
    w.train("a");
    w.submit(job("b", 2));
    give(&mut w, 2, 1);
    w.train("b");
    finish(&mut w, "b");
    w.pool("small", PoolOrder::Remove { now: false });
    assert_eq!(orders(&w), ["pool@small.1 x1", "back pool@small.2"]);
    let refused = w.pool("small", PoolOrder::Add(Box::new(pool())));
    assert!(matches!(refused, Answer::Refused(Refusal::PoolClosing(_))), "{refused:?}");
    w.slurm_of_pool("small", 2, AllocationNews::Gone { state: "CANCELLED".to_owned() });
    w.submit(job("c", 4));
    assert_eq!(orders(&w), ["pool@small.1 x1"], "it asks for nothing more");
    finish(&mut w, "a");
    assert_eq!(orders(&w), ["back pool@small.1"]);
    w.slurm_of_pool("small", 1, AllocationNews::Gone { state: "CANCELLED".to_owned() });
    assert!(w.machine.pools().is_empty());
    assert_eq!(w.machine.status(&id("c"), w.moment()).unwrap().row.state, JobState::Queued);
}

#[test]
fn orders_that_fit_nothing_are_refused_and_the_same_again_is_harmless() {
    let mut w = with_pool(pool());
    let same = w.pool("small", PoolOrder::Add(Box::new(pool())));
    assert!(matches!(same, Answer::Pool(Some(_))), "{same:?}");
    let other = w.pool("small", PoolOrder::Add(Box::new(Pool { max_workers: 9, ..pool() })));
    assert!(matches!(other, Answer::Refused(Refusal::PoolExists(_))), "{other:?}");
    let unknown = w.pool("big", PoolOrder::Resume);
    assert!(matches!(unknown, Answer::Refused(Refusal::UnknownPool(_))), "{unknown:?}");
    w.pool("small", PoolOrder::Pause { reason: "maintenance".to_owned() });
    w.submit(job("a", 1));
    assert!(orders(&w).is_empty());
    let estimate = w.status("a").waiting.unwrap().estimate;
    assert!(estimate.contains("is paused (maintenance)"), "{estimate}");
    let gone = w.pool("small", PoolOrder::Remove { now: false });
    assert_eq!(gone, Answer::Pool(None));
}

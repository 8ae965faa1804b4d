//! Claims about jobs that name their hosts: they run there, on the named slots, and nowhere else.

use common::status::{HostLack, JobState, SmallHost, TrainerEnd, WaitReason, WorkerRow};

use super::world::{World, id, on_hosts, spec};
use crate::coordinator::{Config, DrainOrder};

/// Worker and slots of each rank.
fn slots(w: &World, job: &str) -> Vec<String> {
    let attempt = w.machine.ledger().jobs[&id(job)].attempt();
    let place = |rank: &crate::coordinator::PlacedRank| {
        let slots: Vec<String> = rank.slots.iter().map(ToString::to_string).collect();
        format!("{}:{}", rank.worker_name, slots.join(","))
    };
    attempt.map_or(Vec::new(), |attempt| attempt.ranks.iter().map(place).collect())
}

fn lack(w: &World, job: &str) -> HostLack {
    let waiting = w.machine.status(&id(job), w.moment()).unwrap().waiting.unwrap();
    match waiting.reason {
        WaitReason::TooLarge(shortage) | WaitReason::Slots(shortage) => shortage.hosts.unwrap(),
        reason => panic!("{reason:?}"),
    }
}

#[test]
fn ranks_are_on_the_named_hosts_and_numbered_in_their_order() {
    let mut w = World::new(&[("a", 2), ("b", 2), ("c", 2)]);
    w.submit(on_hosts(spec("job", Some(4)), &["c", "a"]));
    assert_eq!(w.places("job"), ["c", "c", "a", "a"]);
    w.submit(on_hosts(spec("one", Some(1)), &["b"]));
    assert_eq!(w.places("one"), ["b"]);
}

#[test]
fn ranks_are_on_the_named_slots() {
    let mut w = World::new(&[("a", 4), ("b", 4)]);
    w.submit(on_hosts(spec("job", Some(3)), &["b:1,3", "a:2"]));
    assert_eq!(slots(&w, "job"), ["b:1", "b:3", "a:2"]);
    let mut wide = on_hosts(spec("wide", None), &["a:0,1,3"]);
    wide.resources.threads_per_rank = 2;
    w.submit(wide);
    assert_eq!(slots(&w, "wide"), ["a:0,1"], "the third slot holds no rank of two");
}

#[test]
fn a_host_is_a_workers_name_its_hostname_or_its_address() {
    let mut w = World::new(&[]);
    for (name, hostname, advertise) in [
        ("w0", "node00", "10.0.0.10"),
        ("w1", "node01.cluster.local", "10.0.0.11"),
        ("w2", "node02", "10.0.0.12"),
    ] {
        let mut hello = w.hello(name, 1);
        hello.hostname = hostname.to_owned();
        hello.advertise = advertise.to_owned();
        w.send_hello(hello);
    }
    // World::check_hosts knows other hostnames and addresses: the names are asked for here.
    let hosts = on_hosts(spec("job", Some(3)), &["10.0.0.12", "w0", "node01"]).resources.hosts;
    let rows = w.machine.workers();
    let nodes =
        rows.iter().map(|row| common::spec::NodeNames::new(&row.name, &row.hostname, &row.address));
    let order: Vec<_> = nodes.map(|node| hosts.as_ref().unwrap().find(&node)).collect();
    assert_eq!(order, [Some(1), Some(2), Some(0)]);
}

#[test]
fn a_job_waits_for_its_hosts_and_names_the_missing_ones() {
    let mut w = World::new(&[("a", 2), ("b", 8)]);
    w.submit(on_hosts(spec("job", Some(4)), &["a", "c", "d"]));
    assert_eq!(
        w.reason("job"),
        "needs 4 ranks of 1 slot; its hosts have 2 slots on 1 worker, room for 2 such ranks; no \
         worker is in service on 2 of its 3 hosts: `c`, `d`"
    );
    w.submit(on_hosts(spec("lost", Some(1)), &["x"]));
    assert_eq!(
        w.reason("lost"),
        "needs 1 rank of 1 slot; no worker is in service on 1 of its 1 host: `x`"
    );
    w.submit(spec("other", Some(8)));
    assert_eq!(w.places("other"), ["b"; 8], "it holds nobody up");
    w.join("d", 2);
    assert_eq!(w.places("job"), ["a", "a", "d", "d"]);
}

#[test]
fn a_worker_with_fewer_slots_than_named_is_told() {
    let mut w = World::new(&[("a", 2)]);
    w.submit(on_hosts(spec("job", Some(3)), &["a:0,1,3"]));
    assert_eq!(
        w.reason("job"),
        "needs 3 ranks of 1 slot; its hosts have 2 slots on 1 worker, room for 2 such ranks; `a` \
         has 2 slots, slot 3 is named"
    );
    let small = SmallHost { host: "a".to_owned(), slots: 2, named: 4 };
    let expected = HostLack { named: 1, missing: vec![], missing_count: 0, small: vec![small] };
    assert_eq!(lack(&w, "job"), expected);
}

#[test]
fn a_long_list_of_missing_hosts_is_cut() {
    let mut w = World::new(&[("a", 1)]);
    let names: Vec<String> = (0..100).map(|i| format!("node{i:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    w.submit(on_hosts(spec("job", Some(1)), &names));
    let HostLack { named, missing, missing_count, .. } = lack(&w, "job");
    assert_eq!((named, missing.len(), missing_count), (100, 8, 100));
    assert!(w.reason("job").ends_with("`node06`, `node07`, ..."), "{}", w.reason("job"));
}

#[test]
fn a_drained_host_is_out_of_service() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    for worker in ["a", "b"] {
        w.drain(worker, DrainOrder::Drain { reason: "mending".to_owned(), grace: None });
    }
    w.submit(on_hosts(spec("job", Some(1)), &["a"]));
    assert_eq!(
        w.reason("job"),
        "needs 1 rank of 1 slot; 1 worker is drained; no worker is in service on 1 of its 1 host: \
         `a`"
    );
    w.drain("a", DrainOrder::Undo);
    assert_eq!(w.places("job"), ["a"]);
}

#[test]
fn named_slots_are_kept_for_their_job_and_the_others_are_given_away() {
    let mut w = World::new(&[("a", 4), ("b", 1)]);
    w.submit(on_hosts(spec("busy", Some(1)), &["a:1"]));
    w.submit(on_hosts(spec("head", Some(2)), &["a:0,1"]));
    w.submit(spec("small", Some(1)));
    w.submit(on_hosts(spec("same", Some(1)), &["a:0"]));
    w.submit(on_hosts(spec("apart", Some(2)), &["a:2,3"]));
    assert_eq!(w.state("head"), JobState::Queued);
    assert_eq!(slots(&w, "small"), ["b:0"]);
    assert_eq!(w.state("same"), JobState::Queued, "slot 0 is kept");
    assert_eq!(w.reason("same"), format!("behind job `{}`, which has its turn", id("head")));
    assert_eq!(slots(&w, "apart"), ["a:2", "a:3"]);
    w.train("busy");
    w.end("busy", 0, TrainerEnd::Finished);
    assert_eq!(slots(&w, "head"), ["a:0", "a:1"]);
}

#[test]
fn jobs_on_other_hosts_do_not_wait_behind_each_other() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(on_hosts(spec("busy", Some(1)), &["a"]));
    w.submit(on_hosts(spec("head", Some(1)), &["a"]));
    w.submit(on_hosts(spec("free", Some(1)), &["b"]));
    assert_eq!(w.state("head"), JobState::Queued);
    assert_eq!(w.places("free"), ["b"]);
}

#[test]
fn expected_nodes_are_told_while_they_are_missing_and_other_workers_are_marked() {
    let expected = on_hosts(spec("job", None), &["a", "node02"]).resources.hosts;
    let config = Config { expected, ..Config::default() };
    let mut w = World::with(config);
    let told = |w: &World| {
        let rows = w.machine.workers().into_iter();
        let row = |row: WorkerRow| format!("{} {} {}", row.name, row.state, row.unlisted);
        rows.map(row).collect::<Vec<_>>()
    };
    assert_eq!(told(&w), ["a missing false", "node02 missing false"]);
    w.join("a", 1);
    w.join("b", 1);
    let mut hello = w.hello("c", 1);
    hello.hostname = "node02".to_owned();
    w.send_hello(hello);
    assert_eq!(told(&w), ["a ready false", "b ready true", "c ready false"]);
}

#[test]
fn explain_says_of_a_worker_that_it_is_not_named() {
    let mut w = World::new(&[("a", 1), ("b", 1)]);
    w.submit(on_hosts(spec("job", Some(2)), &["b"]));
    let workers = w.machine.explain(&id("job"), w.moment()).unwrap().workers;
    let lacks: Vec<&str> = workers.iter().map(|worker| worker.lacks.as_str()).collect();
    assert_eq!(lacks, ["is not one of the job's hosts", ""]);
}

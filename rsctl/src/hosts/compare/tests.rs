//! Claims about a hostfile beside the workers.

use expect_test::{Expect, expect};

use common::hostfile::Filter;

use common::status::Gpus;

use super::*;
use crate::render::hostfile::table;

const FILE: &str = "node01 slots=4\nnode02 slots=4\n10.0.0.3 slots=2\nnode04 slots=1\n";

fn chosen(text: &str, filter: &Filter) -> Chosen {
    let hostfile = Hostfile::parse("hosts.txt", text).unwrap();
    let selection = hostfile.select(filter).unwrap();
    Chosen { hostfile, selection, flags: String::new() }
}

fn worker(name: &str, hostname: &str, address: &str, slots: u32) -> WorkerRow {
    WorkerRow {
        name: name.to_owned(),
        uuid: "2f1e7f4e-6f5c-4d43-8f0c-1c52f7a1a111".to_owned(),
        incarnation: 1,
        state: "ready".to_owned(),
        address: address.to_owned(),
        slots,
        free_slots: slots,
        device: "cpu".to_owned(),
        memory_bytes: 0,
        jobs: Vec::new(),
        version: String::new(),
        last_seen: 0,
        gpus: Gpus::default(),
        libtorch: String::new(),
        hostname: hostname.to_owned(),
        unlisted: false,
        allows_commands: false,
    }
}

/// The table, then what to do.
fn check(filter: &Filter, workers: Option<&[WorkerRow]>, expected: &Expect) -> Compared {
    let chosen = chosen(FILE, filter);
    let compared = compare(&chosen, &chosen.hosts().unwrap(), workers);
    let advice: String = compared.advice().iter().map(|line| format!("{line}\n")).collect();
    expected.assert_eq(&(table(&compared) + &advice));
    compared
}

#[test]
fn without_workers_nothing_is_compared() {
    let compared = check(
        &Filter::All,
        None,
        &expect![[r#"
        HOST      LINE  SLOTS  USE       WORKER  STATE
        node01       1      4  0-3       -       -
        node02       2      4  0-3       -       -
        10.0.0.3     3      2  0-1       -       -
        node04       4      1  0         -       -
        total        -      -  11 slots  -       -
    "#]],
    );
    assert!(compared.ok && !compared.compared);
}

#[test]
fn each_host_has_its_worker_and_what_to_do() {
    let mut drained = worker("node04", "node04", "10.0.0.4", 8);
    drained.state = "drained".to_owned();
    let workers = [
        worker("w1", "node01.cluster.local", "10.0.0.1", 2),
        worker("w3", "node03", "10.0.0.3", 2),
        drained,
        worker("w9", "node09", "10.0.0.9", 2),
    ];
    let compared = check(
        &Filter::All,
        Some(&workers),
        &expect![[r#"
        HOST      LINE  SLOTS  USE       WORKER  STATE
        node01       1      4  0-3       w1      too few slots
        node02       2      4  0-3       -       missing
        10.0.0.3     3      2  0-1       w3      ready
        node04       4      1  0         node04  drained
        total        -      -  11 slots  -       -
        hosts.txt:1: worker `w1` on `node01` has 2 slots, 4 are listed: list what it has, or start it with --slots 4
        hosts.txt:2: no worker is on `node02`: run `worker join --master MASTER` there; if one runs there, name it as `rsctl workers` does
        hosts.txt:4: worker `node04` on `node04` is drained: `rsctl drain node04 --undo` takes it back into service
        1 worker not in hosts.txt: w9; jobs that are given the file never run there
    "#]],
    );
    assert!(!compared.ok);
    let states: Vec<&HostState> = compared.hosts.iter().map(|host| &host.state).collect();
    let json = serde_json::to_string(&states).unwrap();
    assert_eq!(json, r#"["too_few_slots","missing","ready","drained"]"#);
}

#[test]
fn what_a_filter_leaves_out_is_neither_wanting_nor_unlisted() {
    let filter = Filter::from_flags("node02:1,3@node04", "", None, None).unwrap();
    let workers = [
        worker("node02", "b", "10.0.0.2", 4),
        worker("node04", "d", "10.0.0.4", 1),
        worker("node01", "a", "10.0.0.1", 1),
    ];
    let compared = check(
        &filter,
        Some(&workers),
        &expect![[r#"
        HOST    LINE  SLOTS  USE      WORKER  STATE
        node02     2      4  1,3      node02  ready
        node04     4      1  0        node04  ready
        total      -      -  3 slots  -       -
    "#]],
    );
    assert!(compared.ok && compared.unlisted.is_empty());
    assert_eq!(compared.slots, 3);
}

#[test]
fn of_several_workers_on_a_host_the_one_that_can_do_most_counts() {
    let mut lost = worker("old", "node04", "10.0.0.4", 8);
    lost.state = "lost".to_owned();
    let workers = [lost, worker("new", "node04", "10.0.0.4", 1)];
    let filter = Filter::from_flags("node04", "", None, None).unwrap();
    let chosen = chosen(FILE, &filter);
    let compared = compare(&chosen, &chosen.hosts().unwrap(), Some(&workers));
    assert_eq!(compared.hosts[0].worker.as_deref(), Some("new"));
    assert!(compared.ok);
}

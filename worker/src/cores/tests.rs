//! Claims about topologies that are described as the kernel describes them.

use std::path::Path;
use std::time::{Duration, Instant};

use common::cores::CoreList;

use super::*;

/// A machine in files: its CPUs by NUMA node, and its hardware threads by physical core.
fn machine(nodes: &[&str], cores: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: String, text: &str| {
        let path = folder.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, format!("{text}\n")).unwrap();
    };
    for (node, cpus) in nodes.iter().enumerate() {
        write(format!("node/node{node}/cpulist"), cpus);
    }
    for siblings in cores {
        for cpu in list(siblings).iter() {
            write(format!("cpu/cpu{cpu}/topology/thread_siblings_list"), siblings);
        }
    }
    write("node/possible".to_owned(), "0-1");
    folder
}

fn list(text: &str) -> CoreList {
    text.parse().unwrap()
}

fn read(system: &Path, allowed: &str) -> Topology {
    Topology::read(system, &list(allowed).iter().collect::<Vec<_>>())
}

/// Two sockets of two cores with two threads each, numbered as Intel does: first all first threads,
/// alternating between the sockets.
fn two_sockets() -> tempfile::TempDir {
    machine(&["0,2,4,6", "1,3,5,7"], &["0,4", "1,5", "2,6", "3,7"])
}

fn cores(topology: Topology, given: Given, slots: usize) -> Cores {
    let namespace = format!("rustspeed-test-{}", uuid::Uuid::new_v4());
    Cores { namespace, topology, given, slots, has_quota: false }
}

fn wants(slots: &[usize]) -> Vec<Want> {
    slots.iter().map(|&slots| Want { slots, threads: slots, near: None }).collect()
}

fn cpus(claims: &[Claim]) -> Vec<String> {
    let shown = |claim: &Claim| claim.cpus().iter().copied().collect::<CoreList>().to_string();
    claims.iter().map(shown).collect()
}

/// What was claimed before comes free a moment later where another test has just forked a child, which
/// has all descriptors until it becomes its program.
fn comes_to(expected: &[&str], give: impl Fn() -> Result<Vec<Claim>, NoCores>) {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let given = give().map(|claims| cpus(&claims));
        let is_as_expected = given.as_ref().is_ok_and(|given| given == expected);
        if is_as_expected || Instant::now() > until {
            return assert_eq!(given.unwrap(), expected);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_topology_is_what_the_kernel_says_of_the_cpus_that_may_be_used() {
    let folder = two_sockets();
    let all = read(folder.path(), "0-7");
    let units: Vec<(Vec<u32>, u32)> =
        all.cores().iter().map(|core| (core.cpus.clone(), core.node)).collect();
    assert_eq!(units, [(vec![0, 4], 0), (vec![2, 6], 0), (vec![1, 5], 1), (vec![3, 7], 1)]);
    let threads: Vec<u32> = all.threads().iter().map(|unit| unit.cpus[0]).collect();
    assert_eq!(threads, [0, 2, 1, 3, 4, 6, 5, 7]);
    // A mask that leaves one thread of a core leaves a core.
    let odd = read(folder.path(), "4-6");
    assert_eq!((odd.len(), odd.cpus().collect::<Vec<_>>()), (3, vec![4, 6, 5]));
    // Nothing is told: every CPU is a core.
    let bare = tempfile::tempdir().unwrap();
    assert_eq!(read(bare.path(), "0-2").len(), 3);
}

#[test]
fn bound_ranks_have_whole_cores_of_one_node_and_share_no_sibling() {
    let folder = two_sockets();
    for (allowed, slots, ranks, expected) in [
        // DeepSpeed's case: the ranks are all the slots, and split the node.
        ("0-7", 2, vec![1, 1], vec!["0,2,4,6", "1,3,5,7"]),
        ("0-7", 4, vec![1, 1, 1, 1], vec!["0,4", "2,6", "1,5", "3,7"]),
        ("0-7", 1, vec![1], vec!["0-7"]),
        // What is left of an uneven split stays free.
        ("0-7", 3, vec![1, 1, 1], vec!["0,4", "2,6", "1,5"]),
        // Part of the slots is part of the cores; the second pair fits into the other socket.
        ("0-7", 4, vec![2, 1], vec!["0,2,4,6", "1,5"]),
        ("0-7", 4, vec![1, 2, 1], vec!["0,4", "1,3,5,7", "2,6"]),
        ("0-7", 4, vec![3], vec!["0-2,4-6"]),
        // A cpuset of SLURM's that cuts cores in two.
        ("1-3,5", 3, vec![1, 1, 1], vec!["2", "1,5", "3"]),
        ("0-3", 2, vec![1, 1], vec!["0,2", "1,3"]),
    ] {
        let cores = cores(read(folder.path(), allowed), Given::Cores, slots);
        let claims = cores.give(&wants(&ranks)).unwrap();
        assert_eq!(cpus(&claims), expected, "{allowed} as {slots} slots to {ranks:?}");
        assert!(claims.iter().all(|claim| claim.bound().is_some() && !claim.mask().is_empty()));
    }
}

#[test]
fn a_rank_is_near_its_gpu_where_that_node_has_room() {
    let folder = two_sockets();
    let cores = cores(read(folder.path(), "0-7"), Given::Cores, 4);
    let near = |node| Want { slots: 1, threads: 1, near: Some(node) };
    let claims = cores.give(&[near(1), near(1), near(1), near(9)]).unwrap();
    assert_eq!(cpus(&claims), ["1,5", "3,7", "0,4", "2,6"]);
}

#[test]
fn more_ranks_than_cores_are_told_with_the_numbers() {
    let folder = two_sockets();
    let cores = cores(read(folder.path(), "0-7"), Given::Cores, 8);
    let error = cores.bind(None, &wants(&[1; 5])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "5 ranks of 1 physical core each do not fit into 4 physical cores"
    );
    assert!(error.is_for_ever());
    let error = cores.bind(Some(&list("0-1")), &wants(&[1; 3])).unwrap_err();
    assert!(error.to_string().ends_with("do not fit into 2 physical cores"), "{error}");
    let error = cores.bind(Some(&list("6-9")), &wants(&[1])).unwrap_err();
    assert_eq!(error.to_string(), "`6-9`: CPU 8 is none of those that may be used here, 0-7");
}

#[test]
fn a_list_is_split_evenly_whatever_the_slots() {
    let folder = two_sockets();
    for (text, each, expected) in [
        ("0-3", [2, 2], vec!["0,2", "1,3"]),
        ("0-7", [2, 2], vec!["0,2,4,6", "1,3,5,7"]),
        ("0,4,1", [1, 1], vec!["0,4", "1"]),
        ("0-2,4", [1, 1], vec!["1", "0,4"]),
    ] {
        let cores = cores(read(folder.path(), "0-7"), Given::Nothing, 8);
        let claims = cores.bind(Some(&list(text)), &wants(&[1, 1])).unwrap();
        assert_eq!(cpus(&claims), expected, "{text}");
        let bound: Vec<usize> = claims.iter().filter_map(Claim::bound).collect();
        assert_eq!(bound, each, "{text}");
    }
    let cores = cores(read(folder.path(), "0-7"), Given::Nothing, 8);
    assert!(cores.give(&wants(&[1])).unwrap()[0].cpus().is_empty(), "unasked they float");
}

#[test]
fn a_cpu_has_one_rank_at_a_time_over_all_workers() {
    let folder = two_sockets();
    let one = cores(read(folder.path(), "0-7"), Given::Cores, 4);
    let other = Cores { given: Given::Threads, ..one.clone() };
    let first = one.give(&wants(&[1, 1])).unwrap();
    assert_eq!(cpus(&first), ["0,4", "2,6"]);
    // Pinned threads keep off both threads of a bound core.
    let pinned = other.give(&wants(&[1, 1, 1, 1, 1])).unwrap();
    assert_eq!(cpus(&pinned), ["1", "3", "5", "7", ""], "the last one floats");
    assert!(pinned.iter().all(|claim| claim.bound().is_none() && claim.mask().is_empty()));
    let error = one.give(&wants(&[1])).unwrap_err();
    assert!(
        !error.is_for_ever()
            && error.to_string().ends_with("4 physical cores: others have some of them"),
        "{error}"
    );
    drop(pinned);
    comes_to(&["1,3,5,7"], || one.give(&wants(&[2])));
    drop(first);
    comes_to(&["0,4"], || one.give(&wants(&[1])));
}

#[test]
fn pinned_ranks_have_physical_cores_before_second_threads() {
    let folder = two_sockets();
    let cores = cores(read(folder.path(), "0-7"), Given::Threads, 8);
    let claims = cores.give(&wants(&[1; 5])).unwrap();
    assert_eq!(cpus(&claims), ["0", "2", "1", "3", "4"]);
    drop(claims);
    // A slot that is a GPU has a CPU for each thread all the same, and near it.
    let of_gpu = Want { slots: 1, threads: 2, near: Some(1) };
    comes_to(&["1,3"], || cores.give(&[of_gpu]));
    // Two threads of one rank are on one node.
    comes_to(&["0", "1,3", "2"], || cores.give(&wants(&[1, 2, 1])));
}

#[test]
fn this_machine_pins_nobody_where_slots_exceed_its_cpus() {
    let cores = Cores::of_this_machine(&Use::Pin, u32::MAX);
    assert_eq!(cores.given, Given::Nothing);
    let here = Cores::of_this_machine(&Use::Bind(None), 1);
    assert!(here.binds() && here.topology.len() >= 1);
    assert!(here.topology.cpus().count() >= here.topology.len());
}

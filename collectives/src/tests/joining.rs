//! Making the mesh: who is let in, over what, and who is named when it fails.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use super::world::{LOOPBACK, SOON, World, connect_all, run_all, timed};
use crate::{ConnectError, Listener, Mesh, MeshConfig, Transport, listener::local_address};

/// Of ranks that wait for one that does not come: the others must have joined by then.
const DEADLINE: Duration = Duration::from_secs(3);

#[test]
fn pairs_share_memory_unless_one_end_says_tcp() {
    let paths = World::mixed(4).run(|mesh| {
        let mut communicator = mesh.communicator(0).unwrap();
        communicator.barrier().unwrap();
        mesh.describe()
    });
    for (own, paths) in paths.iter().enumerate() {
        assert_eq!(paths.len(), 3);
        for path in paths {
            let says_tcp = own % 2 == 1 || path.rank % 2 == 1;
            let expected = if says_tcp { Transport::Tcp } else { Transport::SharedMemory };
            assert_eq!(path.transport, expected, "{own} to {}", path.rank);
            assert_eq!(path.worker, format!("worker-{}", path.rank));
        }
    }
}

#[test]
fn a_name_of_another_network_namespace_means_tcp() {
    let mut plan = World::new(2, Transport::Auto).plan();
    plan[1].1.peers[0].unix_name = "rustspeed-not-of-this-namespace".to_owned();
    let meshes: Vec<Mesh> = connect_all(plan).into_iter().map(Result::unwrap).collect();
    assert_eq!(meshes[0].describe()[0].transport, Transport::Tcp);
    assert_eq!(meshes[1].describe()[0].transport, Transport::Tcp);
}

#[test]
fn shared_memory_by_force_fails_where_there_is_none() {
    let mut plan = World::new(2, Transport::SharedMemory).plan();
    plan[1].1.transport = Transport::Tcp;
    let (results, took) = timed(|| connect_all(plan));
    assert!(took < SOON, "{took:?}");
    for (rank, result) in (0..).zip(results) {
        let error = result.unwrap_err();
        let other = 1 - rank;
        assert!(
            matches!(error, ConnectError::NoSharedMemory { rank, own, .. } if (rank, own) == (other, 1 - other)),
            "{error}"
        );
    }
}

#[test]
fn missing_ranks_are_named_at_the_deadline() {
    let mut plan = World::new(4, Transport::Auto).connect_timeout(DEADLINE).plan();
    // Rank 2 never comes: its sockets are closed.
    drop(plan.remove(2));
    let (results, took) = timed(|| connect_all(plan));
    assert!(took < DEADLINE + SOON, "{took:?}");
    for result in results {
        let error = result.unwrap_err();
        let ConnectError::Missing { missing, after } = &error else { panic!("{error}") };
        let named: Vec<_> = missing.iter().map(|peer| (peer.rank, peer.worker.as_str())).collect();
        assert_eq!((named, *after), (vec![(2, "worker-2")], DEADLINE), "{error}");
    }
}

#[test]
fn a_bound_but_silent_rank_is_missing_too() {
    let mut plan = World::new(2, Transport::Tcp).connect_timeout(DEADLINE).plan();
    let silent = plan.remove(0);
    let error = connect_all(plan).pop().unwrap().unwrap_err();
    assert!(error.to_string().contains("rank 0 (worker `worker-0`"), "{error}");
    assert!(error.to_string().contains("handshake: no answer"), "{error}");
    drop(silent);
}

#[test]
fn who_has_another_token_is_not_let_in() {
    for transport in [Transport::SharedMemory, Transport::Tcp] {
        let world = World::new(3, transport).connect_timeout(DEADLINE);
        let mut plan = world.plan();
        plan[2].1.token = [0; 16];
        let results = connect_all(plan);
        for (own, result) in results.into_iter().enumerate() {
            let ConnectError::Missing { missing, .. } = result.unwrap_err() else { panic!() };
            let named: Vec<_> = missing.iter().map(|peer| peer.rank).collect();
            let expected = if own == 2 { vec![0, 1] } else { vec![2] };
            assert_eq!(named, expected, "rank {own}");
            if own == 2 {
                assert!(missing[0].reason.contains("another token"), "{missing:?}");
            }
        }
    }
}

#[test]
fn strangers_on_the_port_keep_nobody_waiting() {
    for transport in [Transport::Auto, Transport::Tcp] {
        // A stranger may take 5 s. The best of a few: this machine may have other work.
        let took: Vec<Duration> = (0..3).map(|_| join_among_strangers(transport)).collect();
        assert!(took.iter().min() < Some(&Duration::from_secs(2)), "{took:?}");
    }
}

/// How long the ranks took to meet.
fn join_among_strangers(transport: Transport) -> Duration {
    let plan = World::new(3, transport).plan();
    let (listener, config) = &plan[0];
    let address = listener.address();
    let name = local_address(listener.unix_name()).unwrap();
    let mut strangers: Vec<TcpStream> =
        (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut local = UnixStream::connect_addr(&name).unwrap();
    local.write_all(b"GET / HTTP/1.1\r\nHost: wherever.example\r\n\r\n... and more").unwrap();
    for (at, stranger) in strangers.iter_mut().enumerate() {
        let babble = [b'x'; 200];
        // Some say nothing, some too little, some too much.
        stranger.write_all(&babble[..at * 10]).unwrap();
    }
    // A well-formed hello without the token gets a challenge and nothing more.
    let mut hello = TcpStream::connect(address).unwrap();
    hello.write_all(&forged_hello(config)).unwrap();
    hello.write_all(&[0; 32]).unwrap();
    let (meshes, took) = timed(|| connect_all(plan));
    let meshes = meshes.into_iter().map(Result::unwrap).collect();
    run_all(meshes, |mesh| mesh.communicator(0).unwrap().barrier().unwrap());
    let mut answer = Vec::new();
    // The door is closed, with or without a reset; what came before is the challenge alone.
    let _ = hello.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.len() == 56, "{} bytes", answer.len());
    took
}

/// What anybody could send who knows the protocol but not the token.
fn forged_hello(config: &MeshConfig) -> Vec<u8> {
    let mut hello = b"RSMESH01".to_vec();
    for number in [1, 0, config.world, config.channels, u32::MAX] {
        hello.extend(number.to_le_bytes());
    }
    hello.resize(48, 7);
    hello
}

#[test]
fn ranks_that_differ_about_the_mesh_are_told_what_about() {
    let mut plan = World::new(2, Transport::Auto).plan();
    plan[1].1.channels = 5;
    for (rank, result) in (0..).zip(connect_all(plan)) {
        let error = result.unwrap_err().to_string();
        let (ours, theirs) = if rank == 0 { (1, 5) } else { (5, 1) };
        let other = 1 - rank;
        let expected =
            format!("rank {other} disagrees about channels: here {ours}, there {theirs}");
        assert_eq!(error, expected);
    }
}

#[test]
fn a_peer_that_comes_late_is_waited_for() {
    let mut plan = World::new(2, Transport::Auto).plan();
    let (late, early) = (plan.remove(0), plan.remove(0));
    thread::scope(|scope| {
        let early = scope.spawn(|| Mesh::connect(Some(early.0), early.1));
        while !early.is_finished() && !has_knocked(&late.0) {
            thread::yield_now();
        }
        Mesh::connect(Some(late.0), late.1).unwrap();
        early.join().unwrap().unwrap();
    });
}

fn has_knocked(listener: &Listener) -> bool {
    use std::os::fd::AsFd as _;
    let mut entries = [crate::link::sys::poll_entry(listener.local.as_fd(), true, false)];
    crate::link::sys::poll(&mut entries, Duration::ZERO)
}

#[test]
fn configurations_that_cannot_work_are_refused_by_field() {
    let check = |change: &dyn Fn(&mut MeshConfig), expected: &str| {
        let (listener, mut config) = World::new(2, Transport::Auto).plan().remove(0);
        change(&mut config);
        let error = Mesh::connect(Some(listener), config).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(&|config| config.rank = 2, "rank = 2: less than world = 2");
    check(&|config| config.channels = 0, "channels = 0: 1 to 16");
    check(
        &|config| config.peers.truncate(1),
        "peers = 0 rows for rank 1: one row for every other rank",
    );
    check(
        &|config| config.peers[1].rank = 9,
        "peers = a row for rank 9: ranks less than world = 2",
    );
    let (_, config) = World::new(2, Transport::Auto).plan().remove(0);
    let error = Mesh::connect(None, config).unwrap_err().to_string();
    assert_eq!(error, "listener = none: a listener on every rank but the highest");
}

#[test]
fn the_token_is_not_in_the_debug_text() {
    let (_, config) = World::new(1, Transport::Auto).plan().remove(0);
    let token = format!("{:?}", config.token);
    assert!(!format!("{config:?}").contains(&token));
}

#[test]
fn names_are_not_guessable_and_ports_are_bound() {
    let [one, other] = [(); 2].map(|()| Listener::bind(LOOPBACK).unwrap());
    assert_ne!(one.unix_name(), other.unix_name());
    assert_eq!(one.unix_name().len(), "rustspeed-".len() + 32);
    assert_ne!(one.address().port(), 0);
}

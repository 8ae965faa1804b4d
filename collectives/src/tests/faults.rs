//! Peers that vanish, time out or abort: a typed error on every rank, soon.

use std::{
    sync::{Barrier, mpsc},
    thread,
    time::Duration,
};

use super::world::{SOON, World, run_all, timed};
use crate::{Communicator, DataType, Error, Mesh, OpKind, ReduceOp};

fn reduce_much(communicator: &mut Communicator) -> Result<(), Error> {
    communicator.all_reduce(&mut vec![0; 8 << 20], DataType::F32, ReduceOp::Sum)
}

#[test]
fn a_rank_that_leaves_while_it_is_needed_is_named_on_every_other() {
    for size in [2, 4] {
        for world in World::all_kinds(size) {
            let errors = world.run(|mesh| {
                let mut communicator = mesh.communicator(0).unwrap();
                reduce_much(&mut communicator).unwrap();
                if communicator.rank() == 1 {
                    return None;
                }
                let (result, took) = timed(|| reduce_much(&mut communicator));
                assert!(took < SOON, "{took:?}");
                Some(result.unwrap_err())
            });
            for error in errors.into_iter().flatten() {
                let Error::PeerLost { rank: 1, worker, op: OpKind::AllReduce, sequence: 1 } = error
                else {
                    panic!("{error}");
                };
                assert_eq!(worker, "worker-1");
            }
        }
    }
}

#[test]
fn a_rank_that_leaves_after_its_last_operation_disturbs_nobody() {
    for world in World::all_kinds(4) {
        world.run(|mesh| {
            let mut communicator = mesh.communicator(0).unwrap();
            reduce_much(&mut communicator).unwrap();
            communicator.barrier().unwrap();
            // Ranks leave here at different times, some while others are still in the barrier.
        });
    }
}

#[test]
fn ranks_that_do_not_need_the_one_that_left_go_on() {
    for world in World::all_kinds(3) {
        let left = Barrier::new(3);
        world.run(|mesh| {
            let mut communicator = mesh.communicator(0).unwrap();
            let rank = communicator.rank();
            communicator.barrier().unwrap();
            if rank == 2 {
                drop((communicator, mesh));
                left.wait();
                return;
            }
            left.wait();
            for round in 0..50_u8 {
                let mut got = [0];
                if rank == 0 {
                    communicator.send(1, &[round]).unwrap();
                } else {
                    communicator.recv(0, &mut got).unwrap();
                    assert_eq!(got, [round]);
                }
            }
        });
    }
}

#[test]
fn a_panicking_rank_is_lost_not_gone_in_peace() {
    for world in World::all_kinds(2) {
        let errors = world.run(|mesh| {
            let mut communicator = mesh.communicator(0).unwrap();
            communicator.barrier().unwrap();
            if communicator.rank() == 0 {
                let end = thread::spawn(move || {
                    let _mesh = (mesh, communicator);
                    panic!("a rank's panic, expected by this test");
                });
                end.join().unwrap_err();
                return None;
            }
            Some(communicator.barrier().unwrap_err())
        });
        assert!(
            matches!(errors[1], Some(Error::PeerLost { rank: 0, sequence: 1, .. })),
            "{errors:?}"
        );
    }
}

#[test]
fn the_timeout_names_the_rank_that_did_not_come() {
    let timeout = Duration::from_millis(300);
    for world in World::all_kinds(3) {
        let (over, wait) = mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let errors = world.channels(2).collective_timeout(timeout).run(|mesh| {
            let over = over.clone();
            let mut communicator = mesh.communicator(0).unwrap();
            if communicator.rank() == 2 {
                // Alive but elsewhere until both others have given up.
                let wait = wait.lock().unwrap();
                wait.recv_timeout(SOON).unwrap();
                wait.recv_timeout(SOON).unwrap();
                return mesh.communicator(1).unwrap().barrier().unwrap_err();
            }
            let (result, took) = timed(|| reduce_much(&mut communicator));
            over.send(()).unwrap();
            assert!(took < SOON, "{took:?}");
            result.unwrap_err()
        });
        assert!(
            errors[..2].iter().any(|error| matches!(
                error,
                Error::Timeout { op: OpKind::AllReduce, sequence: 0, waiting_for, after }
                    if waiting_for.contains(&2) && *after == timeout
            )),
            "{errors:?}"
        );
        for error in &errors[..2] {
            let text = error.to_string();
            assert!(text.contains("timed out after 300ms waiting for rank"), "{text}");
        }
        assert!(matches!(errors[2], Error::Aborted { by: Some(0 | 1), .. }), "{errors:?}");
    }
}

#[test]
fn an_abort_ends_operations_here_and_on_every_peer() {
    for world in World::all_kinds(3) {
        let meshes = world.channels(2).connect();
        let abort = meshes[0].abort_handle();
        let (started, all_started) = mpsc::channel();
        let errors = thread::scope(|scope| {
            scope.spawn(move || {
                for _ in 0..3 {
                    all_started.recv_timeout(SOON).unwrap();
                }
                abort.abort("cancelled by the user");
                abort.abort("too late to matter");
            });
            run_all(meshes, |mesh: Mesh| {
                let [mut communicator, mut other] =
                    [0, 1].map(|channel| mesh.communicator(channel).unwrap());
                let rank = communicator.rank();
                started.send(()).unwrap();
                // Rank 2 waits on another channel: only the abort can end either wait.
                let (result, took) = timed(|| match rank {
                    2 => other.barrier(),
                    _ => reduce_much(&mut communicator),
                });
                assert!(took < SOON, "{took:?}");
                // The mesh stays unusable, with the same reason.
                let later = communicator.barrier().unwrap_err();
                assert!(later.to_string().contains("cancelled by the user"), "{later}");
                result.unwrap_err()
            })
        });
        for (rank, error) in errors.iter().enumerate() {
            let expected = if rank == 0 { None } else { Some(0) };
            let is_expected = matches!(
                error,
                Error::Aborted { by, reason, .. }
                    if *by == expected && reason == "cancelled by the user"
            );
            assert!(is_expected, "rank {rank}: {error}");
        }
    }
}

#[test]
fn an_abort_ends_a_stream_of_operations_that_never_wait_long() {
    for world in World::all_kinds(2) {
        let meshes = world.connect();
        let abort = meshes[1].abort_handle();
        let (running, is_running) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                is_running.recv_timeout(SOON).unwrap();
                let (_, took) = timed(|| abort.abort("enough"));
                assert!(took < SOON, "{took:?}");
            });
            run_all(meshes, |mesh| {
                let mut communicator = mesh.communicator(0).unwrap();
                let error = loop {
                    if let Err(error) = reduce_much(&mut communicator) {
                        break error;
                    }
                    let _ = running.send(());
                };
                assert!(error.to_string().contains("enough"), "{error}");
            });
        });
    }
}

#[test]
fn an_abort_takes_less_than_a_tenth_of_a_second() {
    for world in World::all_kinds(2) {
        // The best of a few: this machine may have other work, the contract has not.
        let best = (0..5).map(|_| abort_time(&world)).min();
        assert!(best < Some(Duration::from_millis(100)), "{best:?}");
    }
}

/// From the abort to the return of an operation that waits for a peer.
fn abort_time(world: &World) -> Duration {
    let mut meshes = world.connect();
    let idle = meshes.pop().unwrap();
    let mesh = meshes.pop().unwrap();
    let abort = mesh.abort_handle();
    let (entered, has_entered) = mpsc::channel();
    let waiting = thread::spawn(move || {
        let mut communicator = mesh.communicator(0).unwrap();
        entered.send(()).unwrap();
        communicator.barrier().unwrap_err()
    });
    has_entered.recv_timeout(SOON).unwrap();
    let (_, took) = timed(|| {
        abort.abort("now");
        waiting.join().unwrap()
    });
    drop(idle);
    took
}

//! A7: ranks that disagree are told so, and bad arguments never reach a peer.

use super::world::{SOON, World, timed};
use crate::{DataType, Error, Mesh, OpKind, ReduceOp, Transport};

const F32_SUM: (DataType, ReduceOp) = (DataType::F32, ReduceOp::Sum);

/// Runs `acts` (by rank) and gives back the errors; every rank must have one, and soon.
fn errors_of(
    world: &World,
    act: impl Fn(&mut crate::Communicator) -> Result<(), Error> + Sync,
) -> Vec<Error> {
    world.run(|mesh| {
        let mut communicator = mesh.communicator(0).unwrap();
        communicator.barrier().unwrap();
        let (result, took) = timed(|| act(&mut communicator));
        assert!(took < SOON, "{took:?}");
        result.unwrap_err()
    })
}

/// At least one rank has seen the disagreement itself; the others have, or were told by one that has.
fn assert_mismatch(errors: &[Error], words: [&str; 2]) {
    assert!(errors.iter().any(|error| matches!(error, Error::Mismatch { .. })), "{errors:?}");
    for (rank, error) in (0..).zip(errors) {
        let is_told = match error {
            Error::Mismatch { rank: other, sequence, .. } => *sequence == 1 && *other != rank,
            Error::Aborted { by: Some(by), .. } => *by != rank,
            _ => false,
        };
        let text = error.to_string();
        assert!(is_told && words.iter().all(|word| text.contains(word)), "rank {rank}: {text}");
    }
}

#[test]
fn different_operations_are_a_mismatch_that_names_both() {
    for size in [2, 3] {
        for world in World::all_kinds(size) {
            let errors = errors_of(&world, |communicator| {
                let mut data = vec![0; 400_000];
                if communicator.rank() == 1 {
                    return communicator.broadcast(&mut data, 0);
                }
                communicator.all_reduce(&mut data, F32_SUM.0, F32_SUM.1)
            });
            assert_mismatch(
                &errors,
                ["all_reduce sum f32 of 400000 bytes", "broadcast from rank 0"],
            );
        }
    }
}

#[test]
fn different_lengths_types_and_reductions_are_mismatches() {
    for world in World::all_kinds(2) {
        let errors = errors_of(&world, |communicator| {
            let mut data = vec![0; 64 + 4 * communicator.rank() as usize];
            communicator.all_reduce(&mut data, F32_SUM.0, F32_SUM.1)
        });
        assert_mismatch(&errors, ["of 64 bytes", "of 68 bytes"]);
        let errors = errors_of(&world, |communicator| {
            let data_type = [DataType::F32, DataType::I64][communicator.rank() as usize];
            communicator.all_reduce(&mut [0; 64], data_type, ReduceOp::Sum)
        });
        assert_mismatch(&errors, ["sum f32", "sum i64"]);
        let errors = errors_of(&world, |communicator| {
            let op = [ReduceOp::Sum, ReduceOp::Max][communicator.rank() as usize];
            communicator.all_reduce(&mut [0; 64], DataType::F32, op)
        });
        assert_mismatch(&errors, ["sum f32", "max f32"]);
    }
}

#[test]
fn a_rank_that_skipped_an_operation_is_named_with_both_sequence_numbers() {
    let errors = World::new(2, Transport::SharedMemory).run(|mesh| {
        let mut communicator = mesh.communicator(0).unwrap();
        let count = 4 + communicator.rank();
        // Rank 1 issues a fifth broadcast where rank 0 comes to its barrier.
        for _ in 0..count {
            let sent = communicator.broadcast(&mut [1], 1);
            if let Err(error) = sent {
                return error;
            }
        }
        communicator.barrier().unwrap_err()
    });
    assert!(
        errors.iter().any(|error| matches!(
            error,
            Error::Mismatch { sequence: 4, their_sequence: 4, ours, theirs, .. }
                if ours.kind != theirs.kind
        )),
        "{errors:?}"
    );
}

#[test]
fn a_mismatched_transfer_is_an_error_on_the_receiver() {
    let results = World::new(2, Transport::Auto).run(|mesh| {
        let mut communicator = mesh.communicator(0).unwrap();
        match communicator.rank() {
            0 => communicator.send(1, &[1, 2, 3]).map(|()| Vec::new()),
            _ => {
                let mut short = vec![0; 2];
                communicator.recv(0, &mut short).map(|()| short)
            }
        }
    });
    assert!(results[0].is_ok());
    assert!(
        matches!(
            &results[1],
            Err(Error::Mismatch { rank: 0, sequence: 0, ours, theirs, .. })
                if ours.kind == OpKind::Transfer && (ours.bytes, theirs.bytes) == (2, 3)
        ),
        "{results:?}"
    );
}

#[test]
fn bad_arguments_are_refused_and_leave_the_mesh_whole() {
    World::new(2, Transport::Auto).run(|mesh| {
        let mut communicator = mesh.communicator(0).unwrap();
        let own = communicator.rank();
        let (kind, op) = F32_SUM;
        let check = |result: Result<(), Error>, expected: &str| {
            assert_eq!(result.unwrap_err().to_string(), expected);
        };
        check(
            communicator.all_reduce(&mut [0; 6], kind, op),
            "all_reduce: data is 6 bytes, expected a multiple of 4 (f32)",
        );
        check(
            communicator.reduce_scatter(&[0; 12], &mut [0; 8], kind, op),
            "reduce_scatter: input is 12 bytes, expected 16 (2 parts of 8)",
        );
        check(
            communicator.all_gather(&[0; 3], &mut [0; 5]),
            "all_gather: output is 5 bytes, expected 6 (2 parts of 3)",
        );
        check(
            communicator.reduce_scatter_in_place(&mut [0; 12], kind, op),
            "reduce_scatter: buffer is 12 bytes, expected a multiple of 8 (2 parts of whole elements)",
        );
        let expected = format!("broadcast: rank 2 is not a peer of rank {own} in a world of 2");
        check(communicator.broadcast(&mut [0], 2), &expected);
        let expected = format!("send/recv: rank {own} is not a peer of rank {own} in a world of 2");
        check(communicator.send(own, &[0]), &expected);
        communicator.barrier().unwrap();
    });
}

#[test]
fn a_channel_is_handed_out_once() {
    let mesh = Mesh::solo(1);
    let _taken = mesh.communicator(0).unwrap();
    assert!(matches!(mesh.communicator(0), Err(Error::ChannelTaken { channel: 0 })));
    assert!(matches!(mesh.communicator(1), Err(Error::NoSuchChannel { channel: 1, channels: 1 })));
}

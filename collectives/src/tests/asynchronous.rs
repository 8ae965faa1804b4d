//! The communication thread, and several communicators of one mesh at once.

use std::thread;

use super::world::World;
use crate::{
    AsyncCommunicator, Communicator, DataType, Error, Mesh, Operation, ReduceOp, Transport,
};

fn ones(elements: usize) -> Vec<u8> {
    1.0_f32.to_ne_bytes().repeat(elements)
}

fn all_are(value: f32, bytes: &[u8]) -> bool {
    bytes.chunks_exact(4).all(|element| element == value.to_ne_bytes())
}

#[test]
fn operations_run_in_the_order_they_were_started() {
    for world in World::all_kinds(3) {
        world.run(|mesh| {
            let communicator = AsyncCommunicator::spawn(mesh.communicator(0).unwrap()).unwrap();
            let started: Vec<_> = (0..100)
                .map(|at| {
                    communicator.all_reduce(ones(at * 97), DataType::F32, ReduceOp::Sum).unwrap()
                })
                .collect();
            let barrier = communicator.barrier().unwrap();
            for (at, pending) in started.into_iter().enumerate() {
                let result = pending.wait().unwrap();
                assert!(result.len() == at * 97 * 4 && all_are(3.0, &result));
            }
            barrier.wait().unwrap();
        });
    }
}

#[test]
#[expect(unsafe_code, reason = "raw operations")]
fn raw_operations_work_on_the_caller_s_buffers() {
    World::new(2, Transport::Auto).run(|mesh| {
        let communicator = AsyncCommunicator::spawn(mesh.communicator(0).unwrap()).unwrap();
        let rank = communicator.rank() as usize;
        let (mut whole, mut part) = (ones(2000), ones(1000));
        let (whole_at, part_at) = (whole.as_mut_ptr(), part.as_mut_ptr());
        let (data_type, op) = (DataType::F32, ReduceOp::Sum);
        let operations = [
            Operation::ReduceScatter {
                input: whole_at,
                input_len: 8000,
                output: part_at,
                output_len: 4000,
                data_type,
                op,
            },
            Operation::AllGather {
                input: part_at,
                input_len: 4000,
                output: whole_at,
                output_len: 8000,
            },
            Operation::ReduceScatterInPlace { data: whole_at, len: 8000, data_type, op },
            Operation::AllGatherInPlace { data: whole_at, len: 8000 },
            Operation::AllReduce { data: whole_at, len: 8000, data_type, op },
            Operation::Broadcast { data: whole_at, len: 8000, root: 1 },
            Operation::AllReduce { data: std::ptr::null_mut(), len: 0, data_type, op },
            Operation::Barrier,
        ];
        let started: Vec<_> = operations
            .into_iter()
            // SAFETY: the buffers live until the waits below are over, and nobody looks before.
            .map(|operation| unsafe { communicator.start(operation) }.unwrap())
            .collect();
        for pending in started {
            pending.wait().unwrap();
        }
        assert!(all_are(2.0, &part) && all_are(8.0, &whole), "rank {rank}");
    });
}

#[test]
fn the_communicator_comes_back_in_step() {
    World::new(2, Transport::Auto).run(|mesh| {
        let communicator = AsyncCommunicator::spawn(mesh.communicator(0).unwrap()).unwrap();
        let pending = communicator.barrier().unwrap();
        drop(pending);
        let mut communicator: Communicator = communicator.join().unwrap();
        let mut data = ones(10);
        communicator.all_reduce(&mut data, DataType::F32, ReduceOp::Sum).unwrap();
        assert!(all_are(2.0, &data));
    });
}

#[test]
fn an_abort_reaches_what_is_queued() {
    World::new(2, Transport::Auto).run(|mesh| {
        let communicator = AsyncCommunicator::spawn(mesh.communicator(0).unwrap()).unwrap();
        if communicator.rank() == 1 {
            // Never takes part; its end of the mesh stays until the abort has arrived.
            let mut communicator = communicator.join().unwrap();
            assert!(matches!(communicator.recv(0, &mut [0]), Err(Error::Aborted { .. })));
            return;
        }
        let waiting: Vec<_> = (0..10).map(|_| communicator.barrier().unwrap()).collect();
        mesh.abort_handle().abort("the user asked for it");
        for pending in waiting {
            let error = pending.wait().unwrap_err();
            assert!(matches!(error, Error::Aborted { by: None, .. }), "{error}");
        }
    });
}

#[test]
fn channels_do_not_disturb_each_other() {
    for world in World::all_kinds(3) {
        world.channels(3).run(|mesh| {
            let mesh: &Mesh = &mesh;
            thread::scope(|scope| {
                for channel in 0..3 {
                    scope.spawn(move || {
                        let mut communicator = mesh.communicator(channel).unwrap();
                        // Each channel goes its own way: other sizes, another number of operations.
                        for round in 0..20 * (channel as usize + 1) {
                            let mut data = ones(round * 331 * (channel as usize + 1));
                            communicator
                                .all_reduce(&mut data, DataType::F32, ReduceOp::Sum)
                                .unwrap();
                            assert!(all_are(3.0, &data));
                        }
                        communicator.barrier().unwrap();
                    });
                }
            });
        });
    }
}

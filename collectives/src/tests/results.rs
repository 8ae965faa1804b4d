//! Every operation against a naive computation in rank order, bit for bit.

use half::{bf16, f16};
use proptest::prelude::*;

use super::world::World;
use crate::{Communicator, DataType, Mesh, ReduceOp, Transport};

/// A rank's input: reproducible, different on every rank, with values that make rounding visible.
fn input(data_type: DataType, rank: u32, elements: usize, seed: u64) -> Vec<u8> {
    let mut state = seed ^ (u64::from(rank) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut bytes = Vec::with_capacity(elements * data_type.size());
    for _ in 0..elements {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let unit = (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5;
        let value = unit * f64::from(1_u32 << (state % 12));
        match data_type {
            DataType::F32 => bytes.extend((value as f32).to_ne_bytes()),
            DataType::F64 => bytes.extend(value.to_ne_bytes()),
            DataType::Bf16 => bytes.extend(bf16::from_f64(value).to_ne_bytes()),
            DataType::F16 => bytes.extend(f16::from_f64(value).to_ne_bytes()),
            DataType::I64 => bytes.extend(state.cast_signed().to_ne_bytes()),
            DataType::U8 => bytes.push(state as u8),
        }
    }
    bytes
}

/// The reduction of all ranks' inputs, element by element in rank order.
fn naive(data_type: DataType, op: ReduceOp, inputs: &[Vec<u8>]) -> Vec<u8> {
    let size = data_type.size();
    let element = |rank: usize, at: usize| &inputs[rank][at * size..(at + 1) * size];
    let world = inputs.len();
    let mut result = Vec::new();
    macro_rules! fold {
        ($at:expr, $read:expr, $add:expr, $divide:expr) => {{
            let mut value = $read(element(0, $at));
            for rank in 1..world {
                let next = $read(element(rank, $at));
                value = match op {
                    ReduceOp::Sum | ReduceOp::Mean => $add(value, next),
                    ReduceOp::Max => {
                        if next > value {
                            next
                        } else {
                            value
                        }
                    }
                    ReduceOp::Min => {
                        if next < value {
                            next
                        } else {
                            value
                        }
                    }
                };
            }
            if op == ReduceOp::Mean { $divide(value) } else { value }
        }};
    }
    for at in 0..inputs[0].len() / size {
        match data_type {
            DataType::F32 => {
                let read = |bytes: &[u8]| f32::from_ne_bytes(bytes.try_into().unwrap());
                let value = fold!(at, read, |a, b| a + b, |sum| sum / world as f32);
                result.extend(value.to_ne_bytes());
            }
            DataType::F64 => {
                let read = |bytes: &[u8]| f64::from_ne_bytes(bytes.try_into().unwrap());
                let value = fold!(at, read, |a, b| a + b, |sum| sum / world as f64);
                result.extend(value.to_ne_bytes());
            }
            DataType::Bf16 => {
                let read = |bytes: &[u8]| bf16::from_ne_bytes(bytes.try_into().unwrap()).to_f32();
                let value = fold!(at, read, |a, b| a + b, |sum| sum / world as f32);
                result.extend(bf16::from_f32(value).to_ne_bytes());
            }
            DataType::F16 => {
                let read = |bytes: &[u8]| f16::from_ne_bytes(bytes.try_into().unwrap()).to_f32();
                let value = fold!(at, read, |a, b| a + b, |sum| sum / world as f32);
                result.extend(f16::from_f32(value).to_ne_bytes());
            }
            DataType::I64 => {
                let read = |bytes: &[u8]| i64::from_ne_bytes(bytes.try_into().unwrap());
                let value = fold!(at, read, i64::wrapping_add, |sum| sum / world as i64);
                result.extend(value.to_ne_bytes());
            }
            DataType::U8 => {
                let read = |bytes: &[u8]| u64::from(bytes[0]);
                let value = fold!(at, read, |a, b| a + b, |sum: u64| sum / world as u64);
                result.push(value as u8);
            }
        }
    }
    result
}

/// All operations of one size on one rank, checked against the naive results.
fn check_rank(communicator: &mut Communicator, kind: (DataType, ReduceOp), elements: usize) {
    let (data_type, op) = kind;
    let (rank, world) = (communicator.rank(), communicator.world() as usize);
    let inputs = |elements: usize| -> Vec<Vec<u8>> {
        (0..world as u32).map(|rank| input(data_type, rank, elements, 7)).collect()
    };
    let what = format!("{op} {data_type}, {elements} elements, rank {rank} of {world}");

    let all = inputs(elements);
    let mut data = all[rank as usize].clone();
    communicator.all_reduce(&mut data, data_type, op).unwrap();
    assert!(data == naive(data_type, op, &all), "all_reduce {what}");

    let part = elements * data_type.size();
    let own = rank as usize * part..(rank as usize + 1) * part;
    let all = inputs(elements * world);
    let expected = &naive(data_type, op, &all)[own.clone()];
    let mut output = vec![0; part];
    communicator.reduce_scatter(&all[rank as usize], &mut output, data_type, op).unwrap();
    assert!(output == expected, "reduce_scatter {what}");
    let mut buffer = all[rank as usize].clone();
    communicator.reduce_scatter_in_place(&mut buffer, data_type, op).unwrap();
    assert!(&buffer[own.clone()] == expected, "reduce_scatter_in_place {what}");

    let all = inputs(elements);
    let expected = all.concat();
    let mut output = vec![0; part * world];
    communicator.all_gather(&all[rank as usize], &mut output).unwrap();
    assert!(output == expected, "all_gather {what}");
    let mut buffer = vec![0; part * world];
    buffer[own].copy_from_slice(&all[rank as usize]);
    communicator.all_gather_in_place(&mut buffer).unwrap();
    assert!(buffer == expected, "all_gather_in_place {what}");
}

#[test]
fn every_type_and_reduction_equals_the_sum_in_rank_order_in_every_world() {
    for size in 1..=8 {
        for world in World::all_kinds(size) {
            world.run(|mesh| {
                let mut communicator = mesh.communicator(0).unwrap();
                for data_type in DataType::ALL {
                    for op in ReduceOp::ALL {
                        for elements in [0, 1, 7, 1025] {
                            check_rank(&mut communicator, (data_type, op), elements);
                        }
                    }
                }
            });
        }
    }
}

#[test]
fn sizes_around_and_beyond_a_ring_come_through() {
    for size in [2, 3, 5] {
        for world in World::all_kinds(size) {
            world.run(|mesh| {
                let mut communicator = mesh.communicator(0).unwrap();
                for elements in [4095, 8192, 8193, 300_001] {
                    check_rank(&mut communicator, (DataType::F32, ReduceOp::Sum), elements);
                }
            });
        }
    }
}

#[test]
fn a_world_of_one_needs_no_listener_and_keeps_its_values() {
    let mesh = Mesh::solo(2);
    assert!(mesh.describe().is_empty());
    let mut communicator = mesh.communicator(1).unwrap();
    for data_type in DataType::ALL {
        for op in ReduceOp::ALL {
            check_rank(&mut communicator, (data_type, op), 33);
        }
    }
    communicator.barrier().unwrap();
    communicator.broadcast(&mut [1, 2, 3], 0).unwrap();
}

#[test]
fn buffers_at_odd_addresses_are_summed_too() {
    World::new(2, Transport::SharedMemory).run(|mesh| {
        let mut communicator = mesh.communicator(0).unwrap();
        for data_type in DataType::ALL {
            let own = input(data_type, communicator.rank(), 5000, 3);
            let mut data = vec![0; own.len() + 1];
            data[1..].copy_from_slice(&own);
            communicator.all_reduce(&mut data[1..], data_type, ReduceOp::Sum).unwrap();
            let all: Vec<_> = (0..2).map(|rank| input(data_type, rank, 5000, 3)).collect();
            assert!(data[1..] == naive(data_type, ReduceOp::Sum, &all), "{data_type}");
        }
    });
}

#[test]
fn one_nan_makes_the_result_nan_whoever_has_it() {
    World::new(3, Transport::Auto).run(|mesh| {
        let mut communicator = mesh.communicator(0).unwrap();
        for op in ReduceOp::ALL {
            for guilty in 0..3 {
                let own = communicator.rank();
                let value = if own == guilty { f32::NAN } else { own as f32 };
                let mut data = value.to_ne_bytes();
                communicator.all_reduce(&mut data, DataType::F32, op).unwrap();
                assert!(f32::from_ne_bytes(data).is_nan(), "{op}, NaN on rank {guilty}");
            }
        }
    });
}

#[test]
fn broadcast_brings_every_root_s_bytes_to_all() {
    for size in 1..=5 {
        for world in World::all_kinds(size) {
            world.run(|mesh| {
                let mut communicator = mesh.communicator(0).unwrap();
                for (root, bytes) in
                    (0..size).flat_map(|root| [0, 1, 100_003, 700_000].map(|bytes| (root, bytes)))
                {
                    let expected = input(DataType::U8, root, bytes, 11);
                    let is_root = communicator.rank() == root;
                    let mut data = if is_root { expected.clone() } else { vec![0; bytes] };
                    communicator.broadcast(&mut data, root).unwrap();
                    assert!(data == expected, "{bytes} bytes from rank {root} of {size}");
                }
            });
        }
    }
}

#[test]
fn messages_between_pairs_keep_their_order_beside_collectives() {
    for world in World::all_kinds(3) {
        world.run(|mesh| {
            let mut communicator = mesh.communicator(0).unwrap();
            let rank = communicator.rank();
            for (round, bytes) in (0_u8..).zip([1, 0, 1_500_000, 64]) {
                // A ring of ranks: the lowest sends first, so the others can receive first.
                let (next, before) = ((rank + 1) % 3, (rank + 2) % 3);
                let mut got = vec![0; bytes];
                if rank == 0 {
                    communicator.send(next, &vec![round; bytes]).unwrap();
                    communicator.recv(before, &mut got).unwrap();
                } else {
                    communicator.recv(before, &mut got).unwrap();
                    communicator.send(next, &got).unwrap();
                }
                assert!(got == vec![round; bytes]);
                communicator.barrier().unwrap();
            }
        });
    }
}

#[test]
fn results_have_the_same_bits_on_every_transport() {
    let results = World::all_kinds(4).map(|world| {
        world.run(|mesh| {
            let mut communicator = mesh.communicator(0).unwrap();
            let mut data = input(DataType::F32, communicator.rank(), 50_001, 5);
            communicator.all_reduce(&mut data, DataType::F32, ReduceOp::Mean).unwrap();
            data
        })
    });
    let first = &results[0][0];
    assert!(results.iter().flatten().all(|result| result == first));
}

#[test]
fn a_rank_without_a_core_of_its_own_sleeps_and_still_gets_everything() {
    World::new(4, Transport::SharedMemory).run(|mesh| {
        let mut communicator = mesh.communicator(0).unwrap();
        communicator.set_spin(std::time::Duration::ZERO);
        for elements in [1, 1000, 200_000] {
            check_rank(&mut communicator, (DataType::F32, ReduceOp::Sum), elements);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_lengths_in_any_order_are_reduced_and_gathered(
        size in 1_u32..=4,
        kind in 0_usize..3,
        lengths in prop::collection::vec((0_usize..40_000, 0_usize..6, 0_usize..4), 1..6),
    ) {
        let world = World::all_kinds(size)[kind].clone();
        world.run(|mesh| {
            let mut communicator = mesh.communicator(0).unwrap();
            for &(elements, data_type, op) in &lengths {
                let kind = (DataType::ALL[data_type], ReduceOp::ALL[op]);
                check_rank(&mut communicator, kind, elements);
            }
        });
    }
}

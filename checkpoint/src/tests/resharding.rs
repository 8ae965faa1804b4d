//! Any world reads what any other world wrote, element for element.

use proptest::prelude::*;

use super::fixture::{Fixture, Owned, bytes_of, manifest, slice, write_shard};
use crate::shard::ShardName;
use crate::{Reader, TensorKind};

const KINDS: [TensorKind; 5] = [
    TensorKind::Parameter,
    TensorKind::ExpAvg,
    TensorKind::ExpAvgSq,
    TensorKind::Best,
    TensorKind::Buffer,
];

/// Cuts `total` at random places; each piece goes to a random rank.
fn pieces(total: u64, cuts: &[u64], ranks: &[u32], world: u32) -> Vec<(u64, u64, u32)> {
    let mut bounds: Vec<_> = cuts.iter().map(|cut| cut % (total + 1)).collect();
    bounds.extend([0, total]);
    bounds.sort_unstable();
    bounds.dedup();
    let pairs = bounds.windows(2).map(|pair| (pair[0], pair[1]));
    pairs.zip(ranks.iter().cycle()).map(|((from, to), rank)| (from, to, rank % world)).collect()
}

#[derive(Debug, Clone)]
struct Tensor {
    kind: TensorKind,
    shape: Vec<u64>,
    cuts: Vec<u64>,
    ranks: Vec<u32>,
}

fn tensor() -> impl Strategy<Value = Tensor> {
    let shape = prop::collection::vec(1_u64..7, 0..4);
    let cuts = prop::collection::vec(any::<u64>(), 0..9);
    let ranks = prop::collection::vec(any::<u32>(), 1..5);
    (prop::sample::select(&KINDS), shape, cuts, ranks)
        .prop_map(|(kind, shape, cuts, ranks)| Tensor { kind, shape, cuts, ranks })
}

proptest! {
    // Each case syncs a few files.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_one_world_wrote_another_reads(
        tensors in prop::collection::vec(tensor(), 1..6),
        writers in 1_u32..7,
        readers in 1_u64..7,
        probes in prop::collection::vec(any::<(u64, u64)>(), 8),
    ) {
        let fixture = Fixture::new();
        let mut owned: Vec<Owned> = (0..writers).map(|_| Vec::new()).collect();
        for (number, tensor) in tensors.iter().enumerate() {
            let name = format!("t{number}");
            let total = tensor.shape.iter().product();
            for (from, to, rank) in pieces(total, &tensor.cuts, &tensor.ranks, writers) {
                let meta = slice(tensor.kind, &name, &tensor.shape, (from, to - from));
                owned[rank as usize].push((meta, bytes_of(tensor.kind, &name, from..to)));
            }
        }
        let folder = fixture.root.folder(1);
        let generation = fixture.fence.generation;
        let entries = owned.iter().zip(0..).map(|(owned, rank)| {
            write_shard(&folder, ShardName { rank, world: writers, generation }, owned).unwrap()
        });
        let manifest = manifest(&fixture.fence, 1, entries.collect());
        fixture.root.commit(&manifest).unwrap();
        prop_assert!(crate::verify(&folder).unwrap().is_sound());

        let reader = Reader::open(&folder).unwrap();
        for (number, tensor) in tensors.iter().enumerate() {
            let name = format!("t{number}");
            let total: u64 = tensor.shape.iter().product();
            let parts = (0..readers).map(|r| total * r / readers..total * (r + 1) / readers);
            let anywhere = probes.iter().map(|(a, b)| {
                let (a, b) = (a % (total + 1), b % (total + 1));
                a.min(b)..a.max(b)
            });
            for range in parts.chain(anywhere) {
                let read = reader.read(tensor.kind, &name, range.clone()).unwrap();
                prop_assert_eq!(read, bytes_of(tensor.kind, &name, range));
            }
        }
    }
}

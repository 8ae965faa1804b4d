//! The files are safetensors files that the format's own library reads, and our own reader reads
//! back what was written.

use std::collections::BTreeMap;

use safetensors::SafeTensors;

use super::fixture::{Fixture, TENSORS, bytes_of, cut, shard_path, slice};
use crate::shard::{Encoded, Incoming, ShardName};
use crate::{DataType, Error, ExportOptions, Reader, SliceMeta, SliceProblem, TensorKind, export};
use common::ids::Generation;

fn name(rank: u32, world: u32) -> ShardName {
    ShardName { rank, world, generation: Generation(1) }
}

#[test]
fn a_shard_is_a_safetensors_file_with_aligned_data() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 2);
    for rank in 0..2 {
        let bytes = fs_err::read(shard_path(&found, rank)).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        assert_eq!(header % 8, 0, "data starts at a multiple of 8");
        let parsed = SafeTensors::deserialize(&bytes).unwrap();
        let expected = cut(2, rank);
        assert_eq!(parsed.len(), expected.len());
        for (meta, data) in expected {
            assert_eq!(parsed.tensor(&meta.key()).unwrap().data(), data, "{}", meta.key());
        }
    }
}

#[test]
fn wide_types_come_first_so_that_every_tensor_is_aligned() {
    let of = |name: &str, dtype, len| SliceMeta {
        dtype,
        ..slice(TensorKind::Buffer, name, &[len], (0, len))
    };
    let slices = [
        (of("bytes", DataType::U8, 3), &[1, 2, 3][..]),
        (of("wide", DataType::F64, 1), &[4; 8][..]),
        (of("half", DataType::Bf16, 1), &[5; 2][..]),
    ];
    let encoded = Encoded::new(name(0, 1), &slices).unwrap();
    let file: Vec<u8> = encoded.chunks().flatten().copied().collect();
    assert_eq!(file.len() as u64, encoded.bytes());
    let parsed = SafeTensors::deserialize(&file).unwrap();
    for (meta, data) in slices {
        let view = parsed.tensor(&meta.key()).unwrap();
        assert_eq!(view.data(), data);
        let at = view.data().as_ptr() as usize - file.as_ptr() as usize;
        assert_eq!(at as u64 % meta.dtype.size(), 0, "{}", meta.name);
    }
}

#[test]
fn the_same_slices_give_the_same_bytes() {
    let owned = cut(1, 0);
    let slices: Vec<_> = owned.iter().map(|(meta, data)| (meta.clone(), &data[..])).collect();
    let once = Encoded::new(name(0, 1), &slices).unwrap().entry();
    assert_eq!(once, Encoded::new(name(0, 1), &slices).unwrap().entry());
}

#[test]
fn an_export_has_torchs_names_shapes_and_values_from_any_world() {
    let fixture = Fixture::new();
    let mut hashes = Vec::new();
    for world in 1..=4 {
        let found = fixture.save(u64::from(world), world);
        let out = fixture.root.path().join(format!("out-{world}.safetensors"));
        let exported = export(&found.path, &out, ExportOptions::default()).unwrap();
        let bytes = fs_err::read(&out).unwrap();
        assert_eq!(bytes.len() as u64, exported.bytes);
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), exported.blake3);
        let parsed = SafeTensors::deserialize(&bytes).unwrap();
        let have: BTreeMap<_, _> = parsed.tensors().into_iter().collect();
        let expected: Vec<_> =
            TENSORS.iter().filter(|(kind, ..)| *kind != TensorKind::ExpAvg).collect();
        assert_eq!(have.len(), expected.len());
        for (kind, name, shape) in expected {
            let shape: Vec<_> = shape.iter().map(|size| *size as usize).collect();
            assert_eq!(have[*name].shape(), shape, "{name}");
            let elements = shape.iter().product::<usize>() as u64;
            assert_eq!(have[*name].data(), bytes_of(*kind, name, 0..elements), "{name}");
        }
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        hashes.push(exported.blake3);
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "the world that saved does not show in the export");
}

#[test]
fn a_failed_export_leaves_the_older_file_and_nothing_else() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 2);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("weights.safetensors");
    fs_err::write(&out, "older").unwrap();
    let path = shard_path(&found, 1);
    let mut bytes = fs_err::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs_err::write(&path, bytes).unwrap();
    let error = export(&found.path, &out, ExportOptions::default()).unwrap_err();
    assert!(error.chain().contains("rank-00001"), "{}", error.chain());
    assert_eq!(fs_err::read(&out).unwrap(), b"older");
    assert_eq!(super::fixture::names(folder.path()), ["weights.safetensors"]);
}

#[test]
fn a_streamed_shard_equals_a_written_one() {
    let fixture = Fixture::new();
    let owned = cut(2, 1);
    let slices: Vec<_> = owned.iter().map(|(meta, data)| (meta.clone(), &data[..])).collect();
    let encoded = Encoded::new(name(1, 2), &slices).unwrap();
    let folder = fixture.root.folder(3);
    let mut incoming = Incoming::create(&folder, encoded.entry(), &fixture.fence).unwrap();
    for chunk in encoded.chunks() {
        chunk.chunks(100).for_each(|piece| incoming.write(piece).unwrap());
    }
    let received = incoming.finish().unwrap();
    let bytes = fs_err::read(folder.join(received.file.to_string())).unwrap();
    assert_eq!(received, encoded.write(&fixture.root.folder(4), &fixture.fence).unwrap());
    let written = fixture.root.folder(4).join(received.file.to_string());
    assert_eq!(bytes, fs_err::read(written).unwrap());
}

#[test]
fn a_stream_that_differs_is_refused_and_leaves_no_file() {
    let fixture = Fixture::new();
    let owned = cut(1, 0);
    let slices: Vec<_> = owned.iter().map(|(meta, data)| (meta.clone(), &data[..])).collect();
    let encoded = Encoded::new(name(0, 1), &slices).unwrap();
    let whole: Vec<u8> = encoded.chunks().flatten().copied().collect();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    let longer = [&whole[..], &[0]].concat();
    let folder = fixture.root.folder(1);
    for stream in [&whole[..whole.len() - 1], &flipped, &longer] {
        let mut incoming = Incoming::create(&folder, encoded.entry(), &fixture.fence).unwrap();
        let result = incoming.write(stream).and_then(|()| incoming.finish());
        assert!(matches!(result, Err(Error::Transfer { .. })), "{result:?}");
        assert!(super::fixture::names(&folder).is_empty());
    }
}

#[test]
fn impossible_slices_are_refused_before_anything_is_written() {
    let data = [0; 8];
    let good = slice(TensorKind::Parameter, "w", &[2], (0, 2));
    let refused = |metas: &[SliceMeta]| {
        let slices: Vec<_> = metas.iter().map(|meta| (meta.clone(), &data[..])).collect();
        match Encoded::new(name(0, 1), &slices) {
            Err(Error::InvalidSlice { problem, .. }) => problem,
            other => panic!("{other:?}"),
        }
    };
    let with = |change: fn(&mut SliceMeta)| {
        let mut meta = good.clone();
        change(&mut meta);
        refused(&[meta])
    };
    assert!(matches!(with(|m| m.name.clear()), SliceProblem::Name { .. }));
    assert!(matches!(with(|m| m.name = "a\u{1b}[2J".to_owned()), SliceProblem::Name { .. }));
    assert!(matches!(with(|m| m.offset = 1), SliceProblem::Range { .. }));
    assert!(matches!(with(|m| m.offset = u64::MAX), SliceProblem::Range { .. }));
    let huge = with(|m| m.global_shape = vec![u64::MAX, u64::MAX]);
    assert!(matches!(huge, SliceProblem::Shape { .. }));
    assert!(matches!(with(|m| m.len = 1), SliceProblem::Bytes { .. }));
    assert!(matches!(refused(&[good.clone(), good.clone()]), SliceProblem::Twice { .. }));
}

#[test]
fn shard_names_have_one_spelling() {
    for text in ["rank-00000-of-00001.g1.safetensors", "rank-00007-of-123456.g42.safetensors"] {
        assert_eq!(text.parse::<ShardName>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "manifest.json",
        "rank-0-of-1.g1.safetensors",
        "rank-00001-of-00001.g1.safetensors",
        "rank-00000-of-00001.g+1.safetensors",
        "rank-00000-of-00001.g01.safetensors",
        "../rank-00000-of-00001.g1.safetensors",
        "rank-00000-of-00001.g1/../x.safetensors",
    ] {
        text.parse::<ShardName>().unwrap_err();
    }
}

#[test]
fn the_reader_lists_all_tensors_and_refuses_what_is_not_there() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 3);
    let reader = Reader::open(&found.path).unwrap();
    assert_eq!(reader.tensors().len(), TENSORS.len());
    let weight = reader.tensor(TensorKind::Parameter, "lstm.weight_ih_l0").unwrap();
    assert_eq!((weight.shape, weight.elements), (vec![12, 5], 60));
    assert!(weight.slices > 1);
    let unknown = reader.read(TensorKind::ExpAvgSq, "fc.bias", 0..1).unwrap_err();
    assert!(matches!(unknown, Error::UnknownTensor { .. }));
    let beyond = reader.read(TensorKind::Parameter, "fc.bias", 0..2).unwrap_err();
    assert!(matches!(beyond, Error::Range { elements: 1, .. }));
    let mut short = [0; 3];
    let wrong = reader.read_into(TensorKind::Parameter, "fc.bias", 0..1, &mut short).unwrap_err();
    assert!(matches!(wrong, Error::BufferLength { expected: 4, found: 3, .. }));
}

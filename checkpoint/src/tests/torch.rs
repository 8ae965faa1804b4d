//! Torch's files: hostile ones execute nothing and take no more memory than they have bytes, and
//! what is exported reads back as it was.

use std::path::Path;

use super::fixture::{Fixture, TENSORS, bytes_of};
use crate::disk::{Existing, Staged};
use crate::torch::{TorchError, TorchFile, Writer};
use crate::{DataType, ExportOptions, Format, TensorKind, export};

/// An archive with this pickle and one storage of four bytes.
fn archive(folder: &Path, pickle: &[u8]) -> std::path::PathBuf {
    let mut staged = Staged::create(folder, "file.pt", 0).unwrap();
    let mut writer = Writer::default();
    writer.entry(&mut staged, "data.pkl", pickle).unwrap();
    writer.entry(&mut staged, "data/0", &[0, 0, 128, 63]).unwrap();
    writer.end(&mut staged).unwrap();
    staged.publish(Existing::Replace).unwrap();
    folder.join("file.pt")
}

fn parsed(pickle: &[u8]) -> Result<TorchFile, TorchError> {
    let folder = tempfile::tempdir().unwrap();
    TorchFile::open(&archive(folder.path(), pickle))
}

fn said(pickle: &[u8]) -> String {
    parsed(pickle).unwrap_err().to_string()
}

/// A storage of `elements` f32 and a tensor over it, as a whole pickle `{"w": tensor}`.
fn tensor(elements: u32, shape: &[u8], stride: &[u8]) -> Vec<u8> {
    let mut pickle = b"\x80\x02}(X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    pickle.extend_from_slice(
        b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0\x30X\x03\0\0\0cpu",
    );
    pickle.push(b'J');
    pickle.extend_from_slice(&elements.to_le_bytes());
    pickle.extend_from_slice(b"tQK\0");
    pickle.extend_from_slice(shape);
    pickle.extend_from_slice(stride);
    pickle.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtRu.");
    pickle
}

#[test]
fn a_name_that_is_not_on_the_list_ends_the_reading_and_nothing_is_executed() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("witness");
    let command = format!("touch {}", witness.display());
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("collections", "OrderedDict\0"),
        ("deepspeed.runtime.fp16.loss_scaler", "__builtins__"),
    ] {
        let mut pickle = format!("c{module}\n{name}\n(").into_bytes();
        pickle.push(b'X');
        pickle.extend_from_slice(&(command.len() as u32).to_le_bytes());
        pickle.extend_from_slice(command.as_bytes());
        pickle.extend_from_slice(b"tR.");
        let error = parsed(&pickle).unwrap_err();
        assert!(matches!(error, TorchError::ForbiddenGlobal { .. }), "{error}");
        assert!(error.to_string().contains(&format!("{module}.{name}")), "{error}");
    }
    assert!(!witness.exists());
}

#[test]
fn opcodes_that_torch_does_not_write_are_refused() {
    // INST, OBJ, EXT1, STACK_GLOBAL, NEWOBJ_EX, PERSID, GET and STRING as text.
    for opcode in [b'i', b'o', 0x82, 0x93, 0x92, b'P', b'g', b'S'] {
        assert!(said(&[0x80, 2, opcode, 0, b'.']).contains("is not one that torch writes"));
    }
}

#[test]
fn a_pickle_that_lies_about_its_lengths_is_refused_before_memory_is_taken() {
    let lies: [&[u8]; 6] =
        [b"X\xff\xff\xff\xffabc.", b"B\xff\xff\xff\x7fabc.", b"\x8a\xff.", b"]K", b"h\x07.", b"t."];
    for pickle in lies {
        assert!(matches!(parsed(pickle), Err(TorchError::Pickle { .. })), "{pickle:?}");
    }
}

#[test]
fn what_contains_itself_or_is_nested_too_deeply_is_refused() {
    // l = []; l.append(l); and {"k": d} inside itself.
    assert!(matches!(parsed(b"]q\0h\0a."), Err(TorchError::Cycle)));
    assert!(matches!(parsed(b"}q\0X\x01\0\0\0kh\0s."), Err(TorchError::Cycle)));
    let deep = [&b"]".repeat(200)[..], &b"a".repeat(199), b"."].concat();
    assert!(said(&deep).contains("levels of nesting"));
    let shared = b"](]q\0h\0h\0e.";
    parsed(shared).unwrap();
}

#[test]
fn a_tensor_larger_than_its_storage_is_refused() {
    let whole = |pickle: &[u8]| {
        let file = parsed(pickle)?;
        let at = file.pickle.top().get("w")?;
        file.storages.read_f32(at.tensor()?, "w")
    };
    assert_eq!(whole(&tensor(1, b"K\x01\x85", b"K\x01\x85")).unwrap(), [1.0]);
    // A shape, then a storage, then a stride that the bytes do not bear out.
    for (pickle, problem) in [
        (tensor(1, b"J\xff\xff\xff\x7f\x85", b"K\x01\x85"), "leave its storage"),
        (tensor(1_000_000, b"K\x01\x85", b"K\x01\x85"), "its storage has 4 bytes"),
        (tensor(1, b"K\x02K\x02\x86", b"K\x00K\x00\x86"), "not contiguous"),
        (
            tensor(
                1,
                b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87",
                b"K\x01K\x01K\x01\x87",
            ),
            "not contiguous",
        ),
    ] {
        let said = whole(&pickle).unwrap_err().to_string();
        assert!(said.contains(problem), "{said}");
    }
    let negative = said(&tensor(1, b"J\xff\xff\xff\xff\x85", b"K\x01\x85"));
    assert!(negative.contains("no size"), "{negative}");
}

#[test]
fn an_archive_cut_anywhere_or_changed_anywhere_is_refused_or_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = archive(folder.path(), &tensor(1, b"K\x01\x85", b"K\x01\x85"));
    let good = fs_err::read(&path).unwrap();
    let read = || {
        let file = TorchFile::open(&path)?;
        let at = file.pickle.top().get("w")?;
        file.storages.read_f32(at.tensor()?, "w")
    };
    for at in 0..good.len() {
        fs_err::write(&path, &good[..at]).unwrap();
        read().unwrap_err();
        let mut changed = good.clone();
        changed[at] = !changed[at];
        fs_err::write(&path, &changed).unwrap();
        if let Ok(values) = read() {
            assert_eq!(values, [1.0], "byte {at}");
        }
    }
}

#[test]
fn a_torch_export_reads_back_as_it_was() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 3);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.pt");
    let options = ExportOptions { format: Format::Torch, dtype: None };
    let exported = export(&found.path, &out, options).unwrap();
    assert_eq!(exported.bytes, fs_err::metadata(&out).unwrap().len());
    let file = TorchFile::open(&out).unwrap();
    let tensors = file.pickle.top().named().unwrap();
    assert_eq!(tensors.len(), exported.tensors);
    for (kind, name, shape) in TENSORS {
        if !matches!(kind, TensorKind::Parameter | TensorKind::Buffer) {
            continue;
        }
        let (_, at) = tensors.iter().find(|(found, _)| *found == name).unwrap();
        let tensor = at.tensor().unwrap();
        assert_eq!(tensor.shape, shape, "{name}");
        let bytes = file.storages.read(tensor, name).unwrap();
        assert_eq!(bytes, bytes_of(kind, name, 0..shape.iter().product()), "{name}");
    }
    let again = export(&found.path, &folder.path().join("again.pt"), options).unwrap();
    assert_eq!(again.blake3, exported.blake3);
}

#[test]
fn a_16_bit_export_rounds_to_the_nearest_and_counts_what_does_not_fit() {
    let fixture = Fixture::new();
    let found = fixture.save(1, 2);
    let folder = tempfile::tempdir().unwrap();
    for dtype in [DataType::Bf16, DataType::F16] {
        let out = folder.path().join("model.pt");
        let options = ExportOptions { format: Format::Torch, dtype: Some(dtype) };
        let exported = export(&found.path, &out, options).unwrap();
        let file = TorchFile::open(&out).unwrap();
        let mut overflowed = 0;
        for (name, at) in file.pickle.top().named().unwrap() {
            let tensor = at.tensor().unwrap();
            assert_eq!(tensor.storage.dtype, dtype);
            let found = file.storages.read_f32(tensor, name).unwrap();
            let (kind, _, shape) = TENSORS.into_iter().find(|(_, n, _)| *n == name).unwrap();
            let bytes = bytes_of(kind, name, 0..shape.iter().product());
            for (found, exact) in found.iter().zip(bytes.chunks_exact(4)) {
                let exact = f32::from_le_bytes(exact.try_into().unwrap());
                let rounded = match dtype {
                    DataType::Bf16 => half::bf16::from_f32(exact).to_f32(),
                    _ => half::f16::from_f32(exact).to_f32(),
                };
                overflowed += u64::from(rounded.is_infinite());
                assert_eq!(*found, rounded, "{name}");
            }
        }
        assert_eq!(exported.overflowed, overflowed, "{dtype}");
    }
}

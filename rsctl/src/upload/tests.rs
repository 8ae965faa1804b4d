//! Claims about what may be uploaded and how it is cut.

use super::*;

#[test]
fn a_file_that_is_too_large_is_refused_before_it_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.csv");
    // Sparse: no byte is written.
    fs_err::File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
    let error = read("data.path", &path).unwrap_err();
    assert!(error.to_string().contains("64.0 MiB"), "{error}");
    assert_eq!(Failure::from(error).code, ExitCode::BadConfiguration);
    let error = read("data.path", dir.path()).unwrap_err();
    assert!(matches!(error, Error::Folder { .. }), "{error}");
}

#[test]
fn chunks_put_together_are_the_file() {
    for size in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
        let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let chunks = chunks("h".to_owned(), bytes.clone());
        assert!(!chunks.is_empty());
        assert!(chunks.iter().all(|chunk| chunk.blake3 == "h" && chunk.data.len() <= CHUNK_BYTES));
        let back: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.data).collect();
        assert_eq!(back, bytes);
    }
}

//! Whether NCCL can be found here, and which: where a trainer would look, and beside a libtorch with CUDA.
//! Absence is an answer. Uses it for nothing.
#![expect(unsafe_code, reason = "calls a C library")]

use std::ffi::c_int;
use std::path::{Path, PathBuf};

use common::node::Nccl;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};

/// Names one library, and then no other is tried.
const LIBRARY_VARIABLE: &str = "RUSTSPEED_NCCL_LIB";

/// By the loader's rules.
const LIBRARY: &str = "libnccl.so.2";

/// `libtorch` is the folder of one that was not linked with the trainer.
pub(crate) fn look(libtorch: Option<&Path>) -> Nccl {
    let candidates = match std::env::var_os(LIBRARY_VARIABLE) {
        Some(library) => vec![PathBuf::from(library)],
        None => {
            // `site-packages/torch/lib` and `site-packages/nvidia/nccl/lib`.
            let packages = libtorch.and_then(|lib| lib.ancestors().nth(2));
            let beside = packages.map(|packages| packages.join("nvidia/nccl/lib").join(LIBRARY));
            [PathBuf::from(LIBRARY)].into_iter().chain(beside).collect()
        }
    };
    let mut reasons = Vec::new();
    for library in candidates {
        match version(&library) {
            Ok(version) => {
                return Nccl { version: Some(version), place: library.display().to_string() };
            }
            Err(reason) => reasons.push(reason),
        }
    }
    Nccl { version: None, place: reasons.join("; ") }
}

fn version(library: &Path) -> Result<String, String> {
    // SAFETY: NCCL's initialisers touch nothing of ours.
    let opened = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) };
    let opened = opened.map_err(|error| service::exit::chain(&error))?;
    let lacks = || format!("`{}` is no NCCL: it has no ncclGetVersion", library.display());
    // SAFETY: the type of nccl.h, stable under this name.
    let get: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int> =
        unsafe { opened.get("ncclGetVersion") }.map_err(|_| lacks())?;
    let mut code = 0;
    // SAFETY: writes a number; may be called at any time.
    let result = unsafe { get(&raw mut code) };
    let told = (result == 0).then(|| spelled(code));
    // Stays open: whether threads of its own still run in it is not known.
    std::mem::forget(opened);
    told.ok_or_else(|| format!("`{}` does not tell its version", library.display()))
}

/// As nccl.h counts since 2.9: 22809 is 2.28.9.
fn spelled(code: c_int) -> String {
    format!("{}.{}.{}", code / 10_000, code / 100 % 100, code % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_spelled_as_nccl_does() {
        assert_eq!(spelled(22_809), "2.28.9");
    }

    #[test]
    fn what_is_no_nccl_is_told_as_that() {
        assert!(version(Path::new("/nowhere/libnccl.so.2")).unwrap_err().contains("/nowhere"));
        let libc = version(Path::new("libc.so.6")).unwrap_err();
        assert_eq!(libc, "`libc.so.6` is no NCCL: it has no ncclGetVersion");
    }
}

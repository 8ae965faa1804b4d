//! The library's functions, found by name in a file that we choose.
//!
//! cudarc has the types. It does not do the loading: it looks for `libnccl.so` and for
//! `libnccl.so.13` down to `.1` by the version of CUDA, never for `libnccl.so.2`, which is what NCCL
//! is called wherever it is installed, and it panics where it finds none.
#![expect(unsafe_code, reason = "calls a C library")]

use std::{
    ffi::{CStr, OsStr, c_char, c_int, c_void},
    path::PathBuf,
    sync::Arc,
};

use cudarc::nccl::sys;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};

use super::{
    error::{NcclError, Searched},
    unique::{LEN, UniqueId},
};

/// Names the library; nothing else is tried then.
pub(super) const LIBRARY_VARIABLE: &str = "RUSTSPEED_NCCL_LIB";

/// What the loader is asked for. libtorch with CUDA has brought the first along already, and gets
/// the same one.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// 2.19.0, as the library tells it.
const OLDEST: c_int = 21_900;

/// The library says so where a call goes on behind the caller's back.
pub(super) const IN_PROGRESS: c_int = sys::ncclResult_t::ncclInProgress as c_int;
pub(super) const SUCCESS: c_int = sys::ncclResult_t::ncclSuccess as c_int;

pub(super) type Comm = sys::ncclComm_t;
pub(super) type Id = sys::ncclUniqueId;
pub(super) type Config = sys::ncclConfig_t;

/// Results are numbers here: a library newer than the bindings may have more of them.
type Result = c_int;

/// A loaded NCCL; clones are the same one. It stays in memory to the end of the program: threads of
/// its own may run in it.
#[derive(Clone)]
pub struct Nccl(Arc<Api>);

pub(super) struct Api {
    library: String,
    version: c_int,
    pub(super) functions: Functions,
}

macro_rules! functions {
    ($($field:ident: $name:literal, fn($($argument:ty),*) -> $output:ty;)*) => {
        /// Valid as long as the library, which is never closed.
        pub(super) struct Functions {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> $output,)*
        }

        impl Functions {
            fn find(library: &Library) -> std::result::Result<Self, &'static str> {
                Ok(Self { $($field: symbol(library, $name)?,)* })
            }
        }
    };
}

/// A function of the library, of the type that [`Functions`] gives it.
fn symbol<F: Copy>(library: &Library, name: &'static str) -> std::result::Result<F, &'static str> {
    // SAFETY: asked for the fields of `Functions` alone, whose types are those of nccl.h, stable
    // since 2.19.
    let symbol: Symbol<F> = unsafe { library.get(name) }.map_err(|_| name)?;
    Ok(*symbol)
}

functions! {
    get_version: "ncclGetVersion", fn(*mut c_int) -> Result;
    get_unique_id: "ncclGetUniqueId", fn(*mut Id) -> Result;
    get_error_string: "ncclGetErrorString", fn(Result) -> *const c_char;
    get_last_error: "ncclGetLastError", fn(Comm) -> *const c_char;
    comm_init: "ncclCommInitRankConfig", fn(*mut Comm, c_int, Id, c_int, *mut Config) -> Result;
    comm_async_error: "ncclCommGetAsyncError", fn(Comm, *mut Result) -> Result;
    comm_finalize: "ncclCommFinalize", fn(Comm) -> Result;
    comm_destroy: "ncclCommDestroy", fn(Comm) -> Result;
    comm_abort: "ncclCommAbort", fn(Comm) -> Result;
    all_reduce: "ncclAllReduce",
        fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> Result;
    reduce_scatter: "ncclReduceScatter",
        fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> Result;
    all_gather: "ncclAllGather",
        fn(*const c_void, *mut c_void, usize, c_int, Comm, *mut c_void) -> Result;
    broadcast: "ncclBroadcast",
        fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> Result;
    mem_alloc: "ncclMemAlloc", fn(*mut *mut c_void, usize) -> Result;
    mem_free: "ncclMemFree", fn(*mut c_void) -> Result;
}

impl Nccl {
    /// Finds the library: what `RUSTSPEED_NCCL_LIB` names, else `libnccl.so.2` by the loader's rules
    /// (already loaded, `LD_LIBRARY_PATH`, the system's).
    pub fn load() -> std::result::Result<Self, NcclError> {
        Self::find(std::env::var_os(LIBRARY_VARIABLE).as_deref())
    }

    /// As [`Nccl::load`], with the variable's value given.
    pub fn find(library: Option<&OsStr>) -> std::result::Result<Self, NcclError> {
        let candidates: Vec<PathBuf> = match library {
            Some(path) => vec![path.into()],
            None => NAMES.map(PathBuf::from).to_vec(),
        };
        let mut searched = Vec::new();
        for candidate in candidates {
            // SAFETY: NCCL's initialisers touch nothing of ours.
            match unsafe { Library::open(Some(&candidate), RTLD_NOW | RTLD_LOCAL) } {
                Ok(library) => return Self::of(library, candidate.display().to_string()),
                Err(error) => {
                    let reason = error.to_string();
                    searched.push(Searched { library: candidate, reason });
                }
            }
        }
        Err(NcclError::Unavailable { searched })
    }

    fn of(opened: Library, library: String) -> std::result::Result<Self, NcclError> {
        let functions = Functions::find(&opened)
            .map_err(|function| NcclError::NotNccl { library: library.clone(), function })?;
        // Kept open for good: the functions are used, and its threads run, to the end.
        std::mem::forget(opened);
        let mut api = Api { library, version: 0, functions };
        // SAFETY: writes a number and needs no device.
        let result = unsafe { (api.functions.get_version)(&raw mut api.version) };
        api.check("ask for its version", result)?;
        if api.version < OLDEST {
            let (library, version) = (api.library.clone(), version_of(api.version));
            return Err(NcclError::TooOld { library, version });
        }
        Ok(Self(Arc::new(api)))
    }

    /// Such as `2.28.9`.
    #[must_use]
    pub fn version(&self) -> String {
        version_of(self.0.version)
    }

    /// The name or path that it was opened by.
    #[must_use]
    pub fn library(&self) -> &str {
        &self.0.library
    }

    /// A new meeting point. Rank 0 makes it, and must live until all ranks have met.
    pub fn unique_id(&self) -> std::result::Result<UniqueId, NcclError> {
        let mut id = Id { internal: [0; LEN] };
        // SAFETY: writes the id.
        let result = unsafe { (self.0.functions.get_unique_id)(&raw mut id) };
        self.0.check("make a unique id", result)?;
        Ok(UniqueId(id.internal.map(|byte| byte as u8)))
    }

    pub(super) fn api(&self) -> &Arc<Api> {
        &self.0
    }
}

#[cfg(test)]
impl Nccl {
    /// Over functions of a test.
    pub(super) fn over(functions: Functions) -> Self {
        Self(Arc::new(Api { library: "a test".to_owned(), version: OLDEST, functions }))
    }
}

impl Api {
    pub(super) fn check(
        &self,
        what: &'static str,
        result: Result,
    ) -> std::result::Result<(), NcclError> {
        if result == SUCCESS {
            return Ok(());
        }
        Err(NcclError::Refused { what, reason: self.reason(result) })
    }

    /// What the library says of a result, and what it said last.
    pub(super) fn reason(&self, result: Result) -> String {
        // SAFETY: both give static or thread-local C strings, or null, for any argument.
        let (kind, last) = unsafe {
            let kind = text((self.functions.get_error_string)(result));
            (kind, text((self.functions.get_last_error)(std::ptr::null_mut())))
        };
        let kind = kind.unwrap_or_else(|| format!("error {result}"));
        match last.filter(|last| !last.is_empty()) {
            Some(last) => format!("{kind}: {last}"),
            None => kind,
        }
    }
}

/// # Safety
/// Null, or a C string.
unsafe fn text(text: *const c_char) -> Option<String> {
    // SAFETY: forwarded from the caller.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned())
}

fn version_of(number: c_int) -> String {
    format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (library, version) = (self.library(), self.version());
        f.debug_struct("Nccl").field("library", &library).field("version", &version).finish()
    }
}

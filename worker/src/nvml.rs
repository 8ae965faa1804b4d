//! NVML, the driver's own account of its GPUs, opened at run time: no library has to be there, and its
//! absence is an answer. Asked once; watches nothing, sets nothing.
#![expect(unsafe_code, reason = "calls a C library")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::Path;

use common::status::Gpu;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};

/// Part of every driver.
pub(crate) const LIBRARY: &str = "libnvidia-ml.so.1";

/// nvml.h asks for at most 96 bytes of a text.
const TEXT_LEN: usize = 96;

/// More is a number gone wrong.
const MAX_DEVICES: c_uint = 256;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// The driver's version.
    pub(crate) driver: String,
    /// In the order of their places on the bus.
    pub(crate) devices: Vec<Gpu>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no NVML: {reason}")]
    Absent { reason: String },
    #[error("`{library}` is no NVML: it has no {function}")]
    NotNvml { library: String, function: &'static str },
    #[error("NVML could not {what}: {reason}")]
    Refused { what: &'static str, reason: String },
}

/// What NVML's functions give back; 0 is success.
type Result = c_int;
type Device = *mut c_void;

/// nvmlMemory_t, in bytes.
#[repr(C)]
#[derive(Default)]
struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

struct Nvml {
    init: unsafe extern "C" fn() -> Result,
    shutdown: unsafe extern "C" fn() -> Result,
    error_string: unsafe extern "C" fn(Result) -> *const c_char,
    driver_version: unsafe extern "C" fn(*mut c_char, c_uint) -> Result,
    count: unsafe extern "C" fn(*mut c_uint) -> Result,
    by_index: unsafe extern "C" fn(c_uint, *mut Device) -> Result,
    name: unsafe extern "C" fn(Device, *mut c_char, c_uint) -> Result,
    uuid: unsafe extern "C" fn(Device, *mut c_char, c_uint) -> Result,
    memory: unsafe extern "C" fn(Device, *mut Memory) -> Result,
}

/// Opens the library and asks for every GPU. May take seconds, and for ever where a driver hangs.
pub(crate) fn ask(library: &Path) -> std::result::Result<Told, Error> {
    // SAFETY: NVML's initialisers touch nothing of ours.
    let opened = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) };
    let opened = opened.map_err(|error| Error::Absent { reason: service::exit::chain(&error) })?;
    let nvml = Nvml::find(&opened).map_err(|function| {
        let library = library.display().to_string();
        Error::NotNvml { library, function }
    })?;
    // Stays open: whether threads of its own still run in it is not known.
    std::mem::forget(opened);
    // SAFETY: of nvml.h: takes nothing, may be called at any time.
    nvml.check("start", unsafe { (nvml.init)() })?;
    let told = nvml.devices();
    // SAFETY: as `init`, which succeeded. There is nothing to do about a failure of it.
    let _ = unsafe { (nvml.shutdown)() };
    told
}

impl Nvml {
    fn find(library: &Library) -> std::result::Result<Self, &'static str> {
        Ok(Self {
            init: symbol(library, "nvmlInit_v2")?,
            shutdown: symbol(library, "nvmlShutdown")?,
            error_string: symbol(library, "nvmlErrorString")?,
            driver_version: symbol(library, "nvmlSystemGetDriverVersion")?,
            count: symbol(library, "nvmlDeviceGetCount_v2")?,
            by_index: symbol(library, "nvmlDeviceGetHandleByIndex_v2")?,
            name: symbol(library, "nvmlDeviceGetName")?,
            uuid: symbol(library, "nvmlDeviceGetUUID")?,
            memory: symbol(library, "nvmlDeviceGetMemoryInfo")?,
        })
    }

    fn devices(&self) -> std::result::Result<Told, Error> {
        // SAFETY: writes at most as many bytes as it is told that there are.
        let driver = self.text(|text, len| unsafe { (self.driver_version)(text, len) });
        let mut count = 0;
        // SAFETY: writes a number.
        self.check("count its GPUs", unsafe { (self.count)(&raw mut count) })?;
        let devices = (0..count.min(MAX_DEVICES)).map(|index| self.device(index)).collect();
        Ok(Told { driver: driver.unwrap_or_default(), devices })
    }

    /// One that NVML will not talk about keeps its place, so that numbers stay right.
    fn device(&self, index: c_uint) -> Gpu {
        let mut device: Device = std::ptr::null_mut();
        // SAFETY: writes a handle, which is valid until `shutdown`.
        let result = unsafe { (self.by_index)(index, &raw mut device) };
        if let Err(error) = self.check("reach it", result) {
            let name = format!("GPU {index} ({error})");
            return Gpu { name, uuid: String::new(), memory_bytes: 0 };
        }
        // SAFETY: a valid handle; writes at most as many bytes as it is told that there are.
        let name = self.text(|text, len| unsafe { (self.name)(device, text, len) });
        // SAFETY: as above.
        let uuid = self.text(|text, len| unsafe { (self.uuid)(device, text, len) });
        let mut memory = Memory::default();
        // SAFETY: a valid handle, and the struct that nvml.h has under this name.
        let result = unsafe { (self.memory)(device, &raw mut memory) };
        Gpu {
            name: name.unwrap_or_else(|| format!("GPU {index}")),
            uuid: uuid.unwrap_or_default(),
            memory_bytes: if result == 0 { memory.total } else { 0 },
        }
    }

    /// None where NVML does not tell.
    fn text(&self, fill: impl FnOnce(*mut c_char, c_uint) -> Result) -> Option<String> {
        let mut bytes = [0_u8; TEXT_LEN];
        // One byte stays zero whatever is written.
        let result = fill(bytes.as_mut_ptr().cast(), TEXT_LEN as c_uint - 1);
        let text = CStr::from_bytes_until_nul(&bytes).ok()?.to_string_lossy().trim().to_owned();
        (result == 0 && !text.is_empty()).then_some(text)
    }

    fn check(&self, what: &'static str, result: Result) -> std::result::Result<(), Error> {
        if result == 0 {
            return Ok(());
        }
        // SAFETY: gives a static C string, or null, for any number.
        let text = unsafe {
            let text = (self.error_string)(result);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        let reason = text.unwrap_or_else(|| format!("error {result}"));
        Err(Error::Refused { what, reason })
    }
}

/// A function of the library, of the type that [`Nvml`] gives it.
fn symbol<F: Copy>(library: &Library, name: &'static str) -> std::result::Result<F, &'static str> {
    // SAFETY: asked for the fields of `Nvml` alone, whose types are those of nvml.h, stable under
    // these names.
    let symbol: Symbol<F> = unsafe { library.get(name) }.map_err(|_| name)?;
    Ok(*symbol)
}

#[cfg(test)]
pub(crate) mod tests;

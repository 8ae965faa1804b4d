//! Against a library of our own with NVML's names, which the C compiler that links tests builds: what
//! a driver would say is not claimed, how its answers are taken is.

use std::path::PathBuf;
use std::process::Command;

use super::*;

pub(crate) fn library(source: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (code, library) = (folder.path().join("nvml.c"), folder.path().join("libnvidia-ml.so.1"));
    fs_err::write(&code, source).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&code)
        .status()
        .expect("the C compiler that links Rust programs");
    assert!(built.success());
    (folder, library)
}

/// Two GPUs, of which the second cannot be reached.
pub(crate) const DRIVER: &str = r#"
#include <string.h>
static int running = 0;
int nvmlInit_v2(void) { running = 1; return 0; }
int nvmlShutdown(void) { running = 0; return 0; }
const char *nvmlErrorString(int r) { return r == 15 ? "GPU is lost" : "other"; }
int nvmlSystemGetDriverVersion(char *t, unsigned n) { strncpy(t, "580.65.06", n); return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 2; return running ? 0 : 1; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = &running; return i == 0 ? 0 : 15; }
int nvmlDeviceGetName(void *d, char *t, unsigned n) { memset(t, 'A', n); return d == &running ? 0 : 2; }
int nvmlDeviceGetUUID(void *d, char *t, unsigned n) { strncpy(t, "GPU-8f1a", n); return 0; }
int nvmlDeviceGetMemoryInfo(void *d, unsigned long long *m) { m[0] = 1ull << 36; m[1] = m[2] = 0; return 0; }
"#;

#[test]
fn the_driver_tells_names_uuids_and_memory_and_a_lost_gpu_keeps_its_place() {
    let (_folder, library) = library(DRIVER);
    let told = ask(&library).unwrap();
    assert_eq!(told.driver, "580.65.06");
    let [first, second] = &told.devices[..] else { panic!("{told:?}") };
    // As long as it was told that it may be, and ended.
    assert_eq!(first.name, "A".repeat(TEXT_LEN - 1));
    assert_eq!((first.uuid.as_str(), first.memory_bytes), ("GPU-8f1a", 64 << 30));
    assert_eq!(second.name, "GPU 1 (NVML could not reach it: GPU is lost)");
    assert_eq!((second.uuid.as_str(), second.memory_bytes), ("", 0));
}

#[test]
fn a_driver_that_does_not_start_says_why() {
    let source =
        DRIVER.replace("{ running = 1; return 0; }", "{ return 9; }").replace("15 ?", "9 ?");
    let (_folder, library) = library(&source);
    let error = ask(&library).unwrap_err();
    assert_eq!(error.to_string(), "NVML could not start: GPU is lost");
}

#[test]
fn no_library_and_another_library_are_answers() {
    let error = ask(Path::new("/nowhere/libnvidia-ml.so.1")).unwrap_err();
    assert!(matches!(error, Error::Absent { .. }), "{error}");
    assert!(error.to_string().contains("/nowhere/libnvidia-ml.so.1"), "{error}");
    let error = ask(Path::new("libc.so.6")).unwrap_err();
    assert_eq!(error.to_string(), "`libc.so.6` is no NVML: it has no nvmlInit_v2");
}

//! What can be claimed of NCCL without a GPU: it is refused by name where it is not, calls get what
//! nccl.h wants, and the real library, where `make setup DEVICE=cuda` has put it, loads, makes ids
//! and refuses to meet without a device. What needs a device is unproven.
#![expect(unsafe_code, reason = "implements the trait's unsafe call")]

use std::{
    env,
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    ptr::null_mut,
    time::{Duration, Instant},
};

use super::world::World;
use crate::{
    DataType, DeviceCommunicator, Error, OpKind, Operation, Queue, ReduceOp, Transport,
    nccl::{Call, Kind, Nccl, NcclCommunicator, NcclConfig, NcclError, UniqueId},
};

/// Set in the process that calls the real library, so that it reads its environment anew.
const LIBRARY: &str = "COLLECTIVES_TEST_NCCL";
const TEST: &str = "tests::nccl::the_real_library_makes_ids_and_refuses_to_meet_without_a_device";

#[test]
fn an_absent_library_is_refused_with_all_that_was_tried() {
    let error = Nccl::find(Some(OsStr::new("/nowhere/libnccl.so.2"))).unwrap_err();
    let NcclError::Unavailable { searched } = &error else { panic!("{error}") };
    assert_eq!(searched.len(), 1);
    let said = error.to_string();
    assert!(
        said.contains("/nowhere/libnccl.so.2") && said.contains("RUSTSPEED_NCCL_LIB"),
        "{said}"
    );
}

#[test]
fn another_library_is_not_taken_for_nccl() {
    let error = Nccl::find(Some(OsStr::new("libc.so.6"))).unwrap_err();
    assert!(matches!(error, NcclError::NotNccl { .. }), "{error}");
    assert!(error.to_string().contains("ncclGetVersion"), "{error}");
}

#[test]
fn ids_are_bytes_of_one_length_and_are_not_printed() {
    let id = UniqueId::from_bytes(&[7; 128]).unwrap();
    assert_eq!(UniqueId::from_bytes(id.as_bytes()), Some(id));
    assert_eq!(UniqueId::from_bytes(&[7; 127]), None);
    assert_eq!(format!("{id:?}"), "UniqueId(..)");
}

#[test]
fn calls_have_nccls_counts_and_places() {
    let call = |operation| Call::of(operation, (1, 2), null_mut()).unwrap();
    let at = |address: usize| address as *mut u8;
    let (data_type, op) = (DataType::Bf16, ReduceOp::Sum);
    let reduced = call(Operation::AllReduce { data: at(64), len: 12, data_type, op });
    assert_eq!((reduced.count, reduced.data_type, reduced.kind), (6, 9, Kind::AllReduce(0)));
    let scattered = call(Operation::ReduceScatterInPlace { data: at(64), len: 16, data_type, op });
    assert_eq!((scattered.count, scattered.output as usize), (4, 64 + 8));
    let gathered = call(Operation::AllGatherInPlace { data: at(64), len: 16 });
    let places = (gathered.input as usize, gathered.output as usize);
    assert_eq!((gathered.count, places), (8, (64 + 8, 64)));
    let sent = call(Operation::Broadcast { data: at(64), len: 5, root: 1 });
    assert_eq!((sent.count, sent.kind), (5, Kind::Broadcast(1)));
}

#[test]
fn lengths_and_ranks_are_checked_before_the_library_sees_them() {
    let refused = |operation| Call::of(operation, (0, 2), null_mut()).unwrap_err();
    let data = null_mut();
    let (data_type, op) = (DataType::F32, ReduceOp::Max);
    let odd = [
        refused(Operation::AllReduce { data, len: 6, data_type, op }),
        refused(Operation::ReduceScatterInPlace { data, len: 12, data_type, op }),
        refused(Operation::AllGatherInPlace { data, len: 3 }),
        refused(Operation::AllGather { input: data, input_len: 4, output: data, output_len: 4 }),
    ];
    for error in odd {
        assert!(matches!(error, Error::BadLength { .. }), "{error}");
    }
    let error = refused(Operation::Broadcast { data, len: 4, root: 2 });
    assert!(matches!(error, Error::NoSuchRank { rank: 2, .. }), "{error}");
}

/// What stands in for a GPU where there is none: the same trait over memory of the host.
#[test]
fn memory_of_the_host_is_a_device_too() {
    let sums = World::new(2, Transport::Auto).run(|mesh| {
        let mut communicator = mesh.communicator(0).unwrap();
        let device: &mut dyn DeviceCommunicator = &mut communicator;
        let mut values = [device.rank() as u8 + 1; 3];
        let (data_type, op) = (DataType::U8, ReduceOp::Sum);
        let operation =
            Operation::AllReduce { data: values.as_mut_ptr(), len: values.len(), data_type, op };
        // SAFETY: the buffer lives here and is not touched during the call.
        let issued = unsafe { device.enqueue(operation, Queue::HOST) }.unwrap();
        assert_eq!((issued.op, issued.sequence), (OpKind::AllReduce, 0));
        device.watch(issued, Box::new(|| Ok(true)));
        assert!(device.fault().is_none());
        values
    });
    assert_eq!(sums, [[3; 3]; 2]);
}

#[test]
fn the_real_library_makes_ids_and_refuses_to_meet_without_a_device() {
    if let Some(library) = env::var_os(LIBRARY) {
        return call_the_real_library(&library);
    }
    let Some(library) = installed() else {
        // Past the test harness, which keeps what `println!` says.
        let said = "SKIPPED: no libnccl.so.2 here: `make setup DEVICE=cuda` installs it\n";
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return;
    };
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(LIBRARY, library)
        // Ids name an interface: no other than loopback.
        .env("NCCL_SOCKET_IFNAME", "lo")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn call_the_real_library(library: &OsStr) {
    let nccl = Nccl::find(Some(library)).unwrap();
    let numbers: Vec<u32> = nccl.version().split('.').map(|n| n.parse().unwrap()).collect();
    assert!(numbers >= vec![2, 19, 0], "{nccl:?}");
    let (id, other) = (nccl.unique_id().unwrap(), nccl.unique_id().unwrap());
    assert_ne!(id.as_bytes(), other.as_bytes());
    let connect = |rank, world, called_off: &dyn Fn() -> Option<String>| {
        let connect_timeout = Duration::from_secs(5);
        let collective_timeout = connect_timeout;
        let config = NcclConfig {
            id,
            rank,
            world,
            connect_timeout,
            collective_timeout,
            channel: 2,
            called_off,
        };
        NcclCommunicator::connect(&nccl, config)
    };
    let error = connect(2, 2, &|| None).unwrap_err();
    assert!(matches!(error, NcclError::NoSuchRank { .. }), "{error}");
    if Path::new("/dev/nvidia0").exists() {
        return;
    }
    for world in [1, 2] {
        let started = Instant::now();
        let error = connect(0, world, &|| None).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(5), "{error}");
        let NcclError::Refused { reason, .. } = &error else { panic!("{error}") };
        assert!(reason.to_lowercase().contains("cuda"), "{reason}");
    }
}

/// As `tools/setup.sh` installs it, or as the environment names it.
fn installed() -> Option<PathBuf> {
    if let Some(library) = env::var_os("RUSTSPEED_NCCL_LIB") {
        return Some(library.into());
    }
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("RUSTSPEED_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("rustspeed")))
        .or_else(|| Some(set("HOME")?.join(".cache/rustspeed")))?;
    let lib = cache.join("torch-2.11.0-cuda/lib");
    let folders = lib.read_dir().ok()?.flatten();
    let library = |python: PathBuf| python.join("site-packages/nvidia/nccl/lib/libnccl.so.2");
    folders.map(|python| library(python.path())).find(|library| library.exists())
}

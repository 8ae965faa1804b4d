//! What becomes of a communicator, over a table of functions that stands in for the library: who
//! ends it, when, and why. What the real one does on a device is unproven.
#![expect(unsafe_code, reason = "stands in for a C library")]

use std::{
    cell::RefCell,
    ffi::{c_char, c_int, c_void},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    NcclCommunicator, NcclConfig, UniqueId,
    api::{Comm, Config, Functions, IN_PROGRESS, Id, Nccl, SUCCESS},
    state::Shared,
    unique::LEN,
};
use crate::{DeviceCommunicator, Error, Issued, OpKind, Operation, Queue};

/// Nothing here takes so long; a wait that ends in it is a failure.
const LONG: Duration = Duration::from_secs(20);

/// A result that says that something went wrong.
const WRONG: c_int = 3;

/// The library as one test wants it. Its address is the communicator, and memory of the device.
#[derive(Default)]
struct Library {
    calls: Mutex<Vec<&'static str>>,
    /// What an operation and the way out answer.
    operation: AtomicI32,
    finalize: AtomicI32,
    /// What the communicator says of the call that it was given last.
    state: AtomicI32,
}

thread_local! {
    /// Of the test that runs on this thread.
    static LIBRARY: RefCell<Option<Arc<Library>>> = const { RefCell::new(None) };
}

impl Library {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn address(self: &Arc<Self>) -> *mut c_void {
        Arc::as_ptr(self).cast_mut().cast()
    }

    fn note(&self, call: &'static str) {
        self.calls.lock().unwrap().push(call);
    }

    fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }

    fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|made| **made == call).count()
    }

    fn connect(self: &Arc<Self>, collective_timeout: Duration) -> NcclCommunicator {
        LIBRARY.set(Some(Arc::clone(self)));
        let config = NcclConfig {
            id: UniqueId([0; LEN]),
            rank: 0,
            world: 2,
            connect_timeout: LONG,
            channel: 2,
            collective_timeout,
            called_off: &|| None,
        };
        NcclCommunicator::connect(&Nccl::over(functions()), config).unwrap()
    }
}

/// # Safety
/// From [`Library::address`], and the test still holds the library.
unsafe fn library<'a>(at: *mut c_void) -> &'a Library {
    // SAFETY: forwarded from the caller.
    unsafe { &*at.cast::<Library>() }
}

fn own() -> *mut c_void {
    LIBRARY.with_borrow(|library| library.as_ref().unwrap().address())
}

fn functions() -> Functions {
    Functions {
        get_version,
        get_unique_id,
        get_error_string,
        get_last_error,
        comm_init,
        comm_async_error,
        comm_finalize,
        comm_destroy,
        comm_abort,
        all_reduce: reduce,
        reduce_scatter: reduce,
        all_gather,
        broadcast: reduce,
        mem_alloc,
        mem_free,
    }
}

unsafe extern "C" fn get_version(_: *mut c_int) -> c_int {
    WRONG
}

unsafe extern "C" fn get_unique_id(_: *mut Id) -> c_int {
    WRONG
}

unsafe extern "C" fn get_error_string(_: c_int) -> *const c_char {
    c"wrong".as_ptr()
}

unsafe extern "C" fn get_last_error(_: Comm) -> *const c_char {
    c"it said so".as_ptr()
}

unsafe extern "C" fn comm_init(
    comm: *mut Comm,
    _: c_int,
    _: Id,
    _: c_int,
    _: *mut Config,
) -> c_int {
    // SAFETY: the caller's own.
    unsafe { *comm = own().cast() };
    SUCCESS
}

unsafe extern "C" fn comm_async_error(comm: Comm, result: *mut c_int) -> c_int {
    // SAFETY: a communicator of a test, and the caller's own number.
    unsafe { *result = library(comm.cast()).state.load(Ordering::SeqCst) };
    SUCCESS
}

unsafe extern "C" fn comm_finalize(comm: Comm) -> c_int {
    // SAFETY: a communicator of a test.
    let library = unsafe { library(comm.cast()) };
    library.note("finalize");
    library.finalize.load(Ordering::SeqCst)
}

unsafe extern "C" fn comm_destroy(comm: Comm) -> c_int {
    // SAFETY: a communicator of a test.
    unsafe { library(comm.cast()) }.note("destroy");
    SUCCESS
}

unsafe extern "C" fn comm_abort(comm: Comm) -> c_int {
    // SAFETY: a communicator of a test.
    unsafe { library(comm.cast()) }.note("abort");
    SUCCESS
}

unsafe extern "C" fn reduce(
    _: *const c_void,
    _: *mut c_void,
    _: usize,
    _: c_int,
    _: c_int,
    comm: Comm,
    _: *mut c_void,
) -> c_int {
    // SAFETY: a communicator of a test.
    let library = unsafe { library(comm.cast()) };
    library.note("reduce");
    library.operation.load(Ordering::SeqCst)
}

unsafe extern "C" fn all_gather(
    _: *const c_void,
    _: *mut c_void,
    _: usize,
    _: c_int,
    _: Comm,
    _: *mut c_void,
) -> c_int {
    WRONG
}

unsafe extern "C" fn mem_alloc(address: *mut *mut c_void, _: usize) -> c_int {
    // SAFETY: the caller's own.
    unsafe { *address = own() };
    SUCCESS
}

unsafe extern "C" fn mem_free(address: *mut c_void) -> c_int {
    // SAFETY: from `mem_alloc`.
    unsafe { library(address) }.note("free");
    SUCCESS
}

fn barrier(communicator: &mut NcclCommunicator) -> Result<Issued, Error> {
    // SAFETY: a barrier has no buffers, and the library of a test touches no queue.
    unsafe { communicator.enqueue(Operation::Barrier, Queue::HOST) }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < until, "timed out: {what}");
        thread::yield_now();
    }
}

#[test]
fn a_barriers_memory_is_given_back_when_no_barrier_can_run() {
    let library = Library::new();
    let mut communicator = library.connect(LONG);
    // Nobody watches it: who knows whether it is over.
    let _ = barrier(&mut communicator).unwrap();
    drop(communicator);
    assert_eq!(library.calls(), ["reduce", "finalize", "destroy", "free"]);

    // Nor is it over when its owner is done with it before the communicator ends.
    let library = Library::new();
    let mut communicator = library.connect(LONG);
    let _ = barrier(&mut communicator).unwrap();
    communicator.abort_handle().abort("enough");
    drop(communicator);
    assert_eq!(library.calls(), ["reduce", "abort", "free"]);
}

#[test]
fn a_rank_that_takes_leave_can_be_aborted() {
    let library = Library::new();
    let communicator = library.connect(LONG);
    library.finalize.store(IN_PROGRESS, Ordering::SeqCst);
    library.state.store(IN_PROGRESS, Ordering::SeqCst);
    let handle = communicator.abort_handle();
    let started = Instant::now();
    let leaving = thread::spawn(move || drop(communicator));
    wait_until("it takes leave", || library.count("finalize") == 1);
    handle.abort("the job is over");
    assert_eq!(library.calls(), ["finalize", "abort"], "when the call returns");
    leaving.join().unwrap();
    assert!(started.elapsed() < Duration::from_secs(4), "its patience was not used up");
    assert_eq!(library.calls(), ["finalize", "abort"]);
}

#[test]
fn who_leaves_in_peace_destroys_and_who_cannot_aborts() {
    for (in_the_end, last) in [(SUCCESS, "destroy"), (WRONG, "abort"), (IN_PROGRESS, "abort")] {
        let library = Library::new();
        let api = Arc::clone(Nccl::over(functions()).api());
        let shared = Shared::new((api, library.address().cast()), (0, 2), LONG, 2);
        library.finalize.store(IN_PROGRESS, Ordering::SeqCst);
        library.state.store(in_the_end, Ordering::SeqCst);
        assert!(shared.leave(Duration::from_millis(20)));
        drop(shared);
        assert_eq!(library.calls(), ["finalize", last]);
    }
}

#[test]
fn a_communicator_that_never_got_an_owner_is_aborted() {
    let library = Library::new();
    let api = Arc::clone(Nccl::over(functions()).api());
    drop(Shared::new((api, library.address().cast()), (0, 2), LONG, 2));
    assert_eq!(library.calls(), ["abort"]);
}

#[test]
fn an_operation_that_is_not_over_in_time_ends_the_communicator_while_its_owner_does_nothing() {
    let library = Library::new();
    let mut communicator = library.connect(Duration::from_millis(50));
    let whereabouts = communicator.whereabouts();
    assert_eq!((whereabouts.channel(), whereabouts.now()), (2, None));
    let first = barrier(&mut communicator).unwrap();
    communicator.watch(first, Box::new(|| Ok(true)));
    let place = || whereabouts.now().map(|at| (at.kind, at.sequence, at.bytes, at.is_inside));
    let passed = Some((OpKind::Barrier, 0, 8, false));
    wait_until("the first is over", || place() == passed);
    let second = barrier(&mut communicator).unwrap();
    communicator.watch(second, Box::new(|| Ok(false)));
    assert_eq!(place(), Some((OpKind::Barrier, 1, 8, true)));
    wait_until("the watcher ends it", || library.count("abort") == 1);
    let late = |error: &Error| {
        let Error::Timeout { op, sequence, waiting_for, .. } = error else { return false };
        (*op, *sequence, waiting_for.as_slice()) == (OpKind::Barrier, 1, &[1][..])
    };
    let fault = communicator.fault().unwrap();
    assert!(late(&fault), "{fault}");
    let error = barrier(&mut communicator).unwrap_err();
    assert!(late(&error), "what follows fails for the same reason: {error}");
    drop(communicator);
    assert_eq!(library.calls(), ["reduce", "reduce", "abort", "free"]);
}

#[test]
fn what_a_probe_or_the_library_says_of_a_fault_is_told() {
    let said = |break_it: &dyn Fn(&Library, &mut NcclCommunicator)| {
        let library = Library::new();
        let mut communicator = library.connect(LONG);
        break_it(&library, &mut communicator);
        wait_until("it is ended", || library.count("abort") == 1);
        let Some(Error::Device { reason, .. }) = communicator.fault() else {
            panic!("{:?}", communicator.fault())
        };
        reason
    };
    let probe = said(&|_, communicator| {
        let issued = barrier(communicator).unwrap();
        communicator.watch(issued, Box::new(|| Err("no such event".to_owned())));
    });
    assert_eq!(probe, "no such event");
    let behind_our_back = said(&|library, _| library.state.store(WRONG, Ordering::SeqCst));
    assert_eq!(behind_our_back, "wrong: it said so");
    let at_once = said(&|library, communicator| {
        library.operation.store(WRONG, Ordering::SeqCst);
        let error = barrier(communicator).unwrap_err();
        assert!(matches!(error, Error::Device { .. }), "{error}");
    });
    assert_eq!(at_once, "wrong: it said so");
}

/// A driver may let who asks it wait until the communicator is aborted.
#[test]
fn a_probe_that_waits_for_the_abort_does_not_hold_it_up() {
    let library = Library::new();
    let mut communicator = library.connect(LONG);
    let (is_asked, asked) = mpsc::channel();
    let (goes_on, go_on) = mpsc::channel::<()>();
    let issued = barrier(&mut communicator).unwrap();
    let waits = move || {
        is_asked.send(()).unwrap();
        let _ = go_on.recv_timeout(LONG);
        Ok(false)
    };
    communicator.watch(issued, Box::new(waits));
    asked.recv_timeout(LONG).unwrap();
    let started = Instant::now();
    communicator.abort_handle().abort("enough");
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    assert_eq!(library.count("abort"), 1);
    drop(goes_on);
    drop(communicator);
    assert_eq!(library.calls(), ["reduce", "abort", "free"]);
}

#[test]
fn a_call_that_goes_on_by_itself_is_awaited_until_its_deadline() {
    let library = Library::new();
    let mut communicator = library.connect(Duration::from_millis(100));
    library.operation.store(IN_PROGRESS, Ordering::SeqCst);
    barrier(&mut communicator).map(drop).unwrap();
    library.state.store(IN_PROGRESS, Ordering::SeqCst);
    let error = barrier(&mut communicator).unwrap_err();
    assert!(matches!(error, Error::Timeout { sequence: 1, .. }), "{error}");
    assert_eq!(library.calls(), ["reduce", "reduce", "abort"]);
}

#[test]
fn the_first_reason_holds_and_the_communicator_is_aborted_once() {
    let library = Library::new();
    let mut communicator = library.connect(LONG);
    let handle = communicator.abort_handle();
    handle.abort("the job was cancelled");
    handle.abort("too late");
    let error = barrier(&mut communicator).unwrap_err();
    let Error::Aborted { reason, .. } = &error else { panic!("{error}") };
    assert_eq!(reason, "the job was cancelled");
    drop(communicator);
    handle.abort("much too late");
    assert_eq!(library.count("abort"), 1);
    assert_eq!(library.count("finalize"), 0);
}

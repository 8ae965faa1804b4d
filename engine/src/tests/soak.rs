//! The long form of tests whose names begin with `soak_`, which `make soak` asks for: many cases, in
//! a random order that can be had again, on all cores, until the cases or the minutes are over.

use std::num::NonZero;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Whether the long form is asked for.
pub(super) fn is_on() -> bool {
    std::env::var_os("RUSTSPEED_SOAK").is_some_and(|value| value == "1")
}

fn setting<T: FromStr>(name: &str, default: impl FnOnce() -> T) -> T {
    let Some(value) = std::env::var_os(name) else { return default() };
    let parsed = value.to_str().and_then(|text| text.parse().ok());
    parsed.unwrap_or_else(|| panic!("{name}={value:?}: expected a whole number"))
}

/// Fails where any case does, after all of them; and where none was made.
pub(super) fn run_all<T: Sync>(
    what: &str,
    cases: &mut [T],
    check: impl Fn(&T) -> Result<(), String> + Sync,
) {
    let minutes: u64 = setting("RUSTSPEED_SOAK_MINUTES", || 60);
    let since_1970 = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
    let seed: u64 = setting("RUSTSPEED_SOAK_SEED", since_1970);
    run_within((minutes, seed), what, cases, check);
}

fn run_within<T: Sync>(
    (minutes, seed): (u64, u64),
    what: &str,
    cases: &mut [T],
    check: impl Fn(&T) -> Result<(), String> + Sync,
) {
    eprintln!("{what}: {} cases, at most {minutes} min, RUSTSPEED_SOAK_SEED={seed}", cases.len());
    cases.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let started = Instant::now();
    let bound = Duration::from_secs(60 * minutes);
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let told = Mutex::new(started);
    let work = || {
        while started.elapsed() < bound {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(index) else { return };
            if let Err(why) = check(case) {
                eprintln!("{what}: {why}");
                wrong.lock().unwrap().push(why);
            }
            let mut told = told.lock().unwrap();
            if told.elapsed() >= PROGRESS_EVERY {
                *told = Instant::now();
                eprintln!("{what}: {index} of {} after {:?}", cases.len(), started.elapsed());
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    let made = next.into_inner().min(cases.len());
    eprintln!("{what}: {made} of {} in {:?}", cases.len(), started.elapsed());
    assert!(made > 0, "{what}: not one of {} cases was made in {minutes} min", cases.len());
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {made} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn no_case_at_all_is_no_success() {
    for (minutes, mut cases) in [(0, vec![1, 2]), (1, vec![])] {
        let run = || run_within((minutes, 7), "none", &mut cases, |_: &i32| Ok(()));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        assert!(ended.is_err(), "{minutes} min");
    }
    run_within((1, 7), "two", &mut [1, 2], |_: &i32| Ok(()));
}

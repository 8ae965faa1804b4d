use super::world::{World, spec};
use common::spec::Device;
use common::status::JobState;

#[test]
fn few_workers_are_preferred_and_the_smallest_that_fits() {
    let mut w = World::new(&[("a", 8), ("b", 2), ("c", 4)]);
    w.submit(spec("two", Some(2)));
    assert_eq!(w.places("two"), ["b", "b"]);
    w.submit(spec("three", Some(3)));
    assert_eq!(w.places("three"), ["c", "c", "c"]);
}

#[test]
fn ranks_are_numbered_through_the_workers_by_name() {
    let mut w = World::new(&[("b", 3), ("a", 2)]);
    w.submit(spec("job", Some(4)));
    assert_eq!(w.places("job"), ["a", "b", "b", "b"]);
}

#[test]
fn a_bound_on_workers_is_kept() {
    let mut w = World::new(&[("a", 2), ("b", 2), ("c", 2)]);
    let mut bounded = spec("job", Some(5));
    bounded.resources.workers = Some(2);
    w.submit(bounded);
    assert_eq!(
        w.reason("job"),
        "needs 5 ranks of 1 slot on at most 2 workers; the cluster has 6 slots on 3 workers, room \
         for 4 such ranks"
    );
    let mut all = spec("all", None);
    all.resources.workers = Some(2);
    w.submit(all);
    assert_eq!(w.places("all"), ["a", "a", "b", "b"]);
}

#[test]
fn a_rank_takes_its_threads_in_slots_of_one_worker() {
    let mut w = World::new(&[("a", 3), ("b", 3)]);
    let mut wide = spec("job", Some(3));
    wide.resources.threads_per_rank = 2;
    w.submit(wide);
    assert_eq!(
        w.reason("job"),
        "needs 3 ranks of 2 slots; the cluster has 6 slots on 2 workers, room for 2 such ranks"
    );
    let mut fits = spec("fits", None);
    fits.resources.threads_per_rank = 2;
    w.submit(fits);
    assert_eq!(w.places("fits"), ["a", "b"]);
}

#[test]
fn a_job_stays_on_one_kind_of_device_and_auto_prefers_gpus() {
    let mut w = World::new(&[("a", 4)]);
    let mut gpu = w.hello("g", 2);
    gpu.device = "cuda".to_owned();
    w.send_hello(gpu);
    w.submit(spec("auto", Some(2)));
    assert_eq!(w.places("auto"), ["g", "g"]);
    w.submit(spec("wide", Some(4)));
    assert_eq!(w.places("wide"), ["a"; 4]);
    let mut threads = World::new(&[]);
    let mut gpu = threads.hello("g", 2);
    gpu.device = "cuda".to_owned();
    threads.send_hello(gpu);
    let mut two = spec("two", Some(2));
    two.resources.threads_per_rank = 4;
    threads.submit(two);
    assert_eq!(threads.places("two"), ["g", "g"], "a rank has one GPU, whatever its threads");
    let mut cuda = spec("cuda", Some(3));
    cuda.resources.device = Device::Cuda;
    w.submit(cuda);
    assert_eq!(w.state("cuda"), JobState::Queued);
    assert_eq!(
        w.reason("cuda"),
        "needs 3 ranks of 1 slot; the cluster has 2 slots on 1 worker, room for 2 such ranks"
    );
    let mut cores_only = World::new(&[("a", 4)]);
    let mut cuda = spec("cuda", Some(3));
    cuda.resources.device = Device::Cuda;
    cores_only.submit(cuda);
    assert_eq!(cores_only.reason("cuda"), "needs 3 ranks of 1 slot; no CUDA worker is connected");
}

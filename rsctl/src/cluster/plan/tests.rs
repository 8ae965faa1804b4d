//! Claims about the size of a private cluster.

use super::*;

fn resources(world_size: Option<u32>, threads_per_rank: u32) -> Resources {
    Resources { world_size, threads_per_rank, ..Resources::default() }
}

fn asked(workers: u32, slots: Option<u32>) -> Asked {
    Asked { workers, slots, origin: "--slots" }
}

fn check(resources: &Resources, workers: u32, slots: Option<u32>, expected: Slots) {
    let plan = plan(resources, asked(workers, slots), 8).unwrap();
    assert_eq!((plan.workers, plan.slots), (workers, expected), "{}", plan.choice);
}

#[test]
fn slots_are_what_the_world_needs() {
    check(&resources(Some(2), 1), 1, None, Slots::Exactly(2));
    check(&resources(Some(3), 1), 2, None, Slots::Exactly(2));
    check(&resources(Some(3), 4), 2, None, Slots::Exactly(8));
    check(&resources(Some(2), 1), 2, Some(4), Slots::Exactly(4));
}

#[test]
fn without_a_world_all_of_the_machine_is_taken() {
    check(&resources(None, 1), 1, None, Slots::Auto);
    check(&resources(None, 1), 3, None, Slots::Exactly(2));
    check(&resources(None, 1), 8, None, Slots::Exactly(1));
    check(&resources(None, 1), 1, Some(3), Slots::Exactly(3));
}

#[test]
fn an_elastic_job_gets_room_for_its_most_and_needs_room_for_its_least() {
    let elastic =
        |least, most| Resources { min_ranks: least, max_ranks: most, ..resources(None, 1) };
    check(&elastic(Some(2), Some(3)), 3, None, Slots::Exactly(1));
    check(&elastic(Some(2), Some(4)), 2, Some(1), Slots::Exactly(1));
    check(&elastic(Some(2), None), 2, None, Slots::Exactly(4));
    check(&elastic(Some(2), Some(64)), 1, None, Slots::Exactly(8));
    check(&elastic(Some(12), Some(64)), 1, None, Slots::Exactly(12));
    let error = plan(&elastic(Some(2), Some(4)), asked(1, Some(1)), 8).unwrap_err();
    assert_eq!(error, Error::TooSmall { world: 2, threads: 1, workers: 1, slots: 1, room: 1 });
}

#[test]
fn more_than_the_machine_has_is_refused_or_told() {
    let ask = |world, workers, slots| plan(&resources(world, 1), asked(workers, slots), 2);
    let failure = Failure::from(ask(None, 300, None).unwrap_err());
    assert_eq!(failure.code, ExitCode::BadConfiguration);
    assert_eq!(
        failure.render(),
        "error: 300 workers with one rank of 1 slot each want more than the 2 cores of this \
         machine, and nothing says that they shall share them\n\n\
         hint: use --workers 2, or share the cores: --slots 1"
    );
    let choice = |world, workers, slots| ask(world, workers, slots).unwrap().choice;
    let slow = "; they share 2 cores and take turns: expect it to be slow";
    assert!(choice(None, 300, Some(1)).ends_with(slow));
    assert!(choice(Some(3), 1, None).ends_with(slow));
    assert!(!choice(Some(2), 2, None).contains("share"), "two ranks fit on two cores");
    assert!(choice(Some(2), 300, None).ends_with("; 298 workers will have nothing to do"));
}

#[test]
fn a_world_larger_than_the_cluster_is_bad_configuration() {
    // 3 slots hold one rank of 2 threads, so two workers hold two ranks.
    let error = plan(&resources(Some(3), 2), asked(2, Some(3)), 8).unwrap_err();
    let failure = Failure::from(error);
    assert_eq!(failure.code, ExitCode::BadConfiguration);
    assert_eq!(
        failure.render(),
        "error: the job wants 3 ranks of 2 slots, and 2 workers with 3 slots each can take 2\n\n\
         hint: give each worker more: --slots 4, or leave --slots out"
    );
    let bounded = Resources { workers: Some(1), ..resources(Some(2), 1) };
    let error = plan(&bounded, asked(2, None), 8).unwrap_err();
    assert_eq!(error, Error::TooManyWorkers { asked: 2, bound: 1 });
}

#[test]
fn a_job_for_gpus_takes_one_for_each_rank_on_one_worker() {
    let gpus = |world| Resources { device: Device::Cuda, ..resources(world, 4) };
    check(&gpus(Some(2)), 1, None, Slots::Exactly(2));
    check(&gpus(None), 1, None, Slots::Auto);
    let many = |world| plan(&gpus(world), asked(2, None), 8);
    assert_eq!(many(Some(2)).unwrap_err(), Error::SharedGpus { workers: 2 });
}

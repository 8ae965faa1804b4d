//! Claims about jobs that fit and jobs that do not.

use super::*;

fn resources(world_size: Option<u32>, threads_per_rank: u32) -> Resources {
    Resources { world_size, threads_per_rank, ..Resources::default() }
}

fn allocation(cpus: &[u32]) -> Allocation {
    let node = |(index, cpus): (usize, &u32)| Node { name: format!("n{index}"), cpus: *cpus };
    Allocation {
        job: 1,
        cluster: None,
        nodes: cpus.iter().enumerate().map(node).collect(),
        restarts: 0,
        gpus: 0,
        this_node: None,
    }
}

#[test]
fn a_job_takes_what_it_asks_for_or_everything() {
    let ranks = |resources: &Resources| check(resources, &allocation(&[4, 2])).unwrap();
    assert_eq!(ranks(&resources(Some(3), 1)), "3 ranks on 2 nodes with 6 CPUs");
    assert_eq!(ranks(&resources(None, 1)), "6 ranks on 2 nodes with 6 CPUs");
    assert_eq!(ranks(&resources(None, 4)), "1 rank on 2 nodes with 6 CPUs");
    let elastic = Resources { min_ranks: Some(2), max_ranks: Some(9), ..resources(None, 1) };
    assert_eq!(ranks(&elastic), "6 ranks on 2 nodes with 6 CPUs");
    let bounded = Resources { workers: Some(1), ..resources(None, 1) };
    assert_eq!(ranks(&bounded), "4 ranks on 2 nodes with 6 CPUs");
    let with_gpus = Allocation { gpus: 2, ..allocation(&[1]) };
    let told = check(&resources(None, 1), &with_gpus).unwrap();
    assert!(told.ends_with("its GPUs (2 on this node) stay idle: jobs compute on CPUs"), "{told}");
}

#[test]
fn a_job_that_does_not_fit_is_refused_with_what_would() {
    let refuse = |resources: &Resources, cpus: &[u32]| {
        Failure::from(check(resources, &allocation(cpus)).unwrap_err())
    };
    let failure = refuse(&resources(Some(9), 1), &[4, 4]);
    assert_eq!(failure.code, ExitCode::BadConfiguration);
    let told = failure.render();
    assert!(told.contains("9 ranks of 1 CPU, and the allocation's 2 nodes with 8 CPUs can take 8"));
    assert!(told.contains("--set resources.world-size=8"), "{told}");

    // A rank does not stretch over two nodes.
    assert!(refuse(&resources(Some(2), 3), &[3, 2, 2]).render().contains("can take 1"));
    let told = refuse(&resources(None, 8), &[4, 4]).render();
    assert!(told.contains("can take 0") && told.contains("threads-per-rank"), "{told}");
    let bounded = Resources { workers: Some(1), ..resources(Some(8), 1) };
    assert!(refuse(&bounded, &[4, 4]).render().contains("can take 4 (resources.workers = 1)"));
}

//! Claims about what the environment says.

use super::*;

/// Two nodes of 4 and 2 CPUs, with `changes`; an empty value unsets.
fn read(changes: &[(&str, &str)]) -> Result<Allocation, Error> {
    let mut variables = vec![
        ("SLURM_JOB_ID", "17"),
        ("SLURM_JOB_NODELIST", "n[1-2]"),
        ("SLURM_JOB_NUM_NODES", "2"),
        ("SLURM_JOB_CPUS_PER_NODE", "4,2"),
    ];
    variables.extend(changes);
    Allocation::read(|name| {
        let found = variables.iter().rev().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned()).filter(|value| !value.is_empty())
    })
}

#[test]
fn an_allocation_is_what_slurm_says() {
    let plain = read(&[]).unwrap();
    let node = |name: &str, cpus| Node { name: name.to_owned(), cpus };
    let expected = Allocation {
        job: 17,
        cluster: None,
        nodes: vec![node("n1", 4), node("n2", 2)],
        restarts: 0,
        gpus: 0,
        this_node: None,
    };
    assert_eq!(plain, expected);
    let more = read(&[
        ("SLURM_RESTART_COUNT", "3"),
        ("SLURM_GPUS_ON_NODE", "2"),
        ("SLURM_CLUSTER_NAME", "loop"),
        ("SLURMD_NODENAME", "n1"),
    ]);
    let more = more.unwrap();
    assert_eq!((more.restarts, more.gpus), (3, 2));
    assert_eq!((more.cluster.as_deref(), more.this_node.as_deref()), (Some("loop"), Some("n1")));
}

#[test]
fn outside_an_allocation_the_hint_says_how_to_get_one() {
    let failure = Failure::from(read(&[("SLURM_JOB_ID", "")]).unwrap_err());
    assert_eq!(failure.code, ExitCode::Usage);
    assert!(failure.hint.unwrap().contains("salloc"));
}

#[test]
fn what_does_not_fit_together_is_refused_by_name() {
    let check = |changes: &[(&str, &str)], expected: &str| {
        let failure = Failure::from(read(changes).unwrap_err());
        assert_eq!(failure.code, ExitCode::BadConfiguration, "{changes:?}");
        assert_eq!(service::exit::chain(failure.error.as_ref()), expected, "{changes:?}");
    };
    check(&[("SLURM_JOB_NODELIST", "")], "SLURM_JOB_NODELIST is not set in this allocation");
    check(
        &[("SLURM_JOB_NODELIST", "n[1-")],
        "SLURM_JOB_NODELIST is `n[1-`: `n[1-`: `[` and `]` do not match",
    );
    check(
        &[("SLURM_JOB_NUM_NODES", "3")],
        "SLURM_JOB_NUM_NODES speaks of 3 nodes, SLURM_JOB_NODELIST of 2",
    );
    check(
        &[("SLURM_JOB_CPUS_PER_NODE", "4(x3)")],
        "SLURM_JOB_CPUS_PER_NODE speaks of 3 nodes, SLURM_JOB_NODELIST of 2",
    );
    check(
        &[("SLURM_JOB_CPUS_PER_NODE", "four")],
        "SLURM_JOB_CPUS_PER_NODE is `four`: `four` is neither a count nor a count with its \
         repetitions, such as 4(x2)",
    );
    check(&[("SLURM_RESTART_COUNT", "-1")], "SLURM_RESTART_COUNT is `-1`, not a number");
    check(&[("SLURM_JOB_ID", "17_3")], "SLURM_JOB_ID is `17_3`, not a number");
    check(&[("SLURM_HET_SIZE", "2")], "the allocation is heterogeneous (SLURM_HET_SIZE is set)");
}

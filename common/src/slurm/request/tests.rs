use super::*;
use crate::spec::{Device, Transport};

fn resources(world: Option<u32>, threads_per_rank: u32) -> Resources {
    Resources {
        world_size: world,
        min_ranks: None,
        max_ranks: None,
        workers: None,
        hosts: None,
        device: Device::Auto,
        threads_per_rank,
        transport: Transport::Auto,
    }
}

#[test]
fn what_would_mean_something_else_in_a_script_is_refused() {
    let hostile =
        ["", "a b", "a\nb", "a\n#SBATCH --uid=0", "a'b", "a\"b", "a\\b", "a#b", "a\tb", "ä", "-x"];
    for value in hostile {
        let mut request = Request::of(&resources(Some(2), 1));
        request.partition = Some(value.to_owned());
        let invalid = request.check().unwrap_err();
        assert_eq!((invalid.key, invalid.value.as_str()), ("partition", value));
    }
    for value in ["main", "a,b", "gpu:a100:2", "1-12:00:00", "$(id)", "`id`", "a;b"] {
        assert_eq!(option_problem(value), None, "in a comment of the shell {value} means nothing");
    }
}

#[test]
fn further_flags_are_whole_and_not_ours() {
    for flag in ["--constraint=[a&b]", "--exclusive", "--signal=USR1@120", "--qos=long"] {
        assert_eq!(extra_problem(flag), None, "{flag}");
    }
    for (flag, word) in [
        ("-C", "one word"),
        ("constraint=a", "one word"),
        ("--", "one word"),
        ("--job-name=x", "finds its allocation"),
        ("--nodes=3", "slurm.nodes"),
        ("--job-na=x", "finds its allocation"),
        ("--constraint=a b", "blanks"),
        ("--clusters=other", "its own cluster"),
        ("--uid=0", "its user's"),
        ("--export-file=/etc/shadow", "coordinator's user"),
        ("--signal=B:USR1@60", "leave out `B:`"),
    ] {
        let problem = extra_problem(flag).unwrap_or_else(|| panic!("{flag} is let through"));
        assert!(problem.contains(word), "{flag}: {problem}");
    }
}

#[test]
fn a_job_that_says_nothing_gets_room_for_its_ranks() {
    let four = resources(Some(4), 2);
    assert_eq!((Request::of(&four).nodes, Request::of(&four).cpus_per_task), (1, 8));
    assert_eq!(cpus_for(&four, 3), 4, "2 ranks on the fullest node");
    let two_nodes = Request { nodes: 2, cpus_per_task: 5, ..Request::of(&four) };
    assert_eq!(two_nodes.room(&four), 4);
    assert_eq!(two_nodes.room(&Resources { workers: Some(1), ..four }), 2);
    assert_eq!(Request::of(&resources(None, 1)).cpus_per_task, 1);
}

#[test]
fn numbers_have_bounds() {
    let request = Request { nodes: 0, ..Request::of(&resources(Some(1), 1)) };
    assert_eq!(request.check().unwrap_err().key, "nodes");
}

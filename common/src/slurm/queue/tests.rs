use super::*;

fn row_of(id: u64, state: &str, nodes: &str, reason: &str, name: &str) -> Row {
    let owned = str::to_owned;
    Row { id, state: owned(state), nodes: owned(nodes), reason: owned(reason), name: owned(name) }
}

#[test]
fn rows_of_a_real_squeue() {
    let text = "\
12|PENDING||Priority|tiny-x7k2p9.1
11|RUNNING|node[1-2]|None|tiny-x7k2p8.1
10|CANCELLED||None|a|b c
9|PENDING||Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions|x
";
    let down = "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions";
    let expected = [
        row_of(12, "PENDING", "", "Priority", "tiny-x7k2p9.1"),
        row_of(11, "RUNNING", "node[1-2]", "", "tiny-x7k2p8.1"),
        row_of(10, "CANCELLED", "", "", "a|b c"),
        row_of(9, "PENDING", "", down, "x"),
    ];
    assert_eq!(rows(text), expected);
    assert!(rows(text)[2].is_over() && !rows(text)[1].is_over());
}

#[test]
fn what_cannot_be_read_is_skipped_and_the_rest_is_not() {
    let text = "squeue: welcome\n17_2|RUNNING|n1|None|array\n|||\n8|completing|n1||x\n5|RUNNING\n";
    assert_eq!(rows(text), [row_of(8, "COMPLETING", "n1", "", "x")]);
    assert_eq!(rows(""), []);
}

#[test]
fn a_state_of_a_newer_slurm_is_a_living_one() {
    assert!(!row_of(1, "EXPEDITING", "", "", "x").is_over());
}

#[test]
fn the_number_of_a_submitted_job() {
    for text in ["17\n", "17;alps\n", "Welcome to Alps!\n\n17;alps\n\n", "Submitted batch job 17\n"]
    {
        assert_eq!(submitted(text), Some(17), "{text:?}");
    }
    for text in ["", "sbatch: ok\n", "17a\n", "-1\n"] {
        assert_eq!(submitted(text), None, "{text:?}");
    }
}

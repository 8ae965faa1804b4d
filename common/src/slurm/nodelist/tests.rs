//! Claims about compressed lists of nodes.

use proptest::prelude::*;

use super::*;

fn check(text: &str, expected: &[&str]) {
    assert_eq!(expand(text).unwrap(), expected, "{text}");
}

fn check_error(text: &str, expected: &str) {
    assert_eq!(expand(text).unwrap_err().to_string(), expected, "{text}");
}

#[test]
fn a_list_names_its_nodes_in_order() {
    check("n1", &["n1"]);
    check("n[01-03,7],m1", &["n01", "n02", "n03", "n7", "m1"]);
    check("node[9-11]", &["node9", "node10", "node11"]);
    check("node[098-101]", &["node098", "node099", "node100", "node101"]);
    check("m1,n[2],o.example_x", &["m1", "n2", "o.example_x"]);
    check("r[1-2]n[3,5]-ib", &["r1n3-ib", "r1n5-ib", "r2n3-ib", "r2n5-ib"]);
}

#[test]
fn what_is_no_list_is_refused_by_name() {
    check_error("", "a name is empty");
    check_error("n1,,n2", "a name is empty");
    check_error("n[1-2", "`n[1-2`: `[` and `]` do not match");
    check_error("n1]", "`n1]`: `[` and `]` do not match");
    check_error("n[]", "`n[]`: `` is not a number of at most 18 digits");
    check_error("n[1-]", "`n[1-]`: `` is not a number of at most 18 digits");
    check_error("n[1,[2]]", "`n[1,[2]]`: `[2` is not a number of at most 18 digits");
    check_error("n[+1]", "`n[+1]`: `+1` is not a number of at most 18 digits");
    check_error("n[3-1]", "`n[3-1]`: the range 3-1 runs backwards");
    check_error("n 1", "`n 1`: ` ` cannot be in a node's name");
}

#[test]
fn a_list_without_a_bound_is_refused_before_it_is_written_out() {
    check_error("n[0-999999999999999999]", "it names more than 65536 nodes");
    check_error("n[0-999]m[0-999]o[0-999]", "it names more than 65536 nodes");
    check_error("n[1-65536],m", "it names more than 65536 nodes");
    assert_eq!(expand("n[1-65536]").unwrap().len(), MAX_NODES);
}

/// As SLURM writes it: neighbours of one width become a range.
fn compress(prefix: &str, width: usize, numbers: &[u64]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let range = |(low, high): &(u64, u64)| match low == high {
        true => format!("{low:0width$}"),
        false => format!("{low:0width$}-{high:0width$}"),
    };
    format!("{prefix}[{}]", ranges.iter().map(range).collect::<Vec<_>>().join(","))
}

proptest! {
    #[test]
    fn what_was_compressed_comes_back(
        prefix in "[a-z][a-z0-9.-]{0,6}[a-z]",
        width in 1_usize..6,
        numbers in prop::collection::btree_set(0_u64..2000, 1..60),
        single in "[a-z]{1,8}",
    ) {
        let numbers: Vec<u64> = numbers.into_iter().collect();
        let mut expected: Vec<String> =
            numbers.iter().map(|number| format!("{prefix}{number:0width$}")).collect();
        expected.push(single.clone());
        let list = format!("{},{single}", compress(&prefix, width, &numbers));
        prop_assert_eq!(expand(&list).unwrap(), expected);
    }

    #[test]
    fn no_text_makes_it_panic_or_grow_beyond_the_bound(text in "[n0-9,\\[\\]\\- ]{0,40}|\\PC{0,40}") {
        if let Ok(nodes) = expand(&text) {
            prop_assert!((1..=MAX_NODES).contains(&nodes.len()));
            prop_assert!(nodes.iter().all(|node| !node.is_empty()));
        }
    }
}

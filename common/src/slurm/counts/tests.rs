//! Claims about counts per node.

use proptest::prelude::*;

use super::*;

#[test]
fn a_count_stands_for_as_many_nodes_as_it_says() {
    assert_eq!(expand("2").unwrap(), [2]);
    assert_eq!(expand("4(x2),2").unwrap(), [4, 4, 2]);
    assert_eq!(expand("1,16(x3),1").unwrap(), [1, 16, 16, 16, 1]);
}

#[test]
fn what_is_no_count_is_refused_by_name() {
    for item in ["", "x", "-1", "+1", "4(x)", "4(x0)", "4(x2", "4(x2)3", "4 (x2)", "4(xx2)"] {
        assert_eq!(expand(item), Err(Error::Item { item: item.to_owned() }));
    }
    assert_eq!(expand("4,"), Err(Error::Item { item: String::new() }));
    assert_eq!(expand("1(x4000000000)"), Err(Error::TooMany));
    assert_eq!(expand("1(x65536),1"), Err(Error::TooMany));
}

proptest! {
    #[test]
    fn what_was_compressed_comes_back(
        groups in prop::collection::vec((0_u32..300, 1_usize..20), 1..20),
    ) {
        let item = |(count, times): &(u32, usize)| match times {
            1 => count.to_string(),
            _ => format!("{count}(x{times})"),
        };
        let text = groups.iter().map(item).collect::<Vec<_>>().join(",");
        let expected: Vec<u32> = groups
            .iter()
            .flat_map(|(count, times)| std::iter::repeat_n(*count, *times))
            .collect();
        prop_assert_eq!(expand(&text).unwrap(), expected);
    }
}

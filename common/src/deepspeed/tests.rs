use super::keys::{ROWS, Row, Status, VALIDATED};

mod document;

#[test]
fn every_name_of_a_block_has_one_row() {
    let mut seen = std::collections::BTreeSet::new();
    for row in ROWS {
        for name in row.names.split(' ') {
            assert!(!name.is_empty(), "two spaces in {:?}", row.names);
            assert!(seen.insert((row.block, name)), "{}.{name} has two rows", row.block);
        }
    }
}

#[test]
fn every_block_is_itself_a_key() {
    let paths: Vec<String> = ROWS.iter().flat_map(paths).collect();
    for block in ROWS.iter().map(|row| row.block).chain(VALIDATED.iter().copied()) {
        assert!(block.is_empty() || paths.iter().any(|path| path == block), "{block}");
    }
}

#[test]
fn whatever_is_not_implemented_says_why() {
    for row in ROWS {
        assert!(row.status == Status::Implemented || !row.why.is_empty(), "{}", row.names);
    }
}

/// Dotted names of the keys of a row.
fn paths(row: &Row) -> Vec<String> {
    let full = |name: &str| match row.block {
        "" => name.to_owned(),
        block => format!("{block}.{name}"),
    };
    row.names.split(' ').map(full).collect()
}

//! Few rows in which every pair of values of two settings stands, made the same way every time.

use std::collections::BTreeSet;

/// Value `.1` of setting `.0`.
type Choice = (usize, usize);

fn uncovered<const N: usize>(sizes: [usize; N]) -> BTreeSet<(Choice, Choice)> {
    let choices = |setting: usize| (0..sizes[setting]).map(move |value| (setting, value));
    (0..N)
        .flat_map(|first| (first + 1..N).map(move |second| (first, second)))
        .flat_map(|(first, second)| {
            choices(first).flat_map(move |a| choices(second).map(move |b| (a, b)))
        })
        .collect()
}

fn ordered(a: Choice, b: Choice) -> (Choice, Choice) {
    if a.0 < b.0 { (a, b) } else { (b, a) }
}

/// Greedy: each row starts with a pair that is missing and takes, setting by setting, the value
/// that brings the most others.
pub(super) fn all_pairs<const N: usize>(sizes: [usize; N]) -> Vec<[usize; N]> {
    let mut missing = uncovered(sizes);
    let mut rows = Vec::new();
    while let Some((first, second)) = missing.first().copied() {
        let mut chosen = vec![first, second];
        for setting in (0..N).filter(|setting| *setting != first.0 && *setting != second.0) {
            let gain = |value: usize| {
                let brings =
                    |other: &&Choice| missing.contains(&ordered(**other, (setting, value)));
                chosen.iter().filter(brings).count()
            };
            // Among equals the first, so put the cheapest value first.
            let best = (0..sizes[setting])
                .max_by_key(|value| (gain(*value), std::cmp::Reverse(*value)))
                .expect("every setting has a value");
            chosen.push((setting, best));
        }
        let mut row = [0; N];
        for (setting, value) in &chosen {
            row[*setting] = *value;
        }
        for (index, a) in chosen.iter().enumerate() {
            for b in &chosen[index + 1..] {
                missing.remove(&ordered(*a, *b));
            }
        }
        rows.push(row);
    }
    rows
}

/// Every row.
pub(super) fn product<const N: usize>(sizes: [usize; N]) -> Vec<[usize; N]> {
    let rows: usize = sizes.iter().product();
    let row = |mut index: usize| {
        sizes.map(|size| {
            let value = index % size;
            index /= size;
            value
        })
    };
    (0..rows).map(row).collect()
}

#[test]
fn every_pair_stands_in_a_row_and_rows_are_few() {
    let sizes = [9, 8, 2, 3, 4, 3, 2];
    let rows = all_pairs(sizes);
    for ((first, a), (second, b)) in uncovered(sizes) {
        assert!(rows.iter().any(|row| row[first] == a && row[second] == b));
    }
    // The two longest settings alone need 72.
    assert!(rows.len() <= 90, "{} rows", rows.len());
    assert_eq!(all_pairs(sizes), rows);
    assert_eq!(product(sizes).len(), 9 * 8 * 2 * 3 * 4 * 3 * 2);
    assert_eq!(product(sizes).into_iter().collect::<BTreeSet<_>>().len(), product(sizes).len());
}

//! A hostfile beside the workers as a table.

use common::units::count;

use crate::hosts::compare::{Compared, ComparedHost};
use crate::render::table::{Align, render};

const COLUMNS: [(&str, Align); 6] = [
    ("HOST", Align::Left),
    ("LINE", Align::Right),
    ("SLOTS", Align::Right),
    ("USE", Align::Left),
    ("WORKER", Align::Left),
    ("STATE", Align::Left),
];

pub(crate) fn table(compared: &Compared) -> String {
    let row = |host: &ComparedHost| {
        [
            host.host.clone(),
            host.line.to_string(),
            host.slots.to_string(),
            runs(&host.meant),
            host.worker.clone().unwrap_or_default(),
            host.state.as_str().to_owned(),
        ]
    };
    let total = [
        "total".to_owned(),
        String::new(),
        String::new(),
        count(compared.slots as u64, "slot"),
        String::new(),
        String::new(),
    ];
    render(&COLUMNS, compared.hosts.iter().map(row).chain([total]))
}

/// `0-3,6` of ascending numbers.
fn runs(numbers: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let run = |(first, last): (u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.into_iter().map(run).collect::<Vec<_>>().join(",")
}

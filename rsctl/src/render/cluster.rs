//! The hosts of a cluster as a table.

use crate::render::table::{Align, optional, render};
use crate::ssh::row::Row;

const COLUMNS: [(&str, Align); 6] = [
    ("HOST", Align::Left),
    ("WORKER", Align::Left),
    ("STATE", Align::Left),
    ("SLOTS", Align::Right),
    ("PID", Align::Right),
    ("LOG", Align::Left),
];

pub(crate) fn table(rows: &[Row]) -> String {
    let row = |row: &Row| {
        [
            row.host.clone(),
            row.worker.clone(),
            row.state.clone(),
            optional(row.slots, |slots| slots.to_string()),
            optional(row.pid, |pid| pid.to_string()),
            row.log.clone().unwrap_or_default(),
        ]
    };
    render(&COLUMNS, rows.iter().map(row))
}

//! `docs/configuration.md` tells what becomes of every DeepSpeed key; it is kept in step with the
//! table by this test. `UPDATE_DOCS=1 cargo test -p common` writes it.

use std::fmt::Write as _;
use std::path::Path;

use super::super::keys::{Harmless, ROWS, Status};
use super::paths;

const BEGIN: &str = "<!-- begin: table of DeepSpeed keys, written by a test -->\n";
const END: &str = "<!-- end: table of DeepSpeed keys -->\n";

fn status_in_words(status: Status) -> &'static str {
    match status {
        Status::Implemented => "implemented",
        Status::Ignored => "ignored",
        Status::Later => "not supported yet",
        Status::Removed => "removed from DeepSpeed",
    }
}

fn table() -> String {
    let mut table =
        String::from("| key | status | silent when | meaning or reason |\n|---|---|---|---|\n");
    for row in ROWS {
        if row.why.is_empty() {
            continue;
        }
        let names: Vec<String> = paths(row).iter().map(|path| format!("`{path}`")).collect();
        let silent = match (row.status, row.harmless) {
            (Status::Implemented, _) => String::new(),
            (_, Harmless::Any) => "always".to_owned(),
            (_, Harmless::Off) => "off".to_owned(),
            (_, Harmless::Is(values)) => {
                values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ")
            }
        };
        let status = status_in_words(row.status);
        writeln!(table, "| {} | {status} | {silent} | {} |", names.join(", "), row.why).unwrap();
    }
    table
}

#[test]
fn the_documented_table_is_the_one_that_is_used() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = fs_err::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let wanted = format!("\n{}\n", table());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs_err::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    let is_in = |line: &&str, text: &str| text.lines().any(|other| other == *line);
    let missing: Vec<&str> = wanted.lines().filter(|line| !is_in(line, found)).collect();
    let stale: Vec<&str> = found.lines().filter(|line| !is_in(line, &wanted)).collect();
    assert!(
        found == wanted,
        "docs/configuration.md is out of step; UPDATE_DOCS=1 cargo test -p common writes it\n\
         missing:\n{}\nstale:\n{}",
        missing.join("\n"),
        stale.join("\n")
    );
}

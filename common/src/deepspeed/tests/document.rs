//! `docs/configuration.md` tells what becomes of every DeepSpeed key; it is kept in step with the
//! table by this test. `UPDATE_DOCS=1 cargo test -p common` writes it.

use std::fmt::Write as _;
use std::path::Path;

use super::super::keys::{self, Fate, Form, Harmless, Key, Rule};

const BEGIN: &str = "<!-- begin: table of DeepSpeed keys, written by a test -->\n";
const END: &str = "<!-- end: table of DeepSpeed keys -->\n";

fn form_in_words(form: Form) -> &'static str {
    match form {
        Form::Bool => "boolean",
        Form::Integer => "integer",
        Form::Number => "number",
        Form::Text => "text",
        Form::List => "list",
        Form::Block => "block",
        Form::Other => "several",
    }
}

/// What becomes of it, and of which values that is not worth a word.
fn fate_in_words(key: &Key) -> String {
    let except = |harmless: Harmless| match harmless {
        Harmless::Any => String::new(),
        Harmless::Off => " (off says nothing)".to_owned(),
        Harmless::Is(values) => {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            format!(" ({} says nothing)", values.join(", "))
        }
    };
    match key.fate {
        Fate::Implemented("") => "implemented".to_owned(),
        Fate::Implemented(decides) => format!("implemented: `{decides}`"),
        Fate::Ignored(harmless, why) => format!("ignored because {why}{}", except(harmless)),
        Fate::NotSupported(harmless, why) => {
            format!("**not supported**: {why}{}", except(harmless))
        }
        Fate::Removed(harmless, why) => {
            format!("**not supported**, removed from DeepSpeed: {why}{}", except(harmless))
        }
        Fate::Alias(new) => format!("read as `{new}`"),
        Fate::Deprecated(new) => format!("deprecated: read as `{new}`"),
    }
}

fn tables() -> String {
    let mut text = String::new();
    let mut paths: Vec<&str> = Vec::new();
    for block in keys::blocks() {
        if !paths.contains(&block.path) {
            paths.push(block.path);
        }
    }
    for path in paths {
        let title = if path.is_empty() { "Top level".to_owned() } else { format!("`{path}`") };
        let rule = match keys::is_validated(path) {
            true => "unknown keys and wrong forms are mistakes",
            false => "unknown keys are warned of",
        };
        writeln!(
            text,
            "#### {title}\n\n{rule}\n\n| key | value | meaning | status |\n|---|---|---|---|"
        )
        .unwrap();
        for key in keys::blocks().filter(|block| block.path == path).flat_map(|block| block.keys) {
            let Key { name, meaning, .. } = key;
            let form = form_in_words(key.form);
            writeln!(text, "| `{name}` | {form} | {meaning} | {} |", fate_in_words(key)).unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn the_documented_table_is_the_one_that_is_used() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = fs_err::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let wanted = format!("\n{}", tables());
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

/// A block that two rules hold for would be judged by the stricter one in silence.
#[test]
fn a_block_has_one_rule() {
    for block in keys::blocks() {
        let strict = keys::is_validated(block.path);
        assert_eq!(strict, block.rule == Rule::Validated, "{}", block.path);
    }
}

//! Claims about help: as reviewed, with examples, and the examples parse.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};
use expect_test::expect_file;

use crate::args::Args;

/// Every command that does something, with its full name.
fn commands(command: &Command, prefix: &str, found: &mut Vec<(String, Command)>) {
    for sub in command.get_subcommands() {
        let name = format!("{prefix} {}", sub.get_name());
        if sub.has_subcommands() {
            commands(sub, &name, found);
        } else {
            found.push((name, sub.clone()));
        }
    }
}

fn all() -> Vec<(String, Command)> {
    let mut root = Args::command().term_width(100);
    root.build();
    let mut found = Vec::new();
    commands(&root, "rsctl", &mut found);
    found
}

#[test]
fn the_command_line_is_well_formed() {
    Args::command().debug_assert();
}

/// What `--help` prints, on a terminal of 100 columns.
fn help(name: &str) -> String {
    let words = name.split_whitespace().chain(["--help"]);
    let root = Args::command().term_width(100);
    root.try_get_matches_from(words).expect_err("--help ends the parsing").to_string()
}

#[test]
fn help_is_as_reviewed() {
    let mut text = help("rsctl");
    for (name, _) in all() {
        let _ = write!(text, "\n======== {name}\n{}", help(&name));
    }
    let text: String = text.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    expect_file!["help.txt"].assert_eq(&text);
}

#[test]
fn every_command_has_help_with_examples() {
    for (name, command) in all() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(!about.is_empty(), "{name} says nothing about itself");
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(after.contains("Examples:\n"), "{name} has no examples");
        assert!(after.contains(&name), "the examples of {name} do not use it");
    }
}

#[test]
fn every_example_of_the_help_parses() {
    for (name, command) in all() {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples = after.split("Examples:\n").nth(1).unwrap_or_default();
        for line in examples.lines() {
            let Some(start) = line.find("rsctl ") else { continue };
            // Up to a pipe, a redirection, a second command or the comment after two blanks.
            let end =
                ["  ", " | ", " > ", " && ", ")"].iter().filter_map(|cut| line[start..].find(cut));
            let example = &line[start..start + end.min().unwrap_or(line.len() - start)];
            let parsed = <Args as clap::Parser>::try_parse_from(example.split_whitespace());
            assert!(parsed.is_ok(), "{name}: `{example}`: {}", parsed.unwrap_err());
        }
    }
}

use expect_test::{Expect, expect};

use super::*;

/// The tree with a line before each key, its duplicates, or the error.
fn check(text: &str, expected: &Expect) {
    let shown = match parse(&Arc::from("ds.json"), text) {
        Err(error) => format!("{}: {}\n", error.place, error.message),
        Ok((table, duplicates)) => {
            let mut shown = String::new();
            show(&table, 0, &mut shown);
            for duplicate in duplicates {
                shown.push_str(&format!(
                    "{} twice: {} and {}\n",
                    duplicate.path, duplicate.first, duplicate.place
                ));
            }
            shown
        }
    };
    expected.assert_eq(&shown);
}

fn show(table: &Table, depth: usize, out: &mut String) {
    for entry in &table.entries {
        let indent = "  ".repeat(depth);
        match &entry.node.value {
            Value::Table(inner) => {
                out.push_str(&format!("{indent}{} {}:\n", entry.place, entry.key));
                show(inner, depth + 1, out);
            }
            value => out.push_str(&format!(
                "{indent}{} {}: {} {value}\n",
                entry.place,
                entry.key,
                value.kind()
            )),
        }
    }
}

#[test]
fn plain_json_is_read_with_lines() {
    check(
        r#"{
  "a": 1, "b": [1, 2.5, "x", null, true],
  "c": {"d": 5e-4,
        "e": -3}
}"#,
        &expect![[r#"
            ds.json:2 a: an integer 1
            ds.json:2 b: an array [1, 2.5, "x", null, true]
            ds.json:3 c:
              ds.json:3 d: a number 0.0005
              ds.json:4 e: an integer -3
        "#]],
    );
}

#[test]
fn comments_trailing_commas_and_unquoted_keys_are_read() {
    check(
        "{ # hash\n  // slashes\n  /* block\n over lines */\n  a: 1, // one\n  b: 2 # two\n  'c' : [1,2,],\n  \"d\": {e: true,},\n}\n",
        &expect![[r#"
            ds.json:5 a: an integer 1
            ds.json:6 b: an integer 2
            ds.json:7 c: an array [1, 2]
            ds.json:8 d:
              ds.json:8 e: a boolean true
        "#]],
    );
}

#[test]
fn missing_commas_and_braces_are_read() {
    check(
        "a: 1\nb: {c: 2\n d: 3}\ne: [1\n2]\n",
        &expect![[r#"
        ds.json:1 a: an integer 1
        ds.json:2 b:
          ds.json:2 c: an integer 2
          ds.json:3 d: an integer 3
        ds.json:4 e: an array [1, 2]
    "#]],
    );
}

#[test]
fn quoteless_text_runs_to_the_end_of_the_line() {
    check(
        "{\n a: auto\n b: log, c\n d: 1.5.2\n e: 1 # one\n f: 0644\n}",
        &expect![[r#"
        ds.json:2 a: text "auto"
        ds.json:3 b: text "log, c"
        ds.json:4 d: text "1.5.2"
        ds.json:5 e: an integer 1
        ds.json:6 f: text "0644"
    "#]],
    );
}

#[test]
fn blocks_and_escapes_are_read() {
    check(
        "{ a: '''\n    one\n    two\n    '''\n b: \"q\\\"\\u00e9\\ud83d\\ude00\\n\" }",
        &expect![[r#"
            ds.json:1 a: text "one\ntwo"
            ds.json:5 b: text "q\"é😀\n"
        "#]],
    );
}

#[test]
fn numbers_follow_json() {
    check(
        "{a: 5e8, b: 2e+2\n c: 99999999999999999999\n d: -0.5\n e: .5\n f: 1e999\n}",
        &expect![[r#"
            ds.json:1 a: a number 500000000
            ds.json:1 b: a number 200
            ds.json:2 c: a number 1e20
            ds.json:3 d: a number -0.5
            ds.json:4 e: text ".5"
            ds.json:5 f: text "1e999"
        "#]],
    );
}

#[test]
fn keys_written_twice_are_named_with_both_places() {
    check(
        "{ a: 1,\n b: {c: 1,\n c: 2},\n a: 3 }",
        &expect![[r#"
        ds.json:1 a: an integer 1
        ds.json:2 b:
          ds.json:2 c: an integer 1
        b.c twice: ds.json:2 and ds.json:3
        a twice: ds.json:1 and ds.json:4
    "#]],
    );
}

#[test]
fn broken_text_is_told_with_its_line() {
    for (text, expected) in [
        (
            "{ a: 1,\n",
            expect![[r#"
            ds.json:1: not Hjson: this `{` is never closed
        "#]],
        ),
        (
            "{ a: [1,\n 2",
            expect![[r#"
            ds.json:1: not Hjson: this `[` is never closed
        "#]],
        ),
        (
            "{ a: \"x\n }",
            expect![[r#"
            ds.json:1: not Hjson: this text is never closed by a quote
        "#]],
        ),
        (
            "{ a 1 }",
            expect![[r#"
            ds.json:1: not Hjson: expected `:` after the key `a`
        "#]],
        ),
        (
            "{ a: }",
            expect![[r#"
            ds.json:1: not Hjson: expected a value, found `}`
        "#]],
        ),
        (
            "{ : 1 }",
            expect![[r#"
            ds.json:1: not Hjson: expected a key, found `:`
        "#]],
        ),
        (
            "{ a: 1 } x",
            expect![[r#"
            ds.json:1: not Hjson: expected the end of the file, found `x`
        "#]],
        ),
        (
            "{ a: 1 /* \n }",
            expect![[r#"
            ds.json:1: not Hjson: this `/*` comment is never closed
        "#]],
        ),
        (
            "{ a: \"\\x\" }",
            expect![[r#"
            ds.json:1: not Hjson: unknown escape `\x`
        "#]],
        ),
        (
            "{ a: \"\\ud800x\" }",
            expect![[r#"
            ds.json:1: not Hjson: a broken pair of \u escapes
        "#]],
        ),
        (
            "[1]",
            expect![[r#"
            ds.json:1: not Hjson: expected a key, found `[`
        "#]],
        ),
    ] {
        check(text, &expected);
    }
    check(
        &"{a:".repeat(100_000),
        &expect![[r#"
        ds.json:1: not Hjson: nested deeper than 64
    "#]],
    );
    check(
        &"[".repeat(100_000),
        &expect![[r#"
        ds.json:1: not Hjson: expected a key, found `[`
    "#]],
    );
}

#[test]
fn an_empty_file_is_an_empty_table() {
    check("", &expect![[""]]);
    check("{}", &expect![[""]]);
    check("\u{feff}# nothing\n", &expect![[""]]);
}

//! Claims about hostfiles and filters: DeepSpeed's own answers, and what is better than them.

use std::num::NonZeroU32;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::spec::InvalidHosts;

fn parse(text: &str) -> Result<Hostfile, Mistakes> {
    Hostfile::parse("hosts.txt", text)
}

/// Mistakes; or entries and what is ignored.
fn check(text: &str, expected: &Expect) {
    let shown = match parse(text) {
        Err(mistakes) => format!("{mistakes}\n"),
        Ok(hostfile) => {
            let entry = |e: &Entry| format!("{}: {} {}\n", e.line, e.host, e.slots);
            let ignored = |i: &Ignored| format!("{}: ignored {}\n", i.line, i.text);
            let entries: String = hostfile.entries().iter().map(entry).collect();
            entries + &hostfile.ignored().iter().map(ignored).collect::<String>()
        }
    };
    expected.assert_eq(&shown);
}

fn number(value: u32) -> Option<NonZeroU32> {
    NonZeroU32::new(value)
}

const THREE: &str = "# gpus\nworker-0 slots=4\nworker-1 slots=4\nworker-2 slots=1\n";

fn filtered(include: &str, exclude: &str) -> Result<String, String> {
    let filter =
        Filter::from_flags(include, exclude, None, None).map_err(|error| error.to_string())?;
    select(THREE, &filter)
}

fn first(nodes: u32, slots: u32) -> Result<String, String> {
    select(THREE, &Filter::First { nodes: number(nodes), slots: number(slots) })
}

fn select(text: &str, filter: &Filter) -> Result<String, String> {
    let selection = parse(text).unwrap().select(filter).map_err(|error| error.to_string())?;
    Ok(selection.to_hosts().unwrap().to_string())
}

#[derive(serde::Deserialize)]
struct Cases {
    hostfiles: Vec<(String, Option<Pool>)>,
    pool: Pool,
    include: Vec<(String, Option<Chosen>)>,
    exclude: Vec<(String, Option<Chosen>)>,
    first: Vec<(i64, i64, Chosen)>,
}

/// Hosts with how many slots they have.
type Pool = Vec<(String, u32)>;

/// Hosts with their slots.
type Chosen = Vec<(String, Vec<u32>)>;

fn chosen(selection: &Selection) -> Chosen {
    let host = |host: &Selected| (host.entry.host.clone(), host.slots.clone());
    selection.hosts().iter().map(host).collect()
}

#[test]
fn hostfiles_mean_what_they_mean_to_deepspeed() {
    let cases: Cases = serde_json::from_str(include_str!("tests/deepspeed.json")).unwrap();
    for (text, expected) in cases.hostfiles {
        let entries = parse(&text).ok().map(|hostfile| {
            let entries = hostfile.entries().iter().map(|e| (e.host.clone(), e.slots));
            entries.collect::<Vec<_>>()
        });
        assert_eq!(entries, expected, "{text:?}");
    }
}

#[test]
fn filters_mean_what_they_mean_to_deepspeed() {
    let cases: Cases = serde_json::from_str(include_str!("tests/deepspeed.json")).unwrap();
    let lines = cases.pool.iter().map(|(host, slots)| format!("{host} slots={slots}\n"));
    let hostfile = parse(&lines.collect::<String>()).unwrap();
    let check = |include: &str, exclude: &str, expected: Option<Chosen>| {
        let filter = Filter::from_flags(include, exclude, None, None);
        let ours = filter.ok().map(|filter| hostfile.select(&filter));
        // DeepSpeed goes on without any host.
        let ours = match ours {
            Some(Err(NotThere::Nothing { .. })) => Some(Vec::new()),
            ours => ours.and_then(Result::ok).map(|selection| chosen(&selection)),
        };
        assert_eq!(ours, expected, "--include {include:?} --exclude {exclude:?}");
    };
    cases.include.into_iter().for_each(|(text, expected)| check(&text, "", expected));
    cases.exclude.into_iter().for_each(|(text, expected)| check("", &text, expected));
    let number = |value: i64| u32::try_from(value).ok().and_then(NonZeroU32::new);
    for (nodes, slots, expected) in cases.first {
        let filter = Filter::from_flags("", "", number(nodes), number(slots)).unwrap();
        // Those that ask for more than there is come below.
        if let Ok(selection) = hostfile.select(&filter) {
            assert_eq!(chosen(&selection), expected, "{nodes} nodes, {slots} slots");
        }
    }
}

#[test]
fn ipv6_addresses_are_hosts_in_brackets_or_without() {
    let text = "[::1] slots=2\n2001:db8::4 slots=2\n";
    let include = |include: &str| {
        let filter = Filter::from_flags(include, "", None, None).map_err(|error| error.to_string());
        select(text, &filter?)
    };
    assert_eq!(include("").unwrap(), "::1 slots=2, 2001:db8::4 slots=2");
    assert_eq!(include("[::1]").unwrap(), "::1 slots=2");
    assert_eq!(include("[::1]:1@2001:db8::4").unwrap(), "[::1]:1, 2001:db8::4 slots=2");
    assert_eq!(include("[2001:db8::4]:0,1").unwrap(), "2001:db8::4 slots=2");
    assert!(include("fe80::x:0").unwrap_err().contains("stands in brackets"));
    assert!(include("[::2]:0").unwrap_err().contains("has no such host"));
    check(
        "::1 slots=1\n[::1] slots=1\n",
        &expect![[r#"
            hosts.txt:2: `::1` is written twice, first at line 1; give it one line with all its slots
        "#]],
    );
}

#[test]
fn every_mistake_has_its_line_and_what_would_be_right() {
    check(
        "worker-0\nworker-1:4\nworker-2 slots = 2\nworker-3 slots=-1\nworker-4 4\nthis is bad slots=1\n\
         slots=4\n\nworker-5 slots=99999\nok slots=1\n",
        &expect![[r#"
            hosts.txt:1: `worker-0` is no entry; write `worker-0 slots=N`
            hosts.txt:2: `worker-1:4` is no entry; write `worker-1 slots=4`
            hosts.txt:3: `worker-2 slots = 2` is no entry; write `worker-2 slots=2`
            hosts.txt:4: `worker-3 slots=-1` is no entry; write `worker-3 slots=1`
            hosts.txt:5: `worker-4 4` is no entry; write `worker-4 slots=4`
            hosts.txt:6: `this is bad slots=1` is no entry; write `this slots=1`
            hosts.txt:7: `slots=4` is no entry; write `HOST slots=4`
            hosts.txt:9: `worker-5` has 99999 slots; at most 4096
        "#]],
    );
    check(
        "a slots=1\n#\nB slots=2\nb slots=1\nada@a slots=1\n",
        &expect![[r#"
        hosts.txt:4: `b` is written twice, first at line 3; give it one line with all its slots
        hosts.txt:5: `ada@a` is the node of line 1 under another user; give it one line
    "#]],
    );
    check(
        "# nothing\n\n",
        &expect![[r#"
        hosts.txt: no host; write one a line as `HOST slots=N`
    "#]],
    );
    check(
        "",
        &expect![[r#"
        hosts.txt: no host; write one a line as `HOST slots=N`
    "#]],
    );
}

#[test]
fn what_stands_behind_an_entry_is_told_unless_it_is_a_comment() {
    check(
        "a slots=4 max_slots=8\nb slots=2 # two of four\nc slots=1#x\nd slots=4x\n",
        &expect![[r#"
            1: a 4
            2: b 2
            3: c 1
            4: d 4
            1: ignored max_slots=8
            4: ignored x
        "#]],
    );
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_no_part_of_a_name() {
    check(
        "\u{feff}a slots=1\r\nb slots=2\r\n",
        &expect![[r#"
        1: a 1
        2: b 2
    "#]],
    );
}

#[test]
fn what_is_no_hostfile_at_all_is_told_within_bounds() {
    let lines = "some other file\n".repeat(5000);
    let mistakes = parse(&lines).unwrap_err();
    assert_eq!(mistakes.told().len(), 20);
    assert!(mistakes.to_string().ends_with("hosts.txt: and 4980 more"), "{mistakes}");
    let long = "x".repeat(10_000);
    assert!(parse(&long).unwrap_err().to_string().len() < 300);
    let hosts: String = (0..5000).map(|i| format!("h{i} slots=1\n")).collect();
    assert_eq!(parse(&hosts).unwrap_err().to_string(), "hosts.txt:4097: more than 4096 hosts");
    let large = "#".repeat(3 << 20);
    assert_eq!(parse(&large).unwrap_err().to_string(), "hosts.txt: larger than 2 MiB");
    let wide: String = (0..20).map(|i| format!("h{i} slots=4096\n")).collect();
    let selection = parse(&wide).unwrap().select(&Filter::All).unwrap();
    assert_eq!(selection.to_hosts(), Err(InvalidHosts::TooManySlots(81_920)));
}

#[test]
fn a_filter_that_asks_for_what_is_not_there_names_file_and_line() {
    let refused = |result: Result<String, String>| result.unwrap_err();
    assert_eq!(
        refused(filtered("worker-3", "")),
        "--include `worker-3`: hosts.txt has no such host; did you mean `worker-2`?"
    );
    assert_eq!(refused(filtered("", "zebra:0")), "--exclude `zebra`: hosts.txt has no such host");
    assert_eq!(
        refused(filtered("worker-1:0,4", "")),
        "--include `worker-1:4`: the host has slots 0 to 3 (hosts.txt:3)"
    );
    assert_eq!(
        refused(filtered("", "worker-2:1")),
        "--exclude `worker-2:1`: the host has slot 0 only (hosts.txt:4)"
    );
    assert_eq!(
        refused(filtered("", "worker-0@worker-1@worker-2")),
        "--exclude leaves no slot of hosts.txt"
    );
    assert_eq!(refused(first(4, 0)), "--num-nodes 4: hosts.txt has 3");
    assert_eq!(refused(first(0, 2)), "--num-gpus 2: `worker-2` has slot 0 only (hosts.txt:4)");
    assert_eq!(first(2, 3).unwrap(), "worker-0 slots=3, worker-1 slots=3");
    assert_eq!(
        refused(select("a slots=0\n", &Filter::All)),
        "hosts.txt: no host has a slot; write slots=N with N of at least 1"
    );
}

#[test]
fn flags_that_mean_no_filter_are_refused() {
    let refused = |include, exclude, nodes| {
        Filter::from_flags(include, exclude, number(nodes), None).unwrap_err().to_string()
    };
    assert_eq!(refused("a", "b", 0), "--include and --exclude cannot both hold; give one of them");
    let mixed = "--num-nodes and --num-gpus do not go with --include or --exclude; give either";
    assert_eq!(refused("a", "", 1), mixed);
    assert_eq!(refused("", "a", 1), mixed);
    let form = "write HOST or HOST:SLOT,SLOT, joined by `@`";
    assert_eq!(
        refused("a@b:1:2", "", 0),
        format!(
            "--include `b:1:2`: it has more than one `:` (an IPv6 address stands in brackets); {form}"
        )
    );
    assert_eq!(refused("", "a@", 0), format!("--exclude ``: the host is missing; {form}"));
    assert_eq!(
        refused("a:-1", "", 0),
        format!("--include `a:-1`: a slot is a number from 0; {form}")
    );
}

#[test]
fn the_example_is_a_hostfile() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/hostfile.example");
    let hostfile = parse(&fs_err::read_to_string(path).unwrap()).unwrap();
    assert!(hostfile.ignored().is_empty());
    assert_eq!(hostfile.select(&Filter::All).unwrap().slots(), 16);
}

#[test]
fn a_user_of_ssh_is_no_part_of_the_node() {
    let all = select("ada@worker-0 slots=2\nworker-1 slots=1\n", &Filter::All).unwrap();
    assert_eq!(all, "worker-0 slots=2, worker-1 slots=1");
}

proptest! {
    /// Never a panic; and a refusal has a text of a sane length.
    #[test]
    fn any_text_is_read_or_refused(text in "(worker-[0-3]| |slots=|[0-9]|#|@|\n|\\PC){0,40}") {
        if let Err(mistakes) = parse(&text) {
            prop_assert!(!mistakes.problems().is_empty());
            prop_assert!(mistakes.to_string().len() < 20 * 600);
        }
    }

    /// What a filter leaves is there, and including some is excluding the others.
    #[test]
    fn include_and_exclude_part_the_hosts(chosen in proptest::collection::vec(any::<bool>(), 3)) {
        let names = |wanted: bool| {
            let names = (0..3).filter(|i| chosen[*i] == wanted).map(|i| format!("worker-{i}"));
            names.collect::<Vec<_>>().join("@")
        };
        let (inside, outside) = (names(true), names(false));
        if !inside.is_empty() && !outside.is_empty() {
            prop_assert_eq!(filtered(&inside, ""), filtered("", &outside));
        }
    }
}

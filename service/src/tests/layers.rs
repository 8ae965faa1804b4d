use std::collections::BTreeMap;
use std::time::Duration;

use common::units;
use serde::{Deserialize, Serialize};

use crate::layers::{Error, Loaded, Origin, load_from};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Settings {
    master: Option<String>,
    slots: u32,
    verbose: bool,
    #[serde(with = "units::duration")]
    lease: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { master: None, slots: 2, verbose: false, lease: Duration::from_secs(5) }
    }
}

#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Flags {
    #[serde(skip_serializing_if = "Option::is_none")]
    slots: Option<u32>,
}

fn check(file: &str, env: &[(&str, &str)], slots: Option<u32>) -> Result<Loaded<Settings>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("daemon.toml");
    fs_err::write(&path, file).unwrap();
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    load_from(Some(&path), env, &Flags { slots })
}

#[test]
fn flags_beat_environment_beats_file_beats_defaults() {
    let env = [("RUSTSPEED_SLOTS", "4"), ("RUSTSPEED_MASTER", "a:1"), ("RUSTSPEED_LEASE", "9s")];
    let loaded = check("slots = 3\nverbose = true\n", &env, Some(5)).unwrap();
    let lease = Duration::from_secs(9);
    let master = Some("a:1".to_owned());
    assert_eq!(loaded.value, Settings { master, slots: 5, verbose: true, lease });
    assert_eq!(loaded.origins["slots"], Origin::Flag);
    assert_eq!(loaded.origins["master"], Origin::Env("RUSTSPEED_MASTER".to_owned()));
    assert!(matches!(loaded.origins["verbose"], Origin::File(_)));
    let loaded = check("slots = 3\n", &[("RUSTSPEED_SLOTS", "4")], None).unwrap();
    assert_eq!(loaded.value.slots, 4);
    let loaded = check("", &[], None).unwrap();
    assert_eq!(loaded.value, Settings::default());
    assert_eq!(loaded.origins["slots"], Origin::Default);
}

#[test]
fn other_programs_variables_are_not_ours_to_judge() {
    let loaded = check("", &[("RUSTSPEED_UNRELATED", "x"), ("SLOTS", "9")], None).unwrap();
    assert_eq!(loaded.value, Settings::default());
}

#[test]
fn every_mistake_is_told_with_key_origin_and_what_would_be_right() {
    let file = "slotz = 3\nverbose = [1]\nlease = \"soon\"\n";
    let error = check(file, &[("RUSTSPEED_SLOTS", "many")], None).unwrap_err();
    let Error::Mistakes(mistakes) = &error else { panic!("{error:?}") };
    assert_eq!(mistakes.len(), 4, "{error}");
    let text = error.to_string();
    for part in ["`slotz`", "did you mean `slots`", "`verbose`", "`lease`", "30s", "many"] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    assert!(text.contains("environment RUSTSPEED_SLOTS"), "{text}");
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let absent = std::path::Path::new("/nonexistent/daemon.toml");
    let error = load_from::<Settings>(Some(absent), vec![], &Flags::default()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/daemon.toml"), "{error}");
    let error = check("slots = = 3", &[], None).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error:?}");
}

#[test]
fn the_printed_configuration_loads_to_the_same_value() {
    let loaded = check("slots = 3\n", &[("RUSTSPEED_MASTER", "a:1")], None).unwrap();
    let reasons = BTreeMap::from([("slots", "for a test".to_owned())]);
    let text = loaded.render(&reasons).unwrap();
    assert!(text.contains("for a test") && text.contains("RUSTSPEED_MASTER"), "{text}");
    assert_eq!(check(&text, &[], None).unwrap().value, loaded.value);
}

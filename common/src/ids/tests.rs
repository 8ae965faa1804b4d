use proptest::prelude::*;

use super::*;

#[test]
fn a_job_id_is_its_name_made_safe_and_a_suffix() {
    for (name, id) in [
        ("sine-lstm", "sine-lstm-k3x9q2"),
        ("Two Words!", "two-words-k3x9q2"),
        ("../../etc", "etc-k3x9q2"),
        ("9 lives", "job-9-lives-k3x9q2"),
        ("é", "job-k3x9q2"),
        ("", "job-k3x9q2"),
        ("a__b", "a-b-k3x9q2"),
    ] {
        assert_eq!(JobId::from_name(name, "k3x9q2").unwrap().as_str(), id, "{name}");
    }
}

#[test]
fn what_is_no_id_is_refused() {
    for text in ["", "-a", "9a", "A", "a b", "a/b", "a.b", "é", &"a".repeat(65)] {
        assert!(text.parse::<JobId>().is_err(), "{text}");
        let json = serde_json::to_string(text).unwrap();
        assert!(serde_json::from_str::<JobId>(&json).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn any_name_gives_an_id(name in ".{0,200}", digits in "[0-9-]{0,100}") {
        prop_assert!(JobId::from_name(&name, "k3x9q2").is_ok());
        prop_assert!(JobId::from_name(&digits, "k3x9q2").is_ok());
    }
}

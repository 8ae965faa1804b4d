use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Waits {
    #[serde(with = "duration")]
    wait: Duration,
}

#[test]
fn durations_are_read_as_people_write_them() {
    for (text, milliseconds) in [
        ("\"30s\"", 30_000),
        ("\"250ms\"", 250),
        ("\"1h 5m\"", 3_900_000),
        ("2", 2_000),
        ("0.5", 500),
    ] {
        let waits: Waits = toml::from_str(&format!("wait = {text}")).unwrap();
        assert_eq!(waits.wait, Duration::from_millis(milliseconds), "{text}");
        let again: Waits = toml::from_str(&toml::to_string(&waits).unwrap()).unwrap();
        assert_eq!(again, waits);
    }
    for text in ["\"soon\"", "-1", "true", "\"\"", "nan"] {
        assert!(toml::from_str::<Waits>(&format!("wait = {text}")).is_err(), "{text}");
    }
}

#[test]
fn bytes_are_shown_with_one_decimal() {
    let shown = [0, 1023, 1024, 1536, 1 << 20, u64::MAX].map(display_bytes);
    assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "16777216.0 TiB"]);
}

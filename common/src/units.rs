//! Sizes and times as people write them: `512MiB`, `30s`.

/// No setting is longer: what is added to a moment gives a moment.
pub const MAX_DURATION: std::time::Duration =
    std::time::Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// `#[serde(with = "units::duration")]`: `30s`, `5m`, `250ms`; a bare number means seconds.
pub mod duration {
    use std::fmt;
    use std::time::Duration;

    use serde::de::{Error, Unexpected, Visitor};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        from.deserialize_any(Written)
    }

    /// Not an untagged enum: that would copy each text, try it as a number and write the error, and
    /// a queue of 100,000 jobs has a million durations.
    struct Written;

    impl Visitor<'_> for Written {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as `30s`, `5m` or `250ms`, or a number of seconds")
        }

        fn visit_f64<E: Error>(self, seconds: f64) -> Result<Duration, E> {
            let invalid = |_| E::invalid_value(Unexpected::Float(seconds), &self);
            Duration::try_from_secs_f64(seconds).map_err(invalid)
        }

        fn visit_i64<E: Error>(self, seconds: i64) -> Result<Duration, E> {
            self.visit_f64(seconds as f64)
        }

        fn visit_u64<E: Error>(self, seconds: u64) -> Result<Duration, E> {
            self.visit_f64(seconds as f64)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text)
                .map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
        }
    }
}

/// The same for a value that may be absent.
pub mod optional_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    struct Present(#[serde(with = "super::duration")] Duration);

    pub fn serialize<S: Serializer>(value: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::duration::serialize(value, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Present>::deserialize(from)?.map(|Present(value)| value))
    }
}

/// `1m 30s`, as job files write it.
pub fn display_duration(duration: std::time::Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// `1536` as `1.5 KiB`, for people.
pub fn display_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `1 step`, `2 steps`: a number of things whose name takes an s.
pub fn count(number: u64, thing: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{s}")
}

#[cfg(test)]
mod tests;

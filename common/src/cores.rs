//! Lists of CPUs, as the kernel, `taskset` and DeepSpeed's `--bind_core_list` write them: `0-3,8`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The kernel's own masks end there.
const MAX_CPU: u32 = 8191;

/// CPUs by number, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct CoreList(BTreeSet<u32>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no list of CPUs such as `0-3,8`, each from 0 to {MAX_CPU}")]
pub struct InvalidCoreList(String);

/// One CPU may be written as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(i64),
    Text(String),
}

impl CoreList {
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<u32> for CoreList {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for CoreList {
    type Err = InvalidCoreList;

    /// Refuses a list of nothing.
    fn from_str(text: &str) -> Result<Self, InvalidCoreList> {
        let invalid = || InvalidCoreList(text.to_owned());
        let number = |part: &str| {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let number = part.parse::<u32>().ok().filter(|cpu| is_number && *cpu <= MAX_CPU);
            number.ok_or_else(invalid)
        };
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(invalid());
            }
            cpus.extend(first..=last);
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CoreList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = left.next() {
            let mut last = first;
            while let Some(next) = left.next_if_eq(&(last + 1)) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl TryFrom<Written> for CoreList {
    type Error = InvalidCoreList;

    fn try_from(written: Written) -> Result<Self, InvalidCoreList> {
        match written {
            Written::Number(cpu) => cpu.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
    }
}

impl From<CoreList> for String {
    fn from(list: CoreList) -> Self {
        list.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_reads_as_the_kernel_and_deepspeed_write_it_and_shows_shortly() {
        for (text, shown) in [
            ("0", "0"),
            ("0-3,8\n", "0-3,8"),
            (" 3, 1-2 ,2", "1-3"),
            ("0,2,4-5,7", "0,2,4-5,7"),
            ("8191", "8191"),
        ] {
            assert_eq!(text.parse::<CoreList>().unwrap().to_string(), shown, "{text}");
        }
        for text in ["", ",", "0-", "-1", "3-1", "a", "0;1", "1--2", "+1", "8192", "0-99999999"] {
            let error = text.parse::<CoreList>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")) && error.contains("0-3,8"), "{error}");
        }
        let list: CoreList = serde_json::from_str("\"0-1\"").unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), [0, 1]);
        assert!(list.contains(1) && !list.contains(2));
        assert_eq!(serde_json::to_string(&list).unwrap(), "\"0-1\"");
        assert_eq!(serde_json::from_str::<CoreList>("4").unwrap().to_string(), "4");
        assert!(serde_json::from_str::<CoreList>("-4").is_err());
    }
}

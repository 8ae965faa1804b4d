//! Interfaces in the words of `NCCL_SOCKET_IFNAME`: `eth0,ib` are beginnings of names, `=eth0` whole
//! names, `^docker,lo` all but those. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::interfaces::{Interface, described};

/// Which interfaces are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Choice {
    /// All but the named ones.
    excludes: bool,
    /// Names are whole, not beginnings.
    is_exact: bool,
    names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no interface; write eth0, or as for NCCL_SOCKET_IFNAME eth,ib or =eth0 or ^docker,lo"
)]
pub struct InvalidChoice(String);

impl Choice {
    fn names(&self, interface: &str) -> bool {
        let is = |name: &String| match self.is_exact {
            true => interface == name,
            false => interface.starts_with(name.as_str()),
        };
        self.names.iter().any(is) != self.excludes
    }

    /// The first that is meant, is up and has an address: in the order of the names, a whole name
    /// before what only begins like it, as `eth1` before `eth10`.
    pub(super) fn find<'i>(&self, interfaces: &'i [Interface]) -> Result<&'i Interface, String> {
        let mut meant: Vec<&Interface> =
            interfaces.iter().filter(|interface| self.names(&interface.name)).collect();
        let place = |name: &str| {
            let first = self.names.iter().position(|wanted| name.starts_with(wanted.as_str()));
            (first, !self.names.iter().any(|wanted| wanted == name))
        };
        if self.excludes {
            // NCCL takes loopback only where nothing else is left.
            meant.sort_by_key(|interface| interface.name == "lo");
        } else {
            meant.sort_by_key(|interface| place(&interface.name));
        }
        if let Some(found) = meant.iter().copied().find(|interface| interface.is_usable()) {
            return Ok(found);
        }
        let there = described(interfaces);
        Err(match meant.first() {
            None => format!("`{self}` is no interface of this machine; there are {there}"),
            Some(_) => format!("`{self}` has no address to listen on; there are {there}"),
        })
    }
}

impl FromStr for Choice {
    type Err = InvalidChoice;

    fn from_str(text: &str) -> Result<Self, InvalidChoice> {
        let text = text.trim();
        let (rest, excludes) = text.strip_prefix('^').map_or((text, false), |rest| (rest, true));
        let (rest, is_exact) = rest.strip_prefix('=').map_or((rest, false), |rest| (rest, true));
        let names: Vec<String> = rest.split(',').map(|name| name.trim().to_owned()).collect();
        let is_odd = |c: char| c.is_whitespace() || c.is_control() || "^=/".contains(c);
        if names.iter().any(|name| name.is_empty() || name.contains(is_odd)) {
            return Err(InvalidChoice(text.to_owned()));
        }
        Ok(Self { excludes, is_exact, names })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let excludes = if self.excludes { "^" } else { "" };
        let is_exact = if self.is_exact { "=" } else { "" };
        write!(f, "{excludes}{is_exact}{}", self.names.join(","))
    }
}

impl TryFrom<String> for Choice {
    type Error = InvalidChoice;

    fn try_from(text: String) -> Result<Self, InvalidChoice> {
        text.parse()
    }
}

impl From<Choice> for String {
    fn from(choice: Choice) -> Self {
        choice.to_string()
    }
}

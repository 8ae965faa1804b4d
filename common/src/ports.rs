//! The ports that ranks of a node may listen on: any, or a range that a firewall or a translated
//! network lets through.

use std::fmt;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Ports from the first to the last, both included: never empty, never port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no range of ports such as `40000-40100`, from 1 to 65535")]
pub struct InvalidPortRange(String);

impl PortRange {
    /// How many there are.
    pub fn count(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    /// Each once, beginning anywhere: whoever begins elsewhere meets fewer that are taken.
    fn beginning_at(self, start: u32) -> impl Iterator<Item = u16> {
        let all = self.count();
        let nth = move |n: u32| (u32::from(self.first) + (start % all + n) % all) as u16;
        (0..all).map(nth)
    }
}

/// Listens on a port of `ports` that is free, or on any where there is no range; `start` is any number.
pub fn listen(ip: IpAddr, ports: Option<PortRange>, start: u32) -> io::Result<TcpListener> {
    let Some(ports) = ports else { return TcpListener::bind((ip, 0)) };
    for port in ports.beginning_at(start) {
        match TcpListener::bind((ip, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            done => return done,
        }
    }
    let message = format!("no port of {ports} is free");
    Err(io::Error::new(io::ErrorKind::AddrInUse, message))
}

impl FromStr for PortRange {
    type Err = InvalidPortRange;

    fn from_str(text: &str) -> Result<Self, InvalidPortRange> {
        let invalid = || InvalidPortRange(text.to_owned());
        let number = |part: &str| match part.trim().parse::<u16>() {
            Ok(port @ 1..) => Ok(port),
            _ => Err(invalid()),
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        if first <= last { Ok(Self { first, last }) } else { Err(invalid()) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl TryFrom<String> for PortRange {
    type Error = InvalidPortRange;

    fn try_from(text: String) -> Result<Self, InvalidPortRange> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(ports: PortRange) -> Self {
        ports.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_range_is_two_ports_in_order() {
        let range: PortRange = "40000-40100".parse().unwrap();
        assert_eq!((range.count(), range.to_string().as_str()), (101, "40000-40100"));
        assert_eq!("7".parse::<PortRange>().unwrap().count(), 1);
        assert_eq!("1-65535".parse::<PortRange>().unwrap().count(), 65535);
        for text in ["", "0-5", "5-4", "1-65536", "a-b", "1-2-3", "-5"] {
            let error = text.parse::<PortRange>().unwrap_err().to_string();
            assert!(error.contains("40000-40100"), "{error}");
        }
        let few: PortRange = "10-12".parse().unwrap();
        for (start, ports) in [(0, [10, 11, 12]), (2, [12, 10, 11]), (u32::MAX, [10, 11, 12])] {
            assert_eq!(few.beginning_at(start).collect::<Vec<_>>(), ports, "{start}");
        }
    }

    #[test]
    fn what_listens_takes_the_ports_of_the_range_and_no_others() {
        assert_ne!(listen(HERE, None, 3).unwrap().local_addr().unwrap().port(), 0);
        // Only this one, which is free once we let go of it.
        let only = TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap().port();
        let range: PortRange = only.to_string().parse().unwrap();
        let taken = listen(HERE, Some(range), 17).unwrap();
        assert_eq!(taken.local_addr().unwrap().port(), only);
        let error = listen(HERE, Some(range), 0).unwrap_err();
        assert_eq!(error.to_string(), format!("no port of {only}-{only} is free"));
    }
}

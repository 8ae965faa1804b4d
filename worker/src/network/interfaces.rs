//! The network interfaces of this machine (of its network namespace) and their addresses.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) is_up: bool,
    /// Those that peers can connect to: none of the link alone.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Interface {
    /// Whether ranks can listen there.
    pub(crate) fn is_usable(&self) -> bool {
        self.is_up && !self.addresses.is_empty()
    }

    /// The one that is told: IPv4 first.
    pub(crate) fn best(&self) -> Option<IpAddr> {
        let first_v4 = self.addresses.iter().find(|address| address.is_ipv4());
        first_v4.or_else(|| self.addresses.first()).copied()
    }
}

/// In the kernel's order; none where it does not tell.
pub(crate) fn interfaces() -> Vec<Interface> {
    let Ok(entries) = getifaddrs() else { return Vec::new() };
    let mut found: Vec<Interface> = Vec::new();
    for entry in entries {
        let is_up = entry.flags.contains(InterfaceFlags::IFF_UP);
        let name = entry.interface_name;
        let index =
            found.iter().position(|interface| interface.name == name).unwrap_or_else(|| {
                found.push(Interface { name, is_up, addresses: Vec::new() });
                found.len() - 1
            });
        let address = entry.address.and_then(|address| {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
        });
        found[index].addresses.extend(address.filter(|address| is_reachable(*address)));
    }
    found
}

/// `fe80::/10` means nothing without the interface of whoever connects.
fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

/// For a person: `lo 127.0.0.1 ::1, eth0 10.0.0.4, ib0 (no address)`.
pub(crate) fn described(interfaces: &[Interface]) -> String {
    let one = |interface: &Interface| {
        let addresses: Vec<String> = interface.addresses.iter().map(IpAddr::to_string).collect();
        match (interface.is_up, addresses.is_empty()) {
            (false, _) => format!("{} (down)", interface.name),
            (true, true) => format!("{} (no address)", interface.name),
            (true, false) => format!("{} {}", interface.name, addresses.join(" ")),
        }
    };
    if interfaces.is_empty() {
        return "none that the kernel tells of".to_owned();
    }
    interfaces.iter().map(one).collect::<Vec<_>>().join(", ")
}

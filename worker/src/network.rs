//! Where ranks of this node listen and what their peers are told: the interface that is chosen in the
//! words of `NCCL_SOCKET_IFNAME`, the address, the ports.

mod choice;
mod interfaces;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

use common::ports::{self, PortRange};

pub(crate) use choice::Choice;
pub(crate) use interfaces::{Interface, interfaces};

/// What NCCL and Gloo read to find their interface.
pub(crate) const NCCL: &str = "NCCL_SOCKET_IFNAME";
pub(crate) const GLOO: &str = "GLOO_SOCKET_IFNAME";

/// What was told about this node's place in the network, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// None: the local address towards the coordinator.
    pub advertise: Option<IpAddr>,
    /// None: `advertise`.
    pub listen: Option<IpAddr>,
    /// None: any.
    pub ports: Option<PortRange>,
    pub interface: Option<Chosen>,
}

/// An interface that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// As it was asked for.
    pub asked: Choice,
    pub name: String,
}

/// How one rank is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Door {
    /// What peers connect to.
    pub(crate) advertise: IpAddr,
    /// What is bound here: another address where the network between translates it.
    pub(crate) listen: IpAddr,
    pub(crate) ports: Option<PortRange>,
}

impl Network {
    /// `local` is this machine's address towards the coordinator.
    pub(crate) fn door(&self, local: IpAddr) -> Door {
        let advertise = self.advertise.unwrap_or(local);
        Door { advertise, listen: self.listen.unwrap_or(advertise), ports: self.ports }
    }

    /// Variables for NCCL and Gloo, which look for their interface themselves.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        self.interface.as_ref().map_or_else(Vec::new, |interface| {
            vec![(NCCL, interface.asked.to_string()), (GLOO, interface.name.clone())]
        })
    }
}

impl Door {
    /// A port that is free, and stays so while the listener lives.
    pub(crate) fn open(&self) -> std::io::Result<TcpListener> {
        ports::listen(self.listen, self.ports, rand::random())
    }

    /// Where ranks of this node reach what listens here, where `advertise` may lead nowhere from inside.
    pub(crate) fn inner_address(&self) -> Option<IpAddr> {
        let loopback = || match self.listen {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
        };
        let local = || if self.listen.is_unspecified() { loopback() } else { self.listen };
        (self.listen != self.advertise).then(local)
    }

    /// What was asked for, and could not be bound.
    pub(crate) fn place(&self) -> String {
        match self.ports {
            Some(ports) => format!("{}, ports {ports}", self.listen),
            None => self.listen.to_string(),
        }
    }
}

/// Settings of the configuration, as they were written.
#[derive(Debug, Default)]
pub(crate) struct Asked<'a> {
    pub(crate) advertise: Option<&'a str>,
    pub(crate) interface: Option<&'a Choice>,
    pub(crate) ports: Option<PortRange>,
    /// Each rank takes one.
    pub(crate) slots: u32,
}

/// A key and what is wrong with its value.
pub(crate) type Wrong = (&'static str, String);

impl Asked<'_> {
    /// What it means on a machine with these interfaces; `is_local` tells whether an address can be
    /// bound here.
    pub(crate) fn settle(
        &self,
        interfaces: &[Interface],
        is_local: impl Fn(IpAddr) -> bool,
    ) -> Result<Network, Vec<Wrong>> {
        let mut wrong = Vec::new();
        let interface = self.interface.and_then(|choice| {
            choice.find(interfaces).map_err(|why| wrong.push(("interface", why))).ok()
        });
        let advertise = self
            .advertise
            .and_then(|text| advertised(text).map_err(|why| wrong.push(("advertise", why))).ok());
        if let Some(ports) = self.ports
            && ports.count() < self.slots
        {
            let why = format!(
                "{ports} are {} ports, and each of the {} slots takes one",
                ports.count(),
                self.slots
            );
            wrong.push(("port-range", why));
        }
        let (own, name) = match &interface {
            Some(interface) => (interface.best(), interface.name.clone()),
            None => (None, String::new()),
        };
        let listen = match advertise {
            None => own,
            Some(address) if interface.is_some_and(|it| it.addresses.contains(&address)) => {
                Some(address)
            }
            Some(address) if is_local(address) => {
                if let Some(own) = own {
                    let why = format!(
                        "`{address}` is this machine's, but not on {name}, which has {own}"
                    );
                    wrong.push(("advertise", why));
                }
                Some(address)
            }
            Some(address) => {
                if self.ports.is_none() {
                    wrong.push(("advertise", foreign(address)));
                }
                Some(own.unwrap_or_else(|| any_like(address)))
            }
        };
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let interface = self.interface.map(|asked| Chosen { asked: asked.clone(), name });
        Ok(Network { advertise: advertise.or(own), listen, ports: self.ports, interface })
    }
}

fn advertised(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address: IpAddr =
        bare.parse().map_err(|_| format!("`{text}` must be an IP address such as 10.0.0.4"))?;
    if address.is_unspecified() {
        return Err(format!("`{text}` is no address that peers can connect to"));
    }
    Ok(address)
}

/// Without a range nothing says which ports the other network lets through to this one.
fn foreign(address: IpAddr) -> String {
    format!(
        "`{address}` is not an address of this machine; where a translated network (NAT, a container's \
         published ports) leads from it to here, say by which ports: --port-range 40000-40100"
    )
}

fn any_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Whether it can be bound here.
pub(crate) fn is_local(address: IpAddr) -> bool {
    TcpListener::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests;

//! Ports for what is started again in the place where it was.

use std::net::{IpAddr, SocketAddr};

/// Below those that the kernel hands out for port 0: while nobody listens on one of them, no other
/// test gets it by chance.
const OURS: &str = "10000-31999";

/// A port of ours of this address that is free.
pub fn free_port(ip: IpAddr) -> u16 {
    let ports = Some(OURS.parse().expect("a range of ports"));
    let listener = common::ports::listen(ip, ports, rand::random()).expect("one of many is free");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// The same place to listen, with a port of ours where it says 0.
pub fn settled(listen: &str) -> String {
    let address: SocketAddr = listen.parse().expect("tests listen at addresses");
    match address.port() {
        0 => SocketAddr::new(address.ip(), free_port(address.ip())).to_string(),
        _ => listen.to_owned(),
    }
}

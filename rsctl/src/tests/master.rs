//! Claims about reading the coordinator's address.

use crate::master::Master;

#[test]
fn a_master_is_a_host_with_or_without_a_port() {
    for (text, address) in [
        ("127.0.0.1", "127.0.0.1:29500"),
        ("node-a", "node-a:29500"),
        ("node-a.cluster:4000", "node-a.cluster:4000"),
        ("::1", "[::1]:29500"),
        ("[::1]", "[::1]:29500"),
        ("[::1]:4000", "[::1]:4000"),
    ] {
        assert_eq!(text.parse::<Master>().unwrap().address(), address, "{text}");
    }
}

#[test]
fn what_is_no_address_is_refused_with_an_example() {
    for text in ["", ":29500", "host:", "host:0", "host:70000", "host:port", "http://host:1", "a b"]
    {
        let error = text.parse::<Master>().unwrap_err().to_string();
        assert!(error.contains("192.168.1.100:29500"), "{text}: {error}");
    }
}

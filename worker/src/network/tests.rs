//! Claims about interfaces, addresses and ports of machines that are described.

use super::interfaces::described;
use super::*;

fn interface(name: &str, addresses: &[&str]) -> Interface {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Interface { name: name.to_owned(), is_up: true, addresses }
}

fn machine() -> Vec<Interface> {
    vec![
        interface("lo", &["127.0.0.1", "::1"]),
        interface("docker0", &["172.17.0.1"]),
        interface("eth10", &["10.0.10.4"]),
        interface("eth1", &["2001:db8::4", "10.0.1.4", "10.0.1.5"]),
        interface("ib0", &["2001:db8:1::4"]),
        interface("wlan0", &[]),
        Interface { is_up: false, ..interface("eth9", &["10.0.9.4"]) },
    ]
}

fn settle(asked: Asked<'_>) -> Result<Network, Vec<Wrong>> {
    let all: Vec<IpAddr> = machine().into_iter().flat_map(|it| it.addresses).collect();
    asked.settle(&machine(), |address| all.contains(&address))
}

fn choice(text: &str) -> Choice {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn an_interface_is_chosen_in_nccls_words() {
    for (text, name, address) in [
        ("eth1", "eth1", "10.0.1.4"),
        ("eth", "eth10", "10.0.10.4"),
        ("=eth1", "eth1", "10.0.1.4"),
        ("ib,eth", "ib0", "2001:db8:1::4"),
        ("bond,=eth", "", ""),
        ("^docker,lo", "eth10", "10.0.10.4"),
        ("^=eth10,docker0", "eth1", "10.0.1.4"),
        ("^docker,eth,ib", "lo", "127.0.0.1"),
        ("eth9,eth1", "eth1", "10.0.1.4"),
        ("lo", "lo", "127.0.0.1"),
    ] {
        let Ok(choice) = text.parse::<Choice>() else {
            assert_eq!(name, "", "{text}");
            continue;
        };
        assert_eq!(choice.to_string(), text);
        let network = settle(Asked { interface: Some(&choice), ..Asked::default() }).unwrap();
        let chosen = network.interface.clone().unwrap();
        assert_eq!((chosen.name.as_str(), network.advertise), (name, Some(ip(address))), "{text}");
        assert_eq!(network.door(ip("10.9.9.9")).listen, ip(address), "{text}");
        let variables = [(NCCL, text.to_owned()), (GLOO, name.to_owned())];
        assert_eq!(network.variables(), variables);
    }
    for text in ["", "^", "=", "eth0,", "^^lo", "eth/0", "a b"] {
        let error = text.parse::<Choice>().unwrap_err().to_string();
        assert!(error.contains("NCCL_SOCKET_IFNAME"), "{error}");
    }
}

#[test]
fn a_wrong_interface_is_told_with_those_that_there_are() {
    let there = "there are lo 127.0.0.1 ::1, docker0 172.17.0.1, eth10 10.0.10.4, eth1 2001:db8::4 \
                 10.0.1.4 10.0.1.5, ib0 2001:db8:1::4, wlan0 (no address), eth9 (down)";
    for (text, why) in [
        ("eht0", format!("`eht0` is no interface of this machine; {there}")),
        ("=eth", format!("`=eth` is no interface of this machine; {there}")),
        ("wlan", format!("`wlan` has no address to listen on; {there}")),
        ("=eth9", format!("`=eth9` has no address to listen on; {there}")),
    ] {
        let choice = choice(text);
        let asked = Asked { interface: Some(&choice), ..Asked::default() };
        assert_eq!(settle(asked).unwrap_err(), [("interface", why)]);
    }
}

#[test]
fn an_address_of_another_network_is_bound_here_and_told_there() {
    let range = Some("40000-40003".parse().unwrap());
    let eth1 = choice("eth1");
    for (advertise, interface, ports, listen) in [
        (Some("10.0.1.5"), None, None, "10.0.1.5"),
        (Some("[2001:db8::4]"), None, range, "2001:db8::4"),
        (Some("10.0.1.5"), Some(&eth1), None, "10.0.1.5"),
        (Some("203.0.113.9"), None, range, "0.0.0.0"),
        (Some("2001:db8:f::1"), None, range, "::"),
        (Some("203.0.113.9"), Some(&eth1), range, "10.0.1.4"),
        (None, None, range, "10.9.9.9"),
    ] {
        let network = settle(Asked { advertise, interface, ports, slots: 4 }).unwrap();
        let door = network.door(ip("10.9.9.9"));
        let told = advertise.unwrap_or("10.9.9.9").trim_matches(['[', ']']);
        assert_eq!((door.advertise, door.listen, door.ports), (ip(told), ip(listen), ports));
        let inside = match listen {
            "0.0.0.0" => Some(ip("127.0.0.1")),
            "::" => Some(ip("::1")),
            listen => (listen != door.advertise.to_string()).then(|| ip(listen)),
        };
        assert_eq!(door.inner_address(), inside, "{advertise:?}");
    }
}

#[test]
fn every_mistake_about_the_network_is_told() {
    let eth1 = choice("eth1");
    let few = Some("40000-40001".parse().unwrap());
    for (advertise, interface, ports, keys, part) in [
        (Some("203.0.113.9"), None, None, vec!["advertise"], "--port-range 40000-40100"),
        (Some("nowhere"), None, None, vec!["advertise"], "such as 10.0.0.4"),
        (Some("0.0.0.0"), None, None, vec!["advertise"], "that peers can connect to"),
        (Some("::"), None, None, vec!["advertise"], "that peers can connect to"),
        (
            Some("10.0.10.4"),
            Some(&eth1),
            None,
            vec!["advertise"],
            "not on eth1, which has 10.0.1.4",
        ),
        (Some("203.0.113.9"), None, few, vec!["port-range"], "40000-40001 are 2 ports"),
        (Some("nowhere"), None, few, vec!["advertise", "port-range"], "10.0.0.4"),
    ] {
        let wrong = settle(Asked { advertise, interface, ports, slots: 4 }).unwrap_err();
        assert_eq!(wrong.iter().map(|(key, _)| *key).collect::<Vec<_>>(), keys, "{wrong:?}");
        assert!(wrong[0].1.contains(part), "{wrong:?}");
    }
}

#[test]
fn this_machine_has_loopback_and_says_so() {
    let here = interfaces();
    let lo = choice("=lo").find(&here).unwrap().clone();
    assert!(lo.addresses.contains(&ip("127.0.0.1")), "{here:?}");
    assert!(described(&here).contains("lo 127.0.0.1"), "{}", described(&here));
    assert!(is_local(ip("127.0.0.1")) && !is_local(ip("192.0.2.1")));
}

//! Claims about jobs that name their hosts on a private cluster.

use common::spec::HostSlots;

use super::*;

const ASKED: Asked = Asked { workers: 1, slots: None, origin: "--slots" };

fn machine() -> Machine {
    Machine {
        hostname: "box.lab".to_owned(),
        has_address: |address| address.is_loopback() || address.to_string() == "10.0.0.4",
    }
}

fn on(hosts: &[(&str, &[u32])]) -> Resources {
    let host = |(name, numbers): &(&str, &[u32])| Host {
        name: (*name).to_owned(),
        slots: match numbers {
            [] => HostSlots::All,
            numbers => HostSlots::These(numbers.to_vec()),
        },
    };
    let named = || Hosts::new(hosts.iter().map(host).collect()).unwrap();
    Resources { hosts: (!hosts.is_empty()).then(named), ..Resources::default() }
}

fn refused(hosts: &[(&str, &[u32])], asked: Asked) -> String {
    let error = site(&mut on(hosts), asked, &machine()).unwrap_err();
    let failure = Failure::from(error);
    assert_eq!(failure.code, ExitCode::BadConfiguration);
    failure.render()
}

fn here(resources: &mut Resources, asked: Asked) -> Asked {
    match site(resources, asked, &machine()).unwrap() {
        Site::Here(asked) => asked,
        Site::OnHosts => panic!("elsewhere"),
    }
}

#[test]
fn this_machine_by_any_of_its_names_becomes_the_private_worker() {
    for name in ["localhost", "127.0.0.1", "::1", "127.0.0.2", "box.lab", "BOX", "10.0.0.4"] {
        let mut resources = on(&[(name, &[1, 3])]);
        let asked = here(&mut resources, ASKED);
        assert_eq!(asked.slots, Some(4), "{name}: slot 3 is the fourth");
        assert_eq!(resources.hosts.unwrap().to_string(), "local-0:1,3");
    }
    let mut whole = on(&[("localhost", &[])]);
    let asked = Asked { slots: Some(2), ..ASKED };
    assert_eq!(here(&mut whole, asked).slots, Some(2));
    let mut open = on(&[]);
    let asked = Asked { workers: 3, ..ASKED };
    assert_eq!(here(&mut open, asked).workers, 3);
    assert_eq!(open.hosts, None);
}

#[test]
fn other_hosts_have_a_worker_each() {
    for hosts in [&["gpu-node-01"][..], &["localhost", "gpu-node-01"], &["10.0.0.5", "10.0.0.4"]] {
        let hosts: Vec<(&str, &[u32])> = hosts.iter().map(|host| (*host, &[0][..])).collect();
        let mut resources = on(&hosts);
        let site = site(&mut resources, ASKED, &machine()).unwrap();
        assert!(matches!(site, Site::OnHosts), "{hosts:?}");
        assert_eq!(resources, on(&hosts), "as the job names them");
    }
    let text = refused(&[("gpu-node-01", &[0])], Asked { workers: 2, ..ASKED });
    assert!(text.starts_with("error: --workers 2: the job names its hosts"), "{text}");
}

#[test]
fn one_worker_is_on_the_one_host() {
    let text = refused(&[("localhost", &[0]), ("box", &[1])], ASKED);
    let expected =
        "error: `localhost` and `box` are both this machine; name it once, with all its slots";
    assert!(text.starts_with(expected), "{text}");
    let text = refused(&[("localhost", &[0])], Asked { workers: 2, ..ASKED });
    assert!(text.ends_with("hint: leave --workers out"), "{text}");
    let text = refused(&[("localhost", &[0, 1])], Asked { slots: Some(2), ..ASKED });
    let expected = "error: --slots 2: the job names the slots of its host, localhost slots=2";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn addresses_of_this_machine_are_known() {
    let this = Machine::this();
    assert!((this.has_address)("127.0.0.1".parse().unwrap()));
    // From the block for documentation.
    assert!(!(this.has_address)("192.0.2.1".parse().unwrap()));
}

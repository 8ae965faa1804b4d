//! Claims about jobs that name their hosts on a private cluster.

use common::spec::{Device, HostSlots, Transport};

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
    Resources {
        world_size: None,
        min_ranks: None,
        max_ranks: None,
        workers: None,
        hosts: (!hosts.is_empty()).then(|| Hosts::new(hosts.iter().map(host).collect()).unwrap()),
        device: Device::Auto,
        threads_per_rank: 1,
        transport: Transport::Auto,
    }
}

fn refused(hosts: &[(&str, &[u32])], asked: Asked) -> String {
    let error = stay_here(&mut on(hosts), asked, &machine()).unwrap_err();
    let failure = Failure::from(error);
    assert_eq!(failure.code, ExitCode::BadConfiguration);
    failure.render()
}

#[test]
fn this_machine_by_any_of_its_names_becomes_the_private_worker() {
    for name in ["localhost", "127.0.0.1", "::1", "127.0.0.2", "box.lab", "BOX", "10.0.0.4"] {
        let mut resources = on(&[(name, &[1, 3])]);
        let asked = stay_here(&mut resources, ASKED, &machine()).unwrap();
        assert_eq!(asked.slots, Some(4), "{name}: slot 3 is the fourth");
        assert_eq!(resources.hosts.unwrap().to_string(), "local-0:1,3");
    }
    let mut whole = on(&[("localhost", &[])]);
    let asked = Asked { slots: Some(2), ..ASKED };
    assert_eq!(stay_here(&mut whole, asked, &machine()).unwrap().slots, Some(2));
    let mut open = on(&[]);
    let asked = Asked { workers: 3, ..ASKED };
    assert_eq!(stay_here(&mut open, asked, &machine()).unwrap().workers, 3);
    assert_eq!(open.hosts, None);
}

#[test]
fn other_hosts_are_refused_with_what_to_do() {
    let text = refused(&[("gpu-node-01", &[0]), ("localhost", &[0]), ("10.0.0.5", &[0])], ASKED);
    let expected = "error: `gpu-node-01` and 1 more host are not this machine (`box.lab`), and \
                    `rsctl run` starts workers here only\n\nhint: starting workers over ssh is not \
                    built yet: run `coordinator serve` here";
    assert!(text.starts_with(expected), "{text}");
    let text = refused(&[("gpu-node-01", &[0])], ASKED);
    assert!(text.starts_with("error: `gpu-node-01` is not this machine"), "{text}");
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

//! Claims about what the worker of a host is called with.

use common::hostfile::{Filter, Hostfile};

use super::*;
use crate::hosts::Chosen;
use crate::ssh::target;

fn order(hostfile: &str, include: &str) -> Order {
    let hostfile = Hostfile::parse("hosts.txt", hostfile).unwrap();
    let filter = Filter::from_flags(include, "", None, None).unwrap();
    let selection = hostfile.select(&filter).unwrap();
    let chosen = Chosen { hostfile, selection, flags: String::new() };
    let machine = Machine { hostname: "box".to_owned(), has_address: |_| false };
    Order {
        targets: target::of_hostfile(&chosen, &machine).unwrap(),
        ssh: Ssh::new(vec!["ssh".to_owned()]),
        programs: Programs { worker: "/w".to_owned(), trainer: "/t".to_owned() },
        variables: Variables::default(),
        advertise: None,
        master: None,
        port: 0,
        is_cuda: false,
        is_kept: false,
        runs: Runs::Commands,
        scratch: None,
        shows_slots: true,
    }
}

#[test]
fn a_host_offers_slots_up_to_the_last_and_its_programs_see_those_that_are_meant() {
    let order = order("n1 slots=4\nn2 slots=2\n", "n1:1,3@n2");
    let of = |index: usize| {
        let target = &order.targets[index];
        let variables = order.variables_of(target);
        let told: Vec<String> =
            variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (target.meant(), told, order.arguments(target, "head:1").join(" "))
    };
    let (meant, told, arguments) = of(0);
    assert_eq!(meant, Some(("n1".to_owned(), 2)));
    assert_eq!(told, ["CUDA_VISIBLE_DEVICES=1,3"]);
    let expected = "join --master head:1 --name n1 --slots 4 --trainer /t --allow-commands";
    assert_eq!(arguments, expected);
    assert_eq!(of(1).1, ["CUDA_VISIBLE_DEVICES=0,1"]);

    let plain = Order { runs: Runs::Jobs, shows_slots: false, ..order };
    let target = &plain.targets[0];
    assert_eq!(plain.variables_of(target).iter().count(), 0);
    assert!(!plain.arguments(target, "head:1").contains(&"--allow-commands".to_owned()));
}

//! `resources.hosts`: where ranks may be, and the world that follows from it.

use crate::section::{Found, Section};
use crate::spec::{Host, HostSlots, Hosts};
use crate::tree::{Node, Value};

const EXPECTED: &str = "a list of hosts such as \"node01\", { name = \"node02\", slots = 4 } or \
                        { name = \"node03\", slots = [0, 2] }";

pub(super) fn read(section: &Section<'_>) -> Option<Found<Hosts>> {
    let found = section.list("hosts", EXPECTED, host)?;
    let Found { value, place, origin } = found;
    match Hosts::new(value) {
        Ok(value) => Some(Found { value, place, origin }),
        Err(error) => {
            section.refuse("hosts", error.to_string());
            None
        }
    }
}

fn host(node: &Node) -> Option<Host> {
    let table = match &node.value {
        Value::Text(name) => return Some(Host { name: name.clone(), slots: HostSlots::All }),
        Value::Table(table) => table,
        _ => return None,
    };
    let mut slots = HostSlots::All;
    let mut name = None;
    for entry in &table.entries {
        match (entry.key.as_str(), &entry.node.value) {
            ("name", Value::Text(text)) => name = Some(text.clone()),
            ("slots", Value::Integer(count)) => slots = HostSlots::first(slot(*count)?),
            ("slots", Value::Array(numbers)) => {
                let numbers = numbers.iter().map(|number| match number.value {
                    Value::Integer(number) => slot(number),
                    _ => None,
                });
                slots = HostSlots::These(numbers.collect::<Option<_>>()?);
            }
            _ => return None,
        }
    }
    name.map(|name| Host { name, slots })
}

/// What is too large is told with the host.
fn slot(number: i64) -> Option<u32> {
    (number >= 0).then(|| u32::try_from(number).unwrap_or(u32::MAX))
}

/// Ranks for which the hosts have room, where they say their slots.
pub(super) fn room(hosts: Option<&Found<Hosts>>, threads: u32) -> Option<Found<u32>> {
    let hosts = hosts?;
    let ranks = hosts.value.ranks(threads)?;
    let origin = format!("every slot of resources.hosts ({})", hosts.origin);
    Some(Found { value: ranks, place: hosts.place.clone(), origin })
}

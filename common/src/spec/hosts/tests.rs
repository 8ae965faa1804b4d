//! Claims about the hosts of a job and about what a node is called by.

use super::*;

fn host(name: &str, slots: HostSlots) -> Host {
    Host { name: name.to_owned(), slots }
}

fn hosts(names: &[&str]) -> Hosts {
    Hosts::new(names.iter().map(|name| host(name, HostSlots::All)).collect()).unwrap()
}

/// Which of `names` the worker is.
fn find<'a>(names: &[&'a str], [worker, hostname, address]: [&str; 3]) -> Option<&'a str> {
    let found = hosts(names).find(&NodeNames::new(worker, hostname, address));
    found.map(|index| names[index])
}

#[test]
fn a_node_is_found_by_its_workers_name_its_hostname_or_its_address() {
    let node = ["gpu-a", "node01.cluster.local", "10.0.0.4"];
    for name in ["gpu-a", "node01.cluster.local", "node01", "NODE01", "10.0.0.4"] {
        assert_eq!(find(&["other", name], node), Some(name));
    }
    for name in ["gpu", "node0", "node01.elsewhere", "cluster.local", "10.0.0.40", "localhost"] {
        assert_eq!(find(&[name], node), None, "{name}");
    }
    assert_eq!(find(&["node01", "gpu-a"], node), Some("gpu-a"), "the worker's name comes first");
}

#[test]
fn a_domain_may_be_written_where_the_node_has_none() {
    let node = ["w", "node01", "10.0.0.4"];
    assert_eq!(find(&["node01.cluster.local"], node), Some("node01.cluster.local"));
    assert_eq!(find(&["node01.a", "node01.b"], node), None, "either could be meant");
    assert_eq!(find(&["10.0.0.4"], ["w", "10", "192.168.0.1"]), None, "an address has no label");
}

#[test]
fn addresses_are_equal_however_they_are_written() {
    let node = ["w", "n", "fe80::1"];
    assert_eq!(find(&["FE80:0:0:0:0:0:0:1"], node), Some("FE80:0:0:0:0:0:0:1"));
    assert_eq!(find(&["localhost"], ["w", "n", "127.0.0.1"]), Some("localhost"));
    assert_eq!(find(&["localhost"], ["w", "n", "::1"]), Some("localhost"));
    assert_eq!(find(&["localhost"], ["w", "", ""]), None);
}

#[test]
fn hosts_travel_as_they_were_written() {
    let check = |json: &str, shown: &str| {
        let hosts: Hosts = serde_json::from_str(json).unwrap();
        assert_eq!(hosts.to_string(), shown);
        assert_eq!(serde_json::to_string(&hosts).unwrap(), json);
    };
    check(r#"[{"name":"a","slots":4}]"#, "a slots=4");
    check(r#"[{"name":"a","slots":[1,3]},{"name":"b"}]"#, "a:1,3, b");
    let hosts: Hosts = serde_json::from_str(r#"[{"name":"a","slots":[2,0,1]}]"#).unwrap();
    assert_eq!(hosts.to_string(), "a slots=3", "in any order");
}

#[test]
fn what_cannot_be_is_refused() {
    let check = |json: &str, message: &str| {
        let error = serde_json::from_str::<Hosts>(json).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    };
    check("[]", "names no host; leave it out where any worker will do");
    check(r#"[{"name":""}]"#, "`` is no host");
    check(r#"[{"name":"a b"}]"#, "`a b` is no host");
    check(r#"[{"name":"a\u0000"}]"#, "`a\\0` is no host");
    check(&format!(r#"[{{"name":"{}"}}]"#, "x".repeat(254)), "`xxx");
    check(r#"[{"name":"a"},{"name":"A"}]"#, "names `A` twice");
    check(r#"[{"name":"a","slots":0}]"#, "`a` has no slot");
    check(r#"[{"name":"a","slots":[]}]"#, "`a` has no slot");
    check(r#"[{"name":"a","slots":4294967295}]"#, "`a` has slot 4096; the highest is 4095");
    check(r#"[{"name":"a","slots":[4096]}]"#, "`a` has slot 4096; the highest is 4095");
    check(r#"[{"name":"a","slots":[1,0,1]}]"#, "`a` has slot 1 twice");
    check(r#"[{"name":"a","cores":1}]"#, "unknown field `cores`");
    let many: Vec<String> = (0..4097).map(|i| format!(r#"{{"name":"h{i}"}}"#)).collect();
    check(&format!("[{}]", many.join(",")), "names 4097 hosts; at most 4096");
    let wide: Vec<String> = (0..17).map(|i| format!(r#"{{"name":"h{i}","slots":4096}}"#)).collect();
    check(&format!("[{}]", wide.join(",")), "names 69632 slots one by one; at most 65536");
}

#[test]
fn room_is_known_where_every_host_says_its_slots() {
    let some = |count| HostSlots::first(count);
    let both = Hosts::new(vec![host("a", some(5)), host("b", some(3))]).unwrap();
    assert_eq!((both.ranks(1), both.ranks(2), both.ranks(4)), (Some(8), Some(3), Some(1)));
    let open = Hosts::new(vec![host("a", some(5)), host("b", HostSlots::All)]).unwrap();
    assert_eq!(open.ranks(1), None);
}

//! Claims about `resources.hosts`.

use super::*;

fn on(resources: &str) -> String {
    format!("data.kind = \"sine\"\n[resources]\n{resources}\n")
}

/// The hosts as they will be, and the world.
fn check(resources: &str, hosts: &str, world: Option<u32>) {
    let resources = job(&on(resources)).spec().resources;
    assert_eq!(resources.hosts.unwrap().to_string(), hosts);
    assert_eq!(resources.world_size, world);
}

#[test]
fn hosts_are_names_with_all_the_first_or_some_slots() {
    check(r#"hosts = ["node01"]"#, "node01", None);
    check(
        r#"hosts = ["node01"]
world-size = 4"#,
        "node01",
        Some(4),
    );
    check(r#"hosts = ["a", { name = "b", slots = 2 }]"#, "a, b slots=2", None);
    check(r#"hosts = [{ name = "a", slots = [3, 1] }]"#, "a:1,3", Some(2));
}

#[test]
fn a_job_without_a_world_takes_every_slot_that_is_named() {
    let hosts = r#"hosts = [{ name = "a", slots = 5 }, { name = "b", slots = [0, 2, 3] }]"#;
    check(hosts, "a slots=5, b:0,2,3", Some(8));
    check(&format!("threads-per-rank = 2\n{hosts}"), "a slots=5, b:0,2,3", Some(3));
    check(&format!("world-size = 2\n{hosts}"), "a slots=5, b:0,2,3", Some(2));
    check(&format!("max-ranks = 4\n{hosts}"), "a slots=5, b:0,2,3", None);
    job(&on(hosts)).explain("resources", &expect![[r#"
        resources.world-size = 8  # every slot of resources.hosts (job.toml:3)
        resources.min-ranks = -  # the world is fixed
        resources.max-ranks = -  # the world is fixed
        resources.workers = -  # default: no bound
        resources.hosts = [{ name = "a", slots = 5 }, { name = "b", slots = [0, 2, 3] }]  # job.toml:3
        resources.device = "auto"  # default
        resources.threads-per-rank = 1  # default
        resources.transport = "auto"  # default
    "#]]);
    job("data.kind = \"sine\"\n").explain(
        "resources.hosts",
        &expect![[r#"
        resources.hosts = -  # default: any worker
    "#]],
    );
}

#[test]
fn hosts_that_cannot_be_are_refused() {
    let refused = |resources: &str, expected: Expect| job(&on(resources)).check(&expected);
    refused(
        "hosts = []",
        expect![[r#"
        job.toml:3: resources.hosts = []: names no host; leave it out where any worker will do
    "#]],
    );
    refused(
        "hosts = \"node01\"",
        expect![[r#"
        job.toml:3: resources.hosts = "node01": expected a list of hosts such as "node01", { name = "node02", slots = 4 } or { name = "node03", slots = [0, 2] }
    "#]],
    );
    refused(
        "hosts = [{ name = \"a\", gpus = 2 }]",
        expect![[r#"
        job.toml:3: resources.hosts = [{ name = "a", gpus = 2 }]: expected a list of hosts such as "node01", { name = "node02", slots = 4 } or { name = "node03", slots = [0, 2] }
    "#]],
    );
    refused(
        "hosts = [{ name = \"a\", slots = -1 }]",
        expect![[r#"
        job.toml:3: resources.hosts = [{ name = "a", slots = -1 }]: expected a list of hosts such as "node01", { name = "node02", slots = 4 } or { name = "node03", slots = [0, 2] }
    "#]],
    );
    refused(
        "hosts = [{ name = \"a\", slots = 5000 }]",
        expect![[r#"
        job.toml:3: resources.hosts = [{ name = "a", slots = 5000 }]: `a` has slot 4096; the highest is 4095
    "#]],
    );
    refused(
        "hosts = [\"a\", \"a\"]",
        expect![[r#"
        job.toml:3: resources.hosts = ["a", "a"]: names `a` twice
    "#]],
    );
    refused(
        "world-size = 3\nhosts = [{ name = \"a\", slots = 2 }]",
        expect![[r#"
        job.toml:4: resources.hosts = [{ name = "a", slots = 2 }]: room for 2 ranks of 1 slot, and resources.world-size is 3
    "#]],
    );
    refused(
        "min-ranks = 3\nhosts = [{ name = \"a\", slots = 2 }]",
        expect![[r#"
        job.toml:4: resources.hosts = [{ name = "a", slots = 2 }]: room for 2 ranks of 1 slot, and resources.min-ranks is 3
    "#]],
    );
    refused(
        "threads-per-rank = 4\nhosts = [{ name = \"a\", slots = 2 }]",
        expect![[r#"
        job.toml:4: resources.hosts = [{ name = "a", slots = 2 }]: no host has the 4 slots that a rank takes
    "#]],
    );
    let wide = "hosts = [{ name = \"a\", slots = 4096 }, { name = \"b\", slots = 4096 }]";
    refused(
        wide,
        expect![[r#"
        job.toml: training: batch-size 128 (default of sine) is smaller than the world of 8192 ranks: use at most 128 ranks or a batch-size of at least 8192
        job.toml:3: resources.hosts = [{ name = "a", slots = 4096 }, { name = "b", slots = 4096 }]: room for 8192 ranks; give resources.world-size, at most 4096
    "#]],
    );
}

#[test]
fn hosts_of_the_command_line_win() {
    let text = on(r#"hosts = ["a", "b"]"#);
    let job = job(&text).set(r#"resources.hosts=[{name="c",slots=2}]"#);
    let resources = job.spec().resources;
    assert_eq!(resources.hosts.unwrap().to_string(), "c slots=2");
    assert_eq!(resources.world_size, Some(2));
}

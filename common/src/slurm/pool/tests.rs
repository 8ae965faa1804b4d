use super::*;

fn pool() -> Pool {
    Pool {
        request: Request {
            partition: None,
            account: None,
            time: None,
            gres: None,
            nodes: 1,
            cpus_per_task: 2,
            extra: Vec::new(),
        },
        max_workers: 4,
        backlog: 1,
        idle_timeout: Duration::from_secs(300),
        folder: "/shared/pool".into(),
    }
}

#[test]
fn names_are_plain() {
    assert_eq!("gpu-2".parse::<PoolName>().map(|name| name.to_string()), Ok("gpu-2".to_owned()));
    let long = "a".repeat(33);
    for text in ["", "2gpu", "-a", "Gpu", "a b", "a.b", "a@b", "a\n", &long] {
        assert!(text.parse::<PoolName>().is_err(), "{text:?}");
    }
}

#[test]
fn each_mistake_is_told_with_its_key() {
    pool().check().unwrap();
    let change = |change: fn(&mut Pool)| {
        let mut pool = pool();
        change(&mut pool);
        pool.check().unwrap_err().to_string()
    };
    let told = [
        (change(|pool| pool.max_workers = 0), "max-workers"),
        (change(|pool| pool.request.nodes = 5), "max-workers"),
        (change(|pool| pool.backlog = 65), "backlog"),
        (change(|pool| pool.idle_timeout = Duration::from_millis(10)), "idle-timeout"),
        (change(|pool| pool.folder = "here".into()), "folder"),
        (change(|pool| pool.folder = "/a\nb".into()), "folder"),
        (change(|pool| pool.request.partition = Some("a b".to_owned())), "partition"),
    ];
    for (told, key) in told {
        assert!(told.contains(&format!("slurm.{key}")), "{told}");
    }
}

use super::*;
use crate::network::Chosen;

fn environment_of(inherited: &[(&str, &str)], job: &[(&str, &str)]) -> BTreeMap<String, String> {
    let inherited = inherited.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
    let job = job.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    of_trainers(inherited, &job, 3, &Network::default())
        .into_iter()
        .map(|(k, v)| (k.into_string().unwrap(), v.into_string().unwrap()))
        .collect()
}

#[test]
fn trainers_inherit_the_users_world_but_not_another_launchers() {
    let inherited = [
        ("PATH", "/bin"),
        ("RANK", "7"),
        ("RUSTSPEED_MASTER", "a:1"),
        ("OMP_NUM_THREADS", "64"),
        ("CUDA_VISIBLE_DEVICES", "1"),
        ("NCCL_IB_DISABLE", "1"),
        ("RUSTSPEED_NCCL_LIB", "/n/libnccl.so.2"),
    ];
    let env = environment_of(&inherited, &[]);
    assert_eq!(env["PATH"], "/bin");
    assert_eq!(env["OMP_NUM_THREADS"], "3");
    assert_eq!(env["MALLOC_TOP_PAD_"], "268435456");
    assert_eq!(
        (env["RUST_BACKTRACE"].as_str(), env["CUDA_DEVICE_ORDER"].as_str()),
        ("1", "PCI_BUS_ID")
    );
    assert_eq!((env["CUDA_VISIBLE_DEVICES"].as_str(), env["NCCL_IB_DISABLE"].as_str()), ("1", "1"));
    assert_eq!(env["RUSTSPEED_NCCL_LIB"], "/n/libnccl.so.2");
    assert!(!env.contains_key("RANK") && !env.contains_key("RUSTSPEED_MASTER"));
}

#[test]
fn what_the_user_set_wins_over_ours_and_what_the_job_set_over_both() {
    let order = ("CUDA_DEVICE_ORDER", "FASTEST_FIRST");
    let inherited = [("MALLOC_TOP_PAD_", "1"), ("NCCL_DEBUG", "WARN"), order];
    let job = [("NCCL_DEBUG", "INFO"), ("OMP_NUM_THREADS", "1"), ("MALLOC_TRIM_THRESHOLD_", "2")];
    let env = environment_of(&inherited, &job);
    assert_eq!(env["MALLOC_TOP_PAD_"], "1");
    assert_eq!(env["NCCL_DEBUG"], "INFO");
    assert_eq!(env["CUDA_DEVICE_ORDER"], "FASTEST_FIRST");
    assert_eq!(env["OMP_NUM_THREADS"], "1");
    assert_eq!(env["MALLOC_TRIM_THRESHOLD_"], "2");
}

#[test]
fn a_command_inherits_the_users_threads_and_nothing_of_ours_or_of_another_launcher() {
    let inherited = [
        ("PATH", "/bin"),
        ("OMP_NUM_THREADS", "64"),
        ("RANK", "7"),
        ("MASTER_PORT", "1"),
        ("GROUP_RANK", "1"),
        ("TORCHELASTIC_ERROR_FILE", "/x"),
        ("RUSTSPEED_MASTER", "a:1"),
        ("RUSTSPEED_TOKEN", "secret"),
    ];
    let inherited = inherited.iter().map(|(k, v)| (OsString::from(k), OsString::from(v)));
    let job = [("MASTER_PORT", "29501"), ("PATH", "/venv/bin")];
    let job = job.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let env = of_command(inherited, &job, &Network::default());
    let shown: Vec<String> =
        env.iter().map(|(k, v)| format!("{}={}", k.display(), v.display())).collect();
    assert_eq!(shown, ["MASTER_PORT=29501", "OMP_NUM_THREADS=64", "PATH=/venv/bin"]);
}

#[test]
fn nccl_and_gloo_use_the_chosen_interface_unless_somebody_told_them() {
    let interface = Chosen { asked: "ib,eth".parse().unwrap(), name: "ib0".to_owned() };
    let network = Network { interface: Some(interface), ..Network::default() };
    for (inherited, job, expected) in [
        (vec![], vec![], ["ib,eth", "ib0"]),
        (vec![("NCCL_SOCKET_IFNAME", "lo")], vec![], ["lo", "ib0"]),
        (vec![], vec![("GLOO_SOCKET_IFNAME", "eth0")], ["ib,eth", "eth0"]),
    ] {
        let inherited: Vec<(OsString, OsString)> =
            inherited.into_iter().map(|(k, v): (&str, &str)| (k.into(), v.into())).collect();
        let job = job.iter().map(|(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned()));
        let job: BTreeMap<String, String> = job.collect();
        let trainers = of_trainers(inherited.clone().into_iter(), &job, 1, &network);
        let command = of_command(inherited.into_iter(), &job, &network);
        for env in [trainers, command] {
            let value = |key: &str| env.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
            let found = ["NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"].map(|key| value(key).unwrap());
            assert_eq!(found, expected);
        }
    }
}

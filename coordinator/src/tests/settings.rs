use std::time::Duration;

use service::layers;

use crate::settings::{Flags, Settings};

#[test]
fn file_environment_and_flags_win_in_that_order() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("coordinator.toml");
    fs_err::write(&file, "listen = \"1.1.1.1:1\"\nlease = \"7s\"\ndata-dir = \"/file\"\n").unwrap();
    let env = vec![
        ("RUSTSPEED_LISTEN".to_owned(), "2.2.2.2:2".to_owned()),
        ("RUSTSPEED_DATA_DIR".to_owned(), "/env".to_owned()),
        ("RUSTSPEED_MASTER".to_owned(), "rsctl's own".to_owned()),
    ];
    let flags = Flags { listen: Some("3.3.3.3:3".to_owned()), ..Flags::default() };
    let settings: Settings = layers::load_from(Some(&file), env, &flags).unwrap().value;
    assert_eq!(settings.listen, "3.3.3.3:3");
    assert_eq!(settings.data_dir.to_str(), Some("/env"));
    assert_eq!(settings.lease, Duration::from_secs(7));
    settings.check().unwrap();
}

#[test]
fn impossible_values_are_told_all_at_once() {
    let settings = Settings {
        listen: "29500".to_owned(),
        lease: Duration::from_secs(100),
        reattach_grace: Duration::from_secs(1),
        keep_jobs: 0,
        ..Settings::default()
    };
    let text = settings.check().unwrap_err().to_string();
    for key in ["listen = `29500`", "reattach-grace = ", "keep-jobs = 0", "3 mistakes"] {
        assert!(text.contains(key), "{key} in {text}");
    }
}

#[test]
fn expected_nodes_come_from_a_hostfile_that_must_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts.txt");
    let settings = Settings { hostfile: Some(path.clone()), ..Settings::default() };
    let told = || service::exit::chain(&settings.expected().unwrap_err());
    assert!(told().starts_with("read hostfile: "), "{}", told());
    fs_err::write(&path, "node01 slots=2\nnode02\n").unwrap();
    assert!(told().contains("hosts.txt:2: `node02` is no entry"), "{}", told());
    fs_err::write(&path, "node01 slots=2\nnode02 slots=4\n").unwrap();
    let expected = settings.expected().unwrap().unwrap();
    assert_eq!(expected.to_string(), "node01 slots=2, node02 slots=4");
    assert_eq!(Settings::default().expected().unwrap(), None);
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("coordinator.toml");
    fs_err::write(&file, "leese = \"7s\"\n").unwrap();
    let error = layers::load_from::<Settings>(Some(&file), vec![], &Flags::default()).unwrap_err();
    assert!(error.to_string().contains("did you mean `lease`"), "{error}");
}

#[test]
fn the_address_for_slurms_nodes_takes_a_port() {
    let check = |address: &str| {
        let slurm_address = Some(address.to_owned());
        Settings { slurm_address, ..Settings::default() }.check().map_err(|e| e.to_string())
    };
    for address in ["ib-head", "10.0.0.4", "head.lab", "[fe80::1]"] {
        assert_eq!(check(address), Ok(()), "{address}");
    }
    for address in ["", "head:29500", "fe80::1", "[head]", "a b", "a;id", "$(id)"] {
        let text = check(address).unwrap_err();
        assert!(text.contains(&format!("slurm-address = `{address}`: must be a name")), "{text}");
    }
}

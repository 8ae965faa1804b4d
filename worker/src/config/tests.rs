use common::status::Gpu;

use super::*;

fn settings() -> Settings {
    Settings { master: Some("127.0.0.1:29500".to_owned()), ..Settings::default() }
}

#[test]
fn slots_are_auto_or_a_positive_number() {
    assert_eq!("auto".parse(), Ok(Slots::Auto));
    assert_eq!("3".parse(), Ok(Slots::Count(NonZeroU32::new(3).unwrap())));
    for text in ["0", "-1", "many", "", "4097"] {
        let error = text.parse::<Slots>().unwrap_err();
        assert!(error.contains("`auto` or a number from 1"), "{error}");
    }
}

#[test]
fn a_missing_coordinator_is_a_usage_error_with_a_hint() {
    let failure = Settings::default().check().unwrap_err();
    assert_eq!(failure.code, ExitCode::Usage);
    assert!(failure.render().contains("--master"), "{}", failure.render());
}

#[test]
fn every_mistake_is_told_at_once() {
    let wrong = Settings {
        master: Some("no where".to_owned()),
        name: Some("a b".to_owned()),
        advertise: Some("192.0.2.1".to_owned()),
        libtorch: Wish::Folder("/nowhere".into()),
        ..settings()
    };
    let failure = wrong.check().unwrap_err();
    assert_eq!(failure.code, ExitCode::BadConfiguration);
    let text = failure.render();
    for key in ["`master`", "`name`", "`advertise`", "192.0.2.1", "`libtorch`", "4 mistakes"] {
        assert!(text.contains(key), "{key} in:\n{text}");
    }
}

#[test]
fn derived_values_say_where_they_come_from() {
    let bare = Settings { master: Some("head".to_owned()), ..settings() };
    assert_eq!(bare.check().unwrap().0.master, "head:29500");
    for (written, complete) in [
        ("::1", "[::1]:29500"),
        ("[::1]", "[::1]:29500"),
        ("[2001:db8::4]:7070", "[2001:db8::4]:7070"),
        ("head:7070", "head:7070"),
    ] {
        let master = Some(written.to_owned());
        assert_eq!(Settings { master, ..settings() }.check().unwrap().0.master, complete);
    }
    let (config, reasons) = settings().check().unwrap();
    assert_eq!(config.slots, inventory::cores());
    assert!(reasons["slots"].contains("cores"));
    assert!(config.trainer.ends_with("trainer"));
    assert_eq!(config.libtorch, Libtorch::Linked);
    assert!(reasons.contains_key("libtorch"));
    let given = Settings { slots: Slots::Count(NonZeroU32::MIN), ..settings() };
    let (config, reasons) = given.check().unwrap();
    assert_eq!(config.slots, NonZeroU32::MIN);
    assert!(!reasons.contains_key("slots"));
}

#[test]
fn gpus_are_offered_where_they_are_asked_for_and_seen() {
    assert_eq!(settings().check().unwrap().0.device, Device::Cpu, "unproven, so not by itself");
    let gpu = || Gpu { name: "A".to_owned(), uuid: String::new(), memory_bytes: 0 };
    let none = Gpus { devices: Vec::new(), source: "no NVML".to_owned() };
    let two = Gpus { devices: vec![gpu(), gpu()], source: String::new() };
    let slots = |slots, gpus: &Gpus| {
        let settings = Settings { slots, device: Offer::Cuda, ..settings() };
        let (mut mistakes, mut reasons) = (Vec::new(), Reasons::new());
        let slots = settings.slots_on_gpus(gpus, &mut mistakes, &mut reasons);
        let mistakes: Vec<String> = mistakes.into_iter().map(|Mistake(_, why)| why).collect();
        (slots.get(), mistakes.join("; "))
    };
    assert_eq!(slots(Slots::Auto, &two), (2, String::new()));
    let count = |n| Slots::Count(NonZeroU32::new(n).unwrap());
    assert_eq!(slots(count(1), &two), (1, String::new()));
    assert!(slots(count(3), &two).1.contains("there are 2: 2 x A"));
    assert_eq!(slots(Slots::Auto, &none).1, "`cuda`, but no GPU is seen: no NVML");
}

#[test]
fn binding_takes_a_slot_for_each_physical_core_and_no_more() {
    let one = || Some("0".parse().unwrap());
    let (config, reasons) = Settings { bind_core_list: one(), ..settings() }.check().unwrap();
    assert_eq!((config.slots.get(), config.cores), (1, Use::Bind(one())));
    assert!(reasons["slots"].contains("1 physical core to bind"), "{reasons:?}");
    assert_eq!(settings().check().unwrap().0.cores, Use::Pin);
    let two = Slots::Count(NonZeroU32::new(2).unwrap());
    let text = |wrong: Settings| wrong.check().unwrap_err().render();
    let crowded = text(Settings { bind_core_list: one(), slots: two, ..settings() });
    assert!(crowded.contains("2 slots and 1 physical core: every rank needs one"), "{crowded}");
    let absent = text(Settings { bind_core_list: Some("8000".parse().unwrap()), ..settings() });
    assert!(absent.contains("`bind-core-list`") && absent.contains("CPU 8000"), "{absent}");
}

#[test]
fn what_is_wrong_with_the_network_names_the_keys() {
    let interface = Some("rs-absent".parse().unwrap());
    let wrong = Settings { interface, advertise: Some("192.0.2.1".to_owned()), ..settings() };
    let text = wrong.check().unwrap_err().render();
    for part in ["`interface`", "`rs-absent` is no interface", "lo 127.0.0.1", "--port-range"] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    let port_range = Some("40000-40100".parse().unwrap());
    let translated = Settings { port_range, advertise: wrong.advertise, ..settings() };
    let network = translated.check().unwrap().0.network;
    assert_eq!(network.listen, Some([0, 0, 0, 0].into()));
    let (config, reasons) =
        Settings { interface: Some("lo".parse().unwrap()), ..settings() }.check().unwrap();
    assert_eq!(config.network.advertise, Some([127, 0, 0, 1].into()));
    assert_eq!(reasons["advertise"], "`127.0.0.1`, of lo");
}

#[test]
fn the_state_folder_follows_the_users_environment() {
    let home = |key: &str| (key == "HOME").then(|| "/home/a".into());
    assert_eq!(
        default_state_dir(home).unwrap(),
        PathBuf::from("/home/a/.local/state/rustspeed/worker")
    );
    assert_eq!(default_state_dir(|_| None), None);
}

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
fn the_state_folder_follows_the_users_environment() {
    let home = |key: &str| (key == "HOME").then(|| "/home/a".into());
    assert_eq!(
        default_state_dir(home).unwrap(),
        PathBuf::from("/home/a/.local/state/rustspeed/worker")
    );
    assert_eq!(default_state_dir(|_| None), None);
}

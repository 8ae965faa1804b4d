use super::*;

fn machine() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (bus, model) in [("0000:41:00.0", "B"), ("0000:01:00.0", "A")] {
        let folder = root.path().join("proc/driver/nvidia/gpus").join(bus);
        fs::create_dir_all(&folder).unwrap();
        let text = format!("Model: \t NVIDIA {model}\nIRQ: 1\nGPU UUID: \t GPU-{model}1\n");
        fs::write(folder.join("information"), text).unwrap();
    }
    root
}

fn absent() -> Result<nvml::Told, String> {
    Err("no NVML".to_owned())
}

fn names(gpus: &Gpus) -> Vec<&str> {
    gpus.devices.iter().map(|gpu| gpu.name.as_str()).collect()
}

#[test]
fn cuda_visible_devices_chooses_by_number_and_by_uuid() {
    let root = machine();
    let seen = |list: Option<&str>| {
        let gpus = of(absent(), root.path(), list.map(OsStr::new));
        names(&gpus).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(seen(None), ["NVIDIA A", "NVIDIA B"]);
    assert_eq!(seen(Some("1")), ["NVIDIA B"]);
    assert_eq!(seen(Some("1, 0")), ["NVIDIA B", "NVIDIA A"]);
    assert_eq!(seen(Some("0,7,1")), ["NVIDIA A"], "up to the first that names none");
    assert_eq!(seen(Some("GPU-B")), ["NVIDIA B"]);
    assert_eq!(seen(Some("MIG-1")), ["MIG"]);
    for none in ["", "-1", "none", "GPU-", "GPU-C"] {
        assert!(seen(Some(none)).is_empty(), "{none}");
    }
}

#[test]
fn nvml_is_asked_first_and_the_source_says_who_told() {
    let root = machine();
    let gpu = Gpu { name: "NVIDIA N".to_owned(), uuid: "GPU-N".to_owned(), memory_bytes: 9 };
    let told = Ok(nvml::Told { driver: "580".to_owned(), devices: vec![gpu.clone()] });
    let gpus = of(told, root.path(), None);
    assert_eq!(gpus, Gpus { devices: vec![gpu], source: "NVML, driver 580".to_owned() });
    let gpus = of(absent(), root.path(), Some(OsStr::new("0")));
    assert_eq!(gpus.source, "the driver's files (no NVML); CUDA_VISIBLE_DEVICES=0");
}

#[test]
fn device_files_do_where_there_is_no_folder_and_nothing_is_an_answer_too() {
    let root = tempfile::tempdir().unwrap();
    let none = of(absent(), root.path(), None);
    assert_eq!(none, Gpus { devices: Vec::new(), source: "no NVML".to_owned() });
    assert_eq!(word(&none, Device::Cpu), None);
    fs::create_dir(root.path().join("dev")).unwrap();
    for name in ["nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "null"] {
        fs::write(root.path().join("dev").join(name), "").unwrap();
    }
    let gpus = of(absent(), root.path(), None);
    assert_eq!(names(&gpus), ["/dev/nvidia2", "/dev/nvidia10"]);
    let chosen = of(absent(), root.path(), Some(OsStr::new("GPU-8f1a")));
    assert_eq!(chosen.devices[0].uuid, "GPU-8f1a", "believed where UUIDs are unknown");
}

#[test]
fn a_worker_with_gpus_says_what_it_offers_and_that_gpus_are_unproven() {
    let gpus = of(absent(), machine().path(), None);
    let said = word(&gpus, Device::Cpu).unwrap();
    assert!(said.contains("(NVIDIA A, NVIDIA B)") && said.contains("offers its cores"), "{said}");
    for said in [said, word(&gpus, Device::Cuda).unwrap()] {
        assert!(said.contains("not been proven"), "{said}");
    }
}

#[test]
fn a_driver_that_hangs_is_left_alone_after_the_deadline() {
    let source = nvml::tests::DRIVER.replace("running = 1; return 0;", "for (;;) pause();");
    let source = format!("#include <unistd.h>\n{source}");
    let (_folder, library) = nvml::tests::library(&source);
    let said = ask_nvml(&library, Duration::from_millis(100)).unwrap_err();
    assert!(said.contains("did not answer"), "{said}");
}

#[test]
fn a_command_sees_the_gpus_of_its_slots_by_the_workers_own_names() {
    assert_eq!(narrowed(None, &[2, 0]), "2,0");
    assert_eq!(narrowed(Some("5, GPU-abc,7"), &[1, 2]), "GPU-abc,7");
}

#[test]
fn a_gpus_numa_node_is_found_by_its_uuid_whatever_cuda_visible_devices_leaves() {
    let root = machine();
    for (bus, node) in [("0000:41:00.0", "1"), ("0000:01:00.0", "-1")] {
        let folder = root.path().join("sys/bus/pci/devices").join(bus);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("numa_node"), format!("{node}\n")).unwrap();
    }
    let nodes = |list: &str| {
        numa_nodes_below(root.path(), &of(absent(), root.path(), Some(OsStr::new(list))))
    };
    assert_eq!(nodes("1,0"), [Some(1), None], "the other's machine says that it has none");
    assert_eq!(nodes("GPU-B,MIG-1"), [Some(1), None]);
    let bare = tempfile::tempdir().unwrap();
    let gpus = of(absent(), root.path(), None);
    assert_eq!(numa_nodes_below(bare.path(), &gpus), [None, None]);
}

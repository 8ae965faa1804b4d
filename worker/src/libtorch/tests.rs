//! Folders that look like a libtorch, and a program that needs one: a C program of our own linked with
//! a library of that name, whose loading the real loader judges.

use super::*;

fn torch(version: &str, files: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let lib = root.path().join("torch/lib");
    fs::create_dir_all(&lib).unwrap();
    let text = format!("from typing import Optional\n__version__ = '{version}'\ndebug = False\n");
    fs::write(root.path().join("torch/version.py"), text).unwrap();
    files.iter().for_each(|file| fs::write(lib.join(file), "").unwrap());
    root
}

fn compile(arguments: &[&str], output: &Path) {
    let mut command = Command::new("cc");
    let built = command.arg("-o").arg(output).args(["-x", "c", "/dev/null", "-x", "none"]);
    assert!(built.args(arguments).status().expect("the C compiler that links us").success());
}

/// A trainer whose libtorch lies in `torch/lib` and nowhere that the loader looks by itself.
fn machine(root: &Path) -> PathBuf {
    let lib = root.join("torch/lib/libtorch_cpu.so");
    compile(&["-shared", "-fPIC", "-Wl,-soname,libtorch_cpu.so"], &lib);
    let (code, trainer) = (root.join("trainer.c"), root.join("trainer"));
    fs::write(&code, "int main(void) { return 0; }\n").unwrap();
    let (code, lib) = (code.to_str().unwrap(), lib.to_str().unwrap());
    compile(&[code, "-Wl,--no-as-needed", lib], &trainer);
    trainer
}

#[test]
fn a_pytorch_of_the_right_version_is_found_from_any_folder_around_it() {
    let root = torch("2.11.0+cu130", &["libtorch_cpu.so", "libtorch_cuda.so"]);
    for folder in ["", "torch", "torch/lib"] {
        let found = Installed::at(&root.path().join(folder)).unwrap();
        assert_eq!((found.version.as_str(), found.has_cuda), ("2.11.0+cu130", true));
        assert_eq!(found.folder, root.path().join("torch/lib"));
    }
}

#[test]
fn what_our_set_up_unpacks_and_an_archive_tell_their_versions() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("libtorch-2.11.0-cpu");
    fs::create_dir_all(folder.join("lib")).unwrap();
    fs::write(folder.join("lib/libtorch_cpu.so"), "").unwrap();
    let error = Installed::at(&folder).unwrap_err();
    assert!(error.contains("does not tell its version"), "{error}");
    fs::write(folder.join(".layout"), "1\n").unwrap();
    assert_eq!(Installed::at(&folder).unwrap().version, "2.11.0");
    fs::write(folder.join("build-version"), "2.11.0+cpu\n").unwrap();
    assert_eq!(Installed::at(&folder).unwrap().version, "2.11.0+cpu");
}

#[test]
fn another_version_or_none_is_refused_by_name() {
    let root = torch("2.9.1", &["libtorch_cpu.so"]);
    let reason = Installed::at(root.path()).unwrap_err();
    assert!(reason.contains("2.9.1") && reason.contains("2.11.0"), "{reason}");
    let reason = Installed::at(torch("2.11.0", &[]).path()).unwrap_err();
    assert!(reason.contains("is no libtorch: no libtorch_cpu.so"), "{reason}");
}

#[test]
fn it_leads_the_trainers_library_path() {
    let root = torch("2.11.0", &["libtorch_cpu.so"]);
    let found = Installed::at(root.path()).unwrap();
    let before = vec![(LIBRARY_PATH.into(), "/opt/lib".into()), ("A".into(), "b".into())];
    let mut env = before.clone();
    Libtorch::Linked.lead(&mut env);
    assert_eq!(env, before);
    Libtorch::Installed(found.clone()).lead(&mut env);
    let path = env.iter().find(|(key, _)| key == LIBRARY_PATH).unwrap().1.clone();
    assert_eq!(path, format!("{}:/opt/lib", found.folder.display()).as_str());
    assert_eq!(env.len(), 2);
}

#[test]
fn auto_takes_the_linked_one_first_then_the_first_place_that_fits() {
    let root = torch("2.11.0", &[]);
    let trainer = machine(root.path());
    let (old, right) = (torch("2.9.1", &["libtorch_cpu.so"]), root.path().join("torch"));
    let places = || [old.path().to_owned(), right.clone()].into_iter();
    let Libtorch::Installed(found) = Libtorch::auto(&trainer, places()) else {
        panic!("{}", Libtorch::auto(&trainer, places()))
    };
    assert_eq!(found.folder, right.join("lib"));

    let Libtorch::Missing(why) = Libtorch::auto(&trainer, places().take(1)) else { panic!() };
    for part in ["finds no libtorch_cpu.so", "2.9.1"] {
        assert!(why.contains(part), "{why}");
    }

    // This test's own program is whole; one that is not there is told elsewhere.
    let whole = std::env::current_exe().unwrap();
    assert_eq!(Libtorch::auto(&whole, places()), Libtorch::Linked);
    assert_eq!(Libtorch::auto(&root.path().join("none"), places()), Libtorch::Linked);
}

#[test]
fn a_folder_that_the_trainer_cannot_run_on_is_refused_with_what_it_lacks() {
    let root = torch("2.11.0", &[]);
    let trainer = machine(root.path());
    let wish = Wish::Folder(root.path().to_owned());
    assert!(matches!(Libtorch::resolve(&wish, &trainer, false), Ok(Libtorch::Installed(_))));
    let reason = Libtorch::resolve(&wish, &trainer, true).unwrap_err();
    assert!(reason.ends_with("has no CUDA"), "{reason}");
    // Its library needs another one now.
    let lib = root.path().join("torch/lib");
    let other = root.path().join("libcudart.so.13");
    compile(&["-shared", "-fPIC", "-Wl,-soname,libcudart.so.13"], &other);
    let needs = ["-shared", "-fPIC", "-Wl,-soname,libtorch_cpu.so", "-Wl,--no-as-needed"];
    let needs: Vec<&str> = needs.into_iter().chain([other.to_str().unwrap()]).collect();
    compile(&needs, &lib.join("libtorch_cpu.so"));
    let reason = Libtorch::resolve(&wish, &trainer, false).unwrap_err();
    assert!(reason.contains("lacks libcudart.so.13"), "{reason}");
}

#[test]
fn gpus_need_the_first_libtorch_that_has_cuda() {
    let (cpu, gpu) = (torch("2.11.0", &["libtorch_cpu.so"]), torch("2.11.0+cu130", &[]));
    for file in ["libtorch_cpu.so", "libtorch_cuda.so"] {
        fs::write(gpu.path().join("torch/lib").join(file), "").unwrap();
    }
    let trainer = Path::new("/nowhere/trainer");
    let places = || [cpu.path().to_owned(), gpu.path().to_owned()].into_iter();
    let Ok(Libtorch::Installed(found)) = Libtorch::with_cuda(trainer, places()) else { panic!() };
    assert_eq!(found.version, "2.11.0+cu130");
    let reason = Libtorch::with_cuda(trainer, places().take(1)).unwrap_err();
    assert!(reason.contains("has no CUDA; make setup DEVICE=cuda"), "{reason}");
}

#[test]
fn the_loaders_list_is_read_and_silence_is_not_taken_for_completeness() {
    let list =
        "\tlinux-vdso.so.1 (0x1)\n\tlibtorch.so => not found\n\tlibc.so.6 => /l/libc.so.6 (0x2)\n";
    assert_eq!(missing_in(list), Some(vec!["libtorch.so".to_owned()]));
    assert_eq!(missing_in("\tlibc.so.6 => /l/libc.so.6 (0x2)\n"), Some(Vec::new()));
    assert_eq!(missing_in(""), None);
    assert_eq!(missing_in("\tstatically linked\n"), None);
}

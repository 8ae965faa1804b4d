//! What this node has to train with, for whoever asks before a job does. Starts the trainer once, to say its
//! version; absent evidence is a smaller answer, never an error.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::node::{NodeFacts, NodeInterface, Trainer};
use fs_err as fs;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::config::Settings;
use crate::libtorch::{self, Libtorch};
use crate::network::{self, Interface};
use crate::{gpus, inventory, nccl};

/// What kernels look for, in the kernel's words.
const FEATURES: [&str; 5] = ["avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16"];

/// Blocks for as long as drivers and the trainer's start take, within bounds of their own.
pub(crate) fn look(settings: &Settings) -> NodeFacts {
    let path = settings.trainer_path().unwrap_or_else(|| PathBuf::from("trainer"));
    let resolved = Libtorch::resolve(&settings.libtorch, &path, false);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    NodeFacts {
        hostname: inventory::hostname(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        nccl: nccl::look(resolved.as_ref().ok().and_then(Libtorch::folder)),
        trainer: trainer(&path, &resolved),
        gpus: gpus::visible(),
        cpu_features: features(&cpuinfo),
        cores: inventory::cores().get(),
        memory_bytes: inventory::memory_bytes(),
        shm_bytes: size(Path::new("/dev/shm")),
        open_files: open_files(),
        interfaces: interfaces(),
    }
}

fn interfaces() -> Vec<NodeInterface> {
    let usable = network::interfaces().into_iter().filter(|interface| interface.is_usable());
    let told = |Interface { name, addresses, .. }| NodeInterface { name, addresses };
    usable.map(told).collect()
}

fn trainer(path: &Path, resolved: &Result<Libtorch, String>) -> Trainer {
    let (libtorch, has_libtorch) = match resolved {
        Ok(Libtorch::Missing(why)) => (why.clone(), false),
        Ok(libtorch) => (libtorch.to_string(), true),
        Err(why) => (why.clone(), false),
    };
    let mut command = Command::new(path);
    command.arg("--version");
    if let Ok(libtorch) = resolved {
        let mut env: Vec<(OsString, OsString)> =
            std::env::vars_os().filter(|(key, _)| key == libtorch::LIBRARY_PATH).collect();
        libtorch.lead(&mut env);
        command.envs(env);
    }
    // `trainer 0.1.0`
    let said = libtorch::answer(command).filter(|said| !said.is_empty());
    let version = said.map(|said| said.trim().rsplit(' ').next().unwrap_or_default().to_owned());
    Trainer { path: path.display().to_string(), version, libtorch, has_libtorch }
}

/// Of the first CPU: all are alike where trainers run.
fn features(cpuinfo: &str) -> Vec<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let flags = line.and_then(|line| line.split_once(':')).map_or("", |(_, flags)| flags);
    let has = |feature: &&str| flags.split_whitespace().any(|flag| flag == *feature);
    FEATURES.into_iter().filter(has).map(str::to_owned).collect()
}

fn size(folder: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(stat.blocks() * stat.fragment_size())
}

fn open_files() -> Option<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    (hard != RLIM_INFINITY).then_some(hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_whole_words_of_the_flags() {
        let text = "model name : X avx2\nflags\t\t: fpu avx2 avx512f_not amx_bf16\nflags : fma\n";
        assert_eq!(features(text), ["avx2", "amx_bf16"]);
        assert_eq!(features(""), Vec::<String>::new());
    }

    #[test]
    fn a_trainer_that_is_not_there_has_no_version() {
        let told = trainer(Path::new("/nowhere/trainer"), &Ok(Libtorch::Linked));
        assert_eq!(told.version, None);
        assert!(told.has_libtorch);
        let told = trainer(Path::new("/bin/true"), &Err("none".to_owned()));
        assert_eq!((told.has_libtorch, told.libtorch.as_str()), (false, "none"));
    }
}

//! What the caller's machine is and has.

use std::path::PathBuf;

use crate::cluster::here::Machine;
use crate::commands::run::cores;
use crate::launch::variables::VISIBLE;

#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) folder: PathBuf,
    pub(super) variables: Vec<(String, String)>,
    pub(super) cores: u32,
    pub(super) gpus: u32,
    /// Where a program is, if it is there.
    pub(super) find_program: fn(&str) -> Option<PathBuf>,
    pub(super) machine: Machine,
}

impl Surroundings {
    pub(super) fn here() -> Result<Self, std::io::Error> {
        let folder = std::env::current_dir()?;
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let variables: Vec<_> = std::env::vars_os().filter_map(text).collect();
        let machine = Machine::this();
        Ok(Self { folder, variables, cores: cores(), gpus: gpus(), find_program, machine })
    }

    pub(super) fn variable(&self, wanted: &str) -> Option<&str> {
        let (_, value) = self.variables.iter().find(|(name, _)| name == wanted)?;
        (!value.is_empty()).then_some(value)
    }

    /// The GPUs that a CUDA program is to see, as they are listed; an empty list is of none.
    pub(super) fn visible(&self) -> Option<&str> {
        let (_, list) = self.variables.iter().find(|(name, _)| name == VISIBLE)?;
        Some(list)
    }

    /// As a CUDA program sees them.
    pub(super) fn visible_gpus(&self) -> u32 {
        match self.visible() {
            Some(list) if self.gpus > 0 => {
                let listed = list.split(',').filter(|gpu| !gpu.trim().is_empty());
                u32::try_from(listed.count()).unwrap_or(u32::MAX)
            }
            _ => self.gpus,
        }
    }
}

/// By the files of the driver.
fn gpus() -> u32 {
    let Ok(entries) = fs_err::read_dir("/dev") else { return 0 };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_gpu = |name: &String| {
        name.strip_prefix("nvidia").is_some_and(|number| number.parse::<u32>().is_ok())
    };
    u32::try_from(names.filter(is_gpu).count()).unwrap_or(0)
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut paths = std::env::split_paths(&path).map(|folder| folder.join(name));
    paths.find(|path| path.is_file()).and_then(|path| std::path::absolute(path).ok())
}

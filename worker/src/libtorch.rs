//! The libtorch that trainers of this node run on: what the trainer was linked with, or another one of
//! the same version. Finds folders, reads version files and asks the dynamic loader; loads nothing.

mod places;

pub(crate) use places::answer;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use fs_err as fs;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the trainer was linked with; another version may not fit it.
const VERSION: &str = "2.11.0";

/// Lists what a program would load without running it.
const LOADER: &str = if cfg!(target_arch = "aarch64") {
    "/lib/ld-linux-aarch64.so.1"
} else {
    "/lib64/ld-linux-x86-64.so.2"
};

pub(crate) const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// `--libtorch`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Wish {
    /// What the trainer was linked with where the loader finds it, else the first that fits of the
    /// PyTorch that `python3` imports and what `make setup` and `make setup DEVICE=cuda` install.
    #[default]
    Auto,
    /// This one.
    Folder(PathBuf),
}

/// What trainers of this node run on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Libtorch {
    /// What the trainer was linked with.
    Linked,
    Installed(Installed),
    /// Nothing that fits, and where it was looked for: no job can start here.
    Missing(String),
}

/// A libtorch that the trainer was not linked with, and fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Holds `libtorch_cpu.so`.
    pub folder: PathBuf,
    /// Such as `2.11.0+cu130`.
    pub version: String,
    pub has_cuda: bool,
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Folder(folder) => folder.display().fmt(f),
        }
    }
}

impl FromStr for Wish {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "auto" { Self::Auto } else { Self::Folder(text.into()) })
    }
}

impl Serialize for Wish {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Wish {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Libtorch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linked => f.write_str("what the trainer was linked with"),
            Self::Installed(Installed { folder, version, has_cuda }) => {
                let cuda = if *has_cuda { " with CUDA" } else { "" };
                write!(f, "{version}{cuda} in `{}`", folder.display())
            }
            Self::Missing(why) => write!(f, "none: {why}"),
        }
    }
}

impl Libtorch {
    /// What is wished, if `trainer` can run on it.
    pub(crate) fn resolve(wish: &Wish, trainer: &Path, needs_cuda: bool) -> Result<Self, String> {
        match wish {
            Wish::Folder(folder) => {
                let found = Installed::fitting(folder, trainer)?;
                found.with_cuda_if(needs_cuda).map(Self::Installed)
            }
            Wish::Auto if needs_cuda => Self::with_cuda(trainer, places::usual()),
            Wish::Auto => Ok(Self::auto(trainer, places::usual())),
        }
    }

    /// The first of `places` that has CUDA; what the trainer was linked with has none.
    fn with_cuda(trainer: &Path, places: impl Iterator<Item = PathBuf>) -> Result<Self, String> {
        let mut reasons = vec!["no libtorch with CUDA, which GPUs need".to_owned()];
        for folder in places {
            let found = Installed::fitting(&folder, trainer);
            match found.and_then(|found| found.with_cuda_if(true)) {
                Ok(installed) => return Ok(Self::Installed(installed)),
                Err(reason) => reasons.push(reason),
            }
        }
        reasons.push("make setup DEVICE=cuda installs one".to_owned());
        Err(reasons.join("; "))
    }

    fn auto(trainer: &Path, places: impl Iterator<Item = PathBuf>) -> Self {
        let Some(lacks) = missing_libraries(trainer, None).filter(|lacks| !lacks.is_empty()) else {
            return Self::Linked;
        };
        let mut reasons = vec![format!("the trainer finds no {}", lacks.join(", "))];
        for folder in places {
            match Installed::fitting(&folder, trainer) {
                Ok(installed) => return Self::Installed(installed),
                Err(reason) => reasons.push(reason),
            }
        }
        Self::Missing(reasons.join("; "))
    }

    /// Of one that the trainer was not linked with.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Installed(Installed { folder, .. }) => Some(folder),
            Self::Linked | Self::Missing(_) => None,
        }
    }

    /// Puts it before whatever the environment has.
    pub(crate) fn lead(&self, env: &mut Vec<(OsString, OsString)>) {
        let Self::Installed(Installed { folder, .. }) = self else { return };
        let old = env.iter().position(|(key, _)| key == LIBRARY_PATH);
        let old = old.map(|at| env.remove(at).1);
        env.push((LIBRARY_PATH.into(), first(folder, old)));
    }
}

impl Installed {
    /// Looks at `folder`: libtorch's `lib`, the folder around it, or one that PyTorch is in.
    pub(crate) fn at(folder: &Path) -> Result<Self, String> {
        let places = ["", "lib", "torch/lib"].map(|below| folder.join(below));
        let lib = places.into_iter().find(|lib| lib.join("libtorch_cpu.so").exists());
        let Some(lib) = lib else {
            return Err(format!(
                "`{0}` is no libtorch: no libtorch_cpu.so in `{0}`, `{0}/lib` or `{0}/torch/lib`",
                folder.display()
            ));
        };
        // Trainers run in folders of their own, and the folder around it may have the version.
        let lib = std::path::absolute(&lib).unwrap_or(lib);
        let shown = lib.display();
        let version = version(&lib)
            .ok_or_else(|| format!("`{shown}` does not tell its version; it must be {VERSION}"))?;
        if version.split('+').next() != Some(VERSION) {
            return Err(format!(
                "`{shown}` is libtorch {version}; trainers were built with {VERSION}"
            ));
        }
        let has_cuda = lib.join("libtorch_cuda.so").exists();
        Ok(Self { folder: lib, version, has_cuda })
    }

    fn with_cuda_if(self, needs_cuda: bool) -> Result<Self, String> {
        if needs_cuda && !self.has_cuda {
            return Err(format!("`{}` has no CUDA", self.folder.display()));
        }
        Ok(self)
    }

    fn fitting(folder: &Path, trainer: &Path) -> Result<Self, String> {
        let found = Self::at(folder)?;
        match missing_libraries(trainer, Some(&found.folder)) {
            Some(lacks) if !lacks.is_empty() => {
                Err(format!("`{}` lacks {}", found.folder.display(), lacks.join(", ")))
            }
            // None: the loader tells when a trainer starts.
            _ => Ok(found),
        }
    }
}

fn first(folder: &Path, rest: Option<OsString>) -> OsString {
    let mut path = folder.to_owned().into_os_string();
    if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    path
}

/// What the loader would not find for `program` with `folder` before its other places. None: it does
/// not say, as there is no such program or no such loader.
fn missing_libraries(program: &Path, folder: Option<&Path>) -> Option<Vec<String>> {
    let mut command = Command::new(LOADER);
    // As `ldd` asks; `--list` of the loader ends at the first that is missing.
    command.arg(program).env("LD_TRACE_LOADED_OBJECTS", "1");
    if let Some(folder) = folder {
        command.env(LIBRARY_PATH, first(folder, std::env::var_os(LIBRARY_PATH)));
    }
    missing_in(&places::answer(command)?)
}

/// Lines are `name => path (address)` or `name => not found`.
fn missing_in(list: &str) -> Option<Vec<String>> {
    let mut lines = list.lines().filter_map(|line| line.split_once(" => ")).peekable();
    lines.peek()?;
    let lacks = lines.filter(|(_, found)| found.trim() == "not found");
    Some(lacks.map(|(name, _)| name.trim().to_owned()).collect())
}

/// PyTorch's `torch/version.py`, or `build-version` of a libtorch archive, or the folder that our set-up
/// has made.
fn version(lib: &Path) -> Option<String> {
    let around = lib.parent()?;
    let python = fs::read_to_string(around.join("version.py")).ok();
    let of_python = python.and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
        Some(line.trim_matches(['\'', '"']).to_owned())
    });
    let of_archive = || fs::read_to_string(around.join("build-version")).ok();
    let of_setup = || around.join(".layout").exists().then(|| named(around)).flatten();
    of_python.or_else(of_archive).or_else(of_setup).map(|version| version.trim().to_owned())
}

/// `libtorch-2.11.0-cpu`.
fn named(folder: &Path) -> Option<String> {
    let name = folder.file_name()?.to_str()?;
    name.strip_prefix("libtorch-")?.split('-').next().map(str::to_owned)
}

#[cfg(test)]
mod tests;

//! The root of a job's checkpoints: where it is, and what lies under it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use common::ids::{Generation, JobId};
use common::status::CheckpointRow;

use crate::disk::{self, failed};
use crate::error::{Defect, Error};
use crate::fence::{Fence, Locked};
use crate::manifest::Manifest;
use crate::shard;

/// A root with more entries holds something else.
const MAX_ENTRIES: usize = 100_000;

const TAG_PREFIX: &str = "step-";
/// Before the tag of a checkpoint that belongs to another history than the newest attempt's.
const ASIDE_PREFIX: &str = "aside-";

/// The folder name of the checkpoint of a step.
pub fn tag(step: u64) -> String {
    format!("{TAG_PREFIX}{step:08}")
}

/// The step of a folder name as [`tag`] spells it.
pub(crate) fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix(TAG_PREFIX)?.parse().ok()?;
    (tag(step) == name).then_some(step)
}

/// A local path from what a person or a job file wrote: a path or a `file://` URL.
pub fn local_path(text: &str) -> Result<PathBuf, Error> {
    let invalid = |problem| Error::InvalidUrl { url: text.to_owned(), problem };
    if text.is_empty() || text.contains('\0') {
        return Err(invalid("must be a path or a file:// URL"));
    }
    let is_scheme = |scheme: &&str| {
        let all = |c: char| c.is_ascii_alphanumeric() || "+.-".contains(c);
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(all)
    };
    let split = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme));
    let Some((scheme, rest)) = split else {
        return std::path::absolute(text).map_err(failed("find", Path::new(text)));
    };
    if !scheme.eq_ignore_ascii_case("file") {
        let (url, scheme) = (text.to_owned(), scheme.to_ascii_lowercase());
        return Err(Error::UnsupportedScheme { url, scheme });
    }
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(invalid("a file:// URL has three slashes before an absolute path"));
    }
    percent_decoded(path).map(PathBuf::from).ok_or_else(|| invalid("has a broken %-escape"))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (hex, after) = tail.split_at_checked(2)?;
        if !hex.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        bytes.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok().filter(|path| !path.contains('\0'))
}

/// The folder that holds a job's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    path: PathBuf,
}

/// A checkpoint that is whole by its manifest and its files' sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub path: PathBuf,
    pub tag: String,
    pub job_id: JobId,
    pub generation: Generation,
    pub step: u64,
    pub epoch: u64,
    pub samples: u64,
    pub world_size: u32,
    pub stage: u8,
    pub loss: Option<f64>,
    pub val_loss: Option<f64>,
    /// Of all shards.
    pub bytes: u64,
}

/// A folder with a checkpoint's name that is none.
#[derive(Debug)]
pub struct Incomplete {
    pub path: PathBuf,
    pub tag: String,
    pub step: u64,
    pub defect: Defect,
}

/// What lies under a root.
#[derive(Debug, Default)]
pub struct Listing {
    /// Newest first.
    pub whole: Vec<Found>,
    /// Newest first: saves that are running or were never finished, and damaged checkpoints.
    pub incomplete: Vec<Incomplete>,
    /// Checkpoints that a resume from an older one set aside; nothing reads them by itself.
    pub set_aside: Vec<PathBuf>,
}

impl Found {
    /// Reads the manifest of a folder and compares the sizes of its shards; no hash is taken.
    pub fn at(folder: &Path) -> Result<Self, Error> {
        let manifest = Manifest::read(folder)?;
        for entry in &manifest.shards {
            shard::open(folder, entry)?;
        }
        Ok(Self::new(folder, &manifest))
    }

    pub(crate) fn new(folder: &Path, manifest: &Manifest) -> Self {
        Self {
            path: folder.to_owned(),
            tag: tag(manifest.step),
            job_id: manifest.job_id.clone(),
            generation: manifest.generation,
            step: manifest.step,
            epoch: manifest.epoch,
            samples: manifest.samples,
            world_size: manifest.world_size,
            stage: manifest.stage,
            loss: manifest.loss,
            val_loss: manifest.val_loss,
            bytes: manifest.bytes(),
        }
    }

    /// As `checkpoints list` shows it. A manifest is published only when all is synced, so what
    /// was found is durable.
    pub fn row(&self, pinned: bool, worker: Option<String>) -> CheckpointRow {
        CheckpointRow {
            tag: self.tag.clone(),
            step: self.step,
            path: self.path.display().to_string(),
            world_size: self.world_size,
            zero_stage: self.stage,
            loss: self.loss,
            val_loss: self.val_loss,
            bytes: self.bytes,
            durable: true,
            pinned,
            worker,
        }
    }
}

impl Root {
    /// Names the root; touches nothing.
    pub fn open(path_or_url: &str) -> Result<Self, Error> {
        Ok(Self { path: local_path(path_or_url)? })
    }

    /// As [`Root::open`], of what is a path already.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the checkpoint of a step lies or will lie.
    pub fn folder(&self, step: u64) -> PathBuf {
        self.path.join(tag(step))
    }

    /// Whether a checkpoint is one of this root's own, by whatever path it was named: a link, a
    /// `..` or a second mount point make other names of the same folder.
    pub fn holds(&self, found: &Found) -> Result<bool, Error> {
        let identity = |path: &Path| match path.metadata() {
            Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("look at", path)(error)),
        };
        let own = identity(&self.folder(found.step))?;
        Ok(own.is_some() && own == identity(&found.path)?)
    }

    /// Makes the folder, and those above it, where they are missing.
    pub fn create(&self) -> Result<(), Error> {
        if self.path.is_dir() {
            return Ok(());
        }
        let made = DirBuilder::new().recursive(true).create(&self.path);
        made.map_err(failed("create checkpoint root", &self.path))?;
        // Its own name must last too; the folders above were there or are synced with the disk.
        self.path.parent().map_or(Ok(()), disk::sync_folder)
    }

    /// Makes this attempt the only one that can commit (rank 0, before any rank saves). Refused as
    /// superseded where a newer generation of the job already has the root.
    pub fn raise_generation(&self, to: &Fence) -> Result<(), Error> {
        Locked::take(&self.path)?.raise(to)
    }

    /// Who may commit; None before the first attempt.
    pub fn generation(&self) -> Result<Option<Fence>, Error> {
        crate::fence::read(&self.path)
    }

    /// All checkpoints under the root. Never shows a torn one as whole (A9).
    pub fn list(&self) -> Result<Listing, Error> {
        let mut listing = Listing::default();
        for entry in self.entries()? {
            let Some(step) = step_of(&entry.name) else {
                if entry.name.strip_prefix(ASIDE_PREFIX).is_some() && entry.is_folder {
                    listing.set_aside.push(entry.path);
                }
                continue;
            };
            match look(&entry, step) {
                Ok(Some(found)) => listing.whole.push(found),
                Ok(None) => {}
                Err(Error::Defective { path, defect }) => {
                    listing.incomplete.push(Incomplete { path, tag: entry.name, step, defect });
                }
                Err(error) => return Err(error),
            }
        }
        listing.whole.sort_by_key(|found| std::cmp::Reverse(found.step));
        listing.incomplete.sort_by_key(|folder| std::cmp::Reverse(folder.step));
        listing.set_aside.sort();
        Ok(listing)
    }

    /// Takes every checkpoint newer than `step` (all of them without one) out of the way, for a
    /// run that continues from there: it will save the same steps again, and a later `auto` must
    /// not return to the other history. Nothing is removed. Returns the new paths.
    pub fn set_aside_newer(&self, step: Option<u64>, fence: &Fence) -> Result<Vec<PathBuf>, Error> {
        let locked = Locked::take(&self.path)?;
        locked.check(fence)?;
        let mut moved = Vec::new();
        for entry in self.entries()? {
            let Some(found) = step_of(&entry.name) else { continue };
            if step.is_none_or(|last| found > last) {
                moved.push(self.set_aside(&entry, fence)?);
            }
        }
        if !moved.is_empty() {
            disk::sync_folder(&self.path)?;
        }
        moved.sort();
        Ok(moved)
    }

    fn set_aside(&self, entry: &Entry, fence: &Fence) -> Result<PathBuf, Error> {
        // One job sets a step aside once per generation; other jobs under the same root may have
        // used the name.
        const MAX_COPIES: u32 = 1000;
        let name = format!("{ASIDE_PREFIX}{}.g{}", entry.name, fence.generation);
        for copy in 0..MAX_COPIES {
            let suffix = if copy == 0 { String::new() } else { format!("-{copy}") };
            let to = self.path.join(format!("{name}{suffix}"));
            if to.symlink_metadata().is_ok() {
                continue;
            }
            disk::rename(&entry.path, &to).map_err(failed("set aside", &entry.path))?;
            return Ok(to);
        }
        Err(Error::TooManyEntries { path: self.path.clone(), limit: MAX_COPIES as usize })
    }

    /// Removes a folder that [`Listing::set_aside`] named; false if it was gone. For people: no
    /// run does it.
    pub fn remove_set_aside(&self, path: &Path) -> Result<bool, Error> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with(ASIDE_PREFIX) || path.parent() != Some(&self.path) {
            let (asked, root) = (path.display().to_string(), self.path.clone());
            let have = names(self.list()?.set_aside.iter().map(|p| p.display().to_string()));
            return Err(Error::NoSuchCheckpoint { asked, root, have });
        }
        match std::fs::remove_dir_all(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("remove", path)(error)),
        }
    }

    /// The entries with a UTF-8 name; ours all have one.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, Error> {
        let error = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => Error::NoFolder { path: self.path.clone() },
            _ => failed("list", &self.path)(source),
        };
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(error)? {
            let entry = entry.map_err(error)?;
            if entries.len() == MAX_ENTRIES {
                let (path, limit) = (self.path.clone(), MAX_ENTRIES);
                return Err(Error::TooManyEntries { path, limit });
            }
            let Ok(name) = entry.file_name().into_string() else { continue };
            let file_type = entry.file_type().map_err(failed("look at", &entry.path()))?;
            let (path, is_folder) = (entry.path(), file_type.is_dir());
            entries.push(Entry { name, path, is_folder, is_link: file_type.is_symlink() });
        }
        Ok(entries)
    }
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) is_folder: bool,
    pub(crate) is_link: bool,
}

/// None if it vanished meanwhile.
fn look(entry: &Entry, step: u64) -> Result<Option<Found>, Error> {
    let wrong = |defect| Err(Error::Defective { path: entry.path.clone(), defect });
    if entry.is_link {
        return wrong(Defect::Link);
    }
    if !entry.is_folder {
        return wrong(Defect::NotPlain { file: entry.name.clone() });
    }
    match Found::at(&entry.path) {
        Ok(found) if found.step != step => wrong(Defect::Field {
            file: crate::MANIFEST_FILE.to_owned(),
            field: "step",
            found: found.step.to_string(),
            expected: format!("{step} as in the folder's name"),
        }),
        Ok(found) => Ok(Some(found)),
        Err(Error::NoFolder { .. }) => Ok(None),
        Err(Error::Defective { path, defect }) => {
            if !path.is_dir() {
                return Ok(None);
            }
            // A removal takes the manifest first: what lost it while we looked is not damaged.
            let gone = !path.join(crate::MANIFEST_FILE).exists();
            wrong(if gone { Defect::NoManifest } else { defect })
        }
        Err(error) => Err(error),
    }
}

/// Names for a message, bounded.
pub(crate) fn names(all: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 12;
    let all: Vec<_> = all.collect();
    match all.len() {
        0 => "none".to_owned(),
        count if count > SHOWN => {
            format!("{} and {} more", all[..SHOWN].join(", "), count - SHOWN)
        }
        _ => all.join(", "),
    }
}

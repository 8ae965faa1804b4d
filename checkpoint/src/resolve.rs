//! From which checkpoint a run resumes: what the job asks for, against what is there.

use std::path::{Path, PathBuf};

use common::ids::JobId;
use common::spec::Resume;

use crate::error::{Defect, Error};
use crate::fence::Fence;
use crate::reader::Reader;
use crate::retention::by_quality;
use crate::root::{Found, Incomplete, Listing, Root, names, tag};
use crate::shard;

/// What may be resumed from, best first.
#[derive(Debug)]
pub struct Resolution {
    candidates: Vec<Found>,
    skipped: Vec<Skipped>,
    on_defect: OnDefect,
}

/// `auto` wants any whole checkpoint; whoever names one wants that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnDefect {
    TryOlder,
    Fail,
}

/// A checkpoint that `auto` passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub path: PathBuf,
    /// Names the file and what is wrong with it.
    pub reason: String,
}

/// The outcome, for rank 0 to tell the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Selected {
    /// None: start anew.
    pub checkpoint: Option<Found>,
    pub skipped: Vec<Skipped>,
}

impl Root {
    /// Finds the candidates by manifest and size; [`Resolution::select`] takes their hashes.
    pub fn resolve(&self, resume: &Resume) -> Result<Resolution, Error> {
        let only = |found: Found| Resolution::strict(vec![found]);
        match resume {
            Resume::Never => Ok(Resolution::strict(Vec::new())),
            Resume::Auto => match self.list() {
                Ok(listing) => Ok(Resolution::tolerant(listing)),
                Err(Error::NoFolder { .. }) => Ok(Resolution::strict(Vec::new())),
                Err(error) => Err(error),
            },
            Resume::Latest => {
                let listing = self.list()?;
                let newest = listing.whole.first().map(|found| found.step);
                let damaged = listing.incomplete.into_iter().find(Incomplete::is_damaged);
                match damaged {
                    Some(folder) if newest.is_none_or(|step| folder.step > step) => {
                        Err(folder.into())
                    }
                    _ => listing.whole.into_iter().next().map(only).ok_or_else(|| {
                        let (asked, root) = ("latest".to_owned(), self.path().to_owned());
                        Error::NoSuchCheckpoint { asked, root, have: "none".to_owned() }
                    }),
                }
            }
            Resume::Best => {
                self.pick("best", |listing| listing.whole.into_iter().min_by(by_quality)).map(only)
            }
            Resume::Epoch(epoch) => self
                .pick(&format!("epoch-{epoch}"), |listing| {
                    listing.whole.into_iter().find(|found| found.epoch == *epoch)
                })
                .map(only),
            Resume::Step(step) => match Found::at(&self.folder(*step)) {
                Err(
                    Error::NoFolder { .. } | Error::Defective { defect: Defect::NoManifest, .. },
                ) => self.pick(&tag(*step), |_| None).map(only),
                result => result.map(only),
            },
            Resume::Path(path) => at_path(path).map(only),
        }
    }

    /// How an attempt after the first starts: from the job's own newest checkpoint, whatever its
    /// first attempt was to start from; where it has none, as that one.
    pub fn continued(&self, asked: &Resume, fence: &Fence) -> Result<Resume, Error> {
        let is_first = fence.generation.0 <= 1;
        if is_first || *asked == Resume::Auto {
            return Ok(asked.clone());
        }
        let has_own = match self.list() {
            Err(Error::NoFolder { .. }) => false,
            listing => listing?.whole.iter().any(|found| found.job_id == fence.job_id),
        };
        Ok(if has_own { Resume::Auto } else { asked.clone() })
    }

    /// Refuses a start that would set aside whole checkpoints of another job, which may still count
    /// on them: asked before this job takes the root, so that a running one is not disturbed.
    pub fn check_history(&self, resume: &Resume, job_id: &JobId) -> Result<(), Error> {
        let resolution = self.resolve(resume)?;
        let start = match resolution.candidates.first() {
            Some(found) if self.holds(found)? => Some(found.step),
            _ => None,
        };
        let listing = match self.list() {
            Err(Error::NoFolder { .. }) => return Ok(()),
            other => other?,
        };
        let is_in_the_way =
            |found: &&Found| found.job_id != *job_id && start.is_none_or(|s| found.step > s);
        let mut in_the_way = listing.whole.iter().filter(is_in_the_way).peekable();
        let Some(first) = in_the_way.peek() else { return Ok(()) };
        let (root, job) = (self.path().to_owned(), first.job_id.clone());
        let from = start.map_or_else(|| "anew".to_owned(), |step| format!("at {}", tag(step)));
        let tags = names(in_the_way.map(|found| found.tag.clone()));
        Err(Error::OtherHistory { root, job, tags, from })
    }

    fn pick(
        &self,
        asked: &str,
        choose: impl FnOnce(Listing) -> Option<Found>,
    ) -> Result<Found, Error> {
        let listing = self.list()?;
        let have = names(listing.whole.iter().map(|found| match asked.starts_with("epoch-") {
            true => format!("{} (epoch {})", found.tag, found.epoch),
            false => found.tag.clone(),
        }));
        choose(listing).ok_or_else(|| {
            let (asked, root) = (asked.to_owned(), self.path().to_owned());
            Error::NoSuchCheckpoint { asked, root, have }
        })
    }
}

/// A path that holds checkpoints instead of being one is the likely mistake: say which there are.
fn at_path(path: &Path) -> Result<Found, Error> {
    let error = match Found::at(path) {
        Err(error @ Error::Defective { defect: Defect::NoManifest, .. }) => error,
        result => return result,
    };
    let have = match Root::at(path).list() {
        Ok(listing) if !listing.whole.is_empty() => listing.whole,
        _ => return Err(error),
    };
    Err(Error::NoSuchCheckpoint {
        asked: "the folder itself".to_owned(),
        root: path.to_owned(),
        have: names(have.into_iter().map(|found| found.tag)),
    })
}

impl Incomplete {
    /// It was committed, and something happened to it since.
    pub fn is_damaged(&self) -> bool {
        !matches!(self.defect, Defect::NoManifest)
    }
}

impl From<Incomplete> for Error {
    fn from(folder: Incomplete) -> Self {
        Self::Defective { path: folder.path, defect: folder.defect }
    }
}

impl Resolution {
    fn strict(candidates: Vec<Found>) -> Self {
        Self { candidates, skipped: Vec::new(), on_defect: OnDefect::Fail }
    }

    fn tolerant(listing: Listing) -> Self {
        let damaged = listing.incomplete.into_iter().filter(Incomplete::is_damaged);
        let skipped = damaged
            .map(|folder| Skipped { path: folder.path, reason: folder.defect.chain() })
            .collect();
        Self { candidates: listing.whole, skipped, on_defect: OnDefect::TryOlder }
    }

    /// In the order in which they are tried.
    pub fn candidates(&self) -> &[Found] {
        &self.candidates
    }

    /// Reads candidates in full, hashes and all, until one is sound. A damaged one is passed over
    /// with its reason under `auto`, and is the error where it was asked for.
    pub fn select(self) -> Result<Selected, Error> {
        let Self { candidates, mut skipped, on_defect } = self;
        for found in candidates {
            match check_whole(&found.path) {
                Ok(()) => return Ok(Selected { checkpoint: Some(found), skipped }),
                Err(Error::Defective { path, defect }) if on_defect == OnDefect::TryOlder => {
                    skipped.push(Skipped { path, reason: defect.chain() });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Selected { checkpoint: None, skipped })
    }
}

fn check_whole(folder: &Path) -> Result<(), Error> {
    let reader = Reader::open(folder)?;
    reader.manifest().shards.iter().try_for_each(|entry| shard::check_hash(folder, entry))
}

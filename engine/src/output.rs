//! Files that rank 0 leaves in the run's folder: `effective.toml` and `summary.json`. Whole or not
//! at all: written beside, synced, renamed.

use std::io::Write;
use std::path::Path;

use common::spec::JobSpec;
use common::status::Summary;

use crate::error::Error;

/// What the job means, every default filled in.
pub(crate) fn write_effective(run_dir: &Path, spec: &JobSpec) -> Result<(), Error> {
    let path = run_dir.join("effective.toml");
    let text = toml::to_string(spec)
        .map_err(|source| Error::EffectiveJob { path: path.clone(), source })?;
    write_whole(&path, text.as_bytes())
}

pub(crate) fn write_summary(run_dir: &Path, summary: &Summary) -> Result<(), Error> {
    let mut text = serde_json::to_vec_pretty(summary).expect("a summary has only plain fields");
    text.push(b'\n');
    write_whole(&run_dir.join("summary.json"), &text)
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().expect("a file in the run's folder has a parent");
    let beside = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        fs_err::create_dir_all(folder)?;
        let mut file = fs_err::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs_err::rename(&beside, path)?;
        fs_err::File::open(folder)?.sync_all()
    };
    write().map_err(|source| Error::Output { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;

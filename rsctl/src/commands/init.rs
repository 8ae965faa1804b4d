//! `rsctl init`.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::ValueEnum;

use common::exit::ExitCode;
use service::exit::Failure;

use crate::commands::Outcome;
use crate::render;

/// Write a job that runs at once: job.toml and ds_config.json
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rsctl init timeseries demo && rsctl run demo/job.toml
  rsctl init csv            here, with a sample data.csv to replace by yours")]
pub(crate) struct Args {
    #[arg(value_enum)]
    template: Template,
    /// The folder to write to
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Template {
    /// Several noisy series with trend and seasons
    Timeseries,
    /// One series of three sines and noise
    Sine,
    /// Your own rows, with a sample
    Csv,
    /// A convolutional network on handwritten digits, with the images
    #[value(alias = "cnn")]
    Digits,
}

impl Template {
    /// File names and contents.
    fn files(self) -> Vec<(&'static str, &'static [u8])> {
        match self {
            Self::Timeseries => vec![
                ("job.toml", include_bytes!("../../templates/timeseries.toml")),
                ("ds_config.json", include_bytes!("../../templates/timeseries.json")),
            ],
            Self::Sine => vec![
                ("job.toml", include_bytes!("../../templates/sine.toml")),
                ("ds_config.json", include_bytes!("../../templates/sine.json")),
            ],
            Self::Csv => vec![
                ("job.toml", include_bytes!("../../templates/csv.toml")),
                ("ds_config.json", include_bytes!("../../templates/csv.json")),
                ("data.csv", include_bytes!("../../../data/co2.csv")),
            ],
            Self::Digits => vec![
                ("job.toml", include_bytes!("../../templates/digits.toml")),
                ("ds_config.json", include_bytes!("../../templates/digits.json")),
                ("digits.csv.gz", include_bytes!("../../../data/digits.csv.gz")),
            ],
        }
    }
}

pub(crate) fn execute(args: &Args) -> Outcome {
    let files = args.template.files();
    let written = write(&args.folder, &files, args.force)?;
    written.iter().try_for_each(|path| render::data(path.display()))?;
    let job = args.folder.join("job.toml");
    render::talk(format_args!("train it with: rsctl run {}", job.display()));
    Ok(ExitCode::Done)
}

/// Writes all files or, where one exists and `force` is not given, none.
fn write(folder: &Path, files: &[(&str, &[u8])], force: bool) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: io::Error| Failure::new(ExitCode::Failed, error);
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| folder.join(name)).collect();
    let existing = paths.iter().filter(|path| path.symlink_metadata().is_ok());
    let existing = existing.fold(String::new(), |mut text, path| {
        let _ = write!(text, " {}", path.display());
        text
    });
    if !existing.is_empty() && !force {
        let error = anyhow!("refuse to replace{existing}");
        return Err(Failure::new(ExitCode::Failed, error)
            .hint("name another folder, or --force to replace them"));
    }
    fs_err::create_dir_all(folder).map_err(failed)?;
    for (path, (_, bytes)) in paths.iter().zip(files) {
        service::files::replace(path, bytes).map_err(failed)?;
    }
    Ok(paths)
}

#[cfg(test)]
mod tests;

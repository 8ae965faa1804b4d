//! TensorBoard event files: records, checksums and the few messages that scalars need.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use common::status::UnixMillis;

use super::event::{self, What};
use super::{Error, Position, Scalar};

/// A new event file per start; TensorBoard reads all files of a folder in the order of their
/// names. After a restart the new file voids what older ones told beyond the resumed position.
#[derive(Debug)]
pub struct TensorBoardWriter {
    file: std::fs::File,
    path: PathBuf,
    buffer: Vec<u8>,
}

impl TensorBoardWriter {
    pub fn create(dir: &Path, from: Position, now: UnixMillis) -> Result<Self, Error> {
        fs_err::create_dir_all(dir).map_err(Error::io("create folder", dir))?;
        let newest = newest_second(dir)?;
        // Names sort by their second: two starts within one, or a clock that went back, must not
        // sort the younger file first.
        let second = newest.map_or(now / 1000, |newest| (now / 1000).max(newest + 1));
        let name = format!("events.out.tfevents.{second:010}.{}.{}.0", host(), std::process::id());
        let path = dir.join(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(Error::io("create", &path))?;
        let mut writer = Self { file, path, buffer: Vec::new() };
        let wall_seconds = now as f64 / 1000.0;
        event::push(&mut writer.buffer, wall_seconds, 0, What::FileVersion);
        if newest.is_some() {
            event::push(&mut writer.buffer, wall_seconds, from.samples + 1, What::RestartAt);
        }
        writer.flush()?;
        Ok(writer)
    }

    /// Appends a batch and hands it to the system in one write.
    pub fn write(&mut self, scalars: &[Scalar]) -> Result<(), Error> {
        for scalar in scalars {
            let what = What::Scalar { tag: scalar.metric.tensorboard, value: scalar.value as f32 };
            event::push(&mut self.buffer, scalar.time as f64 / 1000.0, scalar.samples, what);
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Error> {
        let written = self.file.write_all(&self.buffer);
        self.buffer.clear();
        written.map_err(Error::io("write", &self.path))
    }
}

const PREFIX: &str = "events.out.tfevents.";

/// Of the event files in a folder, the greatest second in a name.
fn newest_second(dir: &Path) -> Result<Option<u64>, Error> {
    let entries = fs_err::read_dir(dir).map_err(Error::io("list folder", dir))?;
    let mut newest = None;
    for entry in entries {
        let name = entry.map_err(Error::io("list folder", dir))?.file_name();
        let second = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split('.').next().and_then(|second| second.parse::<u64>().ok()));
        newest = newest.max(second);
    }
    Ok(newest)
}

/// The host's name as far as it can stand in a file name.
fn host() -> String {
    let name = fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let safe: String = name
        .trim()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' })
        .collect();
    if safe.is_empty() { "localhost".to_owned() } else { safe }
}

//! A disk whose power can be cut: ext4 on a loop device. A copy of its image holds what had reached
//! the disk at that moment, and nothing that was only in the page cache. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::wait::skipped;

/// Unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    at: PathBuf,
}

impl Mount {
    /// Makes an image with an empty file system and mounts it; None, said, where that cannot be.
    pub fn fresh(image: &Path, bytes: u64, at: &Path) -> Option<Self> {
        fs_err::File::create(image).and_then(|file| file.set_len(bytes)).expect("make an image");
        let made = run(Command::new("mkfs.ext4").arg("-q").arg(image));
        match made.and_then(|()| Self::of(image, at)) {
            Ok(mount) => Some(mount),
            Err(why) => {
                skipped(&format!("an ext4 image cannot be mounted: {why}"));
                None
            }
        }
    }

    /// Mounts an image; an error is what `mount` said.
    pub fn of(image: &Path, at: &Path) -> Result<Self, String> {
        fs_err::create_dir_all(at).map_err(|error| error.to_string())?;
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at))?;
        Ok(Self { at: at.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a process that dies right now may still have files open.
        let _ = run(Command::new("umount").arg("-l").arg(&self.at));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("{:?}: {error}", command.get_program())),
    }
}

//! Finds out whether all ranks see the same root: rank 0 leaves a file with a secret name, the
//! others look for it and leave an answer, so a root that is only readable shows too.

use std::fmt;
use std::io;

use crate::disk::{self, Existing, Staged};
use crate::error::{Defect, Error};
use crate::root::Root;

const PROBE_PREFIX: &str = ".probe-";

/// Drawn anew for each attempt, so that an old file is never taken for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeToken(pub [u8; 16]);

impl fmt::Display for ProbeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

pub(crate) fn is_probe(name: &str) -> bool {
    name.starts_with(PROBE_PREFIX)
}

impl Root {
    /// Leaves the probe (rank 0). Fails where the root cannot be written: better now than at the
    /// first save.
    pub fn write_probe(&self, token: ProbeToken) -> Result<(), Error> {
        self.leave(&format!("{PROBE_PREFIX}{token}"), &token.to_string())
    }

    /// Whether this process sees rank 0's probe and can write beside it. False: another disk. An
    /// error: the same root, but not usable from here.
    pub fn read_probe(&self, token: ProbeToken, rank: u32) -> Result<bool, Error> {
        let text = token.to_string();
        let name = format!("{PROBE_PREFIX}{token}");
        match disk::read_small(self.path(), &name, text.len() as u64) {
            Ok(bytes) if bytes == text.as_bytes() => {}
            Ok(_) => return Ok(false),
            Err(Error::Defective { defect: Defect::Missing { .. }, .. }) => return Ok(false),
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotADirectory => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        let answer = format!("{PROBE_PREFIX}{token}.{rank}");
        self.leave(&answer, &text)?;
        disk::remove_file(&self.path().join(answer))?;
        Ok(true)
    }

    /// Takes the probe away (rank 0, after every rank answered).
    pub fn remove_probe(&self, token: ProbeToken) -> Result<(), Error> {
        disk::remove_file(&self.path().join(format!("{PROBE_PREFIX}{token}"))).map(|_| ())
    }

    fn leave(&self, name: &str, text: &str) -> Result<(), Error> {
        let mut staged = Staged::create(self.path(), name, text.len() as u64)?;
        staged.write(text.as_bytes())?;
        staged.publish(Existing::Replace)?;
        disk::sync_folder(self.path())
    }
}

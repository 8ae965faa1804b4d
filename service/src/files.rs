//! Files appear whole or not at all, and survive a power cut once written.

use std::io::{self, Write};
use std::path::Path;

use fs_err as fs;

/// A large file is synced every so many bytes: whoever syncs a small one on the same disk waits until
/// what was written before is there.
const STEP: usize = 4 << 20;

/// Writes `bytes` to `path`: beside it, synced, renamed over it, the folder synced. Blocking.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` names no file", path.display()))
    })?;
    // The process id keeps two writers from sharing one temporary file.
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = folder.join(temporary);
    let written = (|| {
        let mut file = fs::File::create(&temporary)?;
        for step in bytes.chunks(STEP) {
            file.write_all(step)?;
            if bytes.len() > STEP {
                file.sync_data()?;
            }
        }
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        // The first error is the one to report; a leftover temporary file harms nobody.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_folder(folder)
}

/// Makes a rename or a new entry in `folder` durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    fs::File::open(folder)?.sync_all()
}

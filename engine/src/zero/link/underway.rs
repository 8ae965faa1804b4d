//! An operation that was started and is waited for later.

use collectives::Pending;

use crate::native::lane::Mark;
use crate::zero::failure::Failure;

/// Dropped, it is waited for, too: until then the operation works on its buffers.
#[derive(Debug)]
pub(crate) enum Underway {
    /// On a communication thread.
    Beside(Pending),
    /// On a device.
    Marked(Marked),
}

/// The host goes on at once; the device does what comes later after the mark.
#[derive(Debug)]
pub(crate) struct Marked(pub(super) Mark);

impl Underway {
    /// Afterwards whoever looks at the buffers sees what the operation has done.
    pub(crate) fn wait(self) -> Result<(), Failure> {
        match self {
            Self::Beside(pending) => Ok(pending.wait()?),
            // Its drop joins once more, which changes nothing.
            Self::Marked(marked) => Ok(marked.0.join()?),
        }
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        // Where even that fails the device is lost, and nothing more is computed on it.
        let _ = self.0.join();
    }
}

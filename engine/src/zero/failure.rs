//! What sums and gathers fail by.

use tch::TchError;

use crate::native;

/// The communicator, or the memory that it works on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Communication(#[from] collectives::Error),
    #[error(transparent)]
    Torch(#[from] TchError),
    #[error(transparent)]
    Native(#[from] native::Error),
}

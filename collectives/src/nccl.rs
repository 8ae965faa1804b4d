//! NCCL: collectives between GPUs, over a library that is found when the program runs.
//!
//! Promise: a node without NCCL gets [`NcclError::Unavailable`] with all that was tried; the library
//! is never called before it is known to be there, and of an old one nothing is called but its
//! version. No call blocks: initialisation, operations and the way out are polled against a deadline,
//! and [`NcclAbortHandle`] ends all of them from any thread. Refusal: makes no streams and no
//! events, and knows no tensors.
//!
//! NCCL itself does not compare what its ranks do: a rank that issues another operation is noticed
//! by the deadline, not by its header. The mesh beside it, on which the ranks agree once a step,
//! notices ranks that are at different steps.
//!
//! **Not yet run on a GPU.** Loading, versions, ids and refusals are tested against the real
//! library, what becomes of a communicator against a table of functions of our own; what needs a
//! device is not.

mod api;
mod call;
mod communicator;
mod error;
mod state;
mod unique;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use self::call::{Call, Kind};
pub use self::{
    api::Nccl,
    communicator::{NcclAbortHandle, NcclCommunicator, NcclConfig},
    error::{NcclError, Searched},
    unique::UniqueId,
};

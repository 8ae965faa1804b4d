//! The coordinator: the daemon around `control`'s decisions. Store, queue of events, gRPC front.
//! It decides nothing itself and never trains.

mod archive;
mod blobs;
mod clock;
mod codec;
mod core;
mod daemon;
mod door;
mod expected;
mod fetch;
mod http;
mod metrics;
mod permit;
mod probes;
mod rpc;
mod settings;
mod slurm;
mod store;
mod views;
mod vitals;

#[cfg(test)]
mod tests;

pub use daemon::{Coordinator, Error};
pub use settings::{Flags, Mistakes, Settings};

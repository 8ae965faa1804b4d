//! The chassis of every daemon: telemetry, layered configuration, shutdown, tasks, connections,
//! locked folders, whole files and exit codes. Knows nothing of jobs, ranks or messages.

pub mod backoff;
pub mod exit;
pub mod files;
pub mod layers;
pub mod lock;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
pub mod transport;

#[cfg(test)]
mod tests;

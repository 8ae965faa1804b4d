//! Claims about the whole command line and about what people see.

mod explain;
mod help;
mod job;
mod master;
mod render;
pub(crate) mod statuses;

//! The room through its public surface: whole runs with the ranks as threads of one process.

mod numerics;
pub(crate) mod ranks;
pub(crate) mod spec;

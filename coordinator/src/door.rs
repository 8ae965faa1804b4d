//! Between the worker link's messages and `control`'s events and effects. Everything from outside
//! is checked and cut to size here, once.

mod incoming;
mod outgoing;

pub(crate) use self::incoming::{hello, worker_message};
pub(crate) use self::outgoing::{
    ends_acknowledged, fetch_order, ping, probe_order, rank_table, refused, show_stacks,
    start_trainers, stop_job, welcome,
};

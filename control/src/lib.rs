//! Decides, never acts: `(state, event, now) -> effects + reasons`. Knows nothing of sockets, files,
//! clocks, threads or chance; a shell stamps events, makes effects true and passes both in.
//!
//! `coordinator` is the coordinator's machine.

pub mod coordinator;

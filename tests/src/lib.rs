//! Helpers for system tests: real processes, real sockets, real files.

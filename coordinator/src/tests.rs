//! The whole daemon over real sockets: clients and workers here speak the real protocol, without a
//! trainer behind them.

mod bulk;
mod cluster;
mod door;
mod files;
mod jobs;
mod nonsense;
mod restart;
mod settings;

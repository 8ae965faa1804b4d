//! The whole daemon over real sockets: clients and workers here speak the real protocol, without a
//! trainer behind them.

mod bulk;
mod cluster;
mod door;
mod explain;
mod files;
mod health;
mod jobs;
mod logs;
mod nonsense;
mod peers;
mod queue;
mod replay;
mod restart;
mod settings;
mod slow_disk;

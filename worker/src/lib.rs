//! The node daemon. Owns the processes of its node: starts trainers, watches them, keeps their last
//! lines, reports how they ended and kills what must die. Decides nothing about jobs, and never
//! links libtorch.

pub mod cli;
pub mod config;

mod blobs;
mod capture;
mod command_process;
mod cores;
mod files;
mod gpus;
mod identity;
mod inspect;
mod inventory;
mod libtorch;
mod lifetime;
mod local_job;
mod memory;
mod nccl;
mod network;
mod node;
mod nvml;
mod outcomes;
mod output;
mod prepare;
mod probe;
mod rank_log;
mod spawner;
mod spool;
mod trainer_process;
mod uplink;

#[cfg(test)]
mod tests;

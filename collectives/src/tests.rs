//! Claims about the room, held by worlds of threads on loopback, and by one of processes.

mod agreement;
mod asynchronous;
mod faults;
mod joining;
mod nccl;
mod process;
mod results;
mod ring;
mod wire;
mod world;

//! Claims about the room, held by worlds of threads on loopback, and by one of processes.

mod results;
mod world;

//! Decision tests: events in, effects out, and after every step the invariants.

mod cancel;
mod failure;
mod leaving;
mod membership;
mod placement;
mod queue;
mod rendezvous;
mod restart;
mod simulation;
mod world;

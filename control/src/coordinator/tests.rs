//! Decision tests: events in, effects out, and after every step the invariants.

mod cancel;
mod clock;
mod decide;
mod dependency;
mod drain;
mod elastic;
mod explain;
mod failure;
mod goodput;
mod growth;
mod hang;
mod home;
mod hosts;
mod leaving;
mod limit;
mod membership;
mod placement;
mod preempt;
mod queue;
mod rendezvous;
mod reservation;
mod restart;
mod retry;
mod simulation;
mod snapshot;
mod world;

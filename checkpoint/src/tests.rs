//! Tests of the room, through its public surface.

mod crash;
mod damage;
mod fence;
mod fixture;
mod format;
mod import;
mod resharding;
mod resolve;
mod retention;
mod root;
mod torch;

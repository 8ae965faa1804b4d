//! The worker as a whole, against a scripted coordinator on a real socket and scripted trainers in
//! real processes.

mod commands;
mod coordinator;
mod leaving;
mod links;
mod script;
mod setup;
mod trainers;

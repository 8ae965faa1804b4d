//! What lies in `deploy/` and what `tools/install.sh` lays: accepted by the tools that will read it, true
//! to the binaries of this build, and run where that is possible without a service manager, a container
//! engine or a cluster of somebody else's. A tool that is not installed is skipped loudly.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod archive;
mod docker;
mod health;
mod image;
mod installed;
mod kubernetes;
mod linter;
mod page;
mod settings;
mod units;

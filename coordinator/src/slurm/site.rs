//! What every batch script of this coordinator says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::settings::Settings;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    /// Where the nodes reach this coordinator.
    pub(crate) master: String,
    /// The folder of our binaries, there.
    pub(crate) bin_dir: PathBuf,
    /// Workers end by themselves when they were without a coordinator, or idle, for so long.
    pub(crate) lease: Duration,
    /// Workers there run jobs' own programs exactly where this coordinator lets jobs have them.
    pub(crate) allows_commands: bool,
}

impl Site {
    /// As configured; else the address that is listened at, by this machine's name where that is every
    /// address, and the folder of this binary.
    pub(crate) fn of(settings: &Settings, listens_at: SocketAddr) -> Self {
        let port = listens_at.port();
        let host = match &settings.slurm_address {
            Some(host) => host.clone(),
            None if listens_at.ip().is_unspecified() => own_name(),
            None if listens_at.is_ipv6() => format!("[{}]", listens_at.ip()),
            None => listens_at.ip().to_string(),
        };
        let beside_us = || Some(std::env::current_exe().ok()?.parent()?.to_owned());
        let bin_dir = settings.slurm_bin_dir.clone().or_else(beside_us).unwrap_or_default();
        let (lease, allows_commands) = (settings.slurm_lease, settings.allow_commands);
        Self { master: format!("{host}:{port}"), bin_dir, lease, allows_commands }
    }
}

fn own_name() -> String {
    let name = fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_reach_the_coordinator_where_it_listens_or_as_configured() {
        let settings = Settings::default();
        let at = |address: &str| Site::of(&settings, address.parse().unwrap()).master;
        assert_eq!(at("127.0.0.1:40123"), "127.0.0.1:40123");
        assert_eq!(at("[::1]:40123"), "[::1]:40123");
        assert_eq!(at("0.0.0.0:29500"), format!("{}:29500", own_name()));
        let slurm_address = Some("ib-head".to_owned());
        let settings = Settings { slurm_address, ..Settings::default() };
        let site = Site::of(&settings, "0.0.0.0:29500".parse().unwrap());
        assert_eq!(site.master, "ib-head:29500");
    }
}

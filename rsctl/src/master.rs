//! Where the coordinator is: `--master` or `RUSTSPEED_MASTER`.

use std::str::FromStr;

/// The coordinator's port when none is given.
pub(crate) const DEFAULT_PORT: u16 = 29500;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct MasterArgs {
    /// Where the coordinator is; the port is 29500 unless given
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        env = "RUSTSPEED_MASTER",
        hide_env_values = true,
        default_value = "127.0.0.1"
    )]
    pub(crate) master: Master,
}

/// `HOST:PORT`, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Master(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not HOST or HOST:PORT, such as 192.168.1.100:29500 or [::1]:29500")]
pub(crate) struct InvalidMaster(String);

impl Master {
    pub(crate) fn address(&self) -> &str {
        &self.0
    }
}

impl FromStr for Master {
    type Err = InvalidMaster;

    fn from_str(text: &str) -> Result<Self, InvalidMaster> {
        let invalid = || InvalidMaster(text.to_owned());
        let is_bare_ipv6 = text.parse::<std::net::Ipv6Addr>().is_ok();
        let address = if is_bare_ipv6 {
            format!("[{text}]:{DEFAULT_PORT}")
        } else if text.ends_with(']') || !text.contains(':') {
            format!("{text}:{DEFAULT_PORT}")
        } else {
            text.to_owned()
        };
        service::transport::check_address(&address).map_err(|_| invalid())?;
        Ok(Self(address))
    }
}

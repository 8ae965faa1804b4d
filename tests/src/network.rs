//! Two machines' networks on one machine: two network namespaces, joined by cables that can be cut.
//! What a thread starts lives where the thread is. Needs root; nothing of the machine's own network
//! is touched, and what was made goes when dropped.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};

use crate::wait::skipped;

/// Tests of one process must not share names.
static MADE: AtomicU32 = AtomicU32::new(0);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Here,
    There,
}

/// Cable `n` has the addresses `10.77.n.1` here and `10.77.n.2` there.
#[derive(Debug)]
pub struct Network {
    here: String,
    there: String,
}

impl Network {
    /// Makes the namespaces and their cables; None, said, where that is not permitted.
    pub fn new(cables: u8) -> Option<Self> {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("rustspeed-{}-{number}-{side}", std::process::id());
        let network = Self { here: name("here"), there: name("there") };
        for namespace in [&network.here, &network.there] {
            // Of a killed run whose pid this process has now; mostly there is none.
            let _ = ip(&["netns", "del", namespace]);
            if let Err(why) = ip(&["netns", "add", namespace]) {
                skipped(&format!("a network namespace cannot be made: {why}"));
                return None;
            }
            ip(&["-n", namespace, "link", "set", "lo", "up"]).expect("raise our own loopback");
        }
        for cable in 0..cables {
            if let Err(why) = network.lay(cable) {
                skipped(&format!("a veth pair cannot be made: {why}"));
                return None;
            }
        }
        Some(network)
    }

    fn lay(&self, cable: u8) -> Result<(), String> {
        let Self { here, there } = self;
        let device = device(cable);
        let pair = ["type", "veth", "peer", "name", &device, "netns", there];
        ip(&[&["link", "add", "dev", &device, "netns", here], pair.as_slice()].concat())?;
        for (namespace, end) in [(here, 1), (there, 2)] {
            let address = format!("10.77.{cable}.{end}/24");
            ip(&["-n", namespace, "addr", "add", &address, "dev", &device])?;
            ip(&["-n", namespace, "link", "set", &device, "up"])?;
        }
        Ok(())
    }

    /// Takes the calling thread, and whatever it starts from now on, to that side.
    pub fn enter(&self, side: Side) {
        let name = if side == Side::Here { &self.here } else { &self.there };
        let namespace = fs_err::File::open(format!("/var/run/netns/{name}"))
            .expect("a namespace that we made has a name");
        setns(namespace.file(), CloneFlags::CLONE_NEWNET).expect("who may make one may enter it");
    }

    /// Does something there and comes back.
    pub fn there<T>(&self, act: impl FnOnce() -> T) -> T {
        self.enter(Side::There);
        let done = act();
        self.enter(Side::Here);
        done
    }

    pub fn cut(&self, cable: u8) {
        ip(&["-n", &self.there, "link", "set", &device(cable), "down"]).expect("cut our own cable");
    }

    pub fn mend(&self, cable: u8) {
        ip(&["-n", &self.there, "link", "set", &device(cable), "up"]).expect("mend our own cable");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.here, &self.there] {
            // One that could not be made is not there; its cables go with it.
            let _ = ip(&["netns", "del", namespace]);
        }
    }
}

fn device(cable: u8) -> String {
    format!("cable{cable}")
}

/// An error is what `ip` said.
fn ip(arguments: &[&str]) -> Result<(), String> {
    match Command::new("ip").args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("ip: {error}")),
    }
}

/// Tells a story on the near side of a new network, on a thread of its own: a thread that has been
/// in a namespace is of no use to other tests.
pub fn with_network(cables: u8, story: impl FnOnce(&Network) + Send) {
    let Some(network) = Network::new(cables) else { return };
    let told = std::thread::scope(|scope| {
        let telling = scope.spawn(|| {
            network.enter(Side::Here);
            story(&network);
        });
        telling.join()
    });
    drop(network);
    if let Err(panic) = told {
        std::panic::resume_unwind(panic);
    }
}

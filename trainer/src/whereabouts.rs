//! Where this rank is: the training thread's pulse and its communicators' newest operations. Read by
//! the main thread, which goes on telling while the training thread hangs.

use std::sync::{Arc, OnceLock};

use collectives::At;
use common::position::{Operation, Position};
use engine::{Fault, Pulse};

#[derive(Debug)]
pub(crate) struct Whereabouts {
    pub(crate) pulse: Arc<Pulse>,
    /// There once the peers are met.
    channels: OnceLock<Vec<Arc<collectives::Whereabouts>>>,
}

impl Whereabouts {
    pub(crate) fn new(fault: Option<Fault>) -> Self {
        Self { pulse: Arc::new(Pulse::new(fault)), channels: OnceLock::new() }
    }

    /// Of the rank's communicators.
    pub(crate) fn watch(&self, channels: impl IntoIterator<Item = Arc<collectives::Whereabouts>>) {
        // Called once; a second call would change nothing.
        let _ = self.channels.set(channels.into_iter().collect());
    }

    pub(crate) fn position(&self) -> Position {
        let channels = self.channels.get().map_or(&[][..], Vec::as_slice);
        let operations = channels.iter().filter_map(|channel| {
            let At { sequence, kind, bytes, is_inside } = channel.now()?;
            let name = format!("{kind} of {bytes} bytes");
            Some(Operation { channel: channel.channel(), sequence, name, is_inside })
        });
        let pulse = &self.pulse;
        Position {
            step: pulse.step(),
            phase: pulse.phase(),
            beat: pulse.beat(),
            slow_step: pulse.slow_step(),
            slow_save: pulse.slow_save(),
            operations: operations.collect(),
        }
    }
}

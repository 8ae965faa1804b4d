//! Brings together who has the workers probe each other with their reports. One probe at a time: the
//! workers open ports for it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use proto::v1;

/// Reports that wait; a probe asks fewer workers, each for one report at a time.
const QUEUE: usize = 256;

type Waiting = Option<(String, mpsc::Sender<v1::ProbeReport>)>;

/// The probe that goes on, if one does; cheap to clone. The lock is held for a look-up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Probes {
    waiting: Arc<Mutex<Waiting>>,
}

/// A probe that was begun; reports that come after its end are refused.
#[derive(Debug)]
pub(crate) struct Probe {
    /// Nobody can guess it.
    pub(crate) id: String,
    pub(crate) reports: mpsc::Receiver<v1::ProbeReport>,
    probes: Probes,
}

impl Probes {
    /// None: another one goes on.
    pub(crate) fn begin(&self) -> Option<Probe> {
        let mut waiting = self.lock();
        if waiting.is_some() {
            return None;
        }
        let id = uuid::Uuid::new_v4().to_string();
        let (sender, reports) = mpsc::channel(QUEUE);
        *waiting = Some((id.clone(), sender));
        Some(Probe { id, reports, probes: self.clone() })
    }

    /// Whether somebody waits for it.
    pub(crate) fn report(&self, report: v1::ProbeReport) -> bool {
        match &*self.lock() {
            Some((id, sender)) if *id == report.probe_id => sender.try_send(report).is_ok(),
            _ => false,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        *self.probes.lock() = None;
    }
}

//! What the kernel says about this process, under the names that every Prometheus client uses.

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Default)]
pub(super) struct Process {
    resident: Gauge,
    cpu: Counter<f64, AtomicU64>,
    open_files: Gauge,
}

impl Process {
    pub(super) fn register(at: &mut Registry) -> Self {
        let process = Self::default();
        let started = Gauge::<f64, AtomicU64>::default();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        started.set(since.as_secs_f64());
        let at = at.sub_registry_with_prefix("process");
        at.register_with_unit(
            "resident_memory",
            "Resident memory",
            Unit::Bytes,
            process.resident.clone(),
        );
        at.register_with_unit(
            "cpu",
            "User and system CPU time",
            Unit::Seconds,
            process.cpu.clone(),
        );
        at.register("open_fds", "Open file descriptors", process.open_files.clone());
        at.register_with_unit("start_time", "Start since the Unix epoch", Unit::Seconds, started);
        process
    }

    /// Keeps the last value where the kernel does not answer.
    pub(super) fn refresh(&self) {
        if let Some(bytes) = resident_bytes() {
            self.resident.set(bytes);
        }
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let micros = (usage.user_time() + usage.system_time()).num_microseconds();
            self.cpu.inc_by((micros as f64 / 1e6 - self.cpu.get()).max(0.0));
        }
        if let Ok(listed) = fs_err::read_dir("/proc/self/fd") {
            self.open_files.set(i64::try_from(listed.count()).unwrap_or(i64::MAX));
        }
    }
}

fn resident_bytes() -> Option<i64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    common::process::status_bytes(&status, "VmRSS:")?.try_into().ok()
}

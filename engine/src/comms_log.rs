//! What the collectives of rank 0 cost: count, time and bandwidth by kind and size of message.
//!
//! Promise: measures operations where they run and makes none of them blocking. Refusal: changes
//! nothing about them; of one that failed it knows nothing.
//!
//! Bandwidths are those of nccl-tests: `algbw` is the message's size over its time; `busbw`
//! multiplies it by what the operation must at least move per byte in a world of n, 2(n-1)/n for
//! an all-reduce and (n-1)/n for a reduce-scatter or an all-gather, whose size is that of all
//! parts together. An operation's time begins when this rank comes to it, so it holds the wait for
//! peers that come later.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use collectives::{Cost, Observer, OpKind, Signature};
use common::spec::{self, Collective};
use common::units::display_bytes;

/// The file in the run's `metrics` folder.
const FILE: &str = "comms.csv";

const HEADER: &str = "op,bytes,count,total_seconds,average_seconds,algbw_bytes_per_second,\
                      busbw_bytes_per_second,sent_bytes\n";

#[derive(Debug)]
pub(crate) struct CommsLog {
    world: u32,
    settings: spec::CommsLog,
    /// Held for one addition. By the operation's name and its bytes.
    sums: Mutex<BTreeMap<(&'static str, u64), Sum>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    count: u64,
    time: Duration,
    /// Bytes that left this rank.
    sent: u64,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    op: &'static str,
    bytes: u64,
    count: u64,
    total_seconds: f64,
    algbw: f64,
    busbw: f64,
    sent: u64,
}

impl CommsLog {
    pub(crate) fn new(world: u32, settings: spec::CommsLog) -> Self {
        Self { world, settings, sums: Mutex::default() }
    }

    /// By kind, then by size.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let row = |(&(op, bytes), sum): (&(&'static str, u64), &Sum)| {
            let total_seconds = sum.time.as_secs_f64();
            // 0 where nothing moves, or the clock has not.
            let moved = bytes as f64 * sum.count as f64;
            let algbw = if total_seconds > 0.0 { moved / total_seconds } else { 0.0 };
            let busbw = algbw * bus_factor(op, self.world);
            Row { op, bytes, count: sum.count, total_seconds, algbw, busbw, sent: sum.sent }
        };
        self.lock().iter().map(row).collect()
    }

    /// The end of the run: a table in the log and a file in the run's folder.
    pub(crate) fn tell(&self, run_dir: &Path) -> std::io::Result<()> {
        let rows = self.rows();
        tracing::info!("collectives of rank 0, waits for peers included:\n{}", table(&rows));
        let folder = run_dir.join("metrics");
        fs_err::create_dir_all(&folder)?;
        fs_err::write(folder.join(FILE), csv(&rows))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, u64), Sum>> {
        // A sum is whole at every point where a holder could panic.
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for CommsLog {
    fn completed(&self, signature: &Signature, Cost { elapsed, sent }: Cost) {
        let (op, collective) = name(signature.kind);
        if self.settings.only.as_ref().is_some_and(|only| !only.contains(&collective)) {
            return;
        }
        let bytes = match signature.kind {
            OpKind::ReduceScatter | OpKind::AllGather => signature.bytes * u64::from(self.world),
            _ => signature.bytes,
        };
        if self.settings.verbose {
            let seconds = elapsed.as_secs_f64();
            tracing::info!(op, bytes, seconds, "collective");
        }
        let mut sums = self.lock();
        let sum = sums.entry((op, bytes)).or_default();
        sum.count += 1;
        sum.time += elapsed;
        sum.sent += sent;
    }
}

fn name(kind: OpKind) -> (&'static str, Collective) {
    match kind {
        OpKind::AllReduce => ("all_reduce", Collective::AllReduce),
        OpKind::ReduceScatter => ("reduce_scatter", Collective::ReduceScatter),
        OpKind::AllGather => ("all_gather", Collective::AllGather),
        OpKind::Broadcast => ("broadcast", Collective::Broadcast),
        OpKind::Barrier => ("barrier", Collective::Barrier),
        OpKind::Transfer => ("send_recv", Collective::Transfer),
    }
}

fn bus_factor(op: &str, world: u32) -> f64 {
    let n = f64::from(world.max(1));
    match op {
        "all_reduce" => 2.0 * (n - 1.0) / n,
        "reduce_scatter" | "all_gather" => (n - 1.0) / n,
        _ => 1.0,
    }
}

fn csv(rows: &[Row]) -> String {
    let mut text = HEADER.to_owned();
    for Row { op, bytes, count, total_seconds, algbw, busbw, sent } in rows {
        let average = total_seconds / *count as f64;
        let _ =
            writeln!(text, "{op},{bytes},{count},{total_seconds},{average},{algbw},{busbw},{sent}");
    }
    text
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<16}{:>12}{:>9}{:>12}{:>12}{:>14}{:>14}",
        "op", "size", "count", "total ms", "average ms", "algbw GB/s", "busbw GB/s"
    );
    for Row { op, bytes, count, total_seconds, algbw, busbw, .. } in rows {
        let size = display_bytes(*bytes);
        let (total, average) = (total_seconds * 1e3, total_seconds * 1e3 / *count as f64);
        let (algbw, busbw) = (algbw / 1e9, busbw / 1e9);
        let _ = write!(
            text,
            "\n{op:<16}{size:>12}{count:>9}{total:>12.3}{average:>12.3}{algbw:>14.3}{busbw:>14.3}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(kind: OpKind, bytes: u64) -> Signature {
        Signature { kind, bytes, reduction: None, root: None }
    }

    fn log(settings: spec::CommsLog) -> CommsLog {
        let log = CommsLog::new(4, settings);
        let tenth = Duration::from_millis(100);
        let cost = |elapsed, sent| Cost { elapsed, sent };
        log.completed(&signature(OpKind::AllReduce, 1000), cost(tenth, 1500));
        log.completed(&signature(OpKind::AllReduce, 1000), cost(3 * tenth, 1500));
        log.completed(&signature(OpKind::AllGather, 250), cost(tenth, 750));
        log
    }

    #[test]
    fn bandwidths_are_those_of_nccl_tests() {
        let rows = log(spec::CommsLog::default()).rows();
        let [gather, reduce] = rows.as_slice() else { panic!("{rows:?}") };
        // Four parts of 250 bytes in 0.1 s, of which three come from elsewhere.
        assert_eq!((gather.op, gather.bytes, gather.count), ("all_gather", 1000, 1));
        assert_eq!((gather.algbw, gather.busbw), (10_000.0, 7_500.0));
        // Two times 1000 bytes in 0.4 s; a ring moves each byte 2 * 3/4 times.
        assert_eq!((reduce.op, reduce.bytes, reduce.count), ("all_reduce", 1000, 2));
        assert_eq!((reduce.algbw, reduce.busbw), (5_000.0, 7_500.0));
    }

    #[test]
    fn only_what_is_asked_for_is_logged() {
        let only = Some(vec![Collective::AllGather]);
        let rows = log(spec::CommsLog { only, verbose: false }).rows();
        assert_eq!(rows.iter().map(|row| row.op).collect::<Vec<_>>(), ["all_gather"]);
    }

    #[test]
    fn the_file_has_a_line_for_each_kind_and_size() {
        let folder = tempfile::tempdir().unwrap();
        log(spec::CommsLog::default()).tell(folder.path()).unwrap();
        let text = fs_err::read_to_string(folder.path().join("metrics/comms.csv")).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("op,bytes,count,total_seconds,average_seconds,algbw"));
        assert_eq!(lines[2], "all_reduce,1000,2,0.4,0.2,5000,7500,3000");
        assert_eq!(lines.len(), 3);
    }
}

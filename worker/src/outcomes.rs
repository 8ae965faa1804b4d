//! Ends of trainers that the coordinator has not acknowledged, durable in the state folder: a
//! worker that restarts still tells them. One thread writes, so that a slow disk delays no
//! heartbeat.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use fs_err as fs;
use prost::Message;
use proto::v1::TrainerEnded;
use tracing::warn;

const FOLDER: &str = "outcomes";

/// Writes that wait for the disk; the ends themselves are also in memory.
const QUEUE: usize = 1024;

#[derive(Debug)]
pub(crate) struct Outcomes {
    orders: mpsc::SyncSender<Order>,
}

enum Order {
    Keep(PathBuf, Vec<u8>),
    Forget(PathBuf),
    Flush(tokio::sync::oneshot::Sender<()>),
}

impl Outcomes {
    /// Opens the folder and returns what an earlier life left unacknowledged. A file that cannot
    /// be read is said and left where it is.
    pub(crate) fn open(state_dir: &Path) -> io::Result<(Self, Vec<TrainerEnded>)> {
        let folder = state_dir.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let mut left = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "end") {
                continue;
            }
            match fs::read(&path).map(|bytes| TrainerEnded::decode(bytes.as_slice())) {
                Ok(Ok(end)) => left.push(end),
                Ok(Err(error)) => warn!(path = %path.display(), %error, "damaged outcome ignored"),
                Err(error) => warn!(%error, "outcome cannot be read"),
            }
        }
        let (orders, inbox) = mpsc::sync_channel(QUEUE);
        let worker = Self { orders };
        thread::Builder::new()
            .name("outcomes".to_owned())
            .spawn(move || write_all(&folder, &inbox))?;
        Ok((worker, left))
    }

    /// Makes an end durable, soon.
    pub(crate) fn keep(&self, end: &TrainerEnded) {
        let name = file_name(&end.job_id, end.generation, end.rank);
        self.order(Order::Keep(name, end.encode_to_vec()));
    }

    /// The coordinator has it.
    pub(crate) fn forget(&self, job_id: &str, generation: u64, rank: u32) {
        self.order(Order::Forget(file_name(job_id, generation, rank)));
    }

    /// Resolves when everything ordered before is on disk.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = tokio::sync::oneshot::channel();
        self.order(Order::Flush(done));
        // The thread has ended: nothing more will reach the disk.
        let _ = flushed.await;
    }

    fn order(&self, order: Order) {
        if self.orders.try_send(order).is_err() {
            warn!("the disk of the state folder is too slow: an outcome lives in memory only");
        }
    }
}

fn file_name(job_id: &str, generation: u64, rank: u32) -> PathBuf {
    format!("{job_id}.g{generation}.rank-{rank}.end").into()
}

fn write_all(folder: &Path, inbox: &mpsc::Receiver<Order>) {
    for order in inbox {
        let result = match order {
            Order::Keep(name, bytes) => service::files::replace(&folder.join(name), &bytes),
            Order::Forget(name) => match fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
            Order::Flush(done) => {
                // The one who waited may have run out of time.
                let _ = done.send(());
                Ok(())
            }
        };
        if let Err(error) = result {
            warn!(%error, "outcome not durable");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(rank: u32) -> TrainerEnded {
        TrainerEnded { job_id: "a-1".to_owned(), generation: 3, rank, ..Default::default() }
    }

    #[tokio::test]
    async fn ends_survive_a_restart_until_they_are_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let (outcomes, left) = Outcomes::open(folder.path()).unwrap();
        assert_eq!(left, []);
        outcomes.keep(&end(0));
        outcomes.keep(&end(1));
        outcomes.forget("a-1", 3, 0);
        outcomes.forget("never-heard-of", 1, 0);
        outcomes.flush().await;
        let (_again, left) = Outcomes::open(folder.path()).unwrap();
        assert_eq!(left, [end(1)]);
    }

    #[test]
    fn a_damaged_outcome_does_not_stop_the_worker() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join(FOLDER)).unwrap();
        fs::write(folder.path().join(FOLDER).join("x.g1.rank-0.end"), [0xff; 9]).unwrap();
        assert_eq!(Outcomes::open(folder.path()).unwrap().1, []);
    }
}

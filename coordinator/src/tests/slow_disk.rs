//! A disk that takes its time: a busy array, a filer. Answers wait for it, and nobody is lost.

use std::thread;
use std::time::{Duration, Instant};

use proto::v1;

use super::cluster::{Cluster, finished, settings};
use crate::Settings;
use crate::daemon::Coordinator;
use crate::store::{Error, EventLog, Place, Written};

/// Each commit takes longer than a lease.
const COMMIT: Duration = Duration::from_millis(2500);
const LEASE: Duration = Duration::from_secs(2);

struct SlowDisk(Box<dyn EventLog>);

impl EventLog for SlowDisk {
    fn append_batch(&mut self, payloads: &[Vec<u8>]) -> Result<(), Error> {
        thread::sleep(COMMIT);
        self.0.append_batch(payloads)
    }

    fn begin_snapshot(&self) -> Place {
        self.0.begin_snapshot()
    }

    fn adopt_snapshot(&mut self, written: &Written) -> Result<(), Error> {
        self.0.adopt_snapshot(written)
    }

    fn prune(&mut self) -> Result<bool, Error> {
        self.0.prune()
    }

    fn mark_acknowledged(&mut self) -> Result<(), Error> {
        self.0.mark_acknowledged()
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        self.0.close()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_wait_for_a_slow_disk_and_no_worker_is_lost_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { lease: LEASE, ..settings(folder.path()) };
    let slow = |log| Box::new(SlowDisk(log)) as Box<dyn EventLog>;
    let cluster = Cluster::run(folder, Coordinator::build_on(&settings, slow).await.unwrap());
    let mut a = cluster.join("a", 1).await;
    let asked = Instant::now();
    let job_id = cluster.submit("job", 1).await;
    assert!(asked.elapsed() >= COMMIT, "A14: {:?} is before it is durable", asked.elapsed());
    let start = a.start_order().await;
    a.train(&start).await;
    cluster.wait_for(&job_id, "running").await;
    let workers = cluster.client().await.list_workers(v1::ListWorkersRequest {}).await.unwrap();
    assert_eq!(workers.into_inner().workers[0].state, "ready");
    a.end(&start, 0, finished()).await;
    let done = cluster.wait_for(&job_id, "succeeded").await;
    assert_eq!(done.attempts.len(), 1, "{done:?}");
    cluster.stop().await;
}

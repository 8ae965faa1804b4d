//! A3: however the records are decoded, they give the ledger that applying them one by one gives.

use std::collections::BTreeMap;
use std::path::Path;

use common::ids::{Incarnation, JobId};
use common::status::JobState;
use control::coordinator::{CancelMode, Config, Ledger, Machine, Record, Submission};
use proto::v1;

use super::cluster::{Cluster, spec_json};
use crate::codec;
use crate::core::is_snapshot_due;
use crate::store;

/// Enough for several threads with several chunks each, and for a last chunk that is not full.
const JOBS: u64 = 3000;

fn id(number: u64) -> JobId {
    format!("job-{number:06}").parse().unwrap()
}

fn submitted(number: u64) -> Record {
    let spec = spec_json(&format!("job {number}"), 1 + number as u32 % 3, Path::new("/runs"));
    let submission = Submission {
        request_id: format!("request-{number}"),
        spec: serde_json::from_str(&spec).unwrap(),
        job_toml: "[job]\nname = \"{\\\"\"\n".to_owned(),
        uploads: BTreeMap::from([("/data".to_owned(), number.to_string())]),
        group: None,
        after: Vec::new(),
        slurm: None,
        origin: None,
    };
    Record::JobSubmitted { job_id: id(number), submission: Box::new(submission), at: number }
}

fn ended(number: u64) -> Record {
    Record::JobEnded {
        job_id: id(number),
        state: JobState::Cancelled,
        reason: "cancelled while it was queued".to_owned(),
        failure: None,
        step: 0,
        max_steps: None,
        over: None,
        at: number,
    }
}

/// Submits, in between what becomes of jobs that were submitted long before and just now.
fn records() -> Vec<Record> {
    let mut records = vec![Record::CoordinatorStarted { incarnation: Incarnation(1), at: 1 }];
    for number in 0..JOBS {
        records.push(submitted(number));
        let (job_id, mode, at) = (id(number / 2), CancelMode::Now, number);
        match number % 10 {
            3 => records.push(Record::CancelAsked { job_id, mode, at }),
            4 => records.push(ended(number / 2)),
            5 => records.push(Record::JobForgotten { job_id: id(number / 2) }),
            6 => records.push(submitted(number)),
            _ => {}
        }
    }
    records
}

/// As a machine goes on from it.
fn taken_over(ledger: Ledger) -> Ledger {
    Machine::new(Config::default(), ledger).ledger().clone()
}

#[test]
fn a_replay_on_all_cores_gives_what_the_records_give_one_by_one() {
    let records = records();
    let applied = |records: &[Record]| {
        let mut ledger = Ledger::default();
        records.iter().for_each(|record| ledger.apply(record));
        ledger
    };
    let expected = applied(&records);
    let events: Vec<Vec<u8>> = records.iter().map(codec::encode).collect();
    for kept in [0, 1, events.len() / 3, events.len()] {
        let state = applied(&records[..kept]);
        // As earlier builds wrote it, too.
        let snapshots = [codec::encode_ledger(&state), serde_json::to_vec(&state).unwrap()];
        for snapshot in snapshots.iter().map(|state| (kept > 0).then_some(&state[..])) {
            let ledger = codec::replay(snapshot, &events[kept..]).unwrap();
            assert!(taken_over(ledger) == expected, "{kept} events are in the snapshot");
        }
    }
}

#[test]
fn a_submit_is_read_as_any_record_is() {
    let record = submitted(7);
    let event = codec::encode(&record);
    assert!(event.starts_with(codec::SUBMITTED), "the short way is never taken");
    let as_any: Record = serde_json::from_slice(&event).unwrap();
    assert_eq!(as_any, record);
    let mut expected = Ledger::default();
    expected.apply(&record);
    assert_eq!(taken_over(codec::replay(None, &[event]).unwrap()), expected);
}

#[test]
fn the_first_event_that_is_none_is_named() {
    let mut events: Vec<Vec<u8>> =
        (0..JOBS).map(|number| codec::encode(&submitted(number))).collect();
    let short = codec::SUBMITTED.to_vec();
    events[1700] = short.clone();
    events[2900] = br#"{"record":"of-a-newer-build"}"#.to_vec();
    let error = codec::replay(None, &events).unwrap_err();
    assert!(matches!(error, codec::Error::Event { index: 1700, .. }), "{error}");
    let mut cut = codec::encode_ledger(&codec::replay(None, &events[..1700]).unwrap());
    cut.truncate(cut.len() - 1);
    for state in [&cut[..], b"{", b""] {
        let error = codec::replay(Some(state), std::slice::from_ref(&short)).unwrap_err();
        assert!(matches!(error, codec::Error::Snapshot { .. }), "{error}");
    }
}

#[test]
fn a_queue_that_only_grows_is_kept_now_and_then() {
    let (mut since, mut written, mut snapshots) = (0, 0, 0);
    for jobs in 1..=100_000 {
        since += 1;
        if is_snapshot_due(since, jobs) {
            (since, written, snapshots) = (0, written + jobs, snapshots + 1);
        }
    }
    assert!(since <= 50_000, "{since} events to replay");
    assert!(snapshots <= 10 && written <= 200_000, "{snapshots} snapshots of {written} jobs");
}

#[tokio::test]
async fn a_deep_queue_is_there_again_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = store::open(&folder.path().join("store")).unwrap();
    let events: Vec<Vec<u8>> = (0..JOBS).map(|number| codec::encode(&submitted(number))).collect();
    opened.log.append_batch(&events).unwrap();
    // Not closed, as after a kill.
    drop(opened);
    let cluster = Cluster::start_in(folder).await;
    let request = v1::ListJobsRequest { limit: JOBS as u32, ..Default::default() };
    let listed = cluster.client().await.list_jobs(request).await.unwrap().into_inner().jobs;
    assert_eq!(listed.len() as u64, JOBS);
    for (number, row) in (0..).zip(&listed) {
        assert_eq!((&*row.job_id, &*row.state), (id(number).as_str(), "queued"));
    }
    let last = cluster.status(id(JOBS - 1).as_str()).await;
    let waiting: serde_json::Value = serde_json::from_str(&last.waiting_json).unwrap();
    assert_eq!(waiting["ahead"], JOBS - 1);
    cluster.stop().await;
}

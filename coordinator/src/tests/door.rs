use common::status::{Gpus, TrainerEnd};
use control::coordinator::WorkerMessage;
use proto::v1;
use proto::v1::worker_message::Kind;

use super::cluster::{hello, message};
use crate::door::{self, worker_message};

fn ended(summary_json: &str, lines: Vec<String>) -> v1::TrainerEnded {
    v1::TrainerEnded {
        job_id: "job-000000".to_owned(),
        generation: 1,
        rank: 0,
        end: Some(super::cluster::finished()),
        last_lines: lines,
        summary_json: summary_json.to_owned(),
        time_ms: 1,
    }
}

#[test]
fn an_unreadable_summary_does_not_hide_the_end() {
    let message = message(Kind::TrainerEnded(ended("{broken", vec![])));
    let Ok(WorkerMessage::Ended(report)) = worker_message(message) else { panic!("not an end") };
    assert_eq!(report.end, TrainerEnd::Finished);
    assert_eq!(report.summary, None);
}

#[test]
fn foreign_text_is_cut_at_a_character() {
    let lines = (0..100).map(|_| "ä".repeat(5000)).collect();
    let message = message(Kind::TrainerEnded(ended("", lines)));
    let Ok(WorkerMessage::Ended(report)) = worker_message(message) else { panic!("not an end") };
    assert_eq!(report.last_lines.len(), 50, "the last ones");
    assert!(report.last_lines.iter().all(|line| line.len() < 4200 && line.ends_with('…')));
}

#[test]
fn what_a_node_has_is_bounded_and_may_be_left_out() {
    let bare = door::hello(hello("a", 1)).unwrap();
    assert_eq!(bare.gpus, Gpus::default());
    let gpu = v1::Gpu { name: "ä".repeat(500), uuid: "GPU-1".to_owned(), memory_bytes: 7 };
    let found = v1::Gpus { devices: vec![gpu; 100], source: "x".repeat(9000) };
    let gpus = door::hello(v1::WorkerHello { gpus: Some(found), ..hello("a", 1) }).unwrap().gpus;
    assert_eq!((gpus.devices.len(), gpus.devices[0].memory_bytes), (64, 7));
    assert!(gpus.devices[0].name.len() < 300 && gpus.source.len() < 4200);
}

#[test]
fn a_place_for_nccl_that_is_none_is_refused() {
    let ready = |rank, bytes| {
        let address = "127.0.0.1:4000".to_owned();
        let peer = v1::Peer { rank, address, nccl_id: vec![1; bytes], ..Default::default() };
        let job_id = "job-000000".to_owned();
        worker_message(message(Kind::TrainerReady(v1::TrainerReady {
            job_id,
            peer: Some(peer),
            ..Default::default()
        })))
    };
    assert!(ready(0, 0).is_ok() && ready(1, 0).is_ok() && ready(0, 128).is_ok());
    for error in [ready(0, 127), ready(0, 129), ready(1, 128)] {
        let said = error.unwrap_err().to_string();
        assert!(said.contains("peer.nccl_id") && said.contains("128 bytes of rank 0"), "{said}");
    }
}

#[test]
fn a_tag_that_is_no_folder_name_is_refused() {
    for tag in ["", "..", "a/b", "../x", ".hidden", "a\0b"] {
        let checkpoint = v1::Checkpoint { tag: tag.to_owned(), ..Default::default() };
        let committed = v1::CheckpointCommitted {
            job_id: "job-000000".to_owned(),
            generation: 1,
            checkpoint: Some(checkpoint),
        };
        assert!(worker_message(message(Kind::Checkpoint(committed))).is_err(), "{tag:?}");
    }
}

#[test]
fn a_message_without_content_or_a_second_hello_is_refused() {
    assert!(worker_message(v1::WorkerMessage { kind: None }).is_err());
    assert!(worker_message(message(Kind::Hello(hello("a", 1)))).is_err());
}

use std::sync::{Arc, Mutex};

use common::spec::Monitor;
use common::status::{CheckpointRow, Live, MetricPoint};

use super::{Report, now, peak_resident_bytes, resident_bytes};
use crate::Reporter;
use crate::monitor::{Position, StepRecord, ValidationColumns};

#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Reporter for Heard {
    fn progress(&self, _: Live) {}
    fn metric(&self, name: &'static str, point: MetricPoint) {
        self.0.lock().unwrap().push(format!("{name}@{}", point.step));
    }
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }
    fn checkpoint(&self, _: CheckpointRow, _: Vec<String>) {}
    fn found(&self, _: Vec<CheckpointRow>) {}
}

fn monitor() -> Monitor {
    Monitor {
        tensorboard: true,
        csv: true,
        deepspeed_tensorboard_dir: None,
        deepspeed_csv_dir: None,
        diagnostics: Default::default(),
    }
}

fn record(step: u64) -> StepRecord {
    StepRecord {
        step,
        samples: step * 8,
        epoch: 1,
        train_loss: 0.5,
        learning_rate: 0.1,
        grad_norm: 1.0,
        loss_scale: None,
        step_seconds: 0.25,
        samples_per_second: 32.0,
        time: now(),
    }
}

#[test]
fn every_step_is_in_the_file_once_the_report_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let heard = Arc::new(Heard::default());
    let mut report = Report::new(heard.clone(), true, 1);
    report
        .open_files(dir.path(), &monitor(), ValidationColumns::Loss, Position::default())
        .unwrap();
    (1..=1000).for_each(|step| report.step(record(step)));
    report.close();
    let text = fs_err::read_to_string(dir.path().join("metrics/steps.csv")).unwrap();
    assert_eq!(text.lines().count(), 1001);
    assert!(text.lines().nth(1000).unwrap().starts_with("1000,8000,1,0.5,0.1,1.0,0.25,32.0"));
    let heard = heard.0.lock().unwrap();
    assert_eq!(heard.iter().filter(|line| line.starts_with("train/loss@")).count(), 1000);
    assert!(heard.contains(&"system/rss-bytes@1".to_owned()));
}

/// A checkpoint waits for that: who goes on from it makes no step before it again.
#[test]
fn what_was_told_is_in_the_file_when_somebody_has_waited_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut report = Report::new(Arc::new(Heard::default()), true, 1);
    report
        .open_files(dir.path(), &monitor(), ValidationColumns::Loss, Position::default())
        .unwrap();
    let written = report.written().unwrap();
    for step in 1..=100 {
        report.step(record(step));
        written.wait();
        let text = fs_err::read_to_string(dir.path().join("metrics/steps.csv")).unwrap();
        assert_eq!(text.lines().count() as u64, step + 1);
    }
}

#[test]
fn other_ranks_tell_their_memory_alone() {
    let dir = tempfile::tempdir().unwrap();
    let heard = Arc::new(Heard::default());
    let mut report = Report::new(heard.clone(), false, 1);
    report
        .open_files(dir.path(), &monitor(), ValidationColumns::Loss, Position::default())
        .unwrap();
    report.step(record(1));
    report.note("not said".to_owned());
    report.close();
    assert_eq!(*heard.0.lock().unwrap(), ["system/rss-bytes@1"]);
    assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 0);
}

/// The folder of DeepSpeed's files is opened tag by tag, so a folder in a file's place fails at the
/// first record, as a disk that is full does.
#[test]
fn files_that_cannot_be_written_are_told_and_training_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let heard = Arc::new(Heard::default());
    let mut report = Report::new(heard.clone(), true, 1);
    let folder = dir.path().join("deepspeed");
    fs_err::create_dir_all(folder.join("Train_Samples_train_loss.csv")).unwrap();
    let monitor = Monitor { deepspeed_csv_dir: Some(folder), ..monitor() };
    // A new run would set the obstacle aside.
    let resumed = Position { step: 1, samples: 8 };
    report.open_files(dir.path(), &monitor, ValidationColumns::Loss, resumed).unwrap();
    (1..=3).for_each(|step| report.step(record(step)));
    report.close();
    let heard = heard.0.lock().unwrap();
    let told = heard.iter().any(|line| {
        line.contains("records are missing") && line.contains("Train_Samples_train_loss.csv")
    });
    assert!(told, "{heard:?}");
}

#[test]
fn memory_is_known_on_linux() {
    let (now, peak) = (resident_bytes().unwrap(), peak_resident_bytes().unwrap());
    assert!(now > 1 << 20 && peak >= now / 2);
}

use std::path::Path;

use common::metric;
use common::spec;

use super::*;

fn record(step: u64) -> StepRecord {
    StepRecord {
        step,
        samples: step * 64,
        epoch: 0,
        train_loss: 1.0 / step as f64,
        learning_rate: 5e-7,
        grad_norm: 2.0,
        loss_scale: None,
        step_seconds: 0.25,
        samples_per_second: 256.0,
        time: 1_700_000_000_000 + step,
    }
}

fn records(steps: std::ops::RangeInclusive<u64>) -> Vec<StepRecord> {
    steps.map(record).collect()
}

fn at(step: u64) -> Position {
    Position { step, samples: step * 64 }
}

fn text(path: &Path) -> String {
    fs_err::read_to_string(path).unwrap()
}

#[test]
fn steps_have_the_contracts_header_and_shortest_digits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics/steps.csv");
    let mut table = StepsCsv::open(&path, at(0)).unwrap();
    table.append(&records(3..=3)).unwrap();
    table.append(&[]).unwrap();
    assert_eq!(
        text(&path),
        "step,samples,epoch,train_loss,lr,grad_norm,step_seconds,samples_per_second\n\
         3,192,0,0.3333333333333333,5e-7,2.0,0.25,256.0\n"
    );
}

#[test]
fn a_resumed_table_continues_without_duplicates_or_torn_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("steps.csv");
    StepsCsv::open(&path, at(0)).unwrap().append(&records(1..=9)).unwrap();
    let whole = text(&path);
    // The old run died inside a write.
    fs_err::write(&path, &whole[..whole.len() - 7]).unwrap();
    let mut resumed = StepsCsv::open(&path, at(5)).unwrap();
    resumed.append(&records(6..=9)).unwrap();
    assert_eq!(text(&path), whole);
    // Resumed where the torn row is: it is gone, not glued to the next.
    fs_err::write(&path, &whole[..whole.len() - 7]).unwrap();
    StepsCsv::open(&path, at(9)).unwrap();
    assert_eq!(text(&path).lines().count(), 1 + 8);
    // A new run starts anew.
    StepsCsv::open(&path, at(0)).unwrap();
    assert_eq!(text(&path), format!("{}\n", StepsCsv::HEADER));
}

#[test]
fn a_file_of_someone_else_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("validation.csv");
    fs_err::write(&path, "my,own,notes\n1,2,3\n").unwrap();
    let error = ValidationCsv::open(&path, ValidationColumns::Loss, at(0)).unwrap_err();
    assert!(matches!(&error, Error::ForeignFile { found, .. } if found == "my,own,notes"));
    assert_eq!(text(&path), "my,own,notes\n1,2,3\n");
}

#[test]
fn deepspeeds_files_have_its_names_and_one_header() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Train_Samples_lr.csv");
    let lr = |step: u64| Scalar {
        metric: metric::LEARNING_RATE,
        samples: step * 64,
        value: 0.001,
        time: 0,
    };
    let mut first = DeepSpeedCsv::open(folder.path(), at(0)).unwrap();
    first.append(&[lr(1), lr(2)]).unwrap();
    first.append(&[lr(3)]).unwrap();
    drop(first);
    DeepSpeedCsv::open(folder.path(), at(2)).unwrap().append(&[lr(3), lr(4)]).unwrap();
    assert_eq!(text(&path), "step,lr\n64,0.001\n128,0.001\n192,0.001\n256,0.001\n");

    // Another run in the same folder: what the first one wrote stays.
    for run in 1..=2 {
        DeepSpeedCsv::open(folder.path(), at(0)).unwrap().append(&[lr(1)]).unwrap();
        assert_eq!(text(&path), "step,lr\n64,0.001\n");
        assert!(folder.path().join(format!("Train_Samples_lr.csv.{run}")).exists());
    }
    let first = text(&folder.path().join("Train_Samples_lr.csv.1"));
    assert_eq!(first.lines().count(), 5);
}

#[test]
fn monitors_write_what_the_job_asks_for_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let run_dir = folder.path().join("run");
    let spec = |on| spec::Monitor {
        tensorboard: on,
        csv: on,
        deepspeed_tensorboard_dir: on.then(|| folder.path().join("ds-tensorboard")),
        deepspeed_csv_dir: on.then(|| folder.path().join("ds-csv")),
        diagnostics: Default::default(),
    };
    let mut silent =
        Monitors::open(&run_dir, &spec(false), ValidationColumns::Loss, at(0), 1).unwrap();
    silent.steps(&records(1..=2)).unwrap();
    assert!(!run_dir.exists());

    let mut all =
        Monitors::open(&run_dir, &spec(true), ValidationColumns::LossAndAccuracy, at(0), 1)
            .unwrap();
    all.steps(&records(1..=2)).unwrap();
    let validation = ValidationRecord {
        step: 2,
        samples: 128,
        epoch: 1,
        val_loss: 0.5,
        val_accuracy: Some(0.75),
        time: 7,
    };
    all.validations(&[validation]).unwrap();
    assert_eq!(
        text(&run_dir.join("metrics/validation.csv")),
        "step,samples,epoch,val_loss,val_accuracy\n2,128,1,0.5,0.75\n"
    );
    assert_eq!(text(&run_dir.join("metrics/steps.csv")).lines().count(), 3);
    let validation_file = folder.path().join("ds-csv/Val_Samples_val_loss.csv");
    assert_eq!(text(&validation_file), "step,val_loss\n128,0.5\n");
    for dir in [run_dir.join("tensorboard"), folder.path().join("ds-tensorboard")] {
        assert_eq!(fs_err::read_dir(&dir).unwrap().count(), 1, "{}", dir.display());
    }
}

/// The events of `tools/fixtures/make_event_file.py`, which TensorBoard's own writer wrote there.
#[test]
fn event_files_equal_tensorboards_own_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = TensorBoardWriter::create(folder.path(), at(0), 1_700_000_000_000).unwrap();
    let loss =
        Scalar { metric: metric::TRAIN_LOSS, samples: 300, value: 0.5, time: 1_700_000_001_500 };
    writer.write(&[loss]).unwrap();
    let (name, found) = files(folder.path()).remove(0);
    let parts: Vec<&str> = name.split('.').collect();
    assert_eq!(parts[..4], ["events", "out", "tfevents", "1700000000"]);
    assert_eq!(parts[5], std::process::id().to_string());
    assert_eq!(found, NEW);

    TensorBoardWriter::create(folder.path(), at(3), 1_700_000_000_000).unwrap();
    let (_, restarted) = files(folder.path()).remove(1);
    assert_eq!(restarted, RESTART);
}

/// Names and contents (in hex) of the files in a folder, in the order of their names.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = fs_err::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let bytes = fs_err::read(entry.path()).unwrap();
            let hex = bytes.iter().map(|b| format!("{b:02x}")).collect();
            (entry.file_name().into_string().unwrap(), hex)
        })
        .collect();
    files.sort();
    files
}

const NEW: &str = concat!(
    "1800000000000000a37f4b220900000040fc54d9411a0d627261696e2e4576656e743a32eced8f9d2f000000",
    "000000006d5d1d500900006040fc54d94110ac022a210a1f0a18547261696e2f53616d706c65732f74726169",
    "6e5f6c6f7373150000003fc19ffef5",
);
const RESTART: &str = concat!(
    "1800000000000000a37f4b220900000040fc54d9411a0d627261696e2e4576656e743a32eced8f9d10000000",
    "0000000095fbfe180900000040fc54d94110c1013a0208019495c7a8",
);

#[test]
fn a_later_start_sorts_its_file_last_even_within_one_second() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        TensorBoardWriter::create(folder.path(), at(1), 1_700_000_000_000).unwrap();
    }
    // A clock that went back.
    TensorBoardWriter::create(folder.path(), at(1), 1_600_000_000_000).unwrap();
    let names: Vec<String> = files(folder.path()).into_iter().map(|(name, _)| name).collect();
    let seconds: Vec<&str> = names.iter().map(|name| name.split('.').nth(3).unwrap()).collect();
    assert_eq!(seconds, ["1700000000", "1700000001", "1700000002", "1700000003"]);
}

//! What other programs read: TensorBoard's own reader, safetensors' own reader.

use tests::binaries::run_python;
use tests::job::TinyJob;
use tests::rsctl::Rsctl;

const READ_EVENTS: &str = r#"
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
events.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))
"#;

const READ_SAFETENSORS: &str = r#"
import json, sys
from safetensors.numpy import load_file
print(json.dumps({name: list(t.shape) for name, t in load_file(sys.argv[1]).items()}))
"#;

#[test]
fn tensorboard_and_safetensors_read_what_a_run_writes() {
    let folder = tempfile::tempdir().unwrap();
    let rsctl = Rsctl { folder: folder.path().to_owned(), master: None };
    fs_err::write(folder.path().join("job.toml"), TinyJob::default().toml()).unwrap();
    let status = rsctl.call(&["run", "--json", "job.toml"]).expect_code(0).json();
    let out = status["output_dir"].as_str().unwrap();

    let scalars: serde_json::Value =
        serde_json::from_str(&run_python(READ_EVENTS, &[&format!("{out}/tensorboard")])).unwrap();
    let losses = scalars["Train/Samples/train_loss"].as_array().expect("DeepSpeed's tag");
    assert_eq!(losses.len(), 20);
    assert_eq!(losses[0][0], 32, "x is global samples");
    let steps = fs_err::read_to_string(format!("{out}/metrics/steps.csv")).unwrap();
    let from_csv: f64 = steps.lines().nth(1).unwrap().split(',').nth(3).unwrap().parse().unwrap();
    let from_events = losses[0][1].as_f64().unwrap();
    assert!((from_csv - from_events).abs() <= 1e-6 * from_csv.abs(), "{from_csv} {from_events}");
    assert!(scalars.get("Val/Samples/val_loss").is_some());

    let latest = status["latest_checkpoint"].as_str().unwrap();
    let exported = folder.path().join("model.safetensors");
    let exported = exported.to_str().unwrap();
    rsctl.call(&["checkpoints", "export", latest, "--out", exported]).expect_code(0);
    let shapes: serde_json::Value =
        serde_json::from_str(&run_python(READ_SAFETENSORS, &[exported])).unwrap();
    assert_eq!(shapes["lstm.weight_ih_l0"], serde_json::json!([64, 1]));
    assert_eq!(shapes["lstm.weight_hh_l1"], serde_json::json!([64, 16]));
    assert_eq!(shapes["fc.weight"], serde_json::json!([1, 16]));
}

#[test]
fn a_classifier_tells_its_accuracy_everywhere_and_exports_its_buffers() {
    let folder = tempfile::tempdir().unwrap();
    let rsctl = Rsctl { folder: folder.path().to_owned(), master: None };
    rsctl.call(&["init", "cnn"]).expect_code(0);
    let run = ["run", "--json", "job.toml", "--set", "resources.world-size=2"];
    let shortened = ["--set", "training.epochs=4", "--set", "model.channels=[16, 32]"];
    let status = rsctl.call(&[&run[..], &shortened[..]].concat()).expect_code(0).json();
    let out = status["output_dir"].as_str().unwrap();
    let summary = &status["summary"];
    let accuracy = summary["test"]["accuracy"].as_f64().unwrap();
    assert!(accuracy >= 0.9, "{summary}");
    assert!(summary["test"].get("mae").is_none() && summary["quality"].is_null(), "{summary}");
    let best = summary["best_val_accuracy"].as_f64().unwrap();
    let rows = fs_err::read_to_string(format!("{out}/metrics/validation.csv")).unwrap();
    assert!(rows.starts_with("step,samples,epoch,val_loss,val_accuracy\n"), "{rows}");
    let accuracy_of = |row: &str| row.rsplit(',').next().unwrap().parse::<f64>();
    assert!(rows.lines().skip(1).any(|row| accuracy_of(row) == Ok(best)), "{best} in {rows}");

    let scalars: serde_json::Value =
        serde_json::from_str(&run_python(READ_EVENTS, &[&format!("{out}/tensorboard")])).unwrap();
    assert_eq!(scalars["Val/Samples/val_accuracy"].as_array().unwrap().len(), 4);
    let told = scalars["Test/Samples/test_accuracy"][0][1].as_f64().unwrap();
    assert!((told - accuracy).abs() < 1e-6, "{told} is not {accuracy}");

    let latest = status["latest_checkpoint"].as_str().unwrap();
    let exported = folder.path().join("model.safetensors");
    let exported = exported.to_str().unwrap();
    rsctl.call(&["checkpoints", "export", latest, "--out", exported]).expect_code(0);
    let shapes: serde_json::Value =
        serde_json::from_str(&run_python(READ_SAFETENSORS, &[exported])).unwrap();
    assert_eq!(shapes["conv2.weight"], serde_json::json!([32, 16, 3, 3]));
    assert_eq!(shapes["bn2.running_var"], serde_json::json!([32]));
    assert_eq!(shapes["bn2.num_batches_tracked"], serde_json::json!([]));
}

//! Claims about checkpoint arguments and which checkpoint a tag means.

use super::*;

fn row(step: u64, loss: Option<f64>) -> CheckpointRow {
    CheckpointRow {
        tag: checkpoint::tag(step),
        step,
        path: format!("/c/{}", checkpoint::tag(step)),
        world_size: 2,
        zero_stage: 2,
        loss,
        val_loss: None,
        bytes: 1,
        durable: true,
        pinned: false,
        worker: None,
    }
}

#[test]
fn a_place_is_a_job_or_a_path() {
    let job = |job: &str, tag: Option<&str>| Place::Job {
        job: job.to_owned(),
        tag: tag.map(str::to_owned),
    };
    assert_eq!(Place::read("co2-lstm-ab12cd"), job("co2-lstm-ab12cd", None));
    assert_eq!(Place::read("co2:best"), job("co2", Some("best")));
    for path in ["./runs", "/c/step-00000001", "runs/co2", "file:///c", "s3://bucket/c", "."] {
        assert_eq!(Place::read(path), Place::Path(path.to_owned()));
    }
}

#[test]
fn a_tag_means_one_checkpoint() {
    let rows = [row(10, Some(0.5)), row(30, Some(0.3)), row(20, Some(0.2)), row(25, None)];
    let step = |tag| choose(&rows, tag, "job x").unwrap().step;
    assert_eq!(step(None), 30);
    assert_eq!(step(Some("latest")), 30);
    assert_eq!(step(Some("best")), 20);
    assert_eq!(step(Some("step-10")), 10);
    assert_eq!(step(Some("step-00000025")), 25);
    // By validation loss where there is one: the training loss of one batch says little.
    let validated = [
        CheckpointRow { val_loss: Some(0.4), ..row(10, Some(0.1)) },
        CheckpointRow { val_loss: Some(0.3), ..row(20, Some(0.9)) },
        row(30, Some(0.01)),
        CheckpointRow { val_loss: Some(f64::NAN), ..row(40, None) },
    ];
    assert_eq!(choose(&validated, Some("best"), "job x").unwrap().step, 20);
    let failure = choose(&rows, Some("step-11"), "job x").unwrap_err();
    assert_eq!(
        failure.render(),
        "error: job x has no checkpoint `step-11`\n\nhint: it has step-00000010, step-00000030, \
         step-00000020, step-00000025; best and latest work too"
    );
    let failure = choose(&[], None, "job x").unwrap_err();
    assert_eq!(failure.render(), "error: job x has no checkpoint yet");
}

#[test]
fn what_a_run_starts_from_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["co2-lstm-ab12cd", "./no-such-folder", "s3://bucket/x"] {
        let failure = for_run(text, dir.path()).unwrap_err();
        assert_eq!(failure.code, ExitCode::BadConfiguration, "{text}: {}", failure.render());
    }
    fs_err::create_dir_all(dir.path().join("co2-lstm-ab12cd/checkpoints")).unwrap();
    let failure = for_run("co2:step-5", dir.path()).unwrap_err();
    assert!(failure.render().contains("step-00000005"), "{}", failure.render());
    let failure = for_run("co2:newest", dir.path()).unwrap_err();
    assert!(failure.render().contains("best or latest"), "{}", failure.render());
}

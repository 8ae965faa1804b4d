//! Claims about what people see, and about exit codes.

use expect_test::{Expect, expect};

use common::exit::ExitCode;
use common::status::{FailureKind, Gpu, Gpus, JobState, WorkerRow};

use crate::follow::exit_code;
use crate::render::plot::{self, Scale, Size};
use crate::render::{status, summary, table};
use crate::tests::statuses::{NOW, failed, running, succeeded};

#[expect(clippy::needless_pass_by_value, reason = "expect! is written in place")]
fn check(found: &str, expected: Expect) {
    expected.assert_eq(found);
}

#[test]
fn the_summary_reads_like_this() {
    check(
        &summary::render(&succeeded()),
        expect![[r#"
        Training Summary:
          - Initial Loss: 1.523456
          - Final Loss: 0.012345
          - Loss Reduction: 99.19%

        Validation Summary:
          - Initial Val Loss: 1.400000
          - Best Val Loss: 0.015678 (step 360)
          - Val Loss Reduction: 98.88%

        Model Quality: Excellent! (MSE < 0.05)

        Test (best weights, 311 samples, the data's own units):
          - MAE: 0.310000 (naive last value: 0.450000; 31.1 % better)
          - RMSE: 0.420000
          - Loss: 0.017100

        Gradient Norms: 396 healthy, 0 exploding, 0 vanishing, 4 other; max 2.310000
        Trained: 400 steps, 10 epochs in 12.5s, 4100 samples/s
        Ranks: 2, ZeRO stage 2, fp32
        Peak Memory per Rank: 222.0 MiB, 221.0 MiB
        Output: /home/ada/runs/co2-lstm-ab12cd
        Latest Checkpoint: /home/ada/runs/co2-lstm-ab12cd/checkpoints/step-00000400
    "#]],
    );
}

#[test]
fn one_step_is_no_steps() {
    let mut status = succeeded();
    let summary = status.summary.as_mut().unwrap();
    (summary.steps, summary.epochs) = (1, 1);
    let text = summary::render(&status);
    assert!(text.contains("Trained: 1 step, 1 epoch in"), "{text}");
}

#[test]
fn a_summary_tells_precision_loss_scale_and_skipped_steps() {
    let render = |asked: Option<&str>, skipped_steps, final_loss_scale| {
        let mut status = succeeded();
        let summary = status.summary.as_mut().unwrap();
        summary.precision = if asked.is_some() { "fp32" } else { "fp16" }.to_owned();
        summary.precision_asked = asked.map(str::to_owned);
        (summary.skipped_steps, summary.final_loss_scale) = (skipped_steps, final_loss_scale);
        summary::render(&status)
    };
    let native = render(None, 3, Some(32768.0));
    assert!(native.contains("Ranks: 2, ZeRO stage 2, fp16, loss scale 32768\n"), "{native}");
    assert!(native.contains("Skipped: 3 of 400 steps, whose gradients were"), "{native}");
    let fallback = render(Some("fp16"), 0, None);
    assert!(fallback.contains("stage 2, fp32 (the job asks for fp16)\n"), "{fallback}");
    assert!(!fallback.contains("Skipped"), "{fallback}");
}

#[test]
fn a_status_reads_like_this() {
    check(
        &status::job(&running(), NOW),
        expect![[r#"
            job               co2-lstm-ab12cd
            name              co2-lstm
            state             running
            reason            2 ranks train
            submitted         1m35s ago
            progress          step 120/400, epoch 3/10, loss 0.042100, val 5.123e-5, 4123 samples/s, 2m11s left
            goodput           93.2 %
            output            /home/ada/runs/co2-lstm-ab12cd
            note              fp16 was asked for; training in fp32

            ATTEMPT  STATE    RANKS   TOOK  REASON
                  1  running      2  1m30s  -

            RANK  WORKER  SLOTS   PID  LIBTORCH        STATE
               0  node-a  0      4000  2.11.0, AVX512  running
               1  node-a  1      4001  2.11.0, AVX512  running
        "#]],
    );
    check(
        &status::job(&failed(FailureKind::NotFinite), NOW),
        expect![[r#"
            job               co2-lstm-ab12cd
            name              co2-lstm
            state             failed
            reason            rank 1 failed
            submitted         1m35s ago
            progress          step 120/400, epoch 3/10, loss 0.042100, val 5.123e-5
            goodput           93.2 %
            output            /home/ada/runs/co2-lstm-ab12cd
            note              fp16 was asked for; training in fp32

            ATTEMPT  STATE    RANKS   TOOK  REASON
                  1  running      2  1m30s  -

            RANK  WORKER  SLOTS   PID  LIBTORCH        STATE
               0  node-a  0      4000  2.11.0, AVX512  running
               1  node-a  1      4001  2.11.0, AVX512  failed at step 121: loss is NaN at step 121; the first bad tensor is lstm.weight_ih_l0

            failure: loss is NaN at step 121; the first bad tensor is lstm.weight_ih_l0
            last lines of rank 1 on node-a:
              | step 120 loss 0.0421
              | step 121 loss NaN
        "#]],
    );
}

#[test]
fn lists_read_like_this() {
    let mut queued = running().row;
    queued.state = JobState::Queued;
    queued.reason = "waits for 2 slots:\n1 is free".to_owned();
    queued.world_size = 0;
    queued.max_steps = None;
    check(
        &status::jobs(&[running().row, queued], NOW),
        expect![[r#"
        JOB              STATE    STEP   OF  RANKS  ATTEMPT    AGE  REASON
        co2-lstm-ab12cd  running   120  400      2        1  1m35s  2 ranks train
        co2-lstm-ab12cd  queued    120    -      -        1  1m35s  waits for 2 slots: 1 is free
    "#]],
    );
    let worker = WorkerRow {
        name: "node-a".to_owned(),
        uuid: "2f1e7f4e-6f5c-4d43-8f0c-1c52f7a1a111".to_owned(),
        incarnation: 4,
        state: "ready".to_owned(),
        address: "10.0.0.4".to_owned(),
        slots: 8,
        free_slots: 6,
        device: "cpu".to_owned(),
        memory_bytes: 16 << 30,
        jobs: vec!["co2-lstm-ab12cd".parse().unwrap()],
        version: "0.1.0".to_owned(),
        last_seen: NOW,
        libtorch: "2.11.0, AVX512".to_owned(),
        hostname: "node-a".to_owned(),
        unlisted: false,
        allows_commands: false,
        gpus: Gpus::default(),
    };
    let gpu = Gpu { name: "NVIDIA A".to_owned(), uuid: "GPU-1".to_owned(), memory_bytes: 80 << 30 };
    let with_gpus = WorkerRow {
        name: "node-b".to_owned(),
        jobs: Vec::new(),
        gpus: Gpus { devices: vec![gpu; 2], source: "NVML".to_owned() },
        ..worker.clone()
    };
    check(
        &status::workers(&[worker, with_gpus], NOW + 4_000),
        expect![[r#"
            WORKER  STATE  HEARD  ADDRESS   DEVICE  SLOTS  FREE    MEMORY  GPUS          LIBTORCH        JOBS
            node-a  ready     4s  10.0.0.4  cpu         8     6  16.0 GiB  none          2.11.0, AVX512  co2-lstm-ab12cd
            node-b  ready     4s  10.0.0.4  cpu         8     6  16.0 GiB  2 x NVIDIA A  2.11.0, AVX512  -
        "#]],
    );
    check(
        &status::workers(&[], NOW),
        expect![[r#"
            WORKER  STATE  HEARD  ADDRESS  DEVICE  SLOTS  FREE  MEMORY  GPUS  LIBTORCH  JOBS
        "#]],
    );
}

#[test]
fn a_final_state_gives_its_exit_code() {
    assert_eq!(exit_code(&succeeded()), ExitCode::Done);
    assert_eq!(exit_code(&failed(FailureKind::NotFinite)), ExitCode::Failed);
    assert_eq!(exit_code(&failed(FailureKind::Configuration)), ExitCode::BadConfiguration);
    let mut by_rank_alone = failed(FailureKind::Configuration);
    by_rank_alone.failure = None;
    assert_eq!(exit_code(&by_rank_alone), ExitCode::BadConfiguration);
    let mut cancelled = running();
    cancelled.row.state = JobState::Cancelled;
    assert_eq!(exit_code(&cancelled), ExitCode::Cancelled);
}

#[test]
fn numbers_keep_their_meaning() {
    let shown = [0.0, 0.012_345_6, 1234.5, 0.000_051_23, -2.5e9, f64::NAN].map(table::number);
    check(&shown.join(" "), expect!["0.000000 0.012346 1234.500000 5.123e-5 -2.500e9 NaN"]);
    let shown = [0.0421, 4.126, 41.26, 4126.4].map(table::rate);
    check(&shown.join(" "), expect!["0.042 4.13 41.3 4126"]);
}

#[test]
fn a_chart_has_axes_and_a_line() {
    let size = Size { columns: 44, rows: 11 };
    let falling: Vec<(f64, f64)> =
        (1..=40).map(|step| (f64::from(step), 1.0 / f64::from(step))).collect();
    check(
        &plot::render("train/loss", &falling, Scale::Linear, size),
        expect![[r#"
        train/loss
                 1 ┤⡇
                   │⢸
                   │⢸
                   │⠀⡇
            0.4429 ┤⠀⢇
                   │⠀⠘⡄
                   │⠀⠀⠈⠢⢄⡀
            0.0250 ┤⠀⠀⠀⠀⠀⠈⠉⠒⠒⠒⠤⠤⠤⠤⠤⠤⠤⠤⠤⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀
                   └────────────────────────────────
                    1                             40
    "#]],
    );
    check(
        &plot::render("train/loss", &falling, Scale::Log, size),
        expect![[r#"
        train/loss
                 1 ┤⢣
                   │⠈⡆
                   │⠀⠘⡄
                   │⠀⠀⠈⢆⡀
            0.1215 ┤⠀⠀⠀⠀⠈⠑⠤⣀
                   │⠀⠀⠀⠀⠀⠀⠀⠀⠑⠢⠤⣀⡀
                   │⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠈⠉⠒⠒⠤⠤⢄⣀⡀
            0.0250 ┤⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠀⠈⠉⠉⠒⠒⠒⠢⠤⠤⢄⣀⣀
                   └────────────────────────────────
                    1                             40
    "#]],
    );
}

#[test]
fn a_chart_copes_with_what_cannot_be_drawn() {
    let size = Size { columns: 44, rows: 8 };
    let flat = [(1.0, 0.5), (2.0, f64::NAN), (3.0, 0.5), (4.0, f64::INFINITY)];
    check(
        &plot::render("val/loss", &flat, Scale::Linear, size),
        expect![[r#"
        val/loss (2 values that cannot be drawn left out)
            0.5500 ┤
                   │
            0.5000 ┤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤
                   │
            0.4500 ┤
                   └────────────────────────────────
                    1                              3
    "#]],
    );
    check(
        &plot::render("val/loss", &[], Scale::Linear, size),
        expect![[r#"
        val/loss: nothing to draw
    "#]],
    );
    check(
        &plot::render("val/loss", &[(1.0, -1.0)], Scale::Log, size),
        expect![[r#"
        val/loss (1 values that cannot be drawn left out): nothing to draw
    "#]],
    );
    // A terminal of no size at all must not panic.
    let tiny = Size { columns: 0, rows: 0 };
    assert!(!plot::render("x", &[(1.0, 2.0), (9.0, -7.5)], Scale::Linear, tiny).is_empty());
}

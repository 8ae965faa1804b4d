//! Names of the metrics that trainers stream, and their TensorBoard tags. In one file, with units.

/// A metric: our name, DeepSpeed's TensorBoard tag if it has one, unit and help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub tensorboard: &'static str,
    pub unit: &'static str,
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident: $name:literal, $tb:literal, $unit:literal, $help:literal;)*) => {
        $(pub const $id: Metric =
            Metric { name: $name, tensorboard: $tb, unit: $unit, help: $help };)*
        /// Every metric, in the order of their definition.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    TRAIN_LOSS: "train/loss", "Train/Samples/train_loss", "", "mean over the global batch, before the update";
    VAL_LOSS: "val/loss", "Val/Samples/val_loss", "", "mean over the validation set";
    VAL_ACCURACY: "val/accuracy", "Val/Samples/val_accuracy", "", "share of the validation set whose class was predicted";
    TEST_ACCURACY: "test/accuracy", "Test/Samples/test_accuracy", "", "share of the test part whose class was predicted, at the end";
    LEARNING_RATE: "train/lr", "Train/Samples/lr", "", "of this update";
    GRAD_NORM: "train/grad-norm", "Train/Samples/grad_norm", "", "global L2 norm before clipping";
    SAMPLES_PER_SECOND: "train/samples-per-second", "Train/Samples/samples_per_second", "1/s", "global, over this step";
    STEP_SECONDS: "train/step-seconds", "Train/Samples/step_seconds", "s", "wall time of this step";
    FETCH_SECONDS: "train/fetch-seconds", "Train/Samples/elapsed_time_ms_fetch", "s", "samples become tensors";
    FORWARD_SECONDS: "train/forward-seconds", "Train/Samples/elapsed_time_ms_forward", "s", "forward passes of this step";
    BACKWARD_SECONDS: "train/backward-seconds", "Train/Samples/elapsed_time_ms_backward_inner", "s", "backward passes, with the sums that run inside";
    REDUCE_SECONDS: "train/reduce-seconds", "Train/Samples/elapsed_time_ms_backward_allreduce", "s", "waited for sums after backward";
    BACKWARD_AND_REDUCE_SECONDS: "train/backward-and-reduce-seconds", "Train/Samples/elapsed_time_ms_backward", "s", "the two before together";
    OPTIMIZER_SECONDS: "train/optimizer-seconds", "Train/Samples/elapsed_time_ms_step", "s", "clipping, update, gathering of parameters";
    SAVE_SECONDS: "train/save-seconds", "Train/Samples/elapsed_time_ms_save", "s", "waited for a checkpoint since the step before";
    COMPUTE_SECONDS: "rank/compute-seconds", "System/Samples/rank_compute_seconds", "s", "what a rank did itself in a step: fetch, forward, backward and update without waiting, its mean over the last second";
    WAIT_SECONDS: "rank/wait-seconds", "System/Samples/rank_wait_seconds", "s", "what a rank spent in a step inside collectives or waiting for them, its mean over the last second";
    LOSS_SCALE: "train/loss-scale", "Train/Samples/loss_scale", "", "fp16 only";
    RSS_BYTES: "system/rss-bytes", "System/Samples/rss_bytes", "B", "resident memory of the rank";
}

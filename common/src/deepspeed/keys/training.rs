//! Batch, optimizer, scheduler, precision and gradients.

use super::Fate::{Deprecated, Ignored, Implemented, NotSupported, Removed};
use super::Form::{Block as Table, Bool, Integer, List, Number, Other, Text};
use super::Harmless::{Any, Is, Off};
use super::Rule::{Loose, Validated};
use super::{Block, key};

const FP32_FOR_NOW: &str = "training is in fp32, which needs no loss scaling";
const ONE_IMPLEMENTATION: &str = "there is one implementation, with fp32 states";
const SAME_MEAN: &str =
    "gradients are weighted by their samples and summed in fp32; the mean is the same";
const FP32_NAMES: &[&str] = &["fp32", "float32", "float", "torch.float32"];

#[rustfmt::skip]
pub(super) const BLOCKS: &[Block] = &[
    Block { path: "", rule: Loose, keys: &[
        key("train_batch_size", Integer, "T: samples of an optimizer step over all ranks; the law", Implemented("training.batch-size")),
        key("train_micro_batch_size_per_gpu", Integer, "m: the most samples a rank takes at once", Implemented("training.micro-batch-size")),
        key("gradient_accumulation_steps", Integer, "g: micro-steps of a step; another one where T, m and the world ask for it", Implemented("training.gradient-accumulation")),
        key("managed_gradient_accumulation", Bool, "true: the engine counts micro-steps; false: the training script does", NotSupported(Is(&["true"]), "there is no script that could count; steps are always counted here")),
        key("dataloader_drop_last", Bool, "drop a last short batch; wins over `data.drop-last`", Implemented("data.drop-last")),
        key("optimizer", Table, "the optimizer and its parameters", Implemented("")),
        key("scheduler", Table, "the learning-rate schedule and its parameters", Implemented("")),
        key("fp16", Table, "mixed precision with loss scaling", Implemented("")),
        key("bf16", Table, "mixed precision without loss scaling", Implemented("")),
        key("bfloat16", Table, "old name of the block", Deprecated("bf16")),
        key("torch_autocast", Table, "mixed precision as torch's autocast", Implemented("")),
        key("amp", Table, "mixed precision by NVIDIA Apex", Removed(Off, "use the `bf16` or the `fp16` block")),
        key("data_types", Table, "precision of sums and buffers", Implemented("")),
        key("gradient_clipping", Number, "bound of the global L2 norm, 1.0 since 0.19.3 (0, off, before); 0 disables", Implemented("training.gradient-clipping")),
        key("communication_data_type", Text, "data type in which gradients travel", Ignored(Is(FP32_NAMES), "gradients travel as fp32")),
        key("seq_parallel_communication_data_type", Text, "data type of gradients under sequence parallelism", Ignored(Any, "there is no sequence parallelism")),
        key("prescale_gradients", Bool, "divide gradients by the world before they are summed", Ignored(Off, SAME_MEAN)),
        key("gradient_predivide_factor", Number, "divide gradients by this before they are summed, and by the rest after, 1.0", Ignored(Is(&["1"]), SAME_MEAN)),
        key("gradient_allreduce_op", Text, "mean or sum of the ranks' gradients, \"mean\"", NotSupported(Is(&["mean"]), "gradients are averaged over the global batch")),
        key("sparse_gradients", Bool, "send gradients of embeddings as index and value", Ignored(Off, "models here have no embedding with sparse gradients, and newer DeepSpeed rejects the key")),
        key("disable_allgather", Bool, "read and never used by DeepSpeed", Ignored(Any, "has no effect in DeepSpeed either")),
        key("allgather_size", Integer, "bucket of `zero_optimization: true`", Ignored(Any, "parameters are gathered bucket by bucket of `reduce_bucket_size`")),
    ] },
    Block { path: "optimizer", rule: Loose, keys: &[
        key("type", Text, "Adam or AdamW, in any case", Implemented("training.optimizer")),
        key("params", Table, "what the optimizer's constructor takes", Implemented("")),
        key("legacy_fusion", Bool, "an older kernel", Ignored(Off, ONE_IMPLEMENTATION)),
    ] },
    Block { path: "optimizer.params", rule: Validated, keys: &[
        key("lr", Number, "learning rate, 0.001", Implemented("training.learning-rate")),
        key("betas", List, "decay of the two moments, [0.9, 0.999]", Implemented("training.betas")),
        key("eps", Number, "added to the denominator, 1e-8", Implemented("training.eps")),
        key("weight_decay", Number, "0", Implemented("training.weight-decay")),
        key("bias_correction", Bool, "correct the moments' start at zero, true", Implemented("training.bias-correction")),
        key("adam_w_mode", Bool, "true: `Adam` decays decoupled, as in DeepSpeed; `AdamW` always does", Implemented("training.decoupled-decay")),
        key("amsgrad", Bool, "keep the largest second moment", NotSupported(Off, "AMSGrad")),
        key("maximize", Bool, "climb instead of descend (torch)", NotSupported(Off, "a loss is minimised")),
        key("capturable", Bool, "CUDA graphs (torch)", Ignored(Any, ONE_IMPLEMENTATION)),
        key("differentiable", Bool, "gradients through the optimizer (torch)", NotSupported(Off, "gradients through the optimizer")),
        key("torch_adam", Bool, "torch's implementation instead of the fused one", Ignored(Any, ONE_IMPLEMENTATION)),
        key("foreach", Bool, "torch's multi-tensor loop", Ignored(Any, ONE_IMPLEMENTATION)),
        key("fused", Bool, "torch's fused kernel", Ignored(Any, "always fused: one pass over the flat shard")),
        key("set_grad_none", Bool, "free gradients after a step", Ignored(Any, ONE_IMPLEMENTATION)),
        key("fp32_optimizer_states", Bool, "moments in fp32, true", Ignored(Is(&["true"]), ONE_IMPLEMENTATION)),
    ] },
    Block { path: "scheduler", rule: Loose, keys: &[
        key("type", Text, "WarmupLR or WarmupCosineLR", Implemented("training.schedule.kind")),
        key("params", Table, "what the schedule's constructor takes", Implemented("")),
    ] },
    // Its reader checks these by the schedule's type.
    Block { path: "scheduler.params", rule: Validated, keys: &[
        key("warmup_num_steps", Integer, "length of the warm-up, 1000", Implemented("training.schedule.warmup-steps")),
        key("warmup_type", Text, "`log` or `linear`, \"log\"", Implemented("training.schedule.shape")),
        key("warmup_min_lr", Number, "WarmupLR: where it starts, 0 (WarmupCosineLR: DeepSpeed rejects it; converted to a ratio here)", Implemented("training.schedule.min-lr")),
        key("warmup_max_lr", Number, "WarmupLR: where it ends, the optimizer's rate since 0.17.2 (0.001 before)", Implemented("training.learning-rate")),
        key("total_num_steps", Integer, "length of the schedule; not given: the job's own", Implemented("training.schedule.total-steps")),
        key("warmup_min_ratio", Number, "WarmupCosineLR: start as a part of the rate, 0", Implemented("training.schedule.warmup-min-ratio")),
        key("cos_min_ratio", Number, "WarmupCosineLR: end as a part of the rate, 0.0001", Implemented("training.schedule.cos-min-ratio")),
        key("cos_min_lr", Number, "WarmupCosineLR: DeepSpeed rejects it; converted to a ratio here", Implemented("training.schedule.cos-min-ratio")),
        key("last_batch_iteration", Integer, "position at the start, -1", Ignored(Is(&["-1"]), "a checkpoint holds the position")),
    ] },
    Block { path: "fp16", rule: Validated, keys: &[
        key("enabled", Bool, "train in fp16; trained in fp32 here for now, which is said at start", Implemented("training.precision")),
        key("auto_cast", Bool, "cast inputs to fp16", Ignored(Any, FP32_FOR_NOW)),
        key("loss_scale", Number, "0: dynamic; above 0: constant", Ignored(Any, FP32_FOR_NOW)),
        key("initial_scale_power", Integer, "the dynamic scale starts at 2 to this, 16", Ignored(Any, FP32_FOR_NOW)),
        key("loss_scale_window", Integer, "steps without overflow before the scale doubles, 1000", Ignored(Any, FP32_FOR_NOW)),
        key("hysteresis", Integer, "overflows before the scale halves, 2", Ignored(Any, FP32_FOR_NOW)),
        key("consecutive_hysteresis", Bool, "a good step restores the hysteresis", Ignored(Any, FP32_FOR_NOW)),
        key("min_loss_scale", Number, "floor of the dynamic scale, 1", Ignored(Any, FP32_FOR_NOW)),
        key("fp16_master_weights_and_grads", Bool, "masters in fp16", NotSupported(Off, "masters are fp32")),
    ] },
    Block { path: "bf16", rule: Validated, keys: &[
        key("enabled", Bool, "train in bf16; trained in fp32 here for now, which is said at start", Implemented("training.precision")),
        key("immediate_grad_update", Bool, "add gradients to the sums as they come", Ignored(Any, "always so: hooks add each gradient as it comes")),
        key("check_grad_overflow", Bool, "skip a step whose gradients are not finite, true since 0.19.3 (false before)", Ignored(Any, FP32_FOR_NOW)),
        key("bf16_master_weights_and_grads", Bool, "masters in bf16", NotSupported(Off, "masters are fp32")),
        key("bf16_optimizer_states", Bool, "moments in bf16", NotSupported(Off, "moments are fp32")),
    ] },
    Block { path: "torch_autocast", rule: Loose, keys: &[
        key("enabled", Bool, "as the block of its dtype; trained in fp32 here for now, which is said at start", Implemented("training.precision")),
        key("dtype", Text, "`bfloat16` or `float16`", Implemented("training.precision")),
        key("lower_precision_safe_modules", List, "modules whose gradients travel in low precision", Ignored(Any, "one precision holds for the whole model")),
    ] },
    Block { path: "data_types", rule: Loose, keys: &[
        key("grad_accum_dtype", Text, "data type in which gradients are summed over micro-steps", Ignored(Is(FP32_NAMES), "gradients are summed in fp32")),
        key("param_dtype", Text, "data type of the parameters; must agree with fp16 and bf16", Ignored(Is(FP32_NAMES), "the `fp16` and `bf16` blocks decide")),
        key("buffer_dtype", Text, "data type of buffers", Ignored(Is(FP32_NAMES), "buffers are fp32")),
        key("keep_in_fp32_modules", Other, "modules that stay in fp32", Ignored(Any, "one precision holds for the whole model")),
    ] },
];

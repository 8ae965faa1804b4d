//! Every key of DeepSpeed's configuration that we know, what becomes of it, and why. The table is
//! the documentation: a test writes it into `docs/configuration.md`.

use Harmless::{Any, Is, Off};
use Status::{Ignored, Implemented, Later, Removed};

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Implemented,
    /// Accepted and without effect, which is said.
    Ignored,
    /// Refused by name: asks for what this version cannot do.
    Later,
    /// Newer DeepSpeed rejects it. Asking for nothing is accepted with a warning.
    Removed,
}

/// Values that change nothing, so that nothing needs to be said.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Harmless {
    Any,
    /// false, null, 0, empty, or a block that is not `enabled`.
    Off,
    /// As JSON writes them, or off.
    Is(&'static [&'static str]),
}

/// Keys of one block that share a fate.
#[derive(Debug)]
pub(crate) struct Row {
    /// Dotted path of the block, empty for the top level.
    pub(crate) block: &'static str,
    /// Names, by spaces.
    pub(crate) names: &'static str,
    pub(crate) status: Status,
    pub(crate) harmless: Harmless,
    pub(crate) why: &'static str,
}

const fn row(
    block: &'static str,
    names: &'static str,
    status: Status,
    harmless: Harmless,
    why: &'static str,
) -> Row {
    Row { block, names, status, harmless, why }
}

/// Blocks whose unknown keys DeepSpeed itself refuses.
pub(crate) const VALIDATED: &[&str] = &[
    "zero_optimization",
    "zero_optimization.offload_optimizer",
    "zero_optimization.offload_param",
    "zero_optimization.leaf_module",
    "zero_optimization.zenflow",
    "fp16",
    "bf16",
    "bfloat16",
    "tensorboard",
    "csv_monitor",
    "wandb",
    "comet",
    "comms_logger",
    "compile",
    "tensor_parallel",
    "timers.throughput",
    "hybrid_engine",
    "autoep",
    "optimizer.params",
];

const FP32_FOR_NOW: &str = "training is in fp32 for now, which needs no loss scaling";
const HALF_FOR_NOW: &str = "read, and trained in fp32 for now; said at start";
const STAGE_3: &str = "belongs to ZeRO stage 3";
const NO_EFFECT: &str = "has no effect in DeepSpeed either";
const MEMORY: &str = "recurrent models keep their activations";
const MONITOR: &str = "block of a monitor that does not exist here yet; TensorBoard and CSV do";
const PARALLEL: &str = "ranks are data parallel only";
const OWN_CHECKPOINTS: &str = "checkpoints are written in the background, synced and hashed; \
                               `[checkpoint]` says where and when";

/// The table. A block's own row says what becomes of the block as a whole.
#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = &[
    // Batch triad.
    row("", "train_batch_size", Implemented, Any, "T: samples of an optimizer step over all ranks; the law"),
    row("", "train_micro_batch_size_per_gpu", Implemented, Any, "m: the most samples a rank takes at once"),
    row("", "gradient_accumulation_steps", Implemented, Any, "g: micro-steps of a step; another one where T, m and the world ask for it"),
    row("", "managed_gradient_accumulation", Later, Is(&["true"]), "steps are always counted here"),
    row("", "dataloader_drop_last", Implemented, Any, "wins over `data.drop-last`"),
    // Optimizer.
    row("", "optimizer", Implemented, Any, ""),
    row("optimizer", "type", Implemented, Any, "`Adam` and `AdamW`, in any case; others are not supported yet"),
    row("optimizer", "params", Implemented, Any, ""),
    row("optimizer", "legacy_fusion", Ignored, Off, "there is one implementation"),
    row("optimizer.params", "lr", Implemented, Any, "learning rate, 0.001"),
    row("optimizer.params", "betas", Implemented, Any, "[0.9, 0.999]"),
    row("optimizer.params", "eps", Implemented, Any, "1e-8"),
    row("optimizer.params", "weight_decay", Implemented, Any, "0"),
    row("optimizer.params", "bias_correction", Implemented, Any, "true"),
    row("optimizer.params", "adam_w_mode", Implemented, Any, "true: `Adam` decays decoupled, as in DeepSpeed; `AdamW` always does"),
    row("optimizer.params", "amsgrad", Later, Off, "AMSGrad"),
    row("optimizer.params", "maximize capturable differentiable", Later, Off, "parameters of torch's own Adam"),
    row("optimizer.params", "torch_adam foreach fused set_grad_none fp32_optimizer_states", Ignored, Any, "there is one implementation, with fp32 states"),
    // Scheduler; its parameters are checked by type.
    row("", "scheduler", Implemented, Any, ""),
    row("scheduler", "type", Implemented, Any, "`WarmupLR` and `WarmupCosineLR`; others are not supported yet"),
    row("scheduler", "params", Implemented, Any, ""),
    row("scheduler.params", "warmup_num_steps warmup_type warmup_min_lr warmup_max_lr", Implemented, Any, "WarmupLR: 1000, `log`, 0, the optimizer's rate"),
    row("scheduler.params", "total_num_steps warmup_min_ratio cos_min_ratio", Implemented, Any, "WarmupCosineLR: the job's own length, 0, 0.0001"),
    row("scheduler.params", "cos_min_lr", Implemented, Any, "WarmupCosineLR: DeepSpeed rejects this, `warmup_min_lr` and `warmup_max_lr` here; they are converted to ratios"),
    row("scheduler.params", "last_batch_iteration", Ignored, Is(&["-1"]), "a checkpoint holds the position"),
    // Precision.
    row("", "fp16 bf16 bfloat16", Implemented, Any, ""),
    row("fp16", "enabled", Implemented, Any, HALF_FOR_NOW),
    row("fp16", "auto_cast loss_scale initial_scale_power loss_scale_window hysteresis consecutive_hysteresis min_loss_scale", Ignored, Any, FP32_FOR_NOW),
    row("fp16", "fp16_master_weights_and_grads", Later, Off, "masters are fp32"),
    row("bf16", "enabled", Implemented, Any, HALF_FOR_NOW),
    row("bf16", "immediate_grad_update check_grad_overflow", Ignored, Any, FP32_FOR_NOW),
    row("bf16", "bf16_master_weights_and_grads bf16_optimizer_states", Later, Off, "masters and moments are fp32"),
    row("", "torch_autocast", Implemented, Any, ""),
    row("torch_autocast", "enabled dtype", Implemented, Any, HALF_FOR_NOW),
    row("torch_autocast", "lower_precision_safe_modules", Ignored, Any, FP32_FOR_NOW),
    row("", "amp", Removed, Off, "NVIDIA Apex"),
    row("", "data_types", Implemented, Any, ""),
    row("data_types", "grad_accum_dtype param_dtype buffer_dtype", Ignored, Is(&["fp32", "float32", "float", "torch.float32"]), "all of it is fp32 for now"),
    row("data_types", "keep_in_fp32_modules", Ignored, Any, "all of it is fp32 for now"),
    // Gradient communication.
    row("", "gradient_clipping", Implemented, Any, "1.0, DeepSpeed's default since 0.19.3 (0, off, before); 0 disables"),
    row("", "communication_data_type", Ignored, Is(&["fp32"]), "gradients travel as fp32"),
    row("", "seq_parallel_communication_data_type", Ignored, Any, "there is no sequence parallelism"),
    row("", "prescale_gradients", Ignored, Off, "gradients are weighted by their samples; the mean is the same"),
    row("", "gradient_predivide_factor", Ignored, Is(&["1"]), "gradients are weighted by their samples; the mean is the same"),
    row("", "gradient_allreduce_op", Later, Is(&["mean"]), "gradients are averaged over the global batch"),
    row("", "sparse_gradients", Removed, Off, "sparse gradients of embeddings"),
    row("", "disable_allgather allgather_size", Ignored, Any, NO_EFFECT),
    // ZeRO.
    row("", "zero_optimization", Implemented, Any, "a bare `true` is stage 1"),
    row("zero_optimization", "stage", Implemented, Any, "0, 1 or 2; 3 is not supported yet"),
    row("zero_optimization", "overlap_comm", Implemented, Any, "true: communicate inside backward; the result is the same"),
    row("zero_optimization", "reduce_bucket_size allgather_bucket_size", Implemented, Any, "500000000 elements, capped to the model"),
    row("zero_optimization", "contiguous_gradients reduce_scatter allgather_partitions use_multi_rank_bucket_allreduce", Ignored, Is(&["true"]), "always so: gradients lie in flat buffers, a real reduce-scatter and all-gather move them"),
    row("zero_optimization", "compute_grad_norm", Ignored, Is(&["true"]), "the norm is always reported"),
    row("zero_optimization", "load_from_fp32_weights ignore_unused_parameters memory_efficient_linear", Ignored, Is(&["true"]), "weights are fp32 and every parameter is used"),
    row("zero_optimization", "elastic_checkpoint", Ignored, Any, "any world and stage loads any checkpoint"),
    row("zero_optimization", "round_robin_gradients parameter_alignment pipeline_loading_checkpoint override_module_apply log_trace_cache_warnings enable_sanity_checks save_muon_momentum_buffer_in_memory", Ignored, Any, "a detail of DeepSpeed's implementation"),
    row("zero_optimization", "legacy_stage1", Removed, Off, "the first version of stage 1"),
    row("zero_optimization", "offload_optimizer offload_param", Later, Is(&["none"]), "offload to host memory"),
    row("zero_optimization.offload_optimizer", "device nvme_path buffer_count pin_memory pipeline_read pipeline_write fast_init ratio super_offload cpuadam_cores_perc", Later, Any, "offload to host memory"),
    row("zero_optimization.offload_param", "device nvme_path buffer_count buffer_size max_in_cpu pin_memory", Later, Any, "offload to host memory"),
    row("zero_optimization", "cpu_offload cpu_offload_params cpu_offload_param", Later, Off, "deprecated name of `offload_optimizer` and `offload_param`: offload to host memory"),
    row("zero_optimization", "cpu_offload_use_pin_memory", Ignored, Any, NO_EFFECT),
    row("zero_optimization", "sub_group_size stage3_max_live_parameters stage3_max_reuse_distance stage3_prefetch_bucket_size stage3_param_persistence_threshold stage3_model_persistence_threshold stage3_gather_16bit_weights_on_model_save stage3_gather_fp16_weights_on_model_save stage3_module_granularity_threshold stage3_use_all_reduce_for_fetch_params stage3_allgather_sequential max_live_parameters max_reuse_distance prefetch_bucket_size param_persistence_threshold model_persistence_threshold gather_16bit_weights_on_model_save module_granularity_threshold use_all_reduce_for_fetch_params allgather_sequential", Ignored, Any, STAGE_3),
    row("zero_optimization", "leaf_module", Ignored, Any, STAGE_3),
    row("zero_optimization.leaf_module", "classes names name_suffixes", Ignored, Any, STAGE_3),
    row("zero_optimization", "zero_hpz_partition_size", Later, Is(&["1"]), "ZeRO++"),
    row("zero_optimization", "zero_quantized_weights zero_quantized_nontrainable_weights zero_quantized_gradients", Later, Off, "ZeRO++"),
    row("zero_optimization", "zenflow", Later, Off, "ZenFlow"),
    row("zero_optimization.zenflow", "topk_ratio select_strategy select_interval update_interval overlap_step offload auto_ratio full_warm_up_rounds pt_reserved_cores_perc", Later, Any, "ZenFlow"),
    row("zero_optimization", "mics_shard_size", Removed, Is(&["-1"]), "MiCS"),
    row("zero_optimization", "mics_hierarchical_params_gather", Removed, Off, "MiCS"),
    row("zero_optimization", "zeropp_loco_param", Removed, Off, "LoCo"),
    row("", "zero_allow_untested_optimizer", Ignored, Any, "every optimizer here is tested with ZeRO"),
    row("", "zero_force_ds_cpu_optimizer", Ignored, Any, "there is one implementation"),
    // Memory.
    row("", "activation_checkpointing", Implemented, Any, ""),
    row("activation_checkpointing", "partition_activations cpu_checkpointing contiguous_memory_optimization number_checkpoints synchronize_checkpoint_boundary profile", Ignored, Off, MEMORY),
    // Monitors.
    row("", "tensorboard csv_monitor", Implemented, Any, "writes there too; `[monitor]` has our own"),
    row("tensorboard", "enabled output_path job_name", Implemented, Any, "events in `<output_path>/<job_name>`, relative to the caller's folder"),
    row("csv_monitor", "enabled output_path job_name", Implemented, Any, "a file for each tag in `<output_path>/<job_name>`, relative to the caller's folder"),
    row("", "wandb comet", Ignored, Off, MONITOR),
    row("wandb", "enabled group team project", Ignored, Any, MONITOR),
    row("comet", "enabled samples_log_interval project workspace api_key experiment_name experiment_key online mode", Ignored, Any, MONITOR),
    // Logging and profiling.
    row("", "steps_per_print", Implemented, Any, "a line in the log of rank 0 every so many steps; not given: none"),
    row("", "wall_clock_breakdown", Ignored, Off, "`train/step-seconds` is always measured"),
    row("", "memory_breakdown", Ignored, Off, "`system/rss-bytes` is always measured"),
    row("", "dump_state", Ignored, Off, "`rsctl config explain` prints every value"),
    row("", "disable_python_gc", Ignored, Any, "there is no Python"),
    row("", "log_level", Ignored, Any, "`RUST_LOG` sets the level"),
    row("", "vocabulary_size", Ignored, Any, "only makes DeepSpeed warn"),
    row("", "timers", Ignored, Any, "steps are always timed"),
    row("timers", "throughput", Ignored, Any, "steps are always timed"),
    row("timers.throughput", "enabled synchronized", Ignored, Any, "steps are always timed"),
    row("", "flops_profiler", Ignored, Off, "there is no FLOPS profiler"),
    row("flops_profiler", "enabled recompute_fwd_factor profile_step module_depth top_modules detailed output_file", Ignored, Any, "there is no FLOPS profiler"),
    row("", "comms_logger", Ignored, Off, "there is no log of collectives"),
    row("comms_logger", "enabled prof_all prof_ops verbose debug", Ignored, Any, "there is no log of collectives"),
    // Checkpoints and files.
    row("", "checkpoint", Ignored, Any, OWN_CHECKPOINTS),
    row("checkpoint", "tag_validation load_universal use_node_local_storage parallel_write checkpoint_serialization writer", Ignored, Any, OWN_CHECKPOINTS),
    row("", "datastates_ckpt", Ignored, Off, OWN_CHECKPOINTS),
    row("", "nebula", Removed, Off, "Azure's checkpoint service"),
    row("", "aio", Ignored, Any, "nothing is offloaded to NVMe"),
    row("aio", "block_size queue_depth intra_op_parallelism thread_count single_submit overlap_events use_gds", Ignored, Any, "nothing is offloaded to NVMe"),
    // Parallelism.
    row("", "pipeline", Ignored, Any, PARALLEL),
    row("pipeline", "stages partition seed_layers activation_checkpoint_interval pipe_partitioned grad_partitioned use_reentrant", Ignored, Any, PARALLEL),
    row("", "sequence_parallel_size", Later, Is(&["1"]), PARALLEL),
    row("", "data_parallel_size", Ignored, Any, "the world is `resources.world-size`"),
    row("", "tensor_parallel", Later, Off, PARALLEL),
    row("tensor_parallel", "autotp_size dtype tp_overlap_comm preset_model partition_config vocab_parallel_lm_head vocab_parallel_ce_backend tp tp_grain_size", Later, Any, PARALLEL),
    row("", "expert_parallel autoep", Later, Off, PARALLEL),
    row("", "use_data_before_expert_parallelism", Ignored, Any, PARALLEL),
    row("", "hybrid_engine", Later, Off, "generation while training"),
    row("hybrid_engine", "enabled max_out_tokens inference_tp_size release_inference_cache pin_parameters tp_gather_partition_size", Later, Any, "generation while training"),
    row("", "compile", Later, Off, "DeepCompile"),
    row("compile", "deepcompile free_activation offload_activation offload_opt_states offload_parameters double_buffer symmetric_memory debug_log sync_before_reduce sync_after_reduce sync_before_allgather sync_after_allgather keep_int_input_tensors keep_all_input_tensors passes", Later, Any, "DeepCompile"),
    // Data and search.
    row("", "data_efficiency", Later, Off, "curriculum and data routing"),
    row("data_efficiency", "enabled seed data_sampling data_routing", Later, Any, "curriculum and data routing"),
    row("", "autotuning", Later, Off, "the tuner"),
    row("autotuning", "enabled fast results_dir exps_dir overwrite metric start_profile_step end_profile_step tuner_type tuner_early_stopping tuner_num_trials arg_mappings max_train_batch_size min_train_batch_size max_train_micro_batch_size_per_gpu min_train_micro_batch_size_per_gpu num_tuning_micro_batch_sizes mp_size model_info", Later, Any, "the tuner"),
    row("", "elasticity", Removed, Off, "a job's world may change between attempts without it: the global batch is kept"),
    row("elasticity", "enabled max_train_batch_size micro_batch_sizes min_gpus max_gpus min_time num_gpus_per_node model_parallel_size prefer_larger_batch ignore_non_elastic_batch_info version", Removed, Any, "elasticity"),
    row("", "compression_training quantize_training", Removed, Off, "quantisation and pruning"),
    row("", "sparse_attention", Removed, Off, "sparse attention"),
    row("", "eigenvalue", Removed, Off, "eigenvalues for quantisation"),
    row("", "graph_harvesting", Removed, Off, "CUDA graphs"),
    row("", "curriculum_learning", Removed, Off, "curriculum"),
    row("", "progressive_layer_drop", Removed, Off, "layers that drop out"),
];

/// The row of a key.
pub(crate) fn find(block: &str, name: &str) -> Option<&'static Row> {
    let block = if block == "bfloat16" { "bf16" } else { block };
    ROWS.iter().find(|row| row.block == block && row.names.split(' ').any(|known| known == name))
}

/// Names that a block may hold; none: whatever it holds is accepted.
pub(crate) fn names_of(block: &str) -> Vec<&'static str> {
    let block = if block == "bfloat16" { "bf16" } else { block };
    ROWS.iter().filter(|row| row.block == block).flat_map(|row| row.names.split(' ')).collect()
}

//! `zero_optimization`, its blocks and its companions at the top level.

use super::Fate::{Alias, Deprecated, Ignored, Implemented, NotSupported, Removed};
use super::Form::{Block as Table, Bool, Integer, List, Number, Other, Text};
use super::Harmless::{Any, Is, Off};
use super::Rule::{Loose, Validated};
use super::{Block, key};

const UNITS: &str = "a unit (a layer) is gathered for its forward and its backward and freed after, no smaller and no larger part";
const FLAT: &str =
    "always so: gradients lie in flat buffers, which a real reduce-scatter and all-gather move";
const DETAIL: &str = "a detail of DeepSpeed's implementation";
const ZERO_PP: &str =
    "ZeRO++ only moves fewer bytes; they travel whole here, with the same or a better result";
const NVME: &str = "nothing is offloaded to NVMe";
const HOST_COPY: &str = "a detail of the copies to the host, which are made whole";

#[rustfmt::skip]
pub(super) const BLOCKS: &[Block] = &[
    Block { path: "", rule: Loose, keys: &[
        key("zero_optimization", Table, "sharding over the ranks; a bare `true` is stage 1", Implemented("")),
        key("zero_allow_untested_optimizer", Bool, "accept optimizers that DeepSpeed did not test", Ignored(Any, "every optimizer here is tested with every stage")),
        key("zero_force_ds_cpu_optimizer", Bool, "insist on DeepSpeed's own optimizer where states are offloaded", Ignored(Any, "there is one implementation")),
    ] },
    Block { path: "zero_optimization", rule: Validated, keys: &[
        key("stage", Integer, "0: nothing is sharded; 1: optimizer state; 2: and gradients; 3: and parameters", Implemented("zero.stage")),
        key("overlap_comm", Bool, "communicate inside backward; the result is the same", Implemented("zero.overlap-comm")),
        key("reduce_bucket_size", Integer, "elements that travel together, 500000000; capped to the model", Implemented("zero.reduce-bucket-size")),
        key("allgather_bucket_size", Integer, "elements gathered together, 500000000", Ignored(Any, "parameters are gathered bucket by bucket of `reduce_bucket_size`")),
        key("contiguous_gradients", Bool, "copy gradients into one buffer as they come, true", Ignored(Is(&["true"]), FLAT)),
        key("reduce_scatter", Bool, "each rank gets only its part of the sums, true", Ignored(Is(&["true"]), FLAT)),
        key("allgather_partitions", Bool, "gather parameters by all-gather, true; has no effect in DeepSpeed either", Ignored(Is(&["true"]), FLAT)),
        key("use_multi_rank_bucket_allreduce", Bool, "one collective a bucket instead of one a rank, true", Ignored(Is(&["true"]), FLAT)),
        key("compute_grad_norm", Bool, "compute the gradients' norm, true", Ignored(Is(&["true"]), "the norm is always computed and reported")),
        key("load_from_fp32_weights", Bool, "load masters from a checkpoint's fp32 weights, true", Ignored(Is(&["true"]), "checkpoints hold the fp32 weights, and they are loaded")),
        key("elastic_checkpoint", Bool, "a checkpoint that another world can load", Ignored(Any, "any world and stage loads any checkpoint")),
        key("ignore_unused_parameters", Bool, "accept parameters without a gradient, true", Ignored(Is(&["true"]), "every parameter of the models here is used")),
        key("memory_efficient_linear", Bool, "stage 3: a linear layer that keeps less, true", Ignored(Any, DETAIL)),
        key("round_robin_gradients", Bool, "spread the copies of offloaded gradients over the ranks", Ignored(Any, DETAIL)),
        key("parameter_alignment", Bool, "align each parameter to 16 bytes", Ignored(Any, DETAIL)),
        key("pipeline_loading_checkpoint", Bool, "ranks of a node load one after another", Ignored(Any, "a rank reads only what it needs")),
        key("override_module_apply", Bool, "patch torch's `Module.apply`, true", Ignored(Any, "there is no Python")),
        key("log_trace_cache_warnings", Bool, "warn when the order of layers changes", Ignored(Any, "the order of layers is fixed")),
        key("enable_sanity_checks", Bool, "more checks", Ignored(Any, "checks are always on")),
        key("save_muon_momentum_buffer_in_memory", Bool, "a detail of Muon", Ignored(Any, DETAIL)),
        key("legacy_stage1", Bool, "the first version of stage 1", Removed(Off, "use `stage: 1`")),
        key("offload_optimizer", Table, "keep optimizer states elsewhere", Implemented("")),
        key("offload_param", Table, "stage 3: keep parameters elsewhere", Implemented("")),
        key("cpu_offload", Bool, "old form of `offload_optimizer: {device: \"cpu\"}`", Deprecated("offload_optimizer")),
        key("cpu_offload_param", Bool, "old form of `offload_param: {device: \"cpu\"}`", Deprecated("offload_param")),
        key("cpu_offload_params", Bool, "old form of `offload_param: {device: \"cpu\"}`", Deprecated("offload_param")),
        key("cpu_offload_use_pin_memory", Bool, "deprecated", Ignored(Any, "has no effect in DeepSpeed either")),
        key("sub_group_size", Integer, "stage 3: elements that the optimizer updates at a time, 1000000000", Ignored(Any, "the update is one pass over the flat shard")),
        key("stage3_max_live_parameters", Integer, "stage 3: gathered elements above which nothing is prefetched, 1000000000", Implemented("zero.stage3.max-live-parameters")),
        key("stage3_max_reuse_distance", Integer, "stage 3: keep what is used again within so many elements, 1000000000; here 0, which frees after each use", Implemented("zero.stage3.max-reuse-distance")),
        key("stage3_prefetch_bucket_size", Integer, "stage 3: elements gathered ahead, 50000000", Implemented("zero.stage3.prefetch-bucket-size")),
        key("stage3_param_persistence_threshold", Integer, "stage 3: parameters of at most so many elements stay whole, 100000", Implemented("zero.stage3.param-persistence-threshold")),
        key("stage3_model_persistence_threshold", Integer, "stage 3: cap of all elements that stay whole", Ignored(Any, "stage3_param_persistence_threshold alone decides what stays whole")),
        key("stage3_gather_16bit_weights_on_model_save", Bool, "stage 3: gather weights for a saved model", Ignored(Any, "`rsctl checkpoints export` gathers any checkpoint")),
        key("stage3_gather_fp16_weights_on_model_save", Bool, "old name", Deprecated("stage3_gather_16bit_weights_on_model_save")),
        key("stage3_module_granularity_threshold", Integer, "stage 3: fetch fine modules together, 0", Ignored(Any, UNITS)),
        key("stage3_use_all_reduce_for_fetch_params", Bool, "stage 3: gather by all-reduce", Ignored(Any, "a real all-gather moves half of that")),
        key("stage3_allgather_sequential", Bool, "stage 3: one parameter at a time", Ignored(Any, UNITS)),
        key("max_live_parameters", Integer, "without its prefix", Alias("stage3_max_live_parameters")),
        key("max_reuse_distance", Integer, "without its prefix", Alias("stage3_max_reuse_distance")),
        key("prefetch_bucket_size", Integer, "without its prefix", Alias("stage3_prefetch_bucket_size")),
        key("param_persistence_threshold", Integer, "without its prefix", Alias("stage3_param_persistence_threshold")),
        key("model_persistence_threshold", Integer, "without its prefix", Alias("stage3_model_persistence_threshold")),
        key("gather_16bit_weights_on_model_save", Bool, "without its prefix", Alias("stage3_gather_16bit_weights_on_model_save")),
        key("module_granularity_threshold", Integer, "without its prefix", Alias("stage3_module_granularity_threshold")),
        key("use_all_reduce_for_fetch_params", Bool, "without its prefix", Alias("stage3_use_all_reduce_for_fetch_params")),
        key("allgather_sequential", Bool, "without its prefix", Alias("stage3_allgather_sequential")),
        key("leaf_module", Table, "stage 3: modules that are gathered as one", Ignored(Any, UNITS)),
        key("zero_hpz_partition_size", Integer, "ZeRO++: ranks of a node hold a second copy of the parameters, 1", Ignored(Is(&["1"]), ZERO_PP)),
        key("zero_quantized_weights", Bool, "ZeRO++: gather weights as int8", Ignored(Off, ZERO_PP)),
        key("zero_quantized_nontrainable_weights", Bool, "ZeRO++: keep frozen weights as int8", Ignored(Off, ZERO_PP)),
        key("zero_quantized_gradients", Bool, "ZeRO++: sum gradients as int4", Ignored(Off, ZERO_PP)),
        key("zeropp_loco_param", Table, "ZeRO++: error feedback of quantised gradients", Removed(Off, "gradients travel whole")),
        key("mics_shard_size", Integer, "MiCS: shard over so many ranks only, -1", Removed(Is(&["-1"]), "parameters are sharded over all ranks")),
        key("mics_hierarchical_params_gather", Bool, "MiCS: gather within a node first", Removed(Off, "parameters are sharded over all ranks")),
        key("zenflow", Table, "update the most important gradients now and the others later", NotSupported(Off, "every gradient is applied in its own step")),
    ] },
    Block { path: "zero_optimization.offload_optimizer", rule: Validated, keys: &[
        key("device", Text, "where masters and optimizer states live: `none` or `cpu`, which a CPU rank does anyway; `nvme` is refused", Implemented("zero.offload-optimizer.device")),
        key("nvme_path", Text, "folder on NVMe", Ignored(Any, NVME)),
        key("buffer_count", Integer, "buffers of NVMe transfers, 4", Ignored(Any, NVME)),
        key("pin_memory", Bool, "page-locked host memory, true since 0.19.5 (false before)", Implemented("zero.offload-optimizer.pin-memory")),
        key("pipeline_read", Bool, "overlap NVMe reads", Ignored(Any, NVME)),
        key("pipeline_write", Bool, "overlap NVMe writes", Ignored(Any, NVME)),
        key("pipeline", Bool, "overlap NVMe reads and writes", Ignored(Any, NVME)),
        key("fast_init", Bool, "start faster from NVMe", Ignored(Any, NVME)),
        key("ratio", Number, "part of the states that is offloaded, 1.0", Implemented("zero.offload-optimizer.ratio")),
        key("super_offload", Bool, "split the update between host and device", Ignored(Any, HOST_COPY)),
        key("cpuadam_cores_perc", Number, "part of the cores that update, 0.8", Ignored(Any, "`resources.threads-per-rank` says how many cores a rank takes")),
    ] },
    Block { path: "zero_optimization.offload_param", rule: Validated, keys: &[
        key("device", Text, "where parameters live: `none` or `cpu`, which a CPU rank does anyway; `nvme` is refused", Implemented("")),
        key("nvme_path", Text, "folder on NVMe", Ignored(Any, NVME)),
        key("buffer_count", Integer, "buffers of NVMe transfers, 5", Ignored(Any, NVME)),
        key("buffer_size", Integer, "elements of such a buffer, 100000000", Ignored(Any, NVME)),
        key("max_in_cpu", Integer, "elements that stay in host memory beside NVMe, 1000000000", Ignored(Any, NVME)),
        key("pin_memory", Bool, "page-locked host memory, true since 0.19.5 (false before)", Ignored(Any, "host memory is the training memory of a CPU rank")),
    ] },
    Block { path: "zero_optimization.leaf_module", rule: Validated, keys: &[
        key("classes", List, "by class", Ignored(Any, UNITS)),
        key("names", List, "by name", Ignored(Any, UNITS)),
        key("name_suffixes", List, "by the end of the name", Ignored(Any, UNITS)),
    ] },
    Block { path: "zero_optimization.zeropp_loco_param", rule: Loose, keys: &[
        key("err_beta", Number, "decay of the error, 0.8", Ignored(Any, ZERO_PP)),
        key("reset_T", Integer, "steps between resets, 1024", Ignored(Any, ZERO_PP)),
    ] },
    Block { path: "zero_optimization.zenflow", rule: Validated, keys: &[
        key("topk_ratio", Number, "part of the gradients that is applied at once, 0.1", Ignored(Any, DETAIL)),
        key("select_strategy", Text, "when they are chosen anew", Ignored(Any, DETAIL)),
        key("select_interval", Other, "steps between choices", Ignored(Any, DETAIL)),
        key("update_interval", Other, "steps between late updates", Ignored(Any, DETAIL)),
        key("overlap_step", Bool, "update while training goes on", Ignored(Any, DETAIL)),
        key("offload", Bool, "keep the late gradients in host memory", Ignored(Any, DETAIL)),
        key("auto_ratio", Number, "when an interval is chosen, 0.99", Ignored(Any, DETAIL)),
        key("full_warm_up_rounds", Integer, "steps with whole updates, 0", Ignored(Any, DETAIL)),
        key("pt_reserved_cores_perc", Number, "part of the cores left to torch, 0.5", Ignored(Any, DETAIL)),
    ] },
];

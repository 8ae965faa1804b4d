//! What surrounds training: activations, monitors, profiling, checkpoints, parallelism, data and
//! search.

use super::Fate::{Ignored, Implemented, NotSupported, Removed};
use super::Form::{Block as Table, Bool, Integer, List, Number, Other, Text};
use super::Harmless::{Any, Is, Off};
use super::Rule::{Loose, Validated};
use super::{Block, key};

const NOT_BY_ITSELF: &str =
    "the block does nothing by itself in DeepSpeed either: the model's code has to call it";
const OTHER_MONITORS: &str = "writes to a service outside; TensorBoard and CSV files are written here, `rsctl metrics` reads them";
const TIMED: &str = "steps are always timed: `train/step-seconds`";
const NO_PROFILER: &str = "there is no FLOPS profiler";
const NO_COMMS_LOG: &str = "there is no log of collectives";
const OWN_CHECKPOINTS: &str = "checkpoints are written in the background, synced and hashed; `[checkpoint]` says where and when";
const NVME: &str = "nothing is offloaded to NVMe";
const DATA_PARALLEL: &str = "ranks are data parallel only";
const COMPILER: &str = "a compiler pass changes speed, not results, and there is none here";
const GENERATES: &str = "training and generating in one engine";
const TUNER: &str = "the tuner runs only by DeepSpeed's launcher flag `--autotuning`";
const ELASTIC: &str = "a job's world may change between attempts without it: the global batch is kept; give train_batch_size";

#[rustfmt::skip]
pub(super) const BLOCKS: &[Block] = &[
    Block { path: "", rule: Loose, keys: &[
        key("activation_checkpointing", Table, "recompute activations in backward instead of keeping them", Ignored(Off, NOT_BY_ITSELF)),
        key("tensorboard", Table, "TensorBoard files beside those of `[monitor]`", Implemented("")),
        key("csv_monitor", Table, "a CSV file for each tag beside those of `[monitor]`", Implemented("")),
        key("wandb", Table, "metrics to Weights & Biases", Ignored(Off, OTHER_MONITORS)),
        key("comet", Table, "metrics to Comet", Ignored(Off, OTHER_MONITORS)),
        key("steps_per_print", Integer, "a line in the log of rank 0 every so many steps; not given: none (10 before 0.15.2)", Implemented("training.steps-per-print")),
        key("wall_clock_breakdown", Bool, "times of forward, backward and step", Ignored(Off, TIMED)),
        key("memory_breakdown", Bool, "memory after each phase", Ignored(Off, "`system/rss-bytes` is always measured")),
        key("dump_state", Bool, "print the engine's state", Ignored(Off, "`rsctl config explain` prints every value")),
        key("disable_python_gc", Bool, "switch Python's garbage collector off", Ignored(Any, "there is no Python")),
        key("log_level", Text, "how much is logged", Ignored(Any, "`RUST_LOG` sets the level")),
        key("vocabulary_size", Integer, "warns unless it is a multiple of 8", Ignored(Any, "only makes DeepSpeed warn")),
        key("timers", Table, "how throughput is timed", Ignored(Any, TIMED)),
        key("flops_profiler", Table, "operations and time by layer at one step", Ignored(Off, NO_PROFILER)),
        key("comms_logger", Table, "count, size and time of collectives; on when the block is there", Ignored(Off, NO_COMMS_LOG)),
        key("checkpoint", Table, "how checkpoints are written", Ignored(Any, OWN_CHECKPOINTS)),
        key("datastates_ckpt", Table, "checkpoints by a third party's engine", Ignored(Off, OWN_CHECKPOINTS)),
        key("nebula", Table, "checkpoints by Azure's service", Removed(Off, "`[checkpoint]` says where checkpoints go")),
        key("aio", Table, "asynchronous IO to NVMe", Ignored(Any, NVME)),
        key("pipeline", Table, "pipeline parallelism, for models made of stages", Implemented("")),
        key("sequence_parallel_size", Integer, "ranks that share a sequence, 1", NotSupported(Is(&["0", "1"]), DATA_PARALLEL)),
        key("data_parallel_size", Integer, "ranks that split the batch", Ignored(Any, "all ranks do: the world is `resources.world-size`")),
        key("tensor_parallel", Table, "ranks that share a layer", Implemented("")),
        key("expert_parallel", Table, "ranks that share experts", NotSupported(Off, DATA_PARALLEL)),
        key("autoep", Table, "ranks that share experts", NotSupported(Off, DATA_PARALLEL)),
        key("use_data_before_expert_parallelism", Bool, "order of data and expert groups", Ignored(Any, DATA_PARALLEL)),
        key("hybrid_engine", Table, "generate with the model while it is trained", NotSupported(Off, GENERATES)),
        key("compile", Table, "DeepCompile", Ignored(Off, COMPILER)),
        key("data_efficiency", Table, "curriculum and data routing", NotSupported(Off, "every epoch takes every sample in a seeded order")),
        key("autotuning", Table, "search for the fastest settings", Ignored(Off, TUNER)),
        key("elasticity", Table, "worlds between which a job may change", Removed(Off, ELASTIC)),
        key("compression_training", Table, "quantisation and pruning while training", Removed(Off, "weights are trained whole")),
        key("quantize_training", Table, "quantisation while training", Removed(Off, "weights are trained whole")),
        key("sparse_attention", Table, "sparse attention", Removed(Off, "models here have none")),
        key("eigenvalue", Table, "eigenvalues for quantisation", Removed(Off, "weights are trained whole")),
        key("graph_harvesting", Bool, "CUDA graphs", Removed(Off, "there are none")),
        key("curriculum_learning", Table, "easy samples first", Removed(Off, "every epoch takes every sample in a seeded order")),
        key("progressive_layer_drop", Table, "layers that drop out", Removed(Off, "every layer takes part in every step")),
    ] },
    Block { path: "activation_checkpointing", rule: Loose, keys: &[
        key("partition_activations", Bool, "spread kept activations over model-parallel ranks", Ignored(Any, NOT_BY_ITSELF)),
        key("cpu_checkpointing", Bool, "keep them in host memory", Ignored(Any, NOT_BY_ITSELF)),
        key("contiguous_memory_optimization", Bool, "keep them in one buffer", Ignored(Any, NOT_BY_ITSELF)),
        key("number_checkpoints", Integer, "how many are kept", Ignored(Any, NOT_BY_ITSELF)),
        key("synchronize_checkpoint_boundary", Bool, "wait for the device at each", Ignored(Any, NOT_BY_ITSELF)),
        key("profile", Bool, "time them", Ignored(Any, NOT_BY_ITSELF)),
    ] },
    Block { path: "tensorboard", rule: Validated, keys: &[
        key("enabled", Bool, "write it", Implemented("monitor.deepspeed-tensorboard-dir")),
        key("output_path", Text, "events go to `<output_path>/<job_name>`, relative to the caller's folder", Implemented("monitor.deepspeed-tensorboard-dir")),
        key("job_name", Text, "\"DeepSpeedJobName\"", Implemented("monitor.deepspeed-tensorboard-dir")),
    ] },
    Block { path: "csv_monitor", rule: Validated, keys: &[
        key("enabled", Bool, "write it", Implemented("monitor.deepspeed-csv-dir")),
        key("output_path", Text, "files go to `<output_path>/<job_name>`, relative to the caller's folder", Implemented("monitor.deepspeed-csv-dir")),
        key("job_name", Text, "\"DeepSpeedJobName\"", Implemented("monitor.deepspeed-csv-dir")),
    ] },
    Block { path: "wandb", rule: Validated, keys: &[
        key("enabled", Bool, "write it", Ignored(Any, OTHER_MONITORS)),
        key("group", Text, "group of runs", Ignored(Any, OTHER_MONITORS)),
        key("team", Text, "owner", Ignored(Any, OTHER_MONITORS)),
        key("project", Text, "\"deepspeed\"", Ignored(Any, OTHER_MONITORS)),
    ] },
    Block { path: "comet", rule: Validated, keys: &[
        key("enabled", Bool, "write it", Ignored(Any, OTHER_MONITORS)),
        key("samples_log_interval", Integer, "samples between entries, 100", Ignored(Any, OTHER_MONITORS)),
        key("project", Text, "its name", Ignored(Any, OTHER_MONITORS)),
        key("workspace", Text, "owner", Ignored(Any, OTHER_MONITORS)),
        key("api_key", Text, "credentials", Ignored(Any, OTHER_MONITORS)),
        key("experiment_name", Text, "name of the run", Ignored(Any, OTHER_MONITORS)),
        key("experiment_key", Text, "id of the run", Ignored(Any, OTHER_MONITORS)),
        key("online", Bool, "send at once", Ignored(Any, OTHER_MONITORS)),
        key("mode", Text, "new run or an old one", Ignored(Any, OTHER_MONITORS)),
    ] },
    Block { path: "timers", rule: Loose, keys: &[
        key("throughput", Table, "how throughput is timed", Ignored(Any, TIMED)),
    ] },
    Block { path: "timers.throughput", rule: Validated, keys: &[
        key("enabled", Bool, "true", Ignored(Any, TIMED)),
        key("synchronized", Bool, "wait for the device at each step, true", Ignored(Any, TIMED)),
    ] },
    Block { path: "flops_profiler", rule: Loose, keys: &[
        key("enabled", Bool, "profile one step", Ignored(Any, NO_PROFILER)),
        key("recompute_fwd_factor", Number, "extra forwards of recomputation, 0", Ignored(Any, NO_PROFILER)),
        key("profile_step", Integer, "the step, 1", Ignored(Any, NO_PROFILER)),
        key("module_depth", Integer, "how deep, -1", Ignored(Any, NO_PROFILER)),
        key("top_modules", Integer, "how many of each depth, 1", Ignored(Any, NO_PROFILER)),
        key("detailed", Bool, "every module, true", Ignored(Any, NO_PROFILER)),
        key("output_file", Text, "where to, stdout", Ignored(Any, NO_PROFILER)),
    ] },
    Block { path: "comms_logger", rule: Validated, keys: &[
        key("enabled", Bool, "not consulted by DeepSpeed", Ignored(Any, NO_COMMS_LOG)),
        key("prof_all", Bool, "every kind of collective, true", Ignored(Any, NO_COMMS_LOG)),
        key("prof_ops", List, "only these", Ignored(Any, NO_COMMS_LOG)),
        key("verbose", Bool, "a line for each", Ignored(Any, NO_COMMS_LOG)),
        key("debug", Bool, "with the caller", Ignored(Any, NO_COMMS_LOG)),
    ] },
    Block { path: "checkpoint", rule: Loose, keys: &[
        key("tag_validation", Text, "what to do when ranks name different tags, \"Warn\"", Ignored(Any, "ranks agree on the tag by construction")),
        key("load_universal", Bool, "load a converted checkpoint", Ignored(Any, "any world and stage loads any checkpoint")),
        key("use_node_local_storage", Bool, "a checkpoint folder on each node", Ignored(Any, "`checkpoint.layout` decides, by a probe at start")),
        key("parallel_write", Table, "ranks of a pipeline write at once", Ignored(Any, "every rank writes its shard at once")),
        key("checkpoint_serialization", Bool, "torch's zip format, true", Ignored(Any, OWN_CHECKPOINTS)),
        key("writer", Table, "DeepSpeed's fast writer", Ignored(Any, OWN_CHECKPOINTS)),
    ] },
    Block { path: "aio", rule: Loose, keys: &[
        key("block_size", Integer, "bytes of a request, 1048576", Ignored(Any, NVME)),
        key("queue_depth", Integer, "requests at once, 8", Ignored(Any, NVME)),
        key("intra_op_parallelism", Integer, "threads, 1", Ignored(Any, NVME)),
        key("thread_count", Integer, "threads, 1", Ignored(Any, NVME)),
        key("single_submit", Bool, "submit one by one", Ignored(Any, NVME)),
        key("overlap_events", Bool, "submit while waiting, true", Ignored(Any, NVME)),
        key("use_gds", Bool, "GPU direct storage", Ignored(Any, NVME)),
    ] },
    Block { path: "pipeline", rule: Loose, keys: &[
        key("stages", Other, "ranks in a row that each hold some layers", NotSupported(Is(&["0", "1"]), DATA_PARALLEL)),
        key("partition", Text, "how layers are spread, \"best\"", Ignored(Any, DATA_PARALLEL)),
        key("seed_layers", Bool, "a seed for each layer", Ignored(Any, "dropout is seeded by layer, rank and step")),
        key("activation_checkpoint_interval", Integer, "layers between kept activations, 0", Ignored(Any, DATA_PARALLEL)),
        key("pipe_partitioned", Bool, "spread activations, true", Ignored(Any, DATA_PARALLEL)),
        key("grad_partitioned", Bool, "spread gradients, true", Ignored(Any, DATA_PARALLEL)),
        key("use_reentrant", Bool, "torch's kind of recomputation, true", Ignored(Any, DATA_PARALLEL)),
    ] },
    Block { path: "tensor_parallel", rule: Validated, keys: &[
        key("autotp_size", Integer, "ranks that share a layer, 0", NotSupported(Is(&["0", "1"]), DATA_PARALLEL)),
        key("dtype", Text, "\"fp16\"", Ignored(Any, DATA_PARALLEL)),
        key("tp_overlap_comm", Bool, "overlap its communication", Ignored(Any, DATA_PARALLEL)),
        key("preset_model", Text, "how a known model is split", Ignored(Any, DATA_PARALLEL)),
        key("partition_config", Other, "how layers are split", Ignored(Any, DATA_PARALLEL)),
        key("vocab_parallel_lm_head", Other, "split the last layer", Ignored(Any, DATA_PARALLEL)),
        key("vocab_parallel_ce_backend", Text, "\"torch\"", Ignored(Any, DATA_PARALLEL)),
        key("tp", Table, "ranks that share a layer", Implemented("")),
        key("tp_grain_size", Integer, "multiple to which shares are rounded", Ignored(Any, DATA_PARALLEL)),
    ] },
    Block { path: "tensor_parallel.tp", rule: Loose, keys: &[
        key("tp_size", Integer, "ranks that share a layer, 1", NotSupported(Is(&["0", "1"]), DATA_PARALLEL)),
        key("tp_grain_size", Integer, "multiple to which shares are rounded", Ignored(Any, DATA_PARALLEL)),
        key("mpu", Other, "a unit of model parallelism", Ignored(Any, DATA_PARALLEL)),
        key("tp_group", Other, "ranks that share a layer", Ignored(Any, DATA_PARALLEL)),
    ] },
    Block { path: "expert_parallel", rule: Validated, keys: &[
        key("enabled", Bool, "share experts", Ignored(Any, DATA_PARALLEL)),
        key("autoep_size", Integer, "ranks that share them, 1", Ignored(Any, DATA_PARALLEL)),
        key("preset_model", Text, "how a known model is split", Ignored(Any, DATA_PARALLEL)),
    ] },
    Block { path: "hybrid_engine", rule: Validated, keys: &[
        key("enabled", Bool, "use it", Ignored(Any, GENERATES)),
        key("max_out_tokens", Integer, "512", Ignored(Any, GENERATES)),
        key("inference_tp_size", Integer, "1", Ignored(Any, GENERATES)),
        key("release_inference_cache", Bool, "free its cache after use", Ignored(Any, GENERATES)),
        key("pin_parameters", Bool, "true", Ignored(Any, GENERATES)),
        key("tp_gather_partition_size", Integer, "8", Ignored(Any, GENERATES)),
    ] },
    Block { path: "compile", rule: Validated, keys: &[
        key("deepcompile", Bool, "use it", Ignored(Any, COMPILER)),
        key("free_activation", Bool, "free activations early", Ignored(Any, COMPILER)),
        key("offload_activation", Bool, "activations to the host", Ignored(Any, COMPILER)),
        key("offload_opt_states", Bool, "optimizer states to the host", Ignored(Any, COMPILER)),
        key("offload_parameters", Bool, "parameters to the host", Ignored(Any, COMPILER)),
        key("double_buffer", Bool, "true", Ignored(Any, COMPILER)),
        key("symmetric_memory", Bool, "torch's symmetric memory", Ignored(Any, COMPILER)),
        key("debug_log", Bool, "log its passes", Ignored(Any, COMPILER)),
        key("sync_before_reduce", Bool, "wait before", Ignored(Any, COMPILER)),
        key("sync_after_reduce", Bool, "wait after", Ignored(Any, COMPILER)),
        key("sync_before_allgather", Bool, "wait before", Ignored(Any, COMPILER)),
        key("sync_after_allgather", Bool, "wait after", Ignored(Any, COMPILER)),
        key("keep_int_input_tensors", Bool, "a detail of its graphs", Ignored(Any, COMPILER)),
        key("keep_all_input_tensors", Bool, "a detail of its graphs", Ignored(Any, COMPILER)),
        key("passes", List, "which passes run", Ignored(Any, COMPILER)),
    ] },
    Block { path: "data_efficiency", rule: Loose, keys: &[
        key("enabled", Bool, "use it", Ignored(Any, "off")),
        key("seed", Integer, "1234", Ignored(Any, "`job.seed` seeds the order of samples")),
        key("data_sampling", Table, "which samples, and when", Ignored(Any, "off")),
        key("data_routing", Table, "which tokens reach which layers", Ignored(Any, "off")),
    ] },
    Block { path: "autotuning", rule: Loose, keys: &[
        key("enabled", Bool, "allow it", Ignored(Any, TUNER)),
        key("fast", Bool, "only micro-batches, true", Ignored(Any, TUNER)),
        key("results_dir", Text, "\"autotuning_results\"", Ignored(Any, TUNER)),
        key("exps_dir", Text, "\"autotuning_exps\"", Ignored(Any, TUNER)),
        key("overwrite", Bool, "true", Ignored(Any, TUNER)),
        key("metric", Text, "\"throughput\"", Ignored(Any, TUNER)),
        key("start_profile_step", Integer, "3", Ignored(Any, TUNER)),
        key("end_profile_step", Integer, "5", Ignored(Any, TUNER)),
        key("tuner_type", Text, "\"gridsearch\"", Ignored(Any, TUNER)),
        key("tuner_early_stopping", Integer, "5", Ignored(Any, TUNER)),
        key("tuner_num_trials", Integer, "50", Ignored(Any, TUNER)),
        key("arg_mappings", Table, "flags of the script", Ignored(Any, TUNER)),
        key("max_train_batch_size", Integer, "largest T", Ignored(Any, TUNER)),
        key("min_train_batch_size", Integer, "smallest T, 1", Ignored(Any, TUNER)),
        key("max_train_micro_batch_size_per_gpu", Integer, "largest m, 1024", Ignored(Any, TUNER)),
        key("min_train_micro_batch_size_per_gpu", Integer, "smallest m, 1", Ignored(Any, TUNER)),
        key("num_tuning_micro_batch_sizes", Integer, "how many m, 3", Ignored(Any, TUNER)),
        key("mp_size", Integer, "1", Ignored(Any, TUNER)),
        key("model_info", Table, "the model's size", Ignored(Any, TUNER)),
    ] },
    Block { path: "elasticity", rule: Loose, keys: &[
        key("enabled", Bool, "use it", Ignored(Any, ELASTIC)),
        key("max_train_batch_size", Integer, "largest T, 2000", Ignored(Any, ELASTIC)),
        key("micro_batch_sizes", List, "[2, 4, 6]", Ignored(Any, ELASTIC)),
        key("min_gpus", Integer, "1", Ignored(Any, ELASTIC)),
        key("max_gpus", Integer, "10000", Ignored(Any, ELASTIC)),
        key("min_time", Integer, "0", Ignored(Any, ELASTIC)),
        key("num_gpus_per_node", Integer, "1", Ignored(Any, ELASTIC)),
        key("model_parallel_size", Integer, "1", Ignored(Any, ELASTIC)),
        key("prefer_larger_batch", Bool, "true", Ignored(Any, ELASTIC)),
        key("ignore_non_elastic_batch_info", Bool, "overrule T, m and g", Ignored(Any, ELASTIC)),
        key("version", Number, "0.2", Ignored(Any, ELASTIC)),
    ] },
];

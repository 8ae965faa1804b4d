//! A DeepSpeed configuration as we understand it: which keys exist, what each asks for, and what
//! becomes of it. Reads the tree of an Hjson file and of the `[deepspeed]` table over it; knows
//! nothing of the rest of the job.

use std::path::{Path, PathBuf};

use crate::report::Report;
use crate::section::{Dialect, FloatRange, Found, IntegerRange, Section};
use crate::spec::OffloadDevice;
use crate::tree::Table;

mod check;
pub(crate) mod keys;
mod optimizer;
mod precision;
mod profiling;
mod rename;
mod scheduler;

pub(crate) use check::Strictness;
pub(crate) use optimizer::{
    OptimizerBlock, OptimizerKind, OptimizerSettings, settings as optimizer_settings,
};
pub(crate) use precision::PrecisionBlocks;
pub(crate) use profiling::Profiling;
pub(crate) use scheduler::{Kind as SchedulerKind, SchedulerBlock, settings as scheduler_settings};

/// What a configuration asks for; None where it is silent or says `"auto"`.
#[derive(Debug)]
pub(crate) struct DeepSpeed {
    /// There is a configuration at all: DeepSpeed's defaults hold.
    pub(crate) is_given: bool,
    pub(crate) batch_size: Option<Found<u64>>,
    pub(crate) micro_batch_size: Option<Found<u64>>,
    pub(crate) gradient_accumulation: Option<Found<u64>>,
    pub(crate) drop_last: Option<Found<bool>>,
    pub(crate) gradient_clipping: Option<Found<f64>>,
    pub(crate) steps_per_print: Option<Found<u64>>,
    pub(crate) optimizer: OptimizerBlock,
    pub(crate) scheduler: Option<SchedulerBlock>,
    pub(crate) precision: PrecisionBlocks,
    pub(crate) zero: ZeroBlock,
    pub(crate) tensorboard_dir: Option<Found<PathBuf>>,
    pub(crate) csv_dir: Option<Found<PathBuf>>,
    pub(crate) profiling: Profiling,
}

#[derive(Debug, Default)]
pub(crate) struct ZeroBlock {
    pub(crate) stage: Option<Found<u8>>,
    pub(crate) overlap_comm: Option<Found<bool>>,
    pub(crate) reduce_bucket_size: Option<Found<u64>>,
    pub(crate) prefetch_bucket_size: Option<Found<u64>>,
    pub(crate) max_live_parameters: Option<Found<u64>>,
    pub(crate) max_reuse_distance: Option<Found<u64>>,
    pub(crate) param_persistence_threshold: Option<Found<u64>>,
    /// None where nothing is offloaded.
    pub(crate) offload_optimizer: Option<OffloadBlock>,
    /// None where parameters stay with the model.
    pub(crate) offload_param: Option<Found<OffloadDevice>>,
}

/// One of the blocks `offload_optimizer` and `offload_param`.
#[derive(Debug)]
pub(crate) struct OffloadBlock {
    pub(crate) device: Found<OffloadDevice>,
    pub(crate) pin_memory: Option<Found<bool>>,
    pub(crate) ratio: Option<Found<f64>>,
}

/// How to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings<'a> {
    pub(crate) strictness: Strictness,
    /// Monitors write relative to it.
    pub(crate) caller_dir: &'a Path,
}

const COUNT: IntegerRange = IntegerRange::new(1, 1 << 40);

/// Reads `root`; mistakes and warnings go to `report`.
pub(crate) fn read(root: Option<&Table>, settings: Settings<'_>, report: &Report) -> DeepSpeed {
    let empty = Table::default();
    let table = rename::modernise(root.unwrap_or(&empty), report);
    check::check(&table, settings.strictness, report);
    let top = Section::root(&table, Dialect::DeepSpeed, report);
    DeepSpeed {
        is_given: root.is_some(),
        batch_size: top.integer("train_batch_size", COUNT),
        micro_batch_size: top.integer("train_micro_batch_size_per_gpu", COUNT),
        gradient_accumulation: top.integer("gradient_accumulation_steps", COUNT),
        drop_last: top.boolean("dataloader_drop_last"),
        gradient_clipping: top.float("gradient_clipping", FloatRange::NOT_NEGATIVE),
        steps_per_print: top
            .integer("steps_per_print", IntegerRange::at_least(0))
            .filter(|found: &Found<u64>| found.value > 0),
        optimizer: optimizer::read(&top),
        scheduler: scheduler::read(&top),
        precision: precision::read(&top),
        zero: zero(&top),
        tensorboard_dir: monitor_dir(&top, "tensorboard", settings.caller_dir),
        csv_dir: monitor_dir(&top, "csv_monitor", settings.caller_dir),
        profiling: profiling::read(&top, settings.caller_dir),
    }
}

fn zero(top: &Section<'_>) -> ZeroBlock {
    let block = top.sub("zero_optimization");
    let stage = block.integer::<u8>("stage", IntegerRange::new(0, 3));
    const BUCKET: IntegerRange = IntegerRange::new(1, 1 << 40);
    const ELEMENTS: IntegerRange = IntegerRange::at_least(0);
    ZeroBlock {
        stage,
        overlap_comm: block.boolean("overlap_comm"),
        reduce_bucket_size: block.integer("reduce_bucket_size", BUCKET),
        prefetch_bucket_size: block.integer("stage3_prefetch_bucket_size", ELEMENTS),
        max_live_parameters: block.integer("stage3_max_live_parameters", ELEMENTS),
        max_reuse_distance: block.integer("stage3_max_reuse_distance", ELEMENTS),
        param_persistence_threshold: block.integer("stage3_param_persistence_threshold", ELEMENTS),
        offload_optimizer: offload(&block.sub("offload_optimizer")),
        offload_param: offload_device(&block.sub("offload_param")),
    }
}

fn offload(block: &Section<'_>) -> Option<OffloadBlock> {
    let device = offload_device(block);
    let pin_memory = block.boolean("pin_memory");
    let ratio = block.float("ratio", FloatRange::closed(0.0, 1.0));
    Some(OffloadBlock { device: device?, pin_memory, ratio })
}

/// None: nothing leaves the model.
fn offload_device(block: &Section<'_>) -> Option<Found<OffloadDevice>> {
    let words = &[("none", None), ("cpu", Some(OffloadDevice::Cpu))];
    let device = block.choice("device", words, &["nvme"])?;
    device.value.map(|kind| device.map(|_| kind))
}

/// `<output_path>/<job_name>` of a monitor that is enabled.
fn monitor_dir(top: &Section<'_>, key: &str, caller_dir: &Path) -> Option<Found<PathBuf>> {
    let block = top.sub(key);
    let output_path = block.text("output_path");
    let job_name = block.text("job_name");
    let enabled = block.boolean("enabled").filter(|found| found.value)?;
    let output_path = output_path.map_or(String::new(), |found| found.value);
    let job_name = job_name.map_or("DeepSpeedJobName".to_owned(), |found| found.value);
    Some(enabled.map(|_| {
        let folder = crate::section::absolute(caller_dir, &output_path);
        crate::section::absolute(&folder, &job_name)
    }))
}

#[cfg(test)]
mod tests;

//! `[training]`: how long, how large the batches, when to validate and when to stop.

use crate::deepspeed::OffloadBlock;
use crate::section::{FloatRange, Found, IntegerRange, Section, toml_text};
use crate::spec::{
    Batch, BatchMismatch, Data, DataSource, Device, EarlyStopping, GradientCompression, Offload,
    Sourced, Stage3, Training, Validate, Zero,
};
use crate::tree::{Node, Value};

use super::data::Kind;
use super::join::joined;
use super::{Context, DEFAULT, SYNONYMS, optimizer, precision};

const EPOCHS: IntegerRange = IntegerRange::new(1, 1_000_000).usually(1, 1000);
const COUNT: IntegerRange = IntegerRange::new(1, 1 << 40);
const NOT_NEGATIVE: IntegerRange = IntegerRange::new(0, 1_000_000);
/// DeepSpeed's default since 0.19.3; recurrent networks want it.
const GRADIENT_CLIPPING: f64 = 1.0;

pub(super) fn read(
    root: &Section<'_>,
    context: &Context<'_>,
    data: Option<(Kind, &Data)>,
    device: Device,
) -> Training {
    let section = root.sub("training");
    let kind = data.map_or(Kind::Csv, |(kind, _)| kind);
    // Unknown data is taken to have what is asked for: its own mistake is told already.
    let has_validation = data.is_none_or(|(_, data)| has_validation_part(&data.source));
    let of = kind.default_of();
    let epochs = match kind {
        Kind::Sine | Kind::Csv => 50,
        Kind::SyntheticTimeseries => 100,
        Kind::Digits => 20,
    };
    let epochs = section.settle("epochs", section.integer("epochs", EPOCHS), (epochs, &of));
    let max_steps = section.integer("max-steps", COUNT);
    let max_steps =
        section.settle_optional("max-steps", max_steps, "default: training.epochs decides");
    let max_eval_steps = section.integer("max-eval-steps", COUNT);
    let max_eval_steps =
        section.settle_optional("max-eval-steps", max_eval_steps, "default: all of them");
    let validate = validate(&section, has_validation);
    let early_stopping = early_stopping(&section, kind, validate);
    let batch = batch(&section, context, kind);
    let (optimizer, schedule) = optimizer::read(&section, context);
    let gradient_clipping = gradient_clipping(&section, context);
    let precision = precision::read(&section, context, device);
    let gradient_compression = compression(&section);
    let freeze = freeze(&section);
    let recomputes = section.boolean("activation-checkpointing");
    let of = "default: every activation is kept for backward";
    let activation_checkpointing =
        section.settle("activation-checkpointing", recomputes, (false, of));
    let steps_per_print = context.deepspeed.steps_per_print.clone();
    let steps_per_print =
        section.settle_optional("steps-per-print", steps_per_print, "default: none");
    section.not_yet(&["ema", "label-smoothing", "loss"], "training with it");
    section.elsewhere(
        &["zero-stage", "zero", "steps-per-print"],
        "set in the DeepSpeed configuration, or in [deepspeed]",
    );
    section.elsewhere(&["scheduler"], "use `schedule`");
    section.elsewhere(
        &["betas", "eps", "momentum", "nesterov", "bias-correction", "decoupled-decay"],
        "a setting of the optimizer: optimizer = { kind = \"adamw\", betas = [0.9, 0.99] }",
    );
    section.refuse_unknown(SYNONYMS);
    Training {
        epochs,
        max_steps,
        max_eval_steps,
        validate,
        early_stopping,
        batch,
        optimizer,
        schedule,
        gradient_clipping,
        precision,
        gradient_compression,
        freeze,
        activation_checkpointing,
        steps_per_print,
    }
}

fn compression(section: &Section<'_>) -> GradientCompression {
    let words = &[
        ("none", GradientCompression::None),
        ("fp16", GradientCompression::Fp16),
        ("bf16", GradientCompression::Bf16),
        ("int8", GradientCompression::Int8),
    ];
    let found = section.choice("gradient-compression", words, &["int4", "1bit", "topk"]);
    section.settle("gradient-compression", found, (GradientCompression::None, DEFAULT))
}

/// `freeze = ["lstm.*"]`: names of parameters; whether there are such the model says.
fn freeze(section: &Section<'_>) -> Vec<String> {
    let pattern = |node: &Node| match &node.value {
        Value::Text(text) if !text.trim().is_empty() => Some(text.clone()),
        _ => None,
    };
    let expected = "a list of parameter names such as [\"lstm.*\", \"fc.bias\"]";
    let found = section.list("freeze", expected, pattern);
    section.settle("freeze", found, (Vec::new(), "default: every parameter is trained"))
}

fn has_validation_part(source: &DataSource) -> bool {
    match source {
        DataSource::Sine { validation_samples, .. } => *validation_samples > 0,
        DataSource::SyntheticTimeseries { split, .. }
        | DataSource::Csv { split, .. }
        | DataSource::Digits { split, .. } => split[1] > 0.0,
    }
}

/// `validate-every-epochs = 1` or `validate-every-steps = 100`; 0 epochs means never.
fn validate(section: &Section<'_>, has_validation: bool) -> Validate {
    let epochs: Option<Found<u32>> = section.integer("validate-every-epochs", NOT_NEGATIVE);
    let steps: Option<Found<u64>> = section.integer("validate-every-steps", COUNT);
    if let (Some(epochs), Some(_)) = (&epochs, &steps) {
        let message =
            format!("validate-every-epochs is given too, at {}; give one of them", epochs.place);
        section.refuse("validate-every-steps", message);
    }
    let asks = steps.is_some() || epochs.as_ref().is_some_and(|found| found.value > 0);
    if !has_validation {
        let key = if steps.is_some() { "validate-every-steps" } else { "validate-every-epochs" };
        if asks {
            section.refuse(key, "the data has no validation part");
        }
        section.record("validate", &"\"never\"", "the data has no validation part".to_owned());
        return Validate::Never;
    }
    let (value, key, number, origin) = match (steps, epochs) {
        (Some(found), _) => {
            (Validate::EverySteps(found.value), "validate-every-steps", found.value, found.origin)
        }
        (None, Some(found)) if found.value == 0 => {
            (Validate::Never, "validate-every-epochs", 0, found.origin)
        }
        (None, Some(found)) => (
            Validate::EveryEpochs(found.value),
            "validate-every-epochs",
            u64::from(found.value),
            found.origin,
        ),
        (None, None) => (Validate::EveryEpochs(1), "validate-every-epochs", 1, DEFAULT.to_owned()),
    };
    section.record(key, &number, origin);
    value
}

/// `early-stopping = 10`, or a table with `patience` and `min-delta`; 0 switches it off.
fn early_stopping(section: &Section<'_>, kind: Kind, validate: Validate) -> Option<EarlyStopping> {
    let as_table = section.table().and_then(|table| table.get("early-stopping"));
    let is_table = as_table.is_some_and(|node| matches!(node.value, crate::tree::Value::Table(_)));
    let (patience, min_delta, inner): (Option<Found<u32>>, f64, _) = if is_table {
        let inner = section.sub("early-stopping");
        let patience = inner.integer("patience", NOT_NEGATIVE);
        let min_delta = inner.float("min-delta", FloatRange::NOT_NEGATIVE);
        inner.refuse_unknown(&[]);
        (patience, min_delta.map_or(0.0, |found| found.value), Some(inner))
    } else {
        (section.integer("early-stopping", NOT_NEGATIVE), 0.0, None)
    };
    let asked = patience.is_some() || inner.is_some();
    if validate == Validate::Never && patience.as_ref().is_some_and(|found| found.value > 0) {
        section.refuse("early-stopping", "needs a validation, and there is none");
    }
    let default = match kind {
        Kind::Sine | Kind::Csv | Kind::Digits if validate != Validate::Never => 10,
        _ if asked => 10,
        _ => 0,
    };
    let of = kind.default_of();
    let patience = section.settle("early-stopping.patience", patience, (default, &of));
    if patience == 0 {
        return None;
    }
    section.record("early-stopping.min-delta", &min_delta, "as early-stopping".to_owned());
    Some(EarlyStopping { patience, min_delta })
}

fn batch(section: &Section<'_>, context: &Context<'_>, kind: Kind) -> Batch {
    let deepspeed = context.deepspeed;
    let read = |key: &str, theirs: &Option<Found<u64>>| {
        joined(section, key, section.integer(key, COUNT), theirs.clone())
    };
    let batch_size = read("batch-size", &deepspeed.batch_size);
    let micro = read("micro-batch-size", &deepspeed.micro_batch_size);
    let accumulation = read("gradient-accumulation", &deepspeed.gradient_accumulation);
    let sourced = |found: Found<u64>| Sourced { value: found.value, origin: found.origin };
    let (mut batch_size, micro, accumulation) =
        (batch_size.map(sourced), micro.map(sourced), accumulation.map(sourced));
    if batch_size.is_none() && micro.is_none() && accumulation.is_none() {
        // The seeds' global batch; real files are smaller.
        let value = match kind {
            Kind::Sine | Kind::SyntheticTimeseries => 128,
            Kind::Csv | Kind::Digits => 64,
        };
        batch_size = Some(Sourced { value, origin: kind.default_of() });
    }
    for (key, value) in [
        ("batch-size", &batch_size),
        ("micro-batch-size", &micro),
        ("gradient-accumulation", &accumulation),
    ] {
        match value {
            Some(sourced) => section.record(key, &sourced.value, sourced.origin.clone()),
            None => section.record(key, &"-", "inferred from the others and the world".to_owned()),
        }
    }
    let words = &[("adapt", BatchMismatch::Adapt), ("error", BatchMismatch::Error)];
    let mismatch = section.choice("batch-mismatch", words, &[]);
    let mismatch = section.settle("batch-mismatch", mismatch, (BatchMismatch::Adapt, DEFAULT));
    Batch { batch_size, micro_batch_size: micro, gradient_accumulation: accumulation, mismatch }
}

fn gradient_clipping(section: &Section<'_>, context: &Context<'_>) -> f64 {
    let ours = section.float("gradient-clipping", FloatRange::NOT_NEGATIVE);
    let theirs = context.deepspeed.gradient_clipping.clone();
    let found = joined(section, "gradient-clipping", ours, theirs);
    let origin = if context.deepspeed.is_given {
        "DeepSpeed default since 0.19.3 (before: 0)"
    } else {
        DEFAULT
    };
    if found.is_none() && context.deepspeed.is_given {
        section.report().note(
            "gradient_clipping is not given: 1.0 holds, DeepSpeed's default since 0.19.3 \
             (0, off, before)",
        );
    }
    section.settle("gradient-clipping", found, (GRADIENT_CLIPPING, origin))
}

/// ZeRO's settings come from the DeepSpeed configuration alone.
pub(super) fn read_zero(context: &Context<'_>, device: Device) -> Zero {
    /// DeepSpeed's; the engine caps it to the model.
    const BUCKET: u64 = 500_000_000;
    let report = context.report;
    let zero = &context.deepspeed.zero;
    let settle = |key: &str, shown: String, origin: String| {
        report.effective(&format!("zero.{key}"), shown, origin);
    };
    let (stage, origin) = value_and_origin(zero.stage.as_ref(), 0, DEFAULT);
    settle("stage", stage.to_string(), origin);
    let overlap = "default (DeepSpeed: false below stage 3; the result is the same)";
    let (overlap_comm, origin) = value_and_origin(zero.overlap_comm.as_ref(), true, overlap);
    settle("overlap-comm", overlap_comm.to_string(), origin);
    let of = "DeepSpeed default, capped to the model";
    let (reduce, origin) = value_and_origin(zero.reduce_bucket_size.as_ref(), BUCKET, of);
    settle("reduce-bucket-size", reduce.to_string(), origin);
    let offload_optimizer =
        zero.offload_optimizer.as_ref().map(|block| offload(context, block, device));
    if offload_optimizer.is_none() {
        settle("offload-optimizer", "-".to_owned(), "default: stays with the model".to_owned());
    }
    match &zero.offload_param {
        Some(asked) if device == Device::Cuda => report.warn(format!(
            "{}: not done on a GPU yet: parameters stay on it, at stage 3 as shards",
            asked.origin
        )),
        Some(asked) => report.note(format!(
            "{}: no effect on a CPU: parameters are in host memory already",
            asked.origin
        )),
        None => {}
    }
    Zero {
        stage,
        overlap_comm,
        reduce_bucket_size: reduce,
        stage3: stage3(context),
        offload_optimizer,
    }
}

fn offload(context: &Context<'_>, block: &OffloadBlock, on: Device) -> Offload {
    let OffloadBlock { device, pin_memory, ratio } = block;
    let report = context.report;
    if on != Device::Cuda {
        report.note(format!(
            "{}: no effect on a CPU: masters and optimizer states are in host memory already",
            device.origin
        ));
    }
    let settle = |key: &str, shown: String, origin: String| {
        report.effective(&format!("zero.offload-optimizer.{key}"), shown, origin);
    };
    settle("device", toml_text(&device.value), device.origin.clone());
    let (ratio, origin) = value_and_origin(ratio.as_ref(), 1.0, "DeepSpeed default");
    settle("ratio", toml_text(&ratio), origin);
    let since = "DeepSpeed default since 0.19.5 (before: false)";
    let (pin_memory, origin) = value_and_origin(pin_memory.as_ref(), true, since);
    settle("pin-memory", pin_memory.to_string(), origin);
    Offload { device: device.value, ratio, pin_memory }
}

fn stage3(context: &Context<'_>) -> Stage3 {
    let zero = &context.deepspeed.zero;
    let default = Stage3::default();
    let bound = |key: &str, found: Option<&Found<u64>>, default: u64, of: &str| {
        let (value, origin) = value_and_origin(found, default, of);
        context.report.effective(&format!("zero.{key}"), value.to_string(), origin);
        value
    };
    const OF: &str = "DeepSpeed default";
    Stage3 {
        prefetch_bucket_size: bound(
            "stage3.prefetch-bucket-size",
            zero.prefetch_bucket_size.as_ref(),
            default.prefetch_bucket_size,
            OF,
        ),
        max_live_parameters: bound(
            "stage3.max-live-parameters",
            zero.max_live_parameters.as_ref(),
            default.max_live_parameters,
            OF,
        ),
        max_reuse_distance: bound(
            "stage3.max-reuse-distance",
            zero.max_reuse_distance.as_ref(),
            default.max_reuse_distance,
            "default: a unit goes after each use (DeepSpeed: 1000000000, which keeps small models)",
        ),
        param_persistence_threshold: bound(
            "stage3.param-persistence-threshold",
            zero.param_persistence_threshold.as_ref(),
            default.param_persistence_threshold,
            OF,
        ),
    }
}

fn value_and_origin<T: Copy>(found: Option<&Found<T>>, default: T, of: &str) -> (T, String) {
    match found {
        Some(found) => (found.value, found.origin.clone()),
        None => (default, of.to_owned()),
    }
}

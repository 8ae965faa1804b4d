//! The blocks `fp16`, `bf16`, `torch_autocast` and `data_types`, and the keys that say how
//! gradients travel.

use crate::section::{FloatRange, Found, IntegerRange, Section};
use crate::spec::PrecisionKind;

/// What the blocks say; None where they are silent.
#[derive(Debug, Default)]
pub(crate) struct PrecisionBlocks {
    /// What one of the blocks switches on; fp32 where one is switched off.
    pub(crate) kind: Option<Found<PrecisionKind>>,
    /// `torch_autocast` is what switches it on.
    pub(crate) is_autocast: bool,
    pub(crate) loss_scale: LossScaleKeys,
    pub(crate) check_grad_overflow: Option<Found<bool>>,
    pub(crate) grad_accumulation: Option<Found<PrecisionKind>>,
    pub(crate) communication: Option<Found<PrecisionKind>>,
    pub(crate) prescale_gradients: Option<Found<bool>>,
    pub(crate) gradient_predivide_factor: Option<Found<f64>>,
}

/// Of the block `fp16`.
#[derive(Debug, Default)]
pub(crate) struct LossScaleKeys {
    /// 0: dynamic.
    pub(crate) value: Option<Found<f64>>,
    pub(crate) initial_scale_power: Option<Found<u32>>,
    pub(crate) window: Option<Found<u64>>,
    pub(crate) hysteresis: Option<Found<u32>>,
    pub(crate) consecutive_hysteresis: Option<Found<bool>>,
    pub(crate) min: Option<Found<f64>>,
}

/// DeepSpeed's and torch's names.
const TYPES: &[(&str, PrecisionKind)] = &[
    ("fp32", PrecisionKind::Fp32),
    ("bf16", PrecisionKind::Bf16),
    ("fp16", PrecisionKind::Fp16),
    ("float32", PrecisionKind::Fp32),
    ("float", PrecisionKind::Fp32),
    ("bfloat16", PrecisionKind::Bf16),
    ("float16", PrecisionKind::Fp16),
    ("half", PrecisionKind::Fp16),
];

pub(crate) fn read(top: &Section<'_>) -> PrecisionBlocks {
    let (kind, is_autocast) = kind(top);
    let types = top.sub("data_types");
    let parameters = data_type(&types, "param_dtype");
    if let (Some(parameters), Some(kind)) = (&parameters, &kind)
        && parameters.value != kind.value
    {
        let message = format!("disagrees with {} at {}", kind.value.word(), kind.origin);
        types.refuse("param_dtype", message);
    }
    PrecisionBlocks {
        kind: kind.or(parameters),
        is_autocast,
        loss_scale: loss_scale(&top.sub("fp16")),
        check_grad_overflow: top.sub("bf16").boolean("check_grad_overflow"),
        grad_accumulation: data_type(&types, "grad_accum_dtype"),
        communication: data_type(top, "communication_data_type"),
        prescale_gradients: top.boolean("prescale_gradients"),
        gradient_predivide_factor: top.float("gradient_predivide_factor", FloatRange::POSITIVE),
    }
}

fn kind(top: &Section<'_>) -> (Option<Found<PrecisionKind>>, bool) {
    let switch = |key: &'static str, kind| {
        let enabled = top.sub(key).boolean("enabled")?;
        let kind = if enabled.value { kind } else { PrecisionKind::Fp32 };
        Some((key, enabled.map(|_| kind)))
    };
    let dtype = data_type(&top.sub("torch_autocast"), "dtype");
    let autocast_kind = dtype.map_or(PrecisionKind::Bf16, |found| found.value);
    let all = [
        switch("fp16", PrecisionKind::Fp16),
        switch("bf16", PrecisionKind::Bf16),
        switch("torch_autocast", autocast_kind),
    ];
    let all: Vec<(&str, Found<PrecisionKind>)> = all.into_iter().flatten().collect();
    let on: Vec<_> = all.iter().filter(|(_, it)| it.value != PrecisionKind::Fp32).collect();
    let Some((block, first)) = on.first() else {
        return (all.into_iter().next().map(|(_, it)| it), false);
    };
    if let Some((key, second)) = on.iter().find(|(_, it)| it.value != first.value) {
        let message = format!("fp16 and bf16 are both enabled, the other one at {}", first.origin);
        top.report().wrong_key(&second.place, &format!("{key}.enabled"), message);
    }
    (Some(first.clone()), *block == "torch_autocast")
}

fn loss_scale(block: &Section<'_>) -> LossScaleKeys {
    LossScaleKeys {
        value: block.float("loss_scale", FloatRange::NOT_NEGATIVE),
        // 2^127 is the largest power of two in fp32, in which the loss is scaled.
        initial_scale_power: block.integer("initial_scale_power", IntegerRange::new(0, 127)),
        window: block.integer("loss_scale_window", IntegerRange::new(1, 1 << 40)),
        hysteresis: block.integer("hysteresis", IntegerRange::new(1, 1 << 30)),
        consecutive_hysteresis: block.boolean("consecutive_hysteresis"),
        min: block.float("min_loss_scale", FloatRange::POSITIVE),
    }
}

/// In any case, with or without `torch.`.
fn data_type(block: &Section<'_>, key: &str) -> Option<Found<PrecisionKind>> {
    let found = block.text(key)?;
    let name = found.value.to_ascii_lowercase();
    let name = name.strip_prefix("torch.").unwrap_or(&name);
    match TYPES.iter().find(|(known, _)| *known == name) {
        Some((_, kind)) => Some(found.map(|_| *kind)),
        None => {
            block.refuse(key, "expected `fp32`, `bf16` or `fp16`");
            None
        }
    }
}

//! `training.precision`: what computes, adds up and travels in how many bits, and how fp16 is kept
//! in range.

use serde::Serialize;

use crate::section::{Found, Section, toml_text};
use crate::spec::{
    Device, DynamicLossScale, LossScale, OnOverflow, Precision, PrecisionKind,
    PrecisionKind::{Bf16, Fp16, Fp32},
};

use super::join::joined;
use super::{Context, DEFAULT};

const DEEPSPEED: &str = "DeepSpeed default";
const FOLLOWS: &str = "follows training.precision";

/// What fp16 means where no hardware computes in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum CpuFp16 {
    Fp32,
    Native,
}

pub(super) fn read(section: &Section<'_>, context: &Context<'_>, device: Device) -> Precision {
    let blocks = &context.deepspeed.precision;
    let words = &[("fp32", Fp32), ("bf16", Bf16), ("fp16", Fp16)];
    let ours = section.choice("precision", words, &["fp8", "int8", "fp64", "tf32"]);
    let found = joined(section, "precision", ours, blocks.kind.clone());
    let origin = found.as_ref().map_or(DEFAULT.to_owned(), |found| found.origin.clone());
    let asked = section.settle("precision", found, (Fp32, DEFAULT));
    let effective = effective(section, (asked, &origin), device);
    if blocks.is_autocast && asked != Fp32 {
        section.report().note(format!(
            "torch_autocast ({origin}) is read as the `{}` block: parameters are in {} with fp32 \
             masters",
            asked.word(),
            asked.word()
        ));
    }
    let is_fallback = asked != effective;
    Precision {
        asked,
        effective,
        grad_accumulation: grad_accumulation(section, context, (asked, effective)),
        communication: communication(section, context, (effective, is_fallback)),
        prescale_gradients: settle(
            section,
            "prescale-gradients",
            blocks.prescale_gradients.clone(),
            (false, DEEPSPEED),
        ),
        gradient_predivide_factor: settle(
            section,
            "gradient-predivide-factor",
            blocks.gradient_predivide_factor.clone(),
            (1.0, DEEPSPEED),
        ),
        on_overflow: on_overflow(section, context, effective),
        loss_scale: (effective == Fp16).then(|| loss_scale(section, context)),
    }
}

/// A value of the effective precision, which only the DeepSpeed configuration sets.
fn settle<T: Serialize>(
    section: &Section<'_>,
    key: &str,
    found: Option<Found<T>>,
    default: (T, &str),
) -> T {
    section.settle(&format!("precision.{key}"), found, default)
}

/// A CPU has no arithmetic of its own for fp16: it would be slower than fp32 and less exact. A job that
/// takes what it gets may get one, and its attempts must not differ in precision.
fn effective(
    section: &Section<'_>,
    (asked, origin): (PrecisionKind, &str),
    device: Device,
) -> PrecisionKind {
    let words = &[("fp32", CpuFp16::Fp32), ("native", CpuFp16::Native)];
    let cpu_fp16 = section.choice("cpu-fp16", words, &[]);
    let cpu_fp16 = section.settle("cpu-fp16", cpu_fp16, (CpuFp16::Fp32, DEFAULT));
    if asked != Fp16 || cpu_fp16 == CpuFp16::Native || device == Device::Cuda {
        return asked;
    }
    let on_gpus = match device {
        Device::Auto => "; on GPUs resources.device = \"cuda\" does",
        Device::Cpu | Device::Cuda => "",
    };
    section.report().note(format!(
        "precision: fp16 is asked for ({origin}), trained in fp32, without a loss scale: a CPU has \
         no fp16 arithmetic of its own; training.cpu-fp16 = \"native\" trains in fp16 all the same\
         {on_gpus}"
    ));
    let why = "a CPU has no fp16 arithmetic of its own (training.cpu-fp16)".to_owned();
    section.record("effective-precision", &"\"fp32\"", why);
    Fp32
}

fn grad_accumulation(
    section: &Section<'_>,
    context: &Context<'_>,
    (asked, effective): (PrecisionKind, PrecisionKind),
) -> PrecisionKind {
    let found = context.deepspeed.precision.grad_accumulation.clone();
    if let Some(found) = &found
        && ![Fp32, asked].contains(&found.value)
    {
        let message = format!(
            "gradients of a model in {} add up in it or in fp32, not in {}",
            asked.word(),
            found.value.word()
        );
        section.report().wrong_key(&found.place, "data_types.grad_accum_dtype", message);
    }
    // What is asked for with fp16 goes to fp32 with it.
    let found = found.filter(|found| found.value == effective || found.value == Fp32);
    settle(section, "grad-accumulation", found, (effective, "DeepSpeed default: the model's"))
}

fn communication(
    section: &Section<'_>,
    context: &Context<'_>,
    (effective, is_fallback): (PrecisionKind, bool),
) -> PrecisionKind {
    let found = context.deepspeed.precision.communication.clone();
    let found = found.filter(|found| !is_fallback || found.value != Fp16);
    settle(section, "communication", found, (effective, "DeepSpeed default: the model's"))
}

fn on_overflow(
    section: &Section<'_>,
    context: &Context<'_>,
    effective: PrecisionKind,
) -> OnOverflow {
    let (found, default) = match effective {
        Fp32 => (None, OnOverflow::Fail),
        Fp16 => (None, OnOverflow::Skip),
        Bf16 => (context.deepspeed.precision.check_grad_overflow.clone(), OnOverflow::Skip),
    };
    if let Some(found) = found.as_ref().filter(|found| !found.value) {
        section.report().note(format!(
            "{}: DeepSpeed then applies gradients that are not finite; here the first of them \
             ends the run",
            found.origin
        ));
    }
    let of = |skips| if skips { OnOverflow::Skip } else { OnOverflow::Fail };
    let origin = if effective == Bf16 { DEEPSPEED } else { FOLLOWS };
    settle(section, "on-overflow", found.map(|found| found.map(of)), (default, origin))
}

fn loss_scale(section: &Section<'_>, context: &Context<'_>) -> LossScale {
    let keys = &context.deepspeed.precision.loss_scale;
    let key = |name: &str| format!("loss-scale.{name}");
    let (is_static, origin) = match &keys.value {
        Some(found) => (found.value > 0.0, found.origin.clone()),
        None => (false, DEEPSPEED.to_owned()),
    };
    let kind = if is_static { "static" } else { "dynamic" };
    section.record("precision.loss-scale.kind", &toml_text(&kind), origin);
    if let Some(found) = keys.value.clone().filter(|_| is_static) {
        return LossScale::Static {
            value: settle(section, &key("value"), Some(found), (0.0, DEEPSPEED)),
        };
    }
    let default = DynamicLossScale::default();
    let power = keys.initial_scale_power.clone();
    let consecutive = keys.consecutive_hysteresis.clone();
    LossScale::Dynamic(DynamicLossScale {
        initial_scale_power: settle(
            section,
            &key("initial-scale-power"),
            power,
            (default.initial_scale_power, DEEPSPEED),
        ),
        window: settle(section, &key("window"), keys.window.clone(), (default.window, DEEPSPEED)),
        hysteresis: settle(
            section,
            &key("hysteresis"),
            keys.hysteresis.clone(),
            (default.hysteresis, DEEPSPEED),
        ),
        consecutive_hysteresis: settle(
            section,
            &key("consecutive-hysteresis"),
            consecutive,
            (default.consecutive_hysteresis, DEEPSPEED),
        ),
        min: settle(section, &key("min"), keys.min.clone(), (default.min, DEEPSPEED)),
    })
}

//! Adam and AdamW over one flat slice, in one pass, with torch's formulas operation by operation.
//!
//! Promise: only IEEE operations that round once and no fused multiply-add, so the bits do not
//! depend on the vector width that the CPU offers (A12). Refusal: knows no sharding; the caller
//! passes the slices that are its own.
#![expect(unsafe_code, reason = "calls the copies of the loop compiled for wider vectors")]

use common::spec;

/// What stays the same over a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adam {
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    decoupled: bool,
    bias_correction: bool,
}

/// What belongs to one update.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update {
    /// Counted from 1.
    pub(crate) number: u64,
    pub(crate) rate: f64,
    /// Gradients are multiplied by it first (clipping).
    pub(crate) gradient_scale: f32,
}

/// Equally long slices of one shard.
#[derive(Debug)]
pub(crate) struct Shard<'a> {
    pub(crate) parameters: &'a mut [f32],
    pub(crate) gradients: &'a [f32],
    pub(crate) exp_avg: &'a mut [f32],
    pub(crate) exp_avg_sq: &'a mut [f32],
}

/// The constants of one update as f32, as torch's kernels see them.
#[derive(Debug, Clone, Copy)]
struct Constants {
    scale: f32,
    decay: f32,
    l2: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    correction2_sqrt: f32,
    eps: f32,
    negative_step_size: f32,
}

impl Adam {
    pub(crate) fn new(spec: &spec::Optimizer) -> Self {
        Self {
            betas: spec.betas,
            eps: spec.eps,
            weight_decay: spec.weight_decay,
            decoupled: spec.decoupled_decay,
            bias_correction: spec.bias_correction,
        }
    }

    pub(crate) fn apply(&self, update: Update, shard: &mut Shard<'_>) {
        let constants = self.constants(update);
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the CPU has AVX-512F, as just asked.
                return unsafe { apply_avx512(constants, shard) };
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the CPU has AVX2, as just asked.
                return unsafe { apply_avx2(constants, shard) };
            }
        }
        apply_all(constants, shard);
    }

    fn constants(&self, update: Update) -> Constants {
        let [beta1, beta2] = self.betas;
        let correction = |beta: f64| {
            if self.bias_correction { 1.0 - beta.powf(update.number as f64) } else { 1.0 }
        };
        let decay = if self.decoupled { 1.0 - update.rate * self.weight_decay } else { 1.0 };
        let l2 = if self.decoupled { 0.0 } else { self.weight_decay };
        Constants {
            scale: update.gradient_scale,
            decay: decay as f32,
            l2: l2 as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            correction2_sqrt: correction(beta2).sqrt() as f32,
            eps: self.eps as f32,
            negative_step_size: (-update.rate / correction(beta1)) as f32,
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn apply_avx512(constants: Constants, shard: &mut Shard<'_>) {
    apply_all(constants, shard);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn apply_avx2(constants: Constants, shard: &mut Shard<'_>) {
    apply_all(constants, shard);
}

#[inline(always)]
fn apply_all(c: Constants, shard: &mut Shard<'_>) {
    let len = shard.parameters.len();
    assert!(
        shard.gradients.len() == len && shard.exp_avg.len() == len && shard.exp_avg_sq.len() == len,
        "the slices of a shard are equally long"
    );
    let moments = shard.exp_avg.iter_mut().zip(shard.exp_avg_sq.iter_mut());
    let values = shard.parameters.iter_mut().zip(shard.gradients);
    for ((parameter, gradient), (exp_avg, exp_avg_sq)) in values.zip(moments) {
        let decayed = *parameter * c.decay;
        let gradient = *gradient * c.scale + *parameter * c.l2;
        *exp_avg += c.one_minus_beta1 * (gradient - *exp_avg);
        *exp_avg_sq = *exp_avg_sq * c.beta2 + c.one_minus_beta2 * gradient * gradient;
        let denominator = exp_avg_sq.sqrt() / c.correction2_sqrt + c.eps;
        *parameter = decayed + c.negative_step_size * *exp_avg / denominator;
    }
}

/// torch's `clip_grad_norm_`: what every gradient is multiplied by; 1 where clipping is off.
pub(crate) fn clip_coefficient(max_norm: f64, norm: f64) -> f32 {
    if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) as f32 } else { 1.0 }
}

/// Sum of squares in f64, in a fixed order that vectorises: eight lanes, then lane by lane.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut lanes = [0.0_f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*value) * f64::from(*value);
        }
    }
    let rest: f64 = rest.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    lanes.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests;

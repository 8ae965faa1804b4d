//! The updates of [`Optimizer`] as operations on flat tensors, for state that lives on a GPU.
//!
//! Promise: the formulas and the f32 constants of the host's passes, and at most two temporaries
//! besides what libtorch makes inside one operation, each no longer than a chunk. Refusal: not the
//! host's bits (A12), as libtorch may fuse a multiplication with an addition; knows no sharding.
//!
//! tch binds neither libtorch's fused optimizers nor the `value` of `addcmul` and `addcdiv`, so
//! factors are multiplied in beforehand. Operations in place return one more handle of their
//! tensor, which `let _ =` drops.

use std::ops::Range;

use tch::{Kind, TchError, Tensor, no_grad_guard};

use crate::optimizer::{Optimizer, Update};

mod adagrad;
mod adam;
mod lamb;
mod lion;
mod nadam;
mod rmsprop;
mod sgd;

/// Elements worked on at a time: 64 MiB, long enough that starting the kernels costs little, and
/// little beside the state. In tests small, so that they cross the borders of chunks.
const CHUNK: usize = if cfg!(test) { 256 } else { 1 << 24 };

/// One shard on a device, all flat, fp32 and equally long.
#[derive(Debug)]
pub(crate) struct TensorShard<'a> {
    /// Changed in place.
    pub(crate) parameters: &'a Tensor,
    /// Not changed.
    pub(crate) gradients: &'a Tensor,
    /// In the order of [`Optimizer::states`], changed in place; [`Optimizer::initial`] before the
    /// first update.
    pub(crate) states: &'a [Tensor],
}

/// Views of a part of a shard.
struct Chunk {
    parameters: Tensor,
    gradients: Tensor,
    states: Vec<Tensor>,
}

/// [`super::Pass`] on tensors.
trait TensorPass {
    fn run_on(&self, chunk: &mut Chunk) -> Result<(), TchError>;
}

impl Optimizer {
    /// [`Optimizer::apply`] on tensors: of a layer-wise rule the states alone. A shard of another
    /// shape or kind is refused untouched; after another error a part of it may be updated.
    pub(crate) fn apply_on_tensors(
        &self,
        update: Update,
        shard: &TensorShard<'_>,
    ) -> Result<(), TchError> {
        shard.check(self.states().len())?;
        let _no_grad = no_grad_guard();
        match self {
            Self::Adam(adam) => run(&adam.pass(update), shard),
            Self::Sgd(sgd) => run(&sgd.pass(update), shard),
            Self::Adagrad(adagrad) => run(&adagrad.pass(update), shard),
            Self::RmsProp(rmsprop) => run(&rmsprop.pass(update), shard),
            Self::Lion(lion) => run(&lion.pass(update), shard),
            Self::Lamb(lamb) => run(&lamb.moments(update), shard),
            Self::NAdam(nadam) => run(&nadam.pass(update), shard),
        }
    }
}

/// Sum of squares in f64 of a flat tensor of any float kind, one number, left on the device.
pub(crate) fn sum_of_squares_on_tensor(values: &Tensor) -> Result<Tensor, TchError> {
    let _no_grad = no_grad_guard();
    let mut sum = Tensor::f_zeros([1], (Kind::Double, values.device()))?;
    for (start, len) in chunks(0..values.numel()) {
        let _ = sum.f_add_(&squares(&values.f_narrow(0, start, len)?)?)?;
    }
    Ok(sum)
}

fn run(pass: &impl TensorPass, shard: &TensorShard<'_>) -> Result<(), TchError> {
    for (start, len) in chunks(0..shard.parameters.numel()) {
        pass.run_on(&mut shard.chunk(start, len)?)?;
    }
    Ok(())
}

/// Start and length of each chunk of a range.
fn chunks(range: Range<usize>) -> impl Iterator<Item = (i64, i64)> {
    let end = range.end;
    range.step_by(CHUNK).map(move |start| (start as i64, CHUNK.min(end - start) as i64))
}

/// Their sum in f64, left on the device. As a norm, which libtorch reduces in a fixed order and
/// without a copy of the squares; cuBLAS promises no order where several streams are at work.
fn squares(values: &Tensor) -> Result<Tensor, TchError> {
    values.f_norm_scalaropt_dtype(2.0, Kind::Double)?.f_square_()
}

impl TensorShard<'_> {
    /// Operations would spread one element over many, or widen, instead of refusing.
    fn check(&self, num_states: usize) -> Result<(), TchError> {
        let len = self.parameters.numel();
        let all = || [self.parameters, self.gradients].into_iter().chain(self.states);
        if self.states.len() != num_states || all().any(|tensor| tensor.size() != [len as i64]) {
            let have: Vec<_> = all().map(Tensor::size).collect();
            let want = format!("parameters, gradients and {num_states} states, flat and as long");
            return Err(TchError::Shape(format!("a shard has {want}; got {have:?}")));
        }
        for tensor in all() {
            let kind = tensor.f_kind()?;
            if kind != Kind::Float {
                return Err(TchError::Kind(format!("a shard is of Float, not of {kind:?}")));
            }
        }
        Ok(())
    }

    fn chunk(&self, start: i64, len: i64) -> Result<Chunk, TchError> {
        let view = |tensor: &Tensor| tensor.f_narrow(0, start, len);
        Ok(Chunk {
            parameters: view(self.parameters)?,
            gradients: view(self.gradients)?,
            states: self.states.iter().map(view).collect::<Result<_, _>>()?,
        })
    }
}

impl Chunk {
    /// The gradients, scaled and with the decay that is added to them. They may be the caller's
    /// own, so they are not to be changed.
    fn gradient(&self, scale: f32, l2: f32) -> Result<Tensor, TchError> {
        if scale == 1.0 && l2 == 0.0 {
            return Ok(self.gradients.shallow_clone());
        }
        if l2 == 0.0 {
            return self.gradients.f_mul_scalar(f64::from(scale));
        }
        let mut gradient = self.parameters.f_mul_scalar(f64::from(l2))?;
        if scale == 1.0 {
            return gradient.f_add_(&self.gradients);
        }
        gradient.f_add_(&self.gradients.f_mul_scalar(f64::from(scale))?)
    }

    /// Decoupled decay: `parameters *= factor`.
    fn decay(&mut self, factor: f32) -> Result<(), TchError> {
        if factor != 1.0 {
            let _ = self.parameters.f_mul_scalar_(f64::from(factor))?;
        }
        Ok(())
    }
}

/// The states of a pass that has `N`.
fn states<const N: usize>(states: &mut [Tensor]) -> Result<&mut [Tensor; N], TchError> {
    let have = states.len();
    states.try_into().map_err(|_| miscounted(have))
}

fn miscounted(states: usize) -> TchError {
    TchError::Shape(format!("the rule does not have {states} states"))
}

/// `average = average * beta + one_minus_beta * gradient * gradient`.
fn average_squares(
    average: &mut Tensor,
    gradient: &Tensor,
    (beta, one_minus_beta): (f32, f32),
) -> Result<(), TchError> {
    let weighted = gradient.f_mul_scalar(f64::from(one_minus_beta))?;
    let _ = average.f_mul_scalar_(f64::from(beta))?.f_addcmul_(&weighted, gradient)?;
    Ok(())
}

#[cfg(test)]
mod tests;

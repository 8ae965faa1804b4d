//! LAMB (You et al. 2020) as DeepSpeed's `fused_lamb_cuda_kernel.cu`.

use std::ops::Range;

use tch::{Kind, TchError, Tensor, no_grad_guard};

use crate::optimizer::Update;
use crate::optimizer::lamb::{Direction, Lamb, Moments};
use crate::optimizer::on_tensors::{
    Chunk, TensorPass, TensorShard, average_squares, chunks, miscounted, squares, states,
};

impl TensorPass for Moments {
    /// `m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g²`.
    fn run_on(&self, chunk: &mut Chunk) -> Result<(), TchError> {
        let gradient = chunk.gradient(self.scale, 0.0)?;
        let [exp_avg, exp_avg_sq] = states(&mut chunk.states)?;
        let _ = exp_avg.f_lerp_(&gradient, f64::from(self.one_minus_beta1))?;
        average_squares(exp_avg_sq, &gradient, (self.beta2, self.one_minus_beta2))
    }
}

impl Lamb {
    /// [`Lamb::squares`] on tensors. It waits for the device, which sends these two numbers; the
    /// gradients are not looked at.
    pub(crate) fn squares_on_tensors(
        &self,
        range: Range<usize>,
        shard: &TensorShard<'_>,
    ) -> Result<[f64; 2], TchError> {
        let _no_grad = no_grad_guard();
        let sums = Tensor::f_zeros([2], (Kind::Double, shard.parameters.device()))?;
        let (mut weights, mut directions) = (sums.f_get(0)?, sums.f_get(1)?);
        for (start, len) in chunks(range) {
            let (parameters, direction) = self.direction().on_tensors(shard, start, len)?;
            let _ = weights.f_add_(&squares(&parameters)?)?;
            let _ = directions.f_add_(&squares(&direction)?)?;
        }
        let mut host = [0.0; 2];
        sums.f_copy_data(&mut host, 2)?;
        Ok(host)
    }

    /// [`Lamb::advance`] on tensors; the gradients are not looked at.
    pub(crate) fn advance_on_tensors(
        &self,
        update: Update,
        range: Range<usize>,
        squares: [f64; 2],
        shard: &TensorShard<'_>,
    ) -> Result<(), TchError> {
        let _no_grad = no_grad_guard();
        let negative_step = f64::from(self.negative_step(update, squares));
        for (start, len) in chunks(range) {
            let (mut parameters, mut step) = self.direction().on_tensors(shard, start, len)?;
            let _ = parameters.f_add_(&step.f_mul_scalar_(negative_step)?)?;
        }
        Ok(())
    }
}

impl Direction {
    /// `m / (√v + eps) + weight_decay p`, or `m / √(v + eps)` in it, with the parameters there.
    fn on_tensors(
        self,
        shard: &TensorShard<'_>,
        start: i64,
        len: i64,
    ) -> Result<(Tensor, Tensor), TchError> {
        let [exp_avg, exp_avg_sq] = shard.states else {
            return Err(miscounted(shard.states.len()));
        };
        let view = |tensor: &Tensor| tensor.f_narrow(0, start, len);
        let (parameters, exp_avg, exp_avg_sq) =
            (view(shard.parameters)?, view(exp_avg)?, view(exp_avg_sq)?);
        let (inside, outside) = (f64::from(self.inside), f64::from(self.outside));
        let denominator = if inside == 0.0 {
            exp_avg_sq.f_sqrt()?.f_add_scalar_(outside)?
        } else {
            exp_avg_sq.f_add_scalar(inside)?.f_sqrt_()?
        };
        let mut direction = exp_avg.f_div_out(&denominator, &denominator)?;
        if self.weight_decay != 0.0 {
            let decay = parameters.f_mul_scalar(f64::from(self.weight_decay))?;
            let _ = direction.f_add_(&decay)?;
        }
        Ok((parameters, direction))
    }
}

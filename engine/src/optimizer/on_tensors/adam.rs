//! Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019) as torch's
//! `_single_tensor_adam`.

use tch::TchError;

use crate::optimizer::adam::AdamPass;
use crate::optimizer::on_tensors::{Chunk, TensorPass, average_squares, states};

impl TensorPass for AdamPass {
    /// `m += (1 - beta1) (g - m); v = beta2 v + (1 - beta2) g²; p -= step m / (√v / c + eps)`, where
    /// c is the root of v's correction. The fraction is expanded by c: one pass over memory less.
    fn run_on(&self, chunk: &mut Chunk) -> Result<(), TchError> {
        let gradient = chunk.gradient(self.scale, self.l2)?;
        let [exp_avg, exp_avg_sq] = states(&mut chunk.states)?;
        let _ = exp_avg.f_lerp_(&gradient, f64::from(self.one_minus_beta1))?;
        average_squares(exp_avg_sq, &gradient, (self.beta2, self.one_minus_beta2))?;
        drop(gradient);
        let correction = f64::from(self.correction2_sqrt);
        let step = exp_avg.f_mul_scalar(f64::from(self.negative_step_size) * correction)?;
        let denominator = exp_avg_sq.f_sqrt()?.f_add_scalar_(f64::from(self.eps) * correction)?;
        chunk.decay(self.decay)?;
        let _ = chunk.parameters.f_addcdiv_(&step, &denominator)?;
        Ok(())
    }
}

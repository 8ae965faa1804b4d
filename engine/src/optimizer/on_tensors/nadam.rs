//! NAdam (Dozat 2016) as torch's `_single_tensor_nadam`.

use tch::TchError;

use crate::optimizer::nadam::NAdamPass;
use crate::optimizer::on_tensors::{Chunk, TensorPass, average_squares, states};

impl TensorPass for NAdamPass {
    /// `m += (1 - beta1) (g - m); v = beta2 v + (1 - beta2) g²`, then p moves along g and along m,
    /// each with a step of its own and over `√v / c + eps`, where c is the root of v's correction.
    /// The fractions are expanded by c, as Adam's.
    fn run_on(&self, chunk: &mut Chunk) -> Result<(), TchError> {
        let correction = f64::from(self.correction2).sqrt();
        let [of_gradient, of_mean] =
            self.negative_steps.map(|negative_step| f64::from(negative_step) * correction);
        let gradient = chunk.gradient(self.scale, self.l2)?;
        chunk.decay(self.decay)?;
        let [exp_avg, exp_avg_sq] = states(&mut chunk.states)?;
        let _ = exp_avg.f_lerp_(&gradient, f64::from(self.one_minus_beta1))?;
        average_squares(exp_avg_sq, &gradient, (self.beta2, self.one_minus_beta2))?;
        let step = gradient.f_mul_scalar(of_gradient)?;
        drop(gradient);
        let denominator = exp_avg_sq.f_sqrt()?.f_add_scalar_(f64::from(self.eps) * correction)?;
        let _ = chunk.parameters.f_addcdiv_(&step, &denominator)?;
        let step = exp_avg.f_mul_scalar_out(&step, of_mean)?;
        let _ = chunk.parameters.f_addcdiv_(&step, &denominator)?;
        Ok(())
    }
}

//! Lion (Chen et al. 2023), as the host's.

use tch::{TchError, Tensor};

use crate::optimizer::lion::LionPass;
use crate::optimizer::on_tensors::{Chunk, TensorPass, states};

impl TensorPass for LionPass {
    /// `p -= rate sign(beta1 m + (1 - beta1) g); m = beta2 m + (1 - beta2) g`. Products and sums are
    /// operations of their own, rounded as the host's are: another rounding could be another sign.
    fn run_on(&self, chunk: &mut Chunk) -> Result<(), TchError> {
        chunk.decay(self.decay)?;
        let mut step = self.weighted(chunk, self.one_minus_beta1)?;
        let [exp_avg] = states(&mut chunk.states)?;
        let _ = step.f_add_(&exp_avg.f_mul_scalar(f64::from(self.beta1))?)?;
        let _ = step.f_sign_()?.f_mul_scalar_(-f64::from(self.rate))?;
        let _ = chunk.parameters.f_add_(&step)?;
        drop(step);
        let weighted = self.weighted(chunk, self.one_minus_beta2)?;
        let [exp_avg] = states(&mut chunk.states)?;
        let _ = exp_avg.f_mul_scalar_(f64::from(self.beta2))?.f_add_(&weighted)?;
        Ok(())
    }
}

impl LionPass {
    /// The scaled gradients times `weight`, made anew each time rather than kept.
    fn weighted(&self, chunk: &Chunk, weight: f32) -> Result<Tensor, TchError> {
        if self.scale == 1.0 {
            return chunk.gradients.f_mul_scalar(f64::from(weight));
        }
        chunk.gradients.f_mul_scalar(f64::from(self.scale))?.f_mul_scalar_(f64::from(weight))
    }
}

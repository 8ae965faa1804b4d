//! Adagrad (Duchi et al. 2011) as torch's `_single_tensor_adagrad`.

use tch::TchError;

use crate::optimizer::adagrad::AdagradPass;
use crate::optimizer::on_tensors::{Chunk, TensorPass, states};

impl TensorPass for AdagradPass {
    /// `sum += g²; p -= rate g / (√sum + eps)`.
    fn run_on(&self, chunk: &mut Chunk) -> Result<(), TchError> {
        let gradient = chunk.gradient(self.scale, self.l2)?;
        let [sum] = states(&mut chunk.states)?;
        let _ = sum.f_addcmul_(&gradient, &gradient)?;
        let step = gradient.f_mul_scalar(f64::from(self.negative_rate))?;
        drop(gradient);
        let denominator = sum.f_sqrt()?.f_add_scalar_(f64::from(self.eps))?;
        let _ = chunk.parameters.f_addcdiv_(&step, &denominator)?;
        Ok(())
    }
}

//! SGD as torch's `_single_tensor_sgd`; Nesterov's momentum as Sutskever et al. 2013.

use tch::TchError;

use crate::optimizer::on_tensors::{Chunk, TensorPass};
use crate::optimizer::sgd::SgdPass;

impl TensorPass for SgdPass {
    /// `b = momentum b + (1 - dampening) g; p -= rate b`, with Nesterov `p -= rate (g + momentum b)`
    /// and without momentum `p -= rate g`.
    fn run_on(&self, chunk: &mut Chunk) -> Result<(), TchError> {
        let (momentum, rate) = (f64::from(self.momentum), f64::from(self.negative_rate));
        let gradient = chunk.gradient(self.scale, self.l2)?;
        let [buffer] = chunk.states.as_mut_slice() else {
            let _ = chunk.parameters.f_add_(&gradient.f_mul_scalar(rate)?)?;
            return Ok(());
        };
        let _ = buffer.f_mul_scalar_(momentum)?;
        let _ = if self.one_minus_dampening == 1.0 {
            buffer.f_add_(&gradient)?
        } else {
            buffer.f_add_(&gradient.f_mul_scalar(f64::from(self.one_minus_dampening))?)?
        };
        let step = if self.nesterov {
            buffer.f_mul_scalar(momentum)?.f_add_(&gradient)?.f_mul_scalar_(rate)?
        } else {
            buffer.f_mul_scalar(rate)?
        };
        let _ = chunk.parameters.f_add_(&step)?;
        Ok(())
    }
}

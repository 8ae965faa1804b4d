//! RMSprop (Tieleman and Hinton 2012; centered: Graves 2013) as torch's
//! `_single_tensor_rmsprop`.

use tch::{TchError, Tensor};

use crate::optimizer::on_tensors::{Chunk, TensorPass, average_squares, miscounted};
use crate::optimizer::rmsprop::RmsPropPass;

impl TensorPass for RmsPropPass {
    /// `s = alpha s + (1 - alpha) g²; m += (1 - alpha) (g - m)`, and with [`RmsPropPass::average`]
    /// `b = momentum b + g / average; p -= rate b`, without momentum `p -= rate g / average`.
    fn run_on(&self, chunk: &mut Chunk) -> Result<(), TchError> {
        let (momentum, rate) = (f64::from(self.momentum), f64::from(self.negative_rate));
        let gradient = chunk.gradient(self.scale, self.l2)?;
        let (square, buffer, mean) = match chunk.states.as_mut_slice() {
            [square] => (square, None, None),
            [square, mean] if self.centered => (square, None, Some(mean)),
            [square, buffer] => (square, Some(buffer), None),
            [square, buffer, mean] => (square, Some(buffer), Some(mean)),
            states => return Err(miscounted(states.len())),
        };
        average_squares(square, &gradient, (self.alpha, self.one_minus_alpha))?;
        let mean = match mean {
            Some(mean) => Some(mean.f_lerp_(&gradient, f64::from(self.one_minus_alpha))?),
            None => None,
        };
        let parameters = &mut chunk.parameters;
        let Some(buffer) = buffer else {
            let step = gradient.f_mul_scalar(rate)?;
            drop(gradient);
            let _ = parameters.f_addcdiv_(&step, &self.average(square, mean)?)?;
            return Ok(());
        };
        let average = self.average(square, mean)?;
        let _ = buffer.f_mul_scalar_(momentum)?.f_addcdiv_(&gradient, &average)?;
        drop((gradient, average));
        let _ = parameters.f_add_(&buffer.f_mul_scalar(rate)?)?;
        Ok(())
    }
}

impl RmsPropPass {
    /// `√s + eps`; centered `√max(s - m², 0) + eps`.
    fn average(&self, square: &Tensor, mean: Option<Tensor>) -> Result<Tensor, TchError> {
        let mut root = match mean {
            Some(mean) => {
                let variance = mean.f_mul(&mean)?;
                square.f_sub_out(&variance, &variance)?.f_clamp_min_(0.0)?.f_sqrt_()?
            }
            None => square.f_sqrt()?,
        };
        root.f_add_scalar_(f64::from(self.eps))
    }
}

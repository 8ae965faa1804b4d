//! Sums of squares in f64, of numbers on the host or on a device.
//!
//! Promise: in a fixed order on a host. On a device nothing is waited for before the total is asked for.

use tch::{TchError, Tensor};

use crate::optimizer::{sum_of_squares, sum_of_squares_on_tensor};
use crate::storage::Part;

#[derive(Debug, Default)]
pub(crate) struct Squares {
    host: f64,
    device: Option<Tensor>,
    /// For numbers of 16 bits.
    scratch: Vec<f32>,
}

impl Squares {
    pub(crate) fn add(&mut self, values: Part<'_>) -> Result<(), TchError> {
        match values {
            Part::Host(numbers) => {
                self.host += sum_of_squares(numbers.widened(&mut self.scratch));
                Ok(())
            }
            Part::Device(tensor) => {
                let squares = sum_of_squares_on_tensor(&tensor)?;
                self.device = Some(match &self.device {
                    Some(sum) => sum.f_add(&squares)?,
                    None => squares,
                });
                Ok(())
            }
        }
    }

    pub(crate) fn total(self) -> Result<f64, TchError> {
        let device = self.device.map(|sum| sum.f_double_value(&[0])).transpose()?;
        Ok(self.host + device.unwrap_or(0.0))
    }
}

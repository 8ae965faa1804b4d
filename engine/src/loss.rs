//! What training makes small, and how well a classifier does.
//!
//! Promise: computed in fp32, whatever the model's precision.

use tch::{Kind, Reduction, TchError, Tensor};

use crate::data::Task;

/// -100 is torch's class of targets that do not count; no class here is negative.
const IGNORED_CLASS: i64 = -100;

/// The mean over a batch: squared errors of a regression (`y_bo`), cross-entropies of a
/// classification (`y_b`, classes).
pub(crate) fn mean(task: Task, predicted_bo: &Tensor, y: &Tensor) -> Result<Tensor, TchError> {
    let predicted_bo = predicted_bo.f_to_kind(Kind::Float)?;
    let y = y.f_to_device(predicted_bo.device())?;
    match task {
        Task::Regression => predicted_bo.f_mse_loss(&y, Reduction::Mean),
        Task::Classification => {
            let (weights, smoothing) = (None::<Tensor>, 0.0);
            predicted_bo.f_cross_entropy_loss(
                &y,
                weights,
                Reduction::Mean,
                IGNORED_CLASS,
                smoothing,
            )
        }
    }
}

/// How many samples have their class predicted above all others.
pub(crate) fn correct(predicted_bo: &Tensor, y_b: &Tensor) -> Result<f64, TchError> {
    let y_b = y_b.f_to_device(predicted_bo.device())?;
    predicted_bo.f_argmax(-1, false)?.f_eq_tensor(&y_b)?.f_sum(Kind::Int64)?.f_double_value(&[])
}

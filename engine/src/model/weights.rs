//! Initial weights from a safetensors file with torch's names. All that does not fit is told at
//! once; nothing is filled in or left out silently.

use std::collections::HashMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::error::Mismatch;
use super::{Buffer, BufferShape, BufferValues, Error, Parameter, Shape, display, leaf};

/// Parameters and buffers, as the file has them.
pub(super) fn load(
    path: &Path,
    shapes: Vec<Shape>,
    buffer_shapes: Vec<BufferShape>,
) -> Result<(Vec<Parameter>, Vec<Buffer>), Error> {
    let bytes =
        fs_err::read(path).map_err(|source| Error::ReadWeights { path: display(path), source })?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|source| Error::ParseWeights { path: display(path), source })?;
    let mut found =
        Found { views: file.tensors().into_iter().collect(), mismatch: Mismatch::default() };
    let mut parameters = Vec::with_capacity(shapes.len());
    for shape in shapes {
        let values = found.take(&shape.name, |view| values(&shape.dims, view));
        parameters.extend(values.map(|values| (shape, values)));
    }
    let mut buffers = Vec::with_capacity(buffer_shapes.len());
    for shape in buffer_shapes {
        let values = found.take(&shape.name, |view| match shape.initial {
            BufferValues::Floats(_) => values(&shape.dims, view).map(BufferValues::Floats),
            BufferValues::Counts(_) => counts(&shape.dims, view).map(BufferValues::Counts),
        });
        buffers.extend(values.map(|initial| BufferShape { initial, ..shape }));
    }
    let Found { views, mut mismatch } = found;
    mismatch.unexpected = views.into_keys().collect();
    mismatch.unexpected.sort();
    if !mismatch.is_empty() {
        return Err(Error::MismatchedWeights { path: display(path), mismatch });
    }
    let parameters = parameters.into_iter().map(|(shape, values)| leaf(shape, &values));
    Ok((parameters.collect::<Result<_, _>>()?, super::buffers(buffers)?))
}

/// What a file has that nobody asked for yet.
struct Found<'a> {
    views: HashMap<String, TensorView<'a>>,
    mismatch: Mismatch,
}

impl Found<'_> {
    fn take<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&TensorView<'_>) -> Result<T, String>,
    ) -> Option<T> {
        let Some(view) = self.views.remove(name) else {
            self.mismatch.missing.push(name.to_owned());
            return None;
        };
        match read(&view) {
            Ok(values) => Some(values),
            Err(reason) => {
                self.mismatch.wrong.push(format!("{name} {reason}"));
                None
            }
        }
    }
}

/// A count is a 64-bit integer, as torch writes it.
fn counts(dims: &[usize], view: &TensorView<'_>) -> Result<Vec<i64>, String> {
    check_dims(dims, view)?;
    if view.dtype() != Dtype::I64 {
        return Err(format!("has type {:?}, not I64", view.dtype()));
    }
    let (elements, _) = view.data().as_chunks::<8>();
    Ok(elements.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect())
}

fn check_dims(dims: &[usize], view: &TensorView<'_>) -> Result<(), String> {
    if view.shape() == dims {
        return Ok(());
    }
    Err(format!("has shape {:?}, not {dims:?}", view.shape()))
}

/// The tensor in fp32, or what is wrong with it.
fn values(dims: &[usize], view: &TensorView<'_>) -> Result<Vec<f32>, String> {
    check_dims(dims, view)?;
    let data = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => widen(data, f32::from_le_bytes),
        Dtype::F64 => widen(data, |bytes| f64::from_le_bytes(bytes) as f32),
        Dtype::BF16 => widen(data, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        Dtype::F16 => widen(data, |bytes| f16::from_le_bytes(bytes).to_f32()),
        other => return Err(format!("has type {other:?}, not F32, F64, BF16 or F16")),
    };
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(format!("holds {} at element {at}", values[at])),
        None => Ok(values),
    }
}

fn widen<const N: usize>(data: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let (elements, _) = data.as_chunks::<N>();
    elements.iter().map(|&bytes| convert(bytes)).collect()
}

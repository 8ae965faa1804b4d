//! Initial weights from a safetensors file with torch's names. All that does not fit is told at
//! once; nothing is filled in or left out silently.

use std::collections::HashMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::error::Mismatch;
use super::{Error, Parameter, Shape, display, leaf};

pub(super) fn load(path: &Path, shapes: Vec<Shape>) -> Result<Vec<Parameter>, Error> {
    let bytes =
        fs_err::read(path).map_err(|source| Error::ReadWeights { path: display(path), source })?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|source| Error::ParseWeights { path: display(path), source })?;
    let mut found: HashMap<String, TensorView<'_>> = file.tensors().into_iter().collect();
    let mut mismatch = Mismatch::default();
    let mut loaded = Vec::with_capacity(shapes.len());
    for shape in shapes {
        match found.remove(&shape.name) {
            None => mismatch.missing.push(shape.name),
            Some(view) => match values(&shape, &view) {
                Ok(values) => loaded.push((shape, values)),
                Err(reason) => mismatch.wrong.push(format!("{} {reason}", shape.name)),
            },
        }
    }
    mismatch.unexpected = found.into_keys().collect();
    mismatch.unexpected.sort();
    if !mismatch.is_empty() {
        return Err(Error::MismatchedWeights { path: display(path), mismatch });
    }
    loaded.into_iter().map(|(shape, values)| leaf(shape, &values)).collect()
}

/// The tensor in fp32, or what is wrong with it.
fn values(shape: &Shape, view: &TensorView<'_>) -> Result<Vec<f32>, String> {
    if view.shape() != shape.dims {
        return Err(format!("has shape {:?}, not {:?}", view.shape(), shape.dims));
    }
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

//! Initial weights from a seed: Xavier-uniform input weights, orthogonal hidden weights, biases 0
//! with an LSTM's forget quarter at 1 (in both biases, as loops over torch's parameters do), and
//! torch's default for the head. Each parameter has a stream of its own, so that a layer more
//! changes no other layer.

use crate::rng::Stream;

use super::recurrent::Cell;
use super::{Error, Parameter, Shape, leaf};

pub(super) fn draw(cell: Cell, shapes: Vec<Shape>, seed: u64) -> Result<Vec<Parameter>, Error> {
    let head_inputs = shapes
        .iter()
        .find(|shape| shape.name == "fc.weight")
        .map(|shape| shape.dims[1])
        .expect("every layout ends with the head");
    shapes
        .into_iter()
        .map(|shape| {
            let values = values(cell, &shape, head_inputs, seed);
            leaf(shape, &values)
        })
        .collect()
}

fn values(cell: Cell, shape: &Shape, head_inputs: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(&format!("init/{}", shape.name), &[seed]);
    if shape.name.starts_with("fc.") {
        // torch.nn.Linear: kaiming_uniform(a = sqrt 5), which is 1/sqrt(fan in); the bias alike.
        return uniform(&mut stream, shape.numel(), 1.0 / libm::sqrt(head_inputs as f64));
    }
    match shape.dims[..] {
        [rows, columns] if shape.name.contains("weight_ih") => {
            // torch's fans are those of the whole gate-stacked matrix.
            let bound = libm::sqrt(6.0 / (rows + columns) as f64);
            uniform(&mut stream, rows * columns, bound)
        }
        [rows, columns] => orthogonal(&mut stream, rows, columns),
        _ => bias(cell, shape.numel()),
    }
}

fn uniform(stream: &mut Stream, len: usize, bound: f64) -> Vec<f32> {
    (0..len).map(|_| stream.uniform_in(-bound, bound) as f32).collect()
}

/// Gates are stacked as input, forget, cell, output: the second quarter is the forget gate's.
fn bias(cell: Cell, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    if cell == Cell::Lstm {
        values[len / 4..len / 2].fill(1.0);
    }
    values
}

/// A row-major matrix, at least as tall as wide, with orthonormal columns: a Gaussian matrix's Q
/// with the signs that make R's diagonal positive, which is what torch's `orthogonal_` returns for
/// that Gaussian. Gram-Schmidt, twice over: once loses digits, twice is as good as Householder.
fn orthogonal(stream: &mut Stream, rows: usize, columns: usize) -> Vec<f32> {
    assert!(rows >= columns, "hidden weights stack their gates: {rows} x {columns}");
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(columns);
    while basis.len() < columns {
        let mut candidate: Vec<f64> = (0..rows).map(|_| stream.normal()).collect();
        for _ in 0..2 {
            for direction in &basis {
                let along = dot(&candidate, direction);
                for (c, d) in candidate.iter_mut().zip(direction) {
                    *c -= along * d;
                }
            }
        }
        let length = libm::sqrt(dot(&candidate, &candidate));
        // A Gaussian vector within a hair of the span of the others (a square matrix's last
        // column is the likeliest) would be made of rounding errors: draw it again.
        if length > 1e-6 {
            candidate.iter_mut().for_each(|c| *c /= length);
            basis.push(candidate);
        }
    }
    let mut matrix = vec![0.0f32; rows * columns];
    for (column, vector) in basis.iter().enumerate() {
        for (row, &value) in vector.iter().enumerate() {
            matrix[row * columns + column] = value as f32;
        }
    }
    matrix
}

/// In eight interleaved partial sums: a fixed order that the compiler can still vectorise.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut partial = [0.0f64; 8];
    let (a_chunks, a_rest) = a.as_chunks::<8>();
    let (b_chunks, b_rest) = b.as_chunks::<8>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..8 {
            partial[lane] += x[lane] * y[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    partial.iter().sum::<f64>() + rest
}

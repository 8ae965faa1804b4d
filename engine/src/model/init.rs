//! Initial weights from a seed. Each parameter has a stream of its own, so that a layer more changes
//! no other layer.

use crate::rng::Stream;

use super::{Error, Parameter, Shape, leaf};

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Init {
    /// In [-bound, bound).
    Uniform {
        bound: f64,
    },
    Orthogonal,
    Fill(f32),
    /// An LSTM's bias: 0, and 1 for the forget gate, in both biases, as loops over torch's
    /// parameters do.
    ForgetGate,
}

impl Init {
    /// torch's default for linear layers and convolutions, weights and biases alike:
    /// kaiming-uniform with a = sqrt 5, which is 1/sqrt(fan in).
    pub(super) fn fan_in(fan_in: usize) -> Self {
        Self::Uniform { bound: 1.0 / libm::sqrt(fan_in as f64) }
    }

    /// For a matrix of this shape.
    pub(super) fn xavier(rows: usize, columns: usize) -> Self {
        Self::Uniform { bound: libm::sqrt(6.0 / (rows + columns) as f64) }
    }
}

pub(super) fn draw(shapes: Vec<Shape>, seed: u64) -> Result<Vec<Parameter>, Error> {
    let drawn = |shape: Shape| {
        let values = values(&shape, seed);
        leaf(shape, &values)
    };
    shapes.into_iter().map(drawn).collect()
}

fn values(shape: &Shape, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(&format!("init/{}", shape.name), &[seed]);
    match (shape.init, &shape.dims[..]) {
        (Init::Uniform { bound }, _) => uniform(&mut stream, shape.numel(), bound),
        (Init::Orthogonal, [rows, columns]) => orthogonal(&mut stream, *rows, *columns),
        (Init::Orthogonal, dims) => panic!("only a matrix is orthogonal, not {dims:?}"),
        (Init::Fill(value), _) => vec![value; shape.numel()],
        (Init::ForgetGate, _) => forget_gate(shape.numel()),
    }
}

fn uniform(stream: &mut Stream, len: usize, bound: f64) -> Vec<f32> {
    (0..len).map(|_| stream.uniform_in(-bound, bound) as f32).collect()
}

/// Gates are stacked as input, forget, cell, output: the second quarter is the forget gate's.
fn forget_gate(len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    values[len / 4..len / 2].fill(1.0);
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

//! Weights and their gradients between torch's layouts and panels. Units that only fill the last
//! block have zero weights, so whatever they compute reaches no real one.

use crate::simd::LANES;

use super::{GATES, Lstm};

impl Lstm {
    /// The row of torch's layout that holds this gate of the first unit of this block, and how
    /// many units of the block are real.
    fn gate_rows(&self, block: usize, gate: usize) -> (usize, usize) {
        let hidden = self.shape.hidden;
        (gate * hidden + block * LANES, (hidden - block * LANES).min(LANES))
    }

    /// For forward: `[4h, width]` to `[u, gate, width, 16]`.
    pub(super) fn pack_forward(&self, weights: &[f32], width: usize, panels: &mut [f32]) {
        for (index, panel) in panels.chunks_exact_mut(width * LANES).enumerate() {
            let (first, units) = self.gate_rows(index / GATES, index % GATES);
            let rows = &weights[first * width..][..units * width];
            transpose_to_panel(rows, width, panel);
        }
    }

    /// The sum of the biases, to `[u, gate, 16]`.
    pub(super) fn pack_bias(&self, input: &[f32], hidden: &[f32], panels: &mut [f32]) {
        for (index, panel) in panels.chunks_exact_mut(LANES).enumerate() {
            let (first, units) = self.gate_rows(index / GATES, index % GATES);
            let pairs = input[first..].iter().zip(&hidden[first..]);
            panel.fill(0.0);
            for (to, (input, hidden)) in panel.iter_mut().zip(pairs).take(units) {
                *to = input + hidden;
            }
        }
    }

    /// For backward: `[4h, width]` to `[width / 16, u, gate, 16 (unit), 16 (column)]`.
    pub(super) fn pack_backward(&self, weights: &[f32], width: usize, panels: &mut [f32]) {
        let depth = GATES * self.padded();
        for (index, panel) in panels.chunks_exact_mut(depth * LANES).enumerate() {
            let column = index * LANES;
            let columns = (width - column).min(LANES);
            for (index, tile) in panel.chunks_exact_mut(LANES * LANES).enumerate() {
                let (first, units) = self.gate_rows(index / GATES, index % GATES);
                for (unit, to) in tile.chunks_exact_mut(LANES).enumerate() {
                    if unit < units && columns == LANES {
                        to.copy_from_slice(&weights[(first + unit) * width + column..][..LANES]);
                    } else {
                        to.fill(0.0);
                        if unit < units {
                            let from = &weights[(first + unit) * width + column..][..columns];
                            to[..columns].copy_from_slice(from);
                        }
                    }
                }
            }
        }
    }

    /// Gradients: `[u, gate, width, 16]` to `[4h, width]`.
    pub(super) fn unpack(&self, panels: &[f32], width: usize, weights: &mut [f32]) {
        for (index, panel) in panels.chunks_exact(width * LANES).enumerate() {
            let (first, units) = self.gate_rows(index / GATES, index % GATES);
            let rows = &mut weights[first * width..][..units * width];
            transpose_from_panel(panel, width, rows);
        }
    }
}

/// `rows[unit][k]` to `panel[k][unit]`; units that are missing become zeros.
fn transpose_to_panel(rows: &[f32], width: usize, panel: &mut [f32]) {
    let (lines, _) = panel.as_chunks_mut::<LANES>();
    if rows.len() < width * LANES {
        lines.fill([0.0; LANES]);
    }
    for (unit, row) in rows.chunks_exact(width).enumerate() {
        for (line, value) in lines.iter_mut().zip(row) {
            line[unit] = *value;
        }
    }
}

fn transpose_from_panel(panel: &[f32], width: usize, rows: &mut [f32]) {
    let (lines, _) = panel.as_chunks::<LANES>();
    for (unit, row) in rows.chunks_exact_mut(width).enumerate() {
        for (line, value) in lines.iter().zip(row) {
            *value = line[unit];
        }
    }
}

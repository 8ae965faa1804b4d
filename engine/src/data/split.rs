//! From a table to samples: cut by rows in time order, then normalise by the training part.

use std::ops::Range;
use std::sync::Arc;

use common::spec::Normalization;

use super::scaling::{Affine, Column, Spread, fit, fit_differences};
use super::windows::{Inputs, Series, SeriesSamples};
use super::{Dataset, Error, Samples, Table, Windows};
use crate::model::Input;

/// No window crosses a split: each part's samples lie wholly within its rows.
pub(super) fn dataset(
    table: Table,
    windows: Windows,
    split: [f64; 3],
    normalization: Normalization,
) -> Result<Dataset, Error> {
    if normalization == Normalization::Window && windows.window < 2 {
        let expected =
            "at least 2 with normalization = \"window\": the last row alone tells nothing";
        return Err(Error::setting("data.window", windows.window, expected));
    }
    let parts = parts(table.rows, split)?;
    check_rows(&table, windows, &parts)?;
    let Table { inputs, columns, outputs, targets, mut notes, .. } = table;
    let fitting = Fitting {
        rows: parts[0].clone(),
        normalization,
        window: windows.window as usize,
        horizon: windows.horizon as usize,
    };
    let target_scaling = fitting.fit(&outputs, &targets, &mut notes);
    let input_scaling = fitting.fit(&inputs, &columns, &mut notes);
    let series = Arc::new(Series {
        inputs: scale_inputs(inputs, &input_scaling, normalization),
        columns: columns.len(),
        outputs,
        target_scaling,
        window: fitting.window,
        horizon: fitting.horizon,
    });
    let [train, validation, test] =
        parts.map(|rows| SeriesSamples::of(&series, rows).map(Samples::Series));
    Ok(Dataset {
        train: train.expect("check_rows found at least one sample in the training part"),
        validation,
        test,
        input: Input::Series(columns.len()),
        output_features: fitting.horizon * targets.len(),
        columns,
        targets,
        notes,
    })
}

/// The row ranges of training, validation and test. Boundaries are rounded shares of the whole,
/// so that no row is lost.
pub(super) fn parts(rows: usize, split: [f64; 3]) -> Result<[Range<usize>; 3], Error> {
    let sum: f64 = split.iter().sum();
    let valid = split.iter().all(|share| (0.0..=1.0).contains(share)) && (sum - 1.0).abs() < 1e-6;
    if !valid || split[0] == 0.0 {
        let expected = "three shares that sum to 1, the first (training) above 0";
        return Err(Error::setting("data.split", format!("{split:?}"), expected));
    }
    let boundary = |share: f64| ((rows as f64 * share).round() as usize).min(rows);
    let first = boundary(split[0]);
    // A share of exactly zero must stay empty, whatever the rounding of the sums.
    let second = match (split[1] == 0.0, split[2] == 0.0) {
        (true, true) => return Ok([0..rows, rows..rows, rows..rows]),
        (true, false) => first,
        (false, true) => rows,
        (false, false) => boundary(split[0] + split[1]),
    };
    Ok([0..first, first..second, second..rows])
}

fn check_rows(table: &Table, windows: Windows, parts: &[Range<usize>; 3]) -> Result<(), Error> {
    let needed = u64::from(windows.window) + u64::from(windows.horizon);
    for (part, rows) in ["training", "validation", "test"].into_iter().zip(parts) {
        let asked_for = part == "training" || !rows.is_empty();
        if asked_for && (rows.len() as u64) < needed {
            return Err(Error::TooFewRows {
                origin: table.origin.clone(),
                part,
                rows: rows.len(),
                total: table.rows,
                needed,
                window: windows.window,
                horizon: windows.horizon,
            });
        }
    }
    Ok(())
}

struct Fitting {
    /// The training part.
    rows: Range<usize>,
    normalization: Normalization,
    window: usize,
    horizon: usize,
}

impl Fitting {
    fn fit(&self, values: &[f64], names: &[String], notes: &mut Vec<String>) -> Vec<Affine> {
        let columns = names.len();
        let train = &values[self.rows.start * columns..self.rows.end * columns];
        let fit_column = |(column, name): (usize, &String)| {
            let train = Column { values: train, columns, column };
            let (affine, spread) = match self.normalization {
                Normalization::Window => fit_differences(train, [self.window, self.horizon]),
                other => fit(other, train),
            };
            if spread == Spread::Constant {
                let note = format!(
                    "column `{name}` is constant over the training part: it is shifted, not scaled"
                );
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            affine
        };
        names.iter().enumerate().map(fit_column).collect()
    }
}

fn scale_inputs(values: Vec<f64>, scaling: &[Affine], normalization: Normalization) -> Inputs {
    if normalization == Normalization::Window {
        return Inputs::Relative { values, scales: scaling.iter().map(|a| a.scale).collect() };
    }
    let scaled = values
        .chunks_exact(scaling.len())
        .flat_map(|row| row.iter().zip(scaling).map(|(&value, affine)| affine.apply(value) as f32))
        .collect();
    Inputs::Ready(scaled)
}

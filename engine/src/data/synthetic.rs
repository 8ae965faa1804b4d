//! Series that need no file. The noise comes from the job's seed; sines from `libm`, so that
//! every machine makes the same bits.

use std::f64::consts::{FRAC_PI_4, PI, TAU};
use std::sync::Arc;

use common::spec::DataSource;

use crate::rng::Stream;

use super::scaling::Affine;
use super::windows::{Inputs, Series, SeriesSamples};
use super::{Dataset, Error, Samples, Table, Windows, check_size};
use crate::model::Input;

/// Three sines and noise over t in [0, 4π]: `samples[0]` windows to train on, and a second series
/// of `samples[1]` windows over the same range of t with other noise to validate with. Not
/// normalised.
pub(super) fn sine(
    windows: Windows,
    samples: [u32; 2],
    noise: f64,
    seed: u64,
) -> Result<Dataset, Error> {
    check_noise(noise)?;
    if samples[0] == 0 {
        return Err(Error::setting("data.samples", samples[0], "at least 1"));
    }
    let mut parts = Vec::with_capacity(samples.len());
    for (series, samples) in samples.into_iter().enumerate() {
        // `samples` windows of `window` rows, each followed by its horizon: with a horizon of 1
        // this is samples + window points.
        let points =
            u64::from(samples) + u64::from(windows.window) + u64::from(windows.horizon) - 1;
        check_size("sine", points, 1)?;
        let mut stream = Stream::new("sine", &[seed, series as u64]);
        let step = 4.0 * PI / (points - 1) as f64;
        let values: Vec<f64> =
            (0..points).map(|i| sine_at(i as f64 * step) + noise * stream.normal()).collect();
        let series = Arc::new(Series {
            inputs: Inputs::Ready(values.iter().map(|&v| v as f32).collect()),
            columns: 1,
            outputs: values,
            target_scaling: vec![Affine::IDENTITY],
            window: windows.window as usize,
            horizon: windows.horizon as usize,
        });
        parts.push(SeriesSamples::of(&series, 0..points as usize).map(Samples::Series));
    }
    let validation = parts.pop().expect("two series were made");
    let train = parts.pop().flatten().expect("at least one sample was asked for");
    Ok(Dataset {
        train,
        validation,
        test: None,
        input: Input::Series(1),
        output_features: windows.horizon as usize,
        columns: vec!["signal".to_owned()],
        targets: vec!["signal".to_owned()],
        notes: Vec::new(),
    })
}

fn sine_at(t: f64) -> f64 {
    libm::sin(0.5 * t) + 0.5 * libm::sin(2.0 * t) + 0.3 * libm::sin(5.0 * t)
}

/// `features` series over t = 0, rate, 2·rate, ... seconds. Feature k has frequency f = 1 + k/2 Hz
/// and phase φ = k·π/4 and is
/// `sin(2πft + φ) + 0.5·cos(πft + φ) + 0.001·t + noise`: a sine, a slower cosine as its season, a
/// trend and Gaussian noise. Every feature is an input and a target.
pub(super) fn timeseries(source: &DataSource, seed: u64) -> Result<Table, Error> {
    let DataSource::SyntheticTimeseries { samples, features, sampling_rate, noise, .. } = source
    else {
        unreachable!("the caller matched on the kind");
    };
    check_noise(*noise)?;
    if *features == 0 {
        return Err(Error::setting("data.features", features, "at least 1"));
    }
    if !(sampling_rate.is_finite() && *sampling_rate > 0.0) {
        return Err(Error::setting("data.sampling-rate", sampling_rate, "above 0, in seconds"));
    }
    check_size("synthetic-timeseries", u64::from(*samples), u64::from(*features))?;
    let mut stream = Stream::new("synthetic-timeseries", &[seed]);
    let mut values = Vec::with_capacity(*samples as usize * *features as usize);
    for row in 0..*samples {
        let t = f64::from(row) * sampling_rate;
        for feature in 0..*features {
            values.push(feature_at(feature, t) + noise * stream.normal());
        }
    }
    let names: Vec<String> = (0..*features).map(|k| format!("feature-{k}")).collect();
    Ok(Table {
        rows: *samples as usize,
        inputs: values.clone(),
        columns: names.clone(),
        outputs: values,
        targets: names,
        notes: Vec::new(),
        origin: "synthetic-timeseries".to_owned(),
    })
}

fn feature_at(feature: u32, t: f64) -> f64 {
    let frequency = 1.0 + 0.5 * f64::from(feature);
    let phase = FRAC_PI_4 * f64::from(feature);
    let sine = libm::sin(TAU * frequency * t + phase);
    let season = 0.5 * libm::cos(PI * frequency * t + phase);
    sine + season + 0.001 * t
}

fn check_noise(noise: f64) -> Result<(), Error> {
    if noise.is_finite() && noise >= 0.0 {
        Ok(())
    } else {
        Err(Error::setting("data.noise", noise, "at least 0 and finite"))
    }
}

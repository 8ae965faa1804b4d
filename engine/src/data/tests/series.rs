use super::*;

fn sine(samples: u32, validation_samples: u32, noise: f64) -> Data {
    Data { window: Some(50), ..spec(DataSource::Sine { samples, validation_samples, noise }) }
}

#[test]
fn a_sine_without_noise_is_the_formula_over_the_same_range_of_t() {
    let dataset = load(&sine(100, 40, 0.0), 1).unwrap();
    let validation = dataset.validation.unwrap();
    assert!(dataset.test.is_none());
    assert_eq!((dataset.train.len(), validation.len()), (100, 40));
    assert_eq!((dataset.input, dataset.output_features), (Input::Series(1), 1));
    for samples in [dataset.train, validation] {
        let points = samples.len() + 50;
        let signal = |i: usize| {
            let t = 4.0 * std::f64::consts::PI * i as f64 / (points - 1) as f64;
            (0.5 * t).sin() + 0.5 * (2.0 * t).sin() + 0.3 * (5.0 * t).sin()
        };
        let last = samples.len() - 1;
        let (x_btf, y_bo) = samples.batch(&[0, last as u32]).unwrap();
        assert_eq!(x_btf.size(), [2, 50, 1]);
        let expected: Vec<f64> = (0..50).chain(last..last + 50).map(signal).collect();
        for (found, expected) in values(&x_btf).iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6);
        }
        let ends = values(&y_bo);
        assert!((f64::from(ends[0]) - signal(50)).abs() < 1e-6);
        // The last target is the last point: t = 4π, where every sine is zero.
        assert!(f64::from(ends[1]).abs() < 1e-6, "{ends:?}");
    }
}

#[test]
fn noise_comes_from_the_seed_and_differs_between_the_two_series() {
    let noise = |seed| {
        let noisy = load(&sine(4000, 4000, 0.1), seed).unwrap();
        let clean = load(&sine(4000, 4000, 0.0), seed).unwrap();
        let all: Vec<u32> = (0..4000).collect();
        let series = |samples: &Samples| values(&samples.batch(&all).unwrap().1);
        let difference = |noisy: Vec<f32>, clean: Vec<f32>| -> Vec<f32> {
            noisy.iter().zip(clean).map(|(n, c)| n - c).collect()
        };
        let train = difference(series(&noisy.train), series(&clean.train));
        let validation = |set: Dataset| series(&set.validation.unwrap());
        (train, difference(validation(noisy), validation(clean)))
    };
    let (train, validation) = noise(1);
    assert_ne!(train, validation);
    assert_eq!(train, noise(1).0);
    assert_ne!(train, noise(2).0);
    let deviation = (train.iter().map(|v| v * v).sum::<f32>() / 4000.0).sqrt();
    assert!((deviation - 0.1).abs() < 0.005, "{deviation}");
}

fn timeseries(features: u32, noise: f64) -> DataSource {
    DataSource::SyntheticTimeseries {
        samples: 200,
        features,
        sampling_rate: 0.1,
        noise,
        split: [0.7, 0.15, 0.15],
        normalization: Normalization::None,
    }
}

#[test]
fn a_synthetic_timeseries_has_a_frequency_phase_season_and_trend_per_feature() {
    use std::f64::consts::PI;

    let dataset = load(&spec(timeseries(4, 0.0)), 1).unwrap();
    assert_eq!((dataset.input, dataset.output_features), (Input::Series(4), 4));
    // 140, 30 and 30 rows; a sample takes 4.
    let (validation, test) = (dataset.validation.unwrap(), dataset.test.unwrap());
    assert_eq!((dataset.train.len(), validation.len(), test.len()), (137, 27, 27));
    let (x_btf, y_bo) = validation.batch(&[0]).unwrap();
    let expected = |row: usize, feature: f64| {
        let (t, f, phase) = (row as f64 * 0.1, 1.0 + feature / 2.0, feature * PI / 4.0);
        (2.0 * PI * f * t + phase).sin() + 0.5 * (PI * f * t + phase).cos() + 0.001 * t
    };
    for (i, found) in values(&x_btf).iter().chain(&values(&y_bo)).enumerate() {
        let expected = expected(140 + i / 4, (i % 4) as f64);
        assert!((f64::from(*found) - expected).abs() < 1e-5, "{i}: {found} {expected}");
    }
}

#[test]
fn impossible_settings_of_series_are_named() {
    let refusal = |spec: &Data| load(spec, 1).unwrap_err().to_string();
    assert_eq!(refusal(&sine(0, 1, 0.1)), "data.samples = 0: expected at least 1");
    assert_eq!(refusal(&sine(10, 1, f64::NAN)), "data.noise = NaN: expected at least 0 and finite");
    assert_eq!(refusal(&spec(timeseries(0, 0.1))), "data.features = 0: expected at least 1");
    let huge = DataSource::SyntheticTimeseries {
        samples: u32::MAX,
        features: 3,
        sampling_rate: 0.1,
        noise: 0.0,
        split: [1.0, 0.0, 0.0],
        normalization: Normalization::None,
    };
    assert_eq!(
        refusal(&spec(huge)),
        "synthetic-timeseries: 4294967295 rows of 3 values exceed the limit of 1073741824 values"
    );
    let windowless = Data { window: Some(0), ..sine(10, 1, 0.1) };
    assert_eq!(refusal(&windowless), "data.window = 0: expected at least 1");
}

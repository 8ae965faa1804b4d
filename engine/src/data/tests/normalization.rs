use super::*;

/// Far from zero, rising, the second half (beyond the split) much higher than the first.
fn rising(normalization: Normalization) -> File {
    let row = |i: i32| format!("{},{}\n", 1000 + i * 2 + i % 3, 7);
    let rows: String = (0..40).map(|i| if i < 20 { row(i) } else { row(i * 10) }).collect();
    let mut file = File::new(format!("v,same\n{rows}")).columns(&["v"]);
    (file.split, file.normalization) = ([0.5, 0.25, 0.25], normalization);
    file
}

fn all(samples: &Samples) -> (Vec<u32>, Tensor, Tensor) {
    let indices: Vec<u32> = (0..samples.len() as u32).collect();
    let (x_btf, y_bo) = samples.batch(&indices).unwrap();
    (indices, x_btf, y_bo)
}

/// Mean and deviation of the training part's rows, each counted once.
fn train_rows(dataset: &Dataset) -> Vec<f64> {
    let (_, x_btf, y_bo) = all(&dataset.train);
    let mut rows: Vec<f64> = values(&x_btf.get(0)).into_iter().map(f64::from).collect();
    rows.extend(values(&y_bo).into_iter().map(f64::from));
    rows
}

#[test]
fn standard_is_fitted_on_the_training_part_alone() {
    let rows = train_rows(&rising(Normalization::Standard).load().unwrap());
    assert_eq!(rows.len(), 20);
    let mean = rows.iter().sum::<f64>() / 20.0;
    let variance = rows.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 20.0;
    assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-6, "{mean} {variance}");
}

#[test]
fn min_max_maps_the_training_part_to_zero_and_one() {
    let dataset = rising(Normalization::MinMax).load().unwrap();
    let rows = train_rows(&dataset);
    let low = rows.iter().copied().fold(f64::INFINITY, f64::min);
    let high = rows.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    assert_eq!((low, high), (0.0, 1.0));
    let (_, beyond, _) = all(&dataset.test.unwrap());
    assert!(beyond.min().double_value(&[]) > 1.0, "later parts are not squeezed into the range");
}

#[test]
fn a_window_is_relative_to_its_last_value_and_so_are_its_targets() {
    let file = rising(Normalization::Window);
    let dataset = file.load().unwrap();
    let raw = rising(Normalization::None).load().unwrap();
    let (_, x_raw, y_raw) = all(&raw.train);
    let (_, x_btf, y_bo) = all(&dataset.train);
    let last_raw = x_raw.select(1, 2);
    assert_eq!(values(&x_btf.select(1, 2)), vec![0.0; dataset.train.len()]);
    // Undo with the scale that follows from one pair of values: every other one must fit it.
    let differences = &x_raw - last_raw.unsqueeze(1);
    let deviation = differences.narrow(1, 0, 2).std(false).double_value(&[]);
    let undone = &x_btf * deviation;
    assert!((undone - differences).abs().max().double_value(&[]) < 1e-4);
    let ahead = y_raw - last_raw;
    let undone = y_bo * deviation;
    assert!((undone - ahead).abs().max().double_value(&[]) < 1e-4);
}

#[test]
fn small_differences_of_large_values_keep_their_digits() {
    let rows: String = (0..12).map(|i| format!("{}\n", 1e9 + f64::from(i % 4) * 0.125)).collect();
    let mut file = File::new(format!("v\n{rows}"));
    file.normalization = Normalization::Window;
    let (_, x_btf, _) = all(&file.load().unwrap().train);
    let first = values(&x_btf.get(0));
    // 0, 0.125, 0.25 relative to the last, which f32 would have rounded to multiples of 64.
    assert!((first[0] / first[1] - 2.0).abs() < 1e-6, "{first:?}");
}

#[test]
fn a_constant_column_is_shifted_and_told() {
    let file = rising(Normalization::Standard).columns(&["v", "same"]).targets(&["v"]);
    let dataset = file.load().unwrap();
    let (_, x_btf, _) = all(&dataset.train);
    assert_eq!(x_btf.select(2, 1).abs().max().double_value(&[]), 0.0);
    let note = "column `same` is constant over the training part: it is shifted, not scaled";
    assert_eq!(dataset.notes, [note]);
}

#[test]
fn a_window_of_one_row_cannot_be_relative_to_itself() {
    let mut file = rising(Normalization::Window);
    file.window = 1;
    assert!(file.refusal().starts_with("data.window = 1: expected at least 2"));
}

/// Predicting the targets exactly has no error; predicting the last value has the naive one's.
#[test]
fn test_errors_are_in_the_datas_own_units_whatever_the_normalization() {
    use Normalization::{MinMax, None, Standard, Window};

    for normalization in [None, Standard, MinMax, Window] {
        let mut file = rising(normalization).columns(&["v", "same"]).targets(&["same", "v"]);
        file.horizon = 2;
        let test = file.load().unwrap().test.unwrap();
        let (indices, _, y_bo) = all(&test);
        let mut perfect = TestErrors::default();
        perfect.add(&test, &indices, &y_bo).unwrap();
        assert!(perfect.mae() < 1e-3 && perfect.rmse() < 1e-3, "{normalization:?}: {perfect:?}");
        assert!(perfect.naive_mae() > 5.0, "{normalization:?}: {perfect:?}");

        // A prediction that is off by one scale of the training part is off by that many units.
        let mut raw = rising(None).columns(&["v", "same"]).targets(&["same", "v"]);
        raw.horizon = 2;
        let (_, x_raw, y_raw) = all(&raw.load().unwrap().test.unwrap());
        let last = x_raw.select(1, 2).flip([1]).repeat([1, 2]);
        let naive = (y_raw - last).abs().mean(tch::Kind::Double).double_value(&[]);
        assert!((perfect.naive_mae() - naive).abs() < 1e-3, "{normalization:?}");
    }
}

#[test]
fn test_errors_of_ranks_add_up() {
    let test = rising(Normalization::Standard).load().unwrap().test.unwrap();
    let (indices, _, y_bo) = all(&test);
    let predictions = &y_bo + 0.5;
    let mut whole = TestErrors::default();
    whole.add(&test, &indices, &predictions).unwrap();
    assert!(whole.mae() > 0.0);
    let (first, second) = indices.split_at(3);
    let mut parts = [TestErrors::default(); 2];
    parts[0].add(&test, first, &predictions.narrow(0, 0, 3)).unwrap();
    let rest = predictions.narrow(0, 3, second.len() as i64);
    parts[1].add(&test, second, &rest).unwrap();
    parts[1].add(&test, &[], &rest).unwrap();
    let sums: Vec<f64> =
        parts[0].to_array().iter().zip(parts[1].to_array()).map(|(a, b)| a + b).collect();
    let sum = TestErrors::from_array(sums.try_into().unwrap());
    assert!((sum.mae() - whole.mae()).abs() < 1e-12 && (sum.rmse() - whole.rmse()).abs() < 1e-12);
    let error = whole.add(&test, first, &y_bo).unwrap_err();
    assert!(matches!(error, Error::PredictionShape { .. }), "{error}");
}

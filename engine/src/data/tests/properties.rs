use proptest::prelude::*;

use super::*;

fn normalizations() -> impl Strategy<Value = Normalization> {
    use Normalization::{MinMax, None, Standard, Window};
    prop::sample::select(vec![None, Standard, MinMax, Window])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nothing that a file can hold makes loading panic, and what it loads is finite.
    #[test]
    fn arbitrary_text_is_data_or_a_typed_error(
        text in "([-0-9.eNa?\"\n\r, x]{0,6}[,\n]){0,40}",
        normalization in normalizations(),
        drop in any::<bool>(),
    ) {
        let mut file = File::new(text);
        file.normalization = normalization;
        file.missing = if drop { Missing::Drop } else { Missing::Interpolate };
        file.window = 2;
        if let Ok(dataset) = file.load() {
            let all: Vec<u32> = (0..dataset.train.len() as u32).collect();
            let (x_btf, y_bo) = dataset.train.batch(&all).unwrap();
            let finite = |t: &Tensor| values(t).iter().all(|v| v.is_finite());
            prop_assert!(finite(&x_btf) && finite(&y_bo));
        }
    }

    #[test]
    fn arbitrary_bytes_are_data_or_a_typed_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = File::new(bytes).load();
    }

    /// Every row belongs to exactly one part, in time order, and each part has all its windows.
    #[test]
    fn a_split_loses_no_row_and_no_window(
        rows in 3usize..400,
        cuts in (0u32..=100, 0u32..=100),
        window in 1u32..20,
        horizon in 1u32..5,
    ) {
        let (low, high) = (cuts.0.min(cuts.1), cuts.0.max(cuts.1));
        let split = [f64::from(low), f64::from(high - low), f64::from(100 - high)]
            .map(|percent| percent / 100.0);
        let text: String = (0..rows).map(|row| format!("{row}\n")).collect();
        let mut file = File::new(format!("v\n{text}"));
        (file.split, file.window, file.horizon) = (split, window, horizon);
        match file.load() {
            Ok(dataset) => {
                let parts = [Some(dataset.train), dataset.validation, dataset.test];
                let mut next = 0;
                for samples in parts.into_iter().flatten() {
                    let first = values(&samples.batch(&[0]).unwrap().0)[0] as usize;
                    prop_assert_eq!(first, next, "a part starts where the one before ends");
                    next += samples.len() + (window + horizon) as usize - 1;
                }
                prop_assert_eq!(next, rows);
            }
            Err(Error::TooFewRows { rows, needed, .. }) => prop_assert!((rows as u64) < needed),
            Err(Error::Setting { key, .. }) => prop_assert!(key == "data.split" && low == 0),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }

    /// A batch is its samples one by one, whatever the order and the normalization.
    #[test]
    fn a_batch_is_its_samples_one_by_one(
        normalization in normalizations(),
        picks in prop::collection::vec(0u32..20, 1..12),
    ) {
        let rows: String =
            (0..25).map(|i| format!("{},{}\n", i * i % 17, 1000 + i * 3 % 11)).collect();
        let mut file = File::new(format!("a,b\n{rows}"));
        (file.normalization, file.horizon) = (normalization, 2);
        let samples = file.load().unwrap().train;
        let (x_btf, y_bo) = samples.batch(&picks).unwrap();
        for (row, &pick) in picks.iter().enumerate() {
            let (x_1tf, y_1o) = samples.batch(&[pick]).unwrap();
            prop_assert_eq!(values(&x_btf.get(row as i64)), values(&x_1tf));
            prop_assert_eq!(values(&y_bo.get(row as i64)), values(&y_1o));
        }
    }
}

use super::*;

const TWO: &str = "time,a,b\n0,1,10\n1,2,20\n2,3,30\n3,4,40\n4,5,50\n";

#[test]
fn columns_and_targets_are_chosen_by_name() {
    let dataset = File::new(TWO).columns(&["b", "a"]).targets(&["a"]).load().unwrap();
    assert_eq!((dataset.input, dataset.output_features), (Input::Series(2), 1));
    let (x_btf, y_bo) = dataset.train.batch(&[1, 0]).unwrap();
    assert_eq!(x_btf.size(), [2, 3, 2]);
    assert_eq!(
        values(&x_btf),
        [20., 2., 30., 3., 40., 4., 10., 1., 20., 2., 30., 3.],
        "in the order of `columns` and of the indices"
    );
    assert_eq!(values(&y_bo), [5., 4.]);
}

#[test]
fn columns_are_chosen_by_index_without_a_header() {
    let mut file = File::new("x,1,10\nx,2,20\nx,3,30\nx,4,40\n").columns(&["2"]).targets(&["1"]);
    file.header = false;
    let (x_btf, y_bo) = file.load().unwrap().train.batch(&[0]).unwrap();
    assert_eq!((values(&x_btf), values(&y_bo)), (vec![10., 20., 30.], vec![4.]));
    let wrong = file.columns(&["3"]);
    assert_eq!(
        wrong.refusal(),
        "`data.csv` is read without a header, so `3` must be an index from 0 to 2 (or set \
         data.header = true)"
    );
}

#[test]
fn every_numeric_column_is_taken_where_none_is_named_and_the_choice_is_told() {
    let file = File::new("day,a,empty,b\nmon,1,,5\ntue,2,,6\nwed,3,,7\nthu,4,,8\n");
    let dataset = file.load().unwrap();
    assert_eq!(dataset.columns, ["a", "b"]);
    assert_eq!(dataset.targets, ["a", "b"]);
    let notes = dataset.notes.join("\n");
    assert!(notes.contains("column `day` is left out, line 2 holds `mon`, which is no number"));
    assert!(notes.contains("column `empty` is left out, all its values are missing"), "{notes}");
    assert!(notes.contains("input columns are a, b"), "{notes}");
}

#[test]
fn a_column_of_numbers_is_not_dropped_for_one_bad_field() {
    assert_eq!(
        File::new("a,b\n1,10\n2,20\noops,30\n4,40\n5,50\n").refusal(),
        "`data.csv` line 4, column `a`: `oops` is not a number"
    );
    assert!(
        File::new("a,b\n1,10\n2,20\noops,30\n4,40\n5,50\n").columns(&["b"]).load().is_ok(),
        "unless other columns are asked for"
    );
}

#[test]
fn several_targets_and_rows_ahead_are_in_time_order() {
    let mut file = File::new(TWO).columns(&["a"]).targets(&["a", "b"]);
    file.horizon = 2;
    let dataset = file.load().unwrap();
    assert_eq!((dataset.train.len(), dataset.output_features), (1, 4));
    assert_eq!(values(&dataset.train.batch(&[0]).unwrap().1), [4., 40., 5., 50.]);
}

#[test]
fn no_window_crosses_a_split() {
    let rows: String = (0..20).map(|i| format!("{i}\n")).collect();
    let mut file = File::new(format!("v\n{rows}"));
    file.split = [0.5, 0.25, 0.25];
    let dataset = file.load().unwrap();
    let seen = |samples: &Samples| {
        let all: Vec<u32> = (0..samples.len() as u32).collect();
        let (x, y) = samples.batch(&all).unwrap();
        let mut rows: Vec<f32> = values(&x).into_iter().chain(values(&y)).collect();
        rows.sort_by(f32::total_cmp);
        rows.dedup();
        rows
    };
    let range = |from: u8, to: u8| (from..to).map(f32::from).collect::<Vec<_>>();
    assert_eq!(seen(&dataset.train), range(0, 10));
    assert_eq!(seen(&dataset.validation.unwrap()), range(10, 15));
    assert_eq!(seen(&dataset.test.unwrap()), range(15, 20));
}

#[test]
fn too_few_rows_are_refused_with_the_numbers() {
    let mut file = File::new(TWO).columns(&["a"]);
    file.split = [0.8, 0.2, 0.0];
    assert_eq!(
        file.refusal(),
        "`data.csv`: the validation part has 1 of 5 rows, but one sample needs 4 (data.window = 3 \
         and data.horizon = 1)"
    );
    file.split = [1.0, 0.0, 0.0];
    file.window = u32::MAX;
    assert!(file.refusal().contains("the training part has 5 of 5 rows"), "{}", file.refusal());
    for split in [[0.5, 0.6, 0.0], [0.0, 0.5, 0.5], [f64::NAN, 0.5, 0.5], [1.5, -0.5, 0.0]] {
        file.split = split;
        assert!(file.refusal().starts_with("data.split = "), "{}", file.refusal());
    }
}

#[test]
fn malformed_files_are_refused_with_line_column_and_value() {
    let refusal = |text: &[u8]| File::new(text).columns(&["a"]).refusal();
    assert_eq!(
        refusal(b"a,b\n1,x\n2,x\n3.5.1,x\n"),
        "`data.csv` line 4, column `a`: `3.5.1` is not a number"
    );
    assert_eq!(
        refusal(b"a,b\n1,x\n2\n"),
        "`data.csv` line 3: 1 fields where the lines before have 2"
    );
    assert_eq!(
        refusal(b"a,b\n1,x\n1e300,x\n"),
        "`data.csv` line 3, column `a`: `1e300` is not a finite number of at most 3.4e38"
    );
    assert_eq!(
        refusal(b"a,b\n1,x\ninf,x\n"),
        "`data.csv` line 3, column `a`: `inf` is not a finite number of at most 3.4e38"
    );
    assert_eq!(refusal(b"a,b\n1,\xff\xfe\n"), "`data.csv` line 2: the text is not UTF-8");
    assert_eq!(refusal(b"a,b\n"), "`data.csv` holds no rows of data");
    assert_eq!(refusal(b""), "`data.csv` holds no rows of data");
    assert_eq!(refusal(b"c,b\n1,2\n"), "`data.csv` has no column `a`; it has: c, b");
    assert!(refusal(b"a,a\n1,2\n").starts_with("`data.csv` has 2 columns named `a`"));
    assert_eq!(
        refusal(b"a,b\r\n1,x\r\n2,x\r\nz,x\r\n"),
        "`data.csv` line 4, column `a`: `z` is not a number"
    );
    let quoted_lines = b"a,b\n1,\"two\nlines\"\nx,y\n";
    assert!(refusal(quoted_lines).starts_with("`data.csv` line 4, column `a`: `x`"));
    assert_eq!(
        File::new("a,b\nx,y\n").refusal(),
        "`data.csv` has no numeric column; line 2, column `a` holds `x`"
    );
    let missing = File::new("").columns(&["a"]);
    fs_err::remove_file(missing.folder.path().join("data.csv")).unwrap();
    assert_eq!(missing.refusal(), "open data `data.csv`");
}

#[test]
fn byte_order_marks_spaces_and_windows_lines_are_read() {
    let file = File::new("\u{feff}a , b\r\n 1 ,x\r\n2,x\r\n3,x\r\n4,x\r\n").columns(&["a"]);
    let (x_btf, y_bo) = file.load().unwrap().train.batch(&[0]).unwrap();
    assert_eq!((values(&x_btf), values(&y_bo)), (vec![1., 2., 3.], vec![4.]));
}

/// One gap of each spelling, at the start, inside and at the end.
const GAPS: &str = "v,w\n,0\n1,0\n?,0\nNaN,0\n4,0\nn/a,0\n6,0\n";

#[test]
fn a_missing_value_is_an_error_where_it_is_to_be_one() {
    assert_eq!(
        File::new(GAPS).columns(&["v"]).refusal(),
        "`data.csv` line 2, column `v`: the value is missing (``); data.missing = \"drop\" leaves \
         such rows out, \"interpolate\" fills them"
    );
    assert!(
        File::new(GAPS).columns(&["w"]).load().is_ok(),
        "columns that nobody uses may have gaps"
    );
}

#[test]
fn rows_with_missing_values_are_dropped_and_told() {
    let mut file = File::new(GAPS).columns(&["v"]);
    (file.missing, file.window) = (Missing::Drop, 2);
    let dataset = file.load().unwrap();
    assert_eq!(values(&dataset.train.batch(&[0]).unwrap().0), [1., 4.]);
    assert!(dataset.notes[0].contains("dropped 4 of 7 rows"), "{:?}", dataset.notes);
}

#[test]
fn gaps_are_filled_on_the_straight_line_and_told() {
    let mut file = File::new(GAPS).columns(&["v"]);
    (file.missing, file.window) = (Missing::Interpolate, 6);
    let dataset = file.load().unwrap();
    let (x_btf, y_bo) = dataset.train.batch(&[0]).unwrap();
    assert_eq!(values(&x_btf), [1., 1., 2., 3., 4., 5.]);
    assert_eq!(values(&y_bo), [6.]);
    assert!(dataset.notes[0].contains("interpolated 4 of 7 values of column `v`"));
    let mut empty = File::new("v,w\n,1\n,2\n").columns(&["v"]);
    empty.missing = Missing::Interpolate;
    assert_eq!(empty.refusal(), "`data.csv`: every value of column `v` is missing");
}

#[test]
fn the_shipped_data_sets_load() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../data");
    let read = |file: &str, column: &str| {
        let source = DataSource::Csv {
            path: data.join(file),
            columns: vec![column.to_owned()],
            targets: Vec::new(),
            header: true,
            split: [0.7, 0.15, 0.15],
            normalization: Normalization::Window,
            missing: Missing::Interpolate,
        };
        load(&Data { window: Some(52), ..spec(source) }, 1).unwrap()
    };
    let co2 = read("co2.csv", "co2");
    assert_eq!(co2.train.len(), 1599 - 52);
    assert!(co2.notes[0].contains("interpolated 59 of 2284 values"), "{:?}", co2.notes);
    assert_eq!(read("electricity_victoria.csv", "y").train.len(), 2520 - 52);
}

#[test]
fn a_file_with_another_separator_is_told_as_such() {
    let told = |text: &str, columns: &[&str]| File::new(text).columns(columns).refusal();
    let semicolons = "date;value\n1;2,5\n2;3,5\n3;4,5\n";
    assert!(told(semicolons, &["value"]).starts_with("`data.csv` is separated by semicolons"));
    assert!(told(semicolons, &[]).starts_with("`data.csv` is separated by semicolons"));
    assert!(told("a\tb\n1\t2\n2\t3\n", &[]).starts_with("`data.csv` is separated by tabs"));
    // A file of one column has no separator at all.
    assert!(told("a\nx\ny\n", &["b"]).starts_with("`data.csv` has no column `b`"));
}

use common::spec::{Data, DataSource, Missing, Normalization};
use tch::Tensor;

use super::*;

mod csv;
mod digits;
mod normalization;
mod properties;
mod series;

/// Window 3, horizon 1, no shuffling.
fn spec(source: DataSource) -> Data {
    Data { source, window: Some(3), horizon: Some(1), shuffle: false, drop_last: true }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let mut out = vec![0.0; tensor.numel()];
    tensor.contiguous().copy_data(&mut out, tensor.numel());
    out
}

/// One CSV file in a folder of its own, and the settings to read it with.
struct File {
    folder: tempfile::TempDir,
    columns: Vec<String>,
    targets: Vec<String>,
    header: bool,
    split: [f64; 3],
    normalization: Normalization,
    missing: Missing,
    window: u32,
    horizon: u32,
}

impl File {
    fn new(text: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("data.csv"), text).unwrap();
        Self {
            folder,
            columns: Vec::new(),
            targets: Vec::new(),
            header: true,
            split: [1.0, 0.0, 0.0],
            normalization: Normalization::None,
            missing: Missing::Error,
            window: 3,
            horizon: 1,
        }
    }

    fn columns(mut self, columns: &[&str]) -> Self {
        self.columns = columns.iter().map(|&c| c.to_owned()).collect();
        self
    }

    fn targets(mut self, targets: &[&str]) -> Self {
        self.targets = targets.iter().map(|&c| c.to_owned()).collect();
        self
    }

    fn spec(&self) -> Data {
        Data {
            source: DataSource::Csv {
                path: self.folder.path().join("data.csv"),
                columns: self.columns.clone(),
                targets: self.targets.clone(),
                header: self.header,
                split: self.split,
                normalization: self.normalization,
                missing: self.missing,
            },
            window: Some(self.window),
            horizon: Some(self.horizon),
            shuffle: false,
            drop_last: true,
        }
    }

    fn load(&self) -> Result<Dataset, Error> {
        load(&self.spec(), 1)
    }

    /// The message, with the folder taken out.
    fn refusal(&self) -> String {
        let folder = format!("{}/", self.folder.path().display());
        self.load().unwrap_err().to_string().replace(&folder, "")
    }
}

#[test]
fn an_order_is_a_permutation_that_seed_and_epoch_determine() {
    let shuffled = order(1, 0, 1000, true);
    assert_eq!(shuffled, order(1, 0, 1000, true));
    assert_ne!(shuffled, order(1, 1, 1000, true));
    assert_ne!(shuffled, order(2, 0, 1000, true));
    let mut sorted = shuffled.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, order(1, 0, 1000, false));
    assert_eq!(order(1, 0, 3, false), [0, 1, 2]);
    assert_eq!(order(1, 0, 0, true), Vec::<u32>::new());
    // About half of the samples move far; a shuffle of neighbours alone would not do that.
    let far = shuffled.iter().enumerate().filter(|(i, s)| s.abs_diff(*i as u32) > 250).count();
    assert!((400..700).contains(&far), "{far}");
}

#[test]
fn a_sample_beyond_the_end_is_refused() {
    let dataset = File::new("a\n1\n2\n3\n4\n5\n").load().unwrap();
    assert_eq!(dataset.train.len(), 2);
    let error = dataset.train.batch(&[1, 2]).unwrap_err();
    assert_eq!(error.to_string(), "sample 2 of 2");
}

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::model::{Image, Input};
use crate::tests::cnn::{digits, lines};

fn read(path: &Path, split: [f64; 3]) -> Result<Dataset, Error> {
    let source = DataSource::Digits { path: path.to_owned(), split };
    load(&Data { window: None, horizon: None, ..spec(source) }, 1)
}

fn classes(samples: &Samples) -> Vec<i64> {
    let all: Vec<u32> = (0..samples.len() as u32).collect();
    Vec::try_from(samples.batch(&all).unwrap().1).unwrap()
}

#[test]
fn every_part_has_its_share_of_every_class_and_no_image_is_in_two() {
    let dataset = read(&digits(), [0.7, 0.15, 0.15]).unwrap();
    let shape = Image { channels: 1, height: 8, width: 8 };
    assert_eq!((dataset.input, dataset.output_features), (Input::Image(shape), 10));
    let parts = [&dataset.train, &dataset.validation.unwrap(), &dataset.test.unwrap()];
    assert_eq!(parts.map(Samples::len), [1258, 270, 269]);
    for (part, share) in parts.into_iter().zip([0.7, 0.15, 0.15]) {
        assert_eq!(part.task(), Task::Classification);
        let found = classes(part);
        for class in 0..10 {
            let count = found.iter().filter(|found| **found == class).count() as f64;
            assert!((count - 180.0 * share).abs() < 6.0, "{count} of class {class}");
        }
    }
    let mut seen = BTreeSet::new();
    for part in parts {
        let all: Vec<u32> = (0..part.len() as u32).collect();
        let pixels = values(&part.batch(&all).unwrap().0);
        assert!(pixels.iter().all(|pixel| (0.0..=1.0).contains(pixel)));
        seen.extend(
            pixels.chunks_exact(64).map(|image| bytemuck::cast_slice::<_, u8>(image).to_vec()),
        );
    }
    assert_eq!(seen.len(), 1797, "all images of the set differ");
}

/// Weights of a run with another seed have not seen this one's test part.
#[test]
fn the_seed_moves_no_image_to_another_part() {
    let source = DataSource::Digits { path: digits(), split: [0.5, 0.5, 0.0] };
    let fingerprint = |seed| {
        let spec = Data { window: None, horizon: None, ..spec(source.clone()) };
        load(&spec, seed).unwrap().fingerprint()
    };
    assert_eq!(fingerprint(1), fingerprint(2));
}

#[test]
fn a_plain_file_reads_as_a_gzipped_one_and_keeps_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, packed) = (folder.path().join("a.csv"), folder.path().join("b"));
    let text = lines(30);
    fs_err::write(&plain, &text).unwrap();
    let mut encoder = GzEncoder::new(fs_err::File::create(&packed).unwrap(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap();
    let all = [1.0, 0.0, 0.0];
    let (plain, packed) = (read(&plain, all).unwrap(), read(&packed, all).unwrap());
    assert_eq!(plain.fingerprint(), packed.fingerprint());
    assert!(plain.validation.is_none() && plain.test.is_none());
    let expected: Vec<i64> =
        text.lines().map(|line| line.rsplit(',').next().unwrap().parse().unwrap()).collect();
    assert_eq!(classes(&plain.train), expected);
    let first: Vec<f32> =
        text.lines().next().unwrap().split(',').map(|pixel| pixel.parse().unwrap()).collect();
    let pixels = values(&plain.train.batch(&[0]).unwrap().0);
    assert!(pixels.iter().zip(&first).all(|(ours, written)| ours * 16.0 == *written));
}

#[test]
fn what_is_no_digit_is_named_by_file_line_and_value() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("digits.csv");
    let refuse = |bytes: &[u8], split| {
        fs_err::write(&path, bytes).unwrap();
        let text = crate::error::chain(&read(&path, split).unwrap_err());
        text.replace(&format!("{}", path.display()), "FILE")
    };
    let all = [1.0, 0.0, 0.0];
    let good = lines(3);
    assert_eq!(refuse(b"", all), "`FILE` holds no rows of data");
    let short = format!("{good}1,2,3\n");
    assert_eq!(
        refuse(short.as_bytes(), all),
        "`FILE` line 4: 3 fields; expected 65: the pixels of 8 x 8 and a class"
    );
    let bright = good.replacen("0,0,", "0,17,", 1);
    assert_eq!(
        refuse(bright.as_bytes(), all),
        "`FILE` line 1, column `1`: `17` is not a pixel from 0 to 16"
    );
    let eleven = format!("{}\n", good.lines().next().unwrap().rsplit_once(',').unwrap().0);
    let eleven = eleven.replace('\n', ",10\n");
    assert_eq!(
        refuse(eleven.as_bytes(), all),
        "`FILE` line 1, column `64`: `10` is not a class from 0 to 9"
    );
    assert_eq!(
        refuse(good.as_bytes(), [0.9, 0.05, 0.05]),
        "`FILE`: data.split leaves the validation part without one of its 3 images; give it a \
         larger share, or 0"
    );
    let packed = fs_err::read(digits()).unwrap();
    let torn = refuse(&packed[..packed.len() / 2], all);
    assert!(torn.starts_with("read or unpack `FILE`: "), "{torn}");
    // 80 MB of zeros in 80 kB.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&vec![b'0'; 80 << 20]).unwrap();
    let bomb = refuse(&encoder.finish().unwrap(), all);
    assert_eq!(bomb, "`FILE` has more than 67108864 bytes when unpacked");
}

//! Handwritten digits: a file without a header, plain or gzipped, a line for each image of 8 x 8
//! pixels from 0 to 16, then its class from 0 to 9. What cannot be read is an error with file,
//! line, column and value.
//!
//! Promise: the parts hold the same share of every class, and depend on the file and the split
//! alone, not on the job's seed: weights that another run trained have not seen this one's test
//! part. Within a part, images keep the file's order.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;

use super::images::{ImageSamples, Images};
use super::{Dataset, Error, Samples, split};
use crate::model::{Image, Input};
use crate::rng::Stream;

const SHAPE: Image = Image { channels: 1, height: 8, width: 8 };
const PIXELS: usize = 64;
const BRIGHTEST: u8 = 16;
const CLASSES: usize = 10;
/// Some 400 000 images; the set has 1797. A small gzipped file can hold far more than memory does.
const MAX_BYTES: u64 = 64 << 20;
/// Of a gzipped file.
const MAGIC: [u8; 2] = [0x1f, 0x8b];

pub(super) fn read(path: &Path, shares: [f64; 3]) -> Result<Dataset, Error> {
    let text = unpacked(path)?;
    let images = parse(path, &text)?;
    let members = stratify(&images.classes, shares)?;
    let images = Arc::new(images);
    let mut parts = Vec::with_capacity(members.len());
    for ((part, share), members) in
        ["training", "validation", "test"].into_iter().zip(shares).zip(members)
    {
        let samples = ImageSamples::of(&images, members).map(Samples::Images);
        if samples.is_none() && share > 0.0 {
            let total = images.classes.len();
            return Err(Error::TooFewImages { path: path.display().to_string(), part, total });
        }
        parts.push(samples);
    }
    let (test, validation) = (parts.pop().flatten(), parts.pop().flatten());
    Ok(Dataset {
        train: parts.pop().flatten().expect("the training part's share is above 0"),
        validation,
        test,
        input: Input::Image(SHAPE),
        output_features: CLASSES,
        columns: vec!["pixels".to_owned()],
        targets: vec!["class".to_owned()],
        notes: Vec::new(),
    })
}

fn unpacked(path: &Path) -> Result<Vec<u8>, Error> {
    let name = || path.display().to_string();
    let file = fs_err::File::open(path).map_err(|source| Error::Open { path: name(), source })?;
    let limited = |from: &mut dyn Read| {
        let mut bytes = Vec::new();
        from.take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| Error::Unpack { path: name(), source })?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Error::TooManyBytes { path: name(), limit: MAX_BYTES });
        }
        Ok(bytes)
    };
    let bytes = limited(&mut { file })?;
    if bytes.starts_with(&MAGIC) {
        limited(&mut MultiGzDecoder::new(&bytes[..]))
    } else {
        Ok(bytes)
    }
}

fn parse(path: &Path, text: &[u8]) -> Result<Images, Error> {
    let name = || path.display().to_string();
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text);
    let (mut pixels, mut classes) = (Vec::new(), Vec::new());
    let mut record = csv::ByteRecord::new();
    loop {
        let line = reader.position().line();
        let read = reader.read_byte_record(&mut record);
        if !read.map_err(|source| Error::Read { path: name(), line, source })? {
            break;
        }
        let line = record.position().map_or(line, csv::Position::line);
        if record.len() != PIXELS + 1 {
            let (found, expected) = (record.len() as u64, PIXELS as u64 + 1);
            return Err(Error::NotADigit { path: name(), line, found, expected });
        }
        for (column, field) in record.iter().enumerate() {
            let is_class = column == PIXELS;
            let limit = if is_class { CLASSES as u8 - 1 } else { BRIGHTEST };
            let number = std::str::from_utf8(field).ok().and_then(|text| text.parse::<u8>().ok());
            let Some(number) = number.filter(|number| *number <= limit) else {
                return Err(Error::BadValue {
                    path: name(),
                    line,
                    column: column.to_string(),
                    value: String::from_utf8_lossy(field).into_owned(),
                    expected: if is_class { "a class from 0 to 9" } else { "a pixel from 0 to 16" },
                });
            };
            if is_class {
                classes.push(i64::from(number));
            } else {
                pixels.push(f32::from(number) / f32::from(BRIGHTEST));
            }
        }
    }
    if classes.is_empty() {
        return Err(Error::NoRows { path: name() });
    }
    Ok(Images { shape: SHAPE, pixels, classes })
}

/// The images of each part: of every class the same shares, drawn once and for all.
fn stratify(classes: &[i64], shares: [f64; 3]) -> Result<[Vec<u32>; 3], Error> {
    let mut parts: [Vec<u32>; 3] = Default::default();
    for class in 0..CLASSES as i64 {
        let of_class = |(image, found): (usize, &i64)| (*found == class).then_some(image as u32);
        let mut images: Vec<u32> = classes.iter().enumerate().filter_map(of_class).collect();
        let mut stream = Stream::new("digits/split", &[class as u64]);
        for last in (1..images.len()).rev() {
            images.swap(last, stream.below(last as u32 + 1) as usize);
        }
        for (part, range) in parts.iter_mut().zip(split::parts(images.len(), shares)?) {
            part.extend_from_slice(&images[range]);
        }
    }
    parts.iter_mut().for_each(|part| part.sort_unstable());
    Ok(parts)
}

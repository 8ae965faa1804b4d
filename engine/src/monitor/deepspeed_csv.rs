//! The per-tag files of a DeepSpeed `csv_monitor` block.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::table::Table;
use super::{Error, Position, Scalar, number};

/// DeepSpeed's `csv_monitor` files: one per tag, `Train/Samples/lr` in `Train_Samples_lr.csv` with
/// the header `step,lr`, where `step` counts samples. The header is written once; DeepSpeed
/// writes it again after every restart. The folder is the user's and may hold the files of an older
/// run: a new run sets them aside as `Train_Samples_lr.csv.1` and so on.
#[derive(Debug)]
pub struct DeepSpeedCsv {
    dir: PathBuf,
    from: Position,
    tables: HashMap<&'static str, Table>,
}

impl DeepSpeedCsv {
    pub fn open(dir: &Path, from: Position) -> Result<Self, Error> {
        fs_err::create_dir_all(dir).map_err(Error::io("create folder", dir))?;
        Ok(Self { dir: dir.to_owned(), from, tables: HashMap::new() })
    }

    pub fn append(&mut self, scalars: &[Scalar]) -> Result<(), Error> {
        let mut by_tag: Vec<(&'static str, Vec<&Scalar>)> = Vec::new();
        for scalar in scalars {
            let tag = scalar.metric.tensorboard;
            match by_tag.iter_mut().find(|(known, _)| *known == tag) {
                Some((_, group)) => group.push(scalar),
                None => by_tag.push((tag, vec![scalar])),
            }
        }
        for (tag, group) in by_tag {
            let rows = group.into_iter().map(|s| format!("{},{}", s.samples, number(s.value)));
            self.table(tag)?.append(rows)?;
        }
        Ok(())
    }

    fn table(&mut self, tag: &'static str) -> Result<&mut Table, Error> {
        if !self.tables.contains_key(tag) {
            let column = tag.rsplit('/').next().unwrap_or(tag);
            let path = self.dir.join(format!("{}.csv", tag.replace(['/', ' '], "_")));
            if self.from == Position::default() {
                set_aside(&path)?;
            }
            let table = Table::open(&path, &format!("step,{column}"), self.from.samples)?;
            self.tables.insert(tag, table);
        }
        Ok(self.tables.get_mut(tag).expect("it was inserted above"))
    }
}

/// More runs than that in one folder is a mistake that should be seen.
const MAX_SET_ASIDE: u32 = 10_000;

fn set_aside(path: &Path) -> Result<(), Error> {
    if !path.exists() {
        return Ok(());
    }
    (1..=MAX_SET_ASIDE)
        .map(|n| path.with_extension(format!("csv.{n}")))
        .find(|candidate| !candidate.exists())
        .ok_or_else(|| std::io::ErrorKind::AlreadyExists.into())
        .and_then(|free| fs_err::rename(path, free))
        .map_err(Error::io("set aside", path))
}

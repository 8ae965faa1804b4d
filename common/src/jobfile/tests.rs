use std::collections::BTreeMap;
use std::path::PathBuf;

use expect_test::{Expect, expect};

use super::*;

mod command;
mod diagnostics;
mod elastic;
mod examples;
mod explained;
mod hosts;
mod mistakes;
mod optimizers;
mod precision;
mod sections;
mod seeds;
mod slurm;
mod with_deepspeed;

/// A job file in `/home/ada/jobs`, called from `/home/ada/here`.
#[derive(Default)]
struct Job<'a> {
    text: &'a str,
    files: BTreeMap<&'a str, &'a str>,
    flags: Vec<Override>,
    environment: BTreeMap<&'a str, &'a str>,
    strict: bool,
}

fn job(text: &str) -> Job<'_> {
    Job { text, ..Job::default() }
}

/// The smallest job, with a DeepSpeed configuration beside it.
fn with_deepspeed(json: &str) -> Job<'_> {
    job("deepspeed-config = \"ds.json\"\ndata.kind = \"sine\"\n").file("ds.json", json)
}

impl<'a> Job<'a> {
    fn file(mut self, name: &'a str, text: &'a str) -> Self {
        self.files.insert(name, text);
        self
    }

    fn set(mut self, text: &str) -> Self {
        self.flags.push(Override::set(text).unwrap());
        self
    }

    fn variable(mut self, name: &'a str, value: &'a str) -> Self {
        self.environment.insert(name, value);
        self
    }

    fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    fn load(&self) -> Result<Loaded, Mistakes> {
        let read = |path: &Path| {
            let name = path.strip_prefix("/home/ada/jobs").unwrap().to_str().unwrap();
            self.files
                .get(name)
                .map(|text| (*text).to_owned())
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "No such file or directory"))
        };
        let variable = |name: &str| self.environment.get(name).map(|text| (*text).to_owned());
        load(&Input {
            name: "job.toml",
            text: self.text,
            base_dir: Path::new("/home/ada/jobs"),
            caller_dir: Path::new("/home/ada/here"),
            overrides: &self.flags,
            strict: self.strict,
            read: &read,
            variable: &variable,
        })
    }

    fn spec(&self) -> JobSpec {
        self.load().unwrap_or_else(|mistakes| panic!("{mistakes}")).spec
    }

    /// Mistakes, or `ok`; then warnings and notes.
    fn check(&self, expected: &Expect) {
        let mut shown = String::new();
        let warnings = match self.load() {
            Ok(loaded) => {
                shown.push_str("ok\n");
                for note in loaded.spec.notes {
                    shown.push_str(&format!("note: {note}\n"));
                }
                loaded.warnings
            }
            Err(mistakes) => {
                shown.push_str(&format!("{mistakes}\n"));
                mistakes.warnings
            }
        };
        for warning in warnings {
            shown.push_str(&format!("warning: {warning}\n"));
        }
        expected.assert_eq(&shown);
    }

    /// The rows of `config explain` whose key starts so.
    fn explain(&self, prefix: &str, expected: &Expect) {
        let loaded = self.load().unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let rows = loaded.explain.iter().filter(|row| row.key.starts_with(prefix));
        let shown: String =
            rows.map(|row| format!("{} = {}  # {}\n", row.key, row.value, row.origin)).collect();
        expected.assert_eq(&shown);
    }
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

//! From a job file, its DeepSpeed configuration and the command line to a whole `JobSpec`. Every
//! mistake is found and told at once. Touches no file itself: the caller reads.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::deepspeed::{self, DeepSpeed, Strictness};
use crate::explain::{self, Effective};
use crate::report::Report;
pub use crate::report::{Mistake, Mistakes};
use crate::section::{Dialect, Section};
use crate::slurm::request::Request;
use crate::spec::{
    Device, GradientCompression, Hosts, JobSpec, Model, PrecisionKind, RecurrentKernel,
};
use crate::tree::{self, Place, Table, Value};
use crate::{batch, hjson, length};

mod checkpoint;
mod command;
mod data;
mod hosts;
mod job;
mod join;
mod model;
mod optimizer;
mod precision;
mod restart;
mod schedule;
mod slurm;
mod training;

/// What a job is made of.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "holds closures")]
pub struct Input<'a> {
    /// The job file's name for messages, as the user wrote it.
    pub name: &'a str,
    /// Its content.
    pub text: &'a str,
    /// Absolute folder of the job file: inputs are relative to it.
    pub base_dir: &'a Path,
    /// Absolute folder of the caller: outputs are relative to it.
    pub caller_dir: &'a Path,
    /// `--set`, `--gpus` and their like, in order; the last one wins.
    pub overrides: &'a [Override],
    /// Unknown and ignored DeepSpeed keys are mistakes too.
    pub strict: bool,
    /// Reads a file that the job names (`deepspeed-config`); the path is absolute.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
    /// Looks up a variable of the caller's environment (`DEEPSPEED_TIMEOUT`).
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

/// A job that is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub spec: JobSpec,
    /// What it asks SLURM for, where it is submitted with an allocation of its own.
    pub slurm: Request,
    /// Doubtful, but no mistake: told on stderr.
    pub warnings: Vec<String>,
    /// Every value with its origin, in the order of the sections.
    pub explain: Vec<Effective>,
}

/// A value from the command line, which wins over every file.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    pub(crate) path: Vec<String>,
    pub(crate) value: toml::Value,
    /// `--set training.epochs=3`, `--gpus 2`.
    pub(crate) origin: String,
}

/// A command-line assignment that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOverride {
    #[error("`--set {0}` has no `=`; write --set training.epochs=3")]
    NoValue(String),
    #[error("`--set {0}` has an empty part in its key; write --set training.epochs=3")]
    NoKey(String),
    #[error("`--env {0}` is not NAME=VALUE")]
    NotAVariable(String),
}

impl Override {
    /// `--set a.b=V`: V is TOML, or a string where it is none.
    pub fn set(text: &str) -> Result<Self, InvalidOverride> {
        let (key, value) =
            text.split_once('=').ok_or_else(|| InvalidOverride::NoValue(text.to_owned()))?;
        let path: Vec<String> = key.split('.').map(|part| part.trim().to_owned()).collect();
        if path.iter().any(String::is_empty) {
            return Err(InvalidOverride::NoKey(text.to_owned()));
        }
        Ok(Self { path, value: toml_or_text(value), origin: format!("--set {text}") })
    }

    /// `--env NAME=VALUE`: a variable of every trainer.
    pub fn env(text: &str) -> Result<Self, InvalidOverride> {
        match text.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => Ok(Self {
                path: vec!["job".to_owned(), "env".to_owned(), name.trim().to_owned()],
                value: toml::Value::String(value.to_owned()),
                origin: format!("--env {text}"),
            }),
            _ => Err(InvalidOverride::NotAVariable(text.to_owned())),
        }
    }

    /// Flags that name the hosts: `--hostfile hosts.txt --num-nodes 2`.
    pub fn hosts(hosts: &Hosts, flags: &str) -> Self {
        let value = toml::Value::try_from(hosts).expect("TOML has names and small numbers");
        Self::flag("resources.hosts", value, flags)
    }

    /// A flag that stands for a key: `flag("resources.world-size", 2, "--gpus 2")`.
    pub fn flag(key: &str, value: impl Into<toml::Value>, flag: &str) -> Self {
        Self {
            path: key.split('.').map(str::to_owned).collect(),
            value: value.into(),
            origin: flag.to_owned(),
        }
    }
}

/// `V` as one TOML value; anything else is text.
fn toml_or_text(text: &str) -> toml::Value {
    let text = text.trim();
    match toml::from_str::<toml::Table>(&format!("value = {text}\n")) {
        Ok(mut table) if table.len() == 1 => {
            table.remove("value").expect("the only key of the document is `value`")
        }
        _ => toml::Value::String(text.to_owned()),
    }
}

/// Where a value that nobody wrote comes from.
const DEFAULT: &str = "default";

/// Names that other tools and the seeds use, and ours.
const SYNONYMS: &[(&str, &str)] = &[
    ("sequence-length", "window"),
    ("seq-length", "window"),
    ("seq-len", "window"),
    ("data-samples", "samples"),
    ("n-samples", "samples"),
    ("n-features", "features"),
    ("noise-level", "noise"),
    ("train-batch-size", "batch-size"),
    ("train-micro-batch-size-per-gpu", "micro-batch-size"),
    ("gradient-accumulation-steps", "gradient-accumulation"),
    ("lr", "learning-rate"),
    ("patience", "early-stopping"),
    ("num-epochs", "epochs"),
    ("gpus", "world-size"),
    ("num-gpus", "world-size"),
    ("ranks", "world-size"),
    ("file", "path"),
    ("type", "kind"),
    ("clip", "gradient-clipping"),
    ("grad-clip", "gradient-clipping"),
];

/// What every section may look at.
struct Context<'a> {
    /// Name of the job file: mistakes about what is missing are told there.
    name: Arc<str>,
    /// Its name without folder and extension: the job's name where none is given.
    job_stem: String,
    base_dir: &'a Path,
    caller_dir: &'a Path,
    variable: &'a dyn Fn(&str) -> Option<String>,
    deepspeed: &'a DeepSpeed,
    report: &'a Report,
}

impl Context<'_> {
    fn missing(&self, key: &str, message: impl Into<String>) {
        self.report.wrong_key(&Place::file(&self.name, None), key, message);
    }
}

/// Reads, checks and completes a job. All mistakes are reported together.
pub fn load(input: &Input<'_>) -> Result<Loaded, Mistakes> {
    let report = Report::default();
    let read = read(input, &report);
    let collected = report.collected();
    match read {
        Some((mut spec, slurm)) if collected.mistakes.is_empty() => {
            let mut explain = explain::in_order(collected.effective);
            if spec.command.is_some() {
                command::explain(&mut explain);
                return Ok(Loaded { spec, slurm, warnings: collected.warnings, explain });
            }
            spec.notes = collected.notes;
            spec.notes.extend(explain::auto_note(&collected.deepspeed, &explain));
            explain.extend(explain::deepspeed_rows(collected.deepspeed, &explain));
            Ok(Loaded { spec, slurm, warnings: collected.warnings, explain })
        }
        _ => Err(Mistakes { mistakes: collected.mistakes, warnings: collected.warnings }),
    }
}

/// None only after a mistake without which nothing else can be judged.
fn read(input: &Input<'_>, report: &Report) -> Option<(JobSpec, Request)> {
    let name: Arc<str> = Arc::from(input.name);
    let tree = tree(input, &name, report)?;
    if is_effective_job(&tree) {
        let message = "this is an effective job, written to be read; \
                       run the job.toml beside it";
        report.wrong_key(&Place::file(&name, None), "", message);
        return None;
    }
    let root = Section::root(&tree, Dialect::Job, report);
    // A command reads its DeepSpeed configuration itself.
    let is_command = command::is_given(&root);
    let deepspeed_tree = if is_command { None } else { deepspeed_tree(&root, input, report) };
    let strictness = if input.strict { Strictness::Strict } else { Strictness::Lenient };
    let settings = deepspeed::Settings { strictness, caller_dir: input.caller_dir };
    let deepspeed = deepspeed::read(deepspeed_tree.as_ref(), settings, report);
    let stem = Path::new(input.name).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let context = Context {
        name,
        job_stem: stem.filter(|stem| !stem.is_empty()).unwrap_or_else(|| "job".to_owned()),
        base_dir: input.base_dir,
        caller_dir: input.caller_dir,
        variable: input.variable,
        deepspeed: &deepspeed,
        report,
    };
    let spec = match is_command {
        true => command::sections(&root, &context),
        false => sections(&root, &context),
    };
    let slurm = slurm::read(&root, spec.as_ref().map(|spec| &spec.resources));
    root.not_yet(&["predict", "generate"], "this section");
    root.elsewhere(&["command"], "write it as a list below [job]: job.command");
    root.refuse_unknown(&[]);
    let spec = spec?;
    if spec.command.is_none() {
        cross_check(&spec, &context);
    }
    Some((spec, slurm?))
}

/// What a run leaves as `effective.toml` has other sections than a job file.
fn is_effective_job(tree: &Table) -> bool {
    let has_source = match tree.get("data").map(|node| &node.value) {
        Some(Value::Table(data)) => data.get("source").is_some(),
        _ => false,
    };
    has_source && tree.get("zero").is_some()
}

/// The job file with the command line over it.
fn tree(input: &Input<'_>, name: &Arc<str>, report: &Report) -> Option<Table> {
    let mut tree = match tree::from_toml::parse(name, input.text) {
        Ok(tree) => tree,
        Err(errors) => {
            for error in errors {
                report.wrong_key(&error.place, "", error.message);
            }
            return None;
        }
    };
    for from_flag in input.overrides {
        let place = Place::command_line(&from_flag.origin);
        let node = tree::from_toml::from_value(&from_flag.value, &place);
        tree.overlay(Table::with(&from_flag.path, node));
    }
    Some(tree)
}

/// The DeepSpeed file with the `[deepspeed]` table over it.
fn deepspeed_tree(root: &Section<'_>, input: &Input<'_>, report: &Report) -> Option<Table> {
    let inline = root.sub("deepspeed").table().cloned();
    let Some(path) = root.path("deepspeed-config", input.base_dir) else { return inline };
    let written = root.text("deepspeed-config").map_or(String::new(), |found| found.value);
    let text = match (input.read)(&path.value) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("read `{}`: {error}", path.value.display());
            root.refuse("deepspeed-config", message);
            return inline;
        }
    };
    match hjson::parse(&Arc::from(written), &text) {
        Ok((mut table, duplicates)) => {
            for duplicate in duplicates {
                let message = format!("written twice, first at {}", duplicate.first);
                report.wrong_key(&duplicate.place, &duplicate.path, message);
            }
            table.overlay(inline.unwrap_or_default());
            Some(table)
        }
        Err(error) => {
            report.wrong_key(&error.place, "", error.message);
            inline
        }
    }
}

fn sections(root: &Section<'_>, context: &Context<'_>) -> Option<JobSpec> {
    let (job, _) = job::read(root, context);
    let resources = job::read_resources(root);
    let zero = training::read_zero(context, resources.device);
    let checkpoint = checkpoint::read(root, context);
    let monitor = checkpoint::read_monitor(root, context);
    let restart = restart::read(root, false);
    // The kind of the data decides the defaults of these; they are read in any case, so that
    // their mistakes are told together with the missing kind.
    let data = data::read(root, context);
    let model = model::read(root, context, data.as_ref().map(|(kind, _)| *kind));
    let of_data = data.as_ref().map(|(kind, data)| (*kind, data));
    let mut training = training::read(root, context, of_data, resources.device);
    if resources.is_elastic() {
        match batch::pin(&training.batch, resources.max_ranks) {
            Ok(pinned) => training.batch = pinned,
            Err(error) => context.missing("training", error.to_string()),
        }
    }
    let (_, data) = data?;
    Some(JobSpec {
        command: None,
        job,
        resources,
        model,
        data,
        training,
        zero,
        checkpoint,
        monitor,
        restart,
        notes: Vec::new(),
    })
}

/// What only the whole job can tell.
fn cross_check(spec: &JobSpec, context: &Context<'_>) {
    let resources = &spec.resources;
    let smallest = resources.smallest_world();
    // Without a world, one rank: what is impossible for one is impossible for all.
    let mut possible = batch::worlds(&spec.training.batch, smallest, resources.largest_world());
    let is_possible = resources.is_elastic() && possible.next().is_some();
    if !is_possible && let Err(error) = batch::plan(&spec.training.batch, smallest) {
        context.missing("training", error.to_string());
    }
    for warning in length::warnings(spec, resources.world_size) {
        context.report.warn(warning);
    }
    let kernel = match &spec.model {
        Model::Lstm(model) | Model::Gru(model) => model.kernel,
        Model::Cnn(_) => RecurrentKernel::Auto,
    };
    let effective = spec.training.precision.effective;
    if kernel == RecurrentKernel::Native && effective != PrecisionKind::Fp32 {
        let message = "\"native\" computes in fp32 only; set it to \"auto\", or \
                       training.precision to \"fp32\"";
        context.missing("model.kernel", message);
    }
    let is_packed = spec.training.gradient_compression == GradientCompression::Int8;
    if is_packed && effective == PrecisionKind::Fp16 {
        let message = "\"int8\" remembers what rounding took, and the loss scale of fp16 changes under \
                       it; set it to \"none\", or training.precision to \"bf16\" or \"fp32\"";
        context.missing("training.gradient-compression", message);
    }
    if spec.resources.device == Device::Cuda {
        check_for_gpus(context, spec, kernel);
    }
}

/// What is the host's alone.
fn check_for_gpus(context: &Context<'_>, spec: &JobSpec, kernel: RecurrentKernel) {
    if kernel == RecurrentKernel::Native {
        let message =
            "\"native\" computes on CPUs only; set it to \"auto\", or resources.device to \"cpu\"";
        context.missing("model.kernel", message);
    }
    let is_packed = spec.training.gradient_compression == GradientCompression::Int8;
    if is_packed && spec.zero.offload_optimizer.is_none() {
        let message = "\"int8\" packs gradients on the host, and on a GPU they stay there; set it to \
                       \"none\" or \"bf16\", or offload_optimizer in the DeepSpeed configuration";
        context.missing("training.gradient-compression", message);
    }
}

#[cfg(test)]
mod tests;

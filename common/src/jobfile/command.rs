//! `job.command`: a program of the user's own in place of our trainer. It decides what it trains, so
//! the sections that say that to our trainer are refused by name.

use crate::cores::CoreList;
use crate::explain::Effective;
use crate::section::{Found, IntegerRange, Section};
use crate::spec::{Command, CoreBinding, JobSpec};
use crate::tree::Value;
use crate::units::count;

use super::{Context, job, restart};

/// More words than this are no command line that a person wrote.
const MAX_WORDS: usize = 4096;

const POSITION: IntegerRange = IntegerRange::new(1, MAX_WORDS as i64);

const BIND: &str = "bind-cores-to-rank";
const BIND_LIST: &str = "bind-core-list";

/// Keys and sections that only our trainer reads.
const TRAINERS: [&str; 7] =
    ["model", "data", "training", "deepspeed", "deepspeed-config", "checkpoint", "monitor"];

/// Keys of other sections that only our trainer reads.
const UNUSED: [&str; 4] =
    ["job.seed", "job.collective-timeout", "job.hang-timeout", "resources.transport"];

/// Whether the job is one of a command, be it right or wrong.
pub(super) fn is_given(root: &Section<'_>) -> bool {
    root.sub_or_plain("job").lookup("command").is_some()
}

/// Intel's OpenMP reads it; DeepSpeed refuses to bind beside it, too.
const AFFINITY: &str = "KMP_AFFINITY";

/// None: our trainer runs, or a mistake was told.
pub(super) fn read(section: &Section<'_>, context: &Context<'_>) -> Option<Command> {
    let working_dir = section.path("working-dir", context.base_dir);
    let local_rank_at: Option<Found<u32>> = section.integer("local-rank-at", POSITION);
    if section.lookup("command").is_none() {
        for key in ["working-dir", "local-rank-at"] {
            section.refuse(key, "it is for a job with job.command");
        }
        section.elsewhere(
            &[BIND, BIND_LIST],
            "it is for a job with job.command; worker join has it for others",
        );
        return None;
    }
    let expected = "the program and its arguments, such as [\"python\", \"train.py\"]";
    let line = section.list("command", expected, |item| match &item.value {
        Value::Text(text) if !text.contains('\0') => Some(text.clone()),
        Value::Integer(_) | Value::Float(_) => Some(item.value.to_string()),
        _ => None,
    })?;
    if line.value.first().is_none_or(String::is_empty) || line.value.len() > MAX_WORDS {
        let message = format!("expected {expected}; 1 to {MAX_WORDS} words");
        section.refuse("command", message);
        return None;
    }
    if local_rank_at.as_ref().is_some_and(|at| at.value as usize > line.value.len()) {
        let most = line.value.len();
        let words = count(most as u64, "word");
        section.refuse("local-rank-at", format!("job.command has {words}: expected 1 to {most}"));
    }
    let line = line.value.clone();
    let base = context.base_dir.to_owned();
    section.record("command", &crate::section::toml_text(&line), origin_of(section, "command"));
    Some(Command {
        line,
        working_dir: section.settle(
            "working-dir",
            working_dir,
            (base, "default: the job file's folder"),
        ),
        local_rank_at: section.settle_optional(
            "local-rank-at",
            local_rank_at,
            "default: no --local_rank is passed",
        ),
        binding: read_binding(section),
    })
}

/// A list means binding, also where nothing else asks for it.
fn read_binding(section: &Section<'_>) -> Option<CoreBinding> {
    let asked = section.boolean(BIND);
    let list = section.lookup(BIND_LIST).and_then(|node| match &node.value {
        Value::Integer(cpu) => Some(cpu.to_string()),
        _ => section.text(BIND_LIST).map(|found| found.value),
    });
    let list = list.and_then(|text| match text.parse::<CoreList>() {
        Ok(list) => Some(list),
        Err(error) => {
            section.refuse(BIND_LIST, error.to_string());
            None
        }
    });
    if list.is_some() && asked.as_ref().is_some_and(|asked| !asked.value) {
        section.refuse(BIND_LIST, "job.bind-cores-to-rank is false; leave one of them out");
    }
    let is_bound = list.is_some();
    let why =
        if is_bound { "job.bind-core-list asks for it" } else { "default: as the worker has it" };
    let is_bound = section.settle(BIND, asked, (is_bound, why));
    match &list {
        Some(list) => {
            section.record(
                BIND_LIST,
                &crate::section::toml_text(list),
                origin_of(section, BIND_LIST),
            );
        }
        None => {
            section.record(BIND_LIST, &"-", "default: a part of all cores for each rank".to_owned())
        }
    }
    is_bound.then_some(CoreBinding { list })
}

fn origin_of(section: &Section<'_>, key: &str) -> String {
    section.lookup(key).map_or_else(String::new, |node| node.place.to_string())
}

/// The whole job of a command.
pub(super) fn sections(root: &Section<'_>, context: &Context<'_>) -> Option<JobSpec> {
    let (job, command) = job::read(root, context);
    let resources = job::read_resources(root);
    let restart = restart::read(root, true);
    root.elsewhere(
        &TRAINERS,
        "a job with job.command has none: the command decides what it trains",
    );
    for key in UNUSED {
        let (section, key) = key.split_once('.').expect("each names its section");
        let message = match key {
            "hang-timeout" => Command::UNWATCHED,
            _ => "a job with job.command has none: only our trainer reads it",
        };
        root.sub(section).elsewhere(&[key], message);
    }
    for (name, found) in root.sub("job").texts("env") {
        if name == AFFINITY && command.as_ref().is_some_and(|command| command.binding.is_some()) {
            let message = "it places threads where job.bind-cores-to-rank forbids it; give either";
            context.report.wrong_key(&found.place, &format!("job.env.{name}"), message);
        }
        if Command::OWN_VARIABLES.contains(&name.as_str()) {
            let message = "each rank of a command has its own";
            context.report.wrong_key(&found.place, &format!("job.env.{name}"), message);
        }
    }
    Some(JobSpec::of_command(command?, job, resources, restart))
}

/// What has no meaning for a command says so.
pub(super) fn explain(rows: &mut [Effective]) {
    for row in rows.iter_mut().filter(|row| UNUSED.contains(&row.key.as_str())) {
        "-".clone_into(&mut row.value);
        row.origin = match row.key.as_str() {
            "job.hang-timeout" => Command::UNWATCHED.to_owned(),
            _ => "a command does not read it".to_owned(),
        };
    }
}

//! What a command line of torchrun or deepspeed means: a job. Pure: what this machine has is passed
//! in.

use std::num::NonZeroU32;
use std::path::Path;
use std::str::FromStr;

use common::hostfile::{Filter, Hostfile};
use common::spec::Hosts;
use toml::{Table, Value};

use crate::commands::launch::Args;
use crate::hosts::{self, Chosen, FilterArgs};
use crate::launch::surroundings::Surroundings;
use crate::launch::{Error, variables};

/// Whose defaults hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Like {
    Torchrun,
    Deepspeed,
}

/// Ranks of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nproc {
    Count(NonZeroU32),
    Gpu,
    Cpu,
    /// One per GPU where there are any, else one per core.
    Auto,
}

impl FromStr for Nproc {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "gpu" => Ok(Self::Gpu),
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::Auto),
            _ => text
                .parse()
                .map(Self::Count)
                .map_err(|_| "expected a number of at least 1, `gpu`, `cpu` or `auto`".to_owned()),
        }
    }
}

/// The hosts and slots that are named; None: all that `--nproc` asks for.
pub(super) fn hosts(args: &Args, around: &Surroundings) -> Result<Option<Chosen>, Error> {
    // torchrun's words for the same.
    let nnodes = args.nnodes.as_ref().and_then(|nodes| nodes.split(':').next()?.parse().ok());
    let nproc = match args.nproc {
        Some(Nproc::Count(number)) => Some(number),
        _ => None,
    };
    let filter = FilterArgs {
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        num_nodes: args.num_nodes.or(nnodes),
        num_gpus: args.num_gpus.or(nproc),
    };
    if let Some(file) = &args.hostfile {
        return Ok(Some(hosts::choose(file, &filter)?));
    }
    let flag = match (&args.include, &args.exclude) {
        (None, None) => return Ok(None),
        (Some(_), _) => "--include",
        (None, Some(_)) => "--exclude",
    };
    // Which hosts a cluster has is not known here, and those of this machine alone may never be there.
    if args.master.is_some() {
        return Err(Error::NoHostfile { flag });
    }
    // As deepspeed: this machine alone, with all that it has.
    let slots = if around.gpus > 0 { around.gpus } else { around.cores };
    let part: Filter = filter.filter().map_err(hosts::Error::from)?;
    let hostfile = Hostfile::parse("this machine", &format!("localhost slots={slots}\n"))
        .map_err(hosts::Error::Mistakes)?;
    let selection = hostfile.select(&part).map_err(hosts::Error::from)?;
    let flags = filter.flags().trim_start().to_owned();
    Ok(Some(Chosen { hostfile, selection, flags }))
}

/// A job, and what must be said about it.
#[derive(Debug)]
pub(super) struct Meaning {
    pub(super) job_toml: String,
    pub(super) notes: Vec<String>,
}

impl Meaning {
    pub(super) fn of(
        args: &Args,
        chosen: Option<&Chosen>,
        around: &Surroundings,
    ) -> Result<Self, Error> {
        let script = args.line.first().cloned().unwrap_or_default();
        if script.starts_with('-') {
            return Err(Error::UnknownFlag(script));
        }
        args.compatible.check()?;
        let nodes = nodes(args)?;
        let (like, place) = (like(args), Place::of(args, chosen, around)?);
        check_master(args, place, around)?;
        let mut notes = args.compatible.without_effect();
        notes.extend(useless_here(args, place));
        let (line, script_at) = line(args, place, around);
        let mut job = Table::new();
        job.insert("name".to_owned(), Value::String(name(&script)));
        job.insert("command".to_owned(), line.into());
        job.insert("working-dir".to_owned(), text(&around.folder));
        if like == Like::Deepspeed && !args.no_local_rank {
            job.insert("local-rank-at".to_owned(), Value::Integer(script_at + 1));
            if args.like.is_none() {
                notes.push(
                    "the script gets --local_rank=N, as from deepspeed; --no_local_rank: it \
                            does not"
                        .to_owned(),
                );
            }
        }
        if let Some(folder) = &args.log_dir {
            job.insert("output-dir".to_owned(), text(&around.folder.join(folder)));
        }
        if args.binds_cores() || args.compatible.binds_cores() {
            job.insert("bind-cores-to-rank".to_owned(), Value::Boolean(true));
        }
        if let Some(list) = &args.bind_core_list {
            job.insert("bind-core-list".to_owned(), Value::String(list.to_string()));
        }
        job.insert(
            "env".to_owned(),
            Value::Table(variables::of_job(args, like, place, chosen, around)?),
        );
        let mut resources = Table::new();
        if chosen.is_none() {
            let ranks = i64::from(nproc(args, like, around)?.get()) * i64::from(nodes);
            resources.insert("world-size".to_owned(), Value::Integer(ranks));
            resources.insert("workers".to_owned(), Value::Integer(nodes.into()));
        }
        if args.master.is_none() {
            // A slot is a core: which GPU is whose is the script's to say, by LOCAL_RANK.
            resources.insert("device".to_owned(), Value::String("cpu".to_owned()));
        }
        let whole = [
            ("job".to_owned(), Value::Table(job)),
            ("resources".to_owned(), Value::Table(resources)),
            ("restart".to_owned(), Value::Table(restart(args))),
        ];
        let job_toml = toml::to_string(&Table::from_iter(whole)).expect("TOML has all of it");
        Ok(Self { job_toml, notes })
    }
}

/// Where the ranks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Here,
    /// On workers that ssh starts.
    OnHosts,
    /// On the workers of a coordinator.
    OnCluster,
}

impl Place {
    fn of(args: &Args, chosen: Option<&Chosen>, around: &Surroundings) -> Result<Self, Error> {
        let hosts = chosen.map(Chosen::hosts).transpose()?;
        let is_elsewhere = |hosts: &Hosts| hosts.iter().any(|host| !around.machine.is(host));
        Ok(match &args.master {
            Some(_) => Self::OnCluster,
            None if hosts.as_ref().is_some_and(is_elsewhere) => Self::OnHosts,
            None => Self::Here,
        })
    }
}

fn text(path: &Path) -> Value {
    Value::String(path.to_string_lossy().into_owned())
}

/// A job's name, of the script's.
fn name(script: &str) -> String {
    let stem = Path::new(script).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    stem.filter(|stem| !stem.is_empty()).unwrap_or_else(|| "launch".to_owned())
}

/// As asked; else by a flag that torchrun does not have.
pub(super) fn like(args: &Args) -> Like {
    if let Some(like) = args.like {
        return like;
    }
    let is_deepspeeds = args.num_gpus.is_some()
        || args.num_nodes.is_some()
        || args.hostfile.is_some()
        || args.include.is_some()
        || args.exclude.is_some()
        || args.no_local_rank
        || !args.ssh.of_deepspeed().is_empty()
        || (args.binds_cores() && args.nproc.is_none())
        || args.compatible.is_deepspeeds();
    if is_deepspeeds { Like::Deepspeed } else { Like::Torchrun }
}

/// Program and arguments, and the place of the script among them.
fn line(args: &Args, place: Place, around: &Surroundings) -> (Vec<String>, i64) {
    let mut line = Vec::new();
    if !args.no_python {
        line.extend([python(place, around), "-u".to_owned()]);
        if args.module {
            line.push("-m".to_owned());
        }
    }
    let script_at = i64::try_from(line.len()).expect("a few words");
    line.extend(args.line.iter().cloned());
    (line, script_at)
}

/// On hosts it is this one, at the same path, as under deepspeed: a session of ssh has a PATH of its own.
fn python(place: Place, around: &Surroundings) -> String {
    if let Some(python) = around.variable("PYTHON_EXEC") {
        return python.to_owned();
    }
    let found = |name| Some((name, (around.find_program)(name)?));
    match (found("python").or_else(|| found("python3")), place) {
        (Some((_, path)), Place::OnHosts) => path.to_string_lossy().into_owned(),
        (Some((name, _)), _) => name.to_owned(),
        (None, _) => "python3".to_owned(),
    }
}

/// Ranks of each node.
pub(super) fn nproc(args: &Args, like: Like, around: &Surroundings) -> Result<NonZeroU32, Error> {
    let count = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    let gpus = around.visible_gpus();
    match (args.num_gpus, args.nproc, like) {
        (Some(number), ..) | (None, Some(Nproc::Count(number)), _) => Ok(number),
        (None, Some(Nproc::Cpu), _) => Ok(count(around.cores)),
        (None, Some(Nproc::Gpu), _) if gpus == 0 => Err(Error::NoGpus("all")),
        (None, Some(Nproc::Auto), _) if gpus == 0 => Ok(count(around.cores)),
        (None, Some(Nproc::Gpu | Nproc::Auto), _) => Ok(count(gpus)),
        (None, None, Like::Deepspeed) => Ok(count(gpus)),
        (None, None, Like::Torchrun) => Ok(NonZeroU32::MIN),
    }
}

/// `2`, or `2:2`; more than one only on a cluster.
fn nodes(args: &Args) -> Result<u32, Error> {
    let number = |text: &str| text.parse::<NonZeroU32>().ok().map(NonZeroU32::get);
    let asked = match (&args.nnodes, args.num_nodes) {
        (None, None) => return Ok(1),
        (None, Some(nodes)) => nodes.get(),
        (Some(written), _) => match written.split_once(':') {
            None => number(written),
            Some((least, most)) if least == most => number(least),
            Some((least, most)) if number(least).is_some() && number(most).is_some() => {
                return Err(Error::NotSupported {
                    flag: "--nnodes MIN:MAX",
                    instead: "submit a job with job.command, resources.min-ranks and max-ranks: \
                              docs/launch.md",
                });
            }
            Some(_) => None,
        }
        .ok_or_else(|| Error::Nodes(written.clone()))?,
    };
    if asked > 1 && args.master.is_none() && args.hostfile.is_none() {
        return Err(Error::OneNode(asked.to_string()));
    }
    Ok(asked)
}

/// Flags that have an effect elsewhere alone.
fn useless_here(args: &Args, place: Place) -> Vec<String> {
    if place == Place::OnHosts {
        let note = "--master-addr has no effect: it is the address of the host that has rank 0";
        return args.compatible.master_addr.iter().map(|_| note.to_owned()).collect();
    }
    let useless = |flag| format!("{flag} has no effect: no other host is named");
    args.ssh.of_deepspeed().into_iter().map(useless).collect()
}

/// `--master-addr` names this machine, or nothing could be reached there.
fn check_master(args: &Args, place: Place, around: &Surroundings) -> Result<(), Error> {
    let Some(address) = &args.compatible.master_addr else { return Ok(()) };
    if place == Place::OnHosts {
        return Ok(());
    }
    if args.master.is_some() {
        let why = "it is the address of the worker that has rank 0";
        return Err(Error::WithMaster { flag: "--master-addr", why });
    }
    let is_here = address == "localhost"
        || *address == around.machine.hostname
        || address.parse().is_ok_and(around.machine.has_address);
    if is_here { Ok(()) } else { Err(Error::OtherMaster(address.clone())) }
}

/// As torchrun: whatever went wrong counts, and the next attempt starts at once.
fn restart(args: &Args) -> Table {
    let restarts = Value::Integer(args.max_restarts.into());
    let mut table = Table::new();
    table.insert("application".to_owned(), restarts.clone());
    table.insert("infrastructure".to_owned(), restarts);
    for key in ["backoff", "max-backoff"] {
        table.insert(key.to_owned(), Value::String("1ms".to_owned()));
    }
    table
}

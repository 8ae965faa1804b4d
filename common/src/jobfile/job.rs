//! `[job]` and `[resources]`: what the job is called, what it may use and where it writes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::section::{Found, IntegerRange, Section};
use crate::spec::{Command, Device, Job, Resources, Transport};
use crate::tree::Place;
use crate::units::count;

use super::{Context, DEFAULT, SYNONYMS, command, hosts};

/// TOML has no larger integers.
const SEED: IntegerRange = IntegerRange::new(0, i64::MAX);
const PRIORITY: IntegerRange = IntegerRange::new(-1000, 1000);
const MAX_RANKS: u32 = 4096;
const RANKS: IntegerRange = IntegerRange::new(1, MAX_RANKS as i64);
const THREADS: IntegerRange = IntegerRange::new(1, 1024);
/// DeepSpeed's own, since 0.19.6.
const COLLECTIVE_TIMEOUT: Duration = Duration::from_secs(600);
const HANG_TIMEOUT_MIN: Duration = Duration::from_secs(1);
const DEEPSPEED_TIMEOUT: &str = "DEEPSPEED_TIMEOUT";

/// With what it runs in place of our trainer.
pub(super) fn read(root: &Section<'_>, context: &Context<'_>) -> (Job, Option<Command>) {
    let section = root.sub("job");
    let stem = context.job_stem.clone();
    let name = section.filled_text("name");
    let name = section.settle("name", name, (stem, "default: the job file's name"));
    let seed = section.settle("seed", section.integer("seed", SEED), (42, DEFAULT));
    let priority = section.settle("priority", section.integer("priority", PRIORITY), (0, DEFAULT));
    let time_limit = time_limit(&section);
    let output_dir = section.path("output-dir", context.caller_dir);
    let runs: PathBuf = context.caller_dir.join("runs");
    let output_dir = section.settle("output-dir", output_dir, (runs, "default: runs"));
    let labels = texts(&section, "labels");
    let env_found = section.texts("env");
    for (name, found) in &env_found {
        if name.is_empty() || name.contains(['=', '\0']) || found.value.contains('\0') {
            let message = "expected the name and text of an environment variable";
            let key = format!("job.env.{name}");
            section.report().wrong_key(&found.place, &key, message);
        }
    }
    let collective_timeout = collective_timeout(&section, &env_found, context);
    let hang_timeout = hang_timeout(&section);
    let env = recorded(&section, "env", env_found);
    let command = command::read(&section, context);
    section.not_yet(&["depends-on", "deadline"], "jobs of this kind");
    section.refuse_unknown(SYNONYMS);
    let job = Job {
        name,
        seed,
        priority,
        output_dir,
        labels,
        env,
        collective_timeout,
        hang_timeout,
        time_limit,
    };
    (job, command)
}

fn time_limit(section: &Section<'_>) -> Option<Duration> {
    let found = section.duration("time-limit");
    let (shown, origin) = match &found {
        Some(found) => {
            (format!("\"{}\"", humantime::format_duration(found.value)), found.origin.clone())
        }
        None => ("-".to_owned(), "default: no bound".to_owned()),
    };
    section.record("time-limit", &shown, origin);
    found.map(|found| found.value)
}

fn texts(section: &Section<'_>, key: &str) -> BTreeMap<String, String> {
    let found = section.texts(key);
    recorded(section, key, found)
}

fn recorded(
    section: &Section<'_>,
    key: &str,
    found: Vec<(String, Found<String>)>,
) -> BTreeMap<String, String> {
    for (name, value) in &found {
        section.record(
            &format!("{key}.{name}"),
            &format!("{:?}", value.value),
            value.origin.clone(),
        );
    }
    found.into_iter().map(|(name, found)| (name, found.value)).collect()
}

fn hang_timeout(section: &Section<'_>) -> Duration {
    let found = section.duration("hang-timeout");
    let (value, origin) = match found {
        Some(found) if found.value < HANG_TIMEOUT_MIN => {
            section.refuse(
                "hang-timeout",
                "expected at least 1s: ranks tell once a second where they are".to_owned(),
            );
            (Job::HANG_TIMEOUT, DEFAULT.to_owned())
        }
        Some(found) => (found.value, found.origin),
        None => (Job::HANG_TIMEOUT, DEFAULT.to_owned()),
    };
    section.record("hang-timeout", &format!("\"{}\"", humantime::format_duration(value)), origin);
    value
}

/// The job's own key; else DEEPSPEED_TIMEOUT in minutes, from the job's variables or the caller's.
fn collective_timeout(
    section: &Section<'_>,
    env: &[(String, Found<String>)],
    context: &Context<'_>,
) -> Duration {
    let own = section.duration("collective-timeout");
    let from_job = env.iter().find(|(name, _)| name == DEEPSPEED_TIMEOUT);
    let variable = match from_job {
        Some((_, found)) => Some((found.value.clone(), found.place.clone())),
        None => (context.variable)(DEEPSPEED_TIMEOUT)
            .map(|text| (text, Place::command_line("environment"))),
    };
    let minutes = variable.and_then(|(text, place)| match text.trim().parse::<u32>() {
        Ok(minutes @ 1..) => {
            let origin = format!("{DEEPSPEED_TIMEOUT} = {text} minutes ({place})");
            Some((Duration::from_secs(60 * u64::from(minutes)), origin))
        }
        _ => {
            let message = format!("expected minutes, an integer of at least 1, found `{text}`");
            section.report().wrong_key(&place, DEEPSPEED_TIMEOUT, message);
            None
        }
    });
    let (value, origin) = match (own, minutes) {
        (Some(found), _) => (found.value, found.origin),
        (None, Some(minutes)) => minutes,
        (None, None) => (COLLECTIVE_TIMEOUT, DEFAULT.to_owned()),
    };
    let shown = format!("\"{}\"", humantime::format_duration(value));
    section.record("collective-timeout", &shown, origin);
    value
}

pub(super) fn read_resources(root: &Section<'_>) -> Resources {
    let section = root.sub("resources");
    let threads = section.integer("threads-per-rank", THREADS);
    let hosts = hosts::read(&section);
    let room = hosts::room(hosts.as_ref(), threads.as_ref().map_or(1, |found| found.value));
    let [world_size, min_ranks, max_ranks] = read_world(&section, room.as_ref());
    let workers = section.integer("workers", RANKS);
    let devices = &[("auto", Device::Auto), ("cpu", Device::Cpu), ("cuda", Device::Cuda)];
    let device = section.choice("device", devices, &["gpu", "rocm", "mps"]);
    let transports = &[
        ("auto", Transport::Auto),
        ("shared-memory", Transport::SharedMemory),
        ("tcp", Transport::Tcp),
    ];
    let transport = section.choice("transport", transports, &["nccl", "gloo", "rdma"]);
    section.not_yet(&["memory", "nodes", "partition", "gpus-per-worker"], "placement by it");
    let usual = Resources::default();
    let resources = Resources {
        world_size,
        min_ranks,
        max_ranks,
        workers: section.settle_optional("workers", workers, "default: no bound"),
        hosts: section.settle_optional("hosts", hosts, "default: any worker"),
        device: section.settle("device", device, (usual.device, DEFAULT)),
        threads_per_rank: section.settle(
            "threads-per-rank",
            threads,
            (usual.threads_per_rank, DEFAULT),
        ),
        transport: section.settle("transport", transport, (usual.transport, DEFAULT)),
    };
    if let (Some(world), Some(workers)) = (resources.largest_world(), resources.workers)
        && workers > world
    {
        let key = if resources.is_elastic() { "max-ranks" } else { "world-size" };
        let message = format!("more workers than the {world} ranks of resources.{key}");
        section.refuse("workers", message);
    }
    if let Some(room) = room {
        check_room(&section, &resources, room.value);
    }
    section.refuse_unknown(SYNONYMS);
    resources
}

/// The named slots hold the smallest world.
fn check_room(section: &Section<'_>, resources: &Resources, room: u32) {
    let world = resources.smallest_world();
    let slots = count(resources.threads_per_rank.into(), "slot");
    let message = if room == 0 {
        format!("no host has the {slots} that a rank takes")
    } else if room < world {
        let key = if resources.is_elastic() { "min-ranks" } else { "world-size" };
        let ranks = count(room.into(), "rank");
        format!("room for {ranks} of {slots}, and resources.{key} is {world}")
    } else if world > MAX_RANKS {
        format!("room for {room} ranks; give resources.world-size, at most {MAX_RANKS}")
    } else {
        return;
    };
    section.refuse("hosts", message);
}

/// `world-size`, `min-ranks` and `max-ranks`: either the first or the others. A world from the
/// command line wins over bounds in the file. Where neither is given it is `room`, as in DeepSpeed.
fn read_world(section: &Section<'_>, room: Option<&Found<u32>>) -> [Option<u32>; 3] {
    let world: Option<Found<u32>> = section.integer("world-size", RANKS);
    let mut bounds: [Option<Found<u32>>; 2] =
        ["min-ranks", "max-ranks"].map(|key| section.integer(key, RANKS));
    let written = || bounds.iter().flatten();
    let is_elastic = written().next().is_some();
    if let Some(world) = world.as_ref().filter(|_| is_elastic) {
        let wins = world.place.is_command_line() && !written().any(|b| b.place.is_command_line());
        if !wins {
            let message = "min-ranks and max-ranks are for a job without it; give either";
            section.refuse("world-size", message);
        }
        bounds = [None, None];
    }
    let is_elastic = bounds.iter().any(Option::is_some);
    let world = world.or_else(|| room.filter(|room| room.value > 0 && !is_elastic).cloned());
    let [least, most] = bounds;
    if let (Some(least), Some(most)) = (&least, &most)
        && least.value > most.value
    {
        section.refuse("min-ranks", format!("more than resources.max-ranks, {}", most.value));
    }
    let (nothing, no_min, no_max) = match (is_elastic, &world) {
        (true, _) => ("min-ranks and max-ranks decide", "default: 1", "default: no bound"),
        (false, Some(_)) => ("", "the world is fixed", "the world is fixed"),
        (false, None) => {
            ("default: all idle slots at placement", "default: 1", "default: no bound")
        }
    };
    [
        section.settle_optional("world-size", world, nothing),
        section.settle_optional("min-ranks", least, no_min),
        section.settle_optional("max-ranks", most, no_max),
    ]
}

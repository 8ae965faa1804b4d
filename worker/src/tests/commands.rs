//! Jobs that run a program of their own: real scripts in real processes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::spec::{Command, CoreBinding, JobSpec, Restart};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::v1::coordinator_message::Kind as Say;
use proto::v1::worker_message::Kind as Heard;
use proto::v1::{Empty, PrepareFailed, StopJob, TrainerEnded, trainer_end};

use super::coordinator::{Coordinator, eventually, listener};
use super::script::Script;
use super::setup::{Folders, JOB, Worker, hand_out_table, meet, start};
use crate::config::Config;
use crate::cores::Topology;
use crate::network::Network;

/// A job that runs these lines of a shell.
fn shell(folders: &Folders, lines: &str) -> JobSpec {
    let line = ["/bin/sh", "-c", lines].map(str::to_owned).to_vec();
    let working_dir = folders.path("");
    command(folders, Command { line, working_dir, local_rank_at: None, binding: None })
}

fn command(folders: &Folders, command: Command) -> JobSpec {
    let JobSpec { mut job, resources, .. } = folders.spec(Script::Finish);
    job.env.clear();
    JobSpec::of_command(command, job, resources, Restart { application: 2, ..Restart::NEVER })
}

fn allowed(folders: &Folders, coordinator: &Coordinator) -> Config {
    Config { allow_commands: true, ..folders.config(&coordinator.address) }
}

async fn prepare_failed(coordinator: &mut Coordinator) -> PrepareFailed {
    coordinator
        .wait("a refusal", |heard| match heard {
            Heard::PrepareFailed(failed) => Some(failed),
            _ => None,
        })
        .await
}

fn kind(end: &TrainerEnded) -> trainer_end::Kind {
    end.end.clone().unwrap().kind.unwrap()
}

/// What one rank of these lines ends with.
async fn end_of(lines: &str, act: impl FnOnce(&Coordinator, u32)) -> TrainerEnded {
    end_with(&[], lines, act).await
}

/// The same, with these variables.
async fn end_with(
    env: &[(&str, &str)],
    lines: &str,
    act: impl FnOnce(&Coordinator, u32),
) -> TrainerEnded {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(allowed(&folders, &coordinator));
    coordinator.hello().await;
    let mut spec = shell(&folders, lines);
    spec.job.env.extend(env.iter().map(|(name, value)| ((*name).into(), (*value).into())));
    coordinator.say(Say::Start(start(&spec, 1, 1)));
    meet(&mut coordinator, 1, 1).await;
    let pid = started(&mut coordinator);
    let marker = folders.path("up");
    if lines.contains("touch up") {
        eventually("the script is up", || marker.exists()).await;
    }
    act(&coordinator, pid);
    let end = coordinator.ended().await;
    worker.stop().await;
    end
}

/// The process of the only rank, of which its second readiness tells.
fn started(coordinator: &mut Coordinator) -> u32 {
    let pid = |heard: &Heard| match heard {
        Heard::TrainerReady(ready) => Some(ready.pid),
        _ => None,
    };
    coordinator.history.iter().filter_map(pid).find(|pid| *pid != 0).unwrap()
}

fn stop(gracefully: bool, grace_ms: u64) -> Say {
    let (job_id, reason) = (JOB.to_owned(), "a test".to_owned());
    Say::Stop(StopJob { job_id, generation: 1, reason, gracefully, grace_ms })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rank_gets_its_place_and_writes_where_trainers_write() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(allowed(&folders, &coordinator));
    assert!(coordinator.hello().await.allows_commands);
    let lines = "env | sort > env.$RANK; echo out of $RANK; echo err of $RANK >&2; pwd";
    let mut spec = shell(&folders, lines);
    spec.job.env.insert("GREETING".to_owned(), "hello".to_owned());
    let mut order = start(&spec, 1, 2);
    order.attempt = 2;
    coordinator.say(Say::Start(order));
    meet(&mut coordinator, 1, 2).await;
    let mut ends = vec![coordinator.ended().await, coordinator.ended().await];
    ends.sort_by_key(|end| end.rank);
    let told = |heard: &Heard| match heard {
        Heard::TrainerReady(ready) => ready.peer.clone().map(|peer| (peer.rank, peer.address)),
        _ => None,
    };
    let addresses: BTreeMap<u32, String> = coordinator.history.iter().filter_map(told).collect();
    let (host, port) = addresses[&0].rsplit_once(':').unwrap();
    for (rank, end) in (0..).zip(&ends) {
        assert_eq!(kind(end), trainer_end::Kind::Finished(Empty {}));
        for line in [format!("out of {rank}"), format!("err of {rank}")] {
            assert!(end.last_lines.contains(&line), "{end:?}");
        }
        let here = folders.path("").canonicalize().unwrap().display().to_string();
        assert!(end.last_lines.contains(&here), "{end:?}");
        let log = folders.run_dir().join(format!("logs/rank-{rank}.log"));
        assert!(fs_err::read_to_string(log).unwrap().contains(&format!("out of {rank}\n")));
        let env = fs_err::read_to_string(folders.path(&format!("env.{rank}"))).unwrap();
        for wanted in [
            format!("RANK={rank}"),
            format!("LOCAL_RANK={rank}"),
            "WORLD_SIZE=2".to_owned(),
            "LOCAL_WORLD_SIZE=2".to_owned(),
            format!("MASTER_ADDR={host}"),
            format!("MASTER_PORT={port}"),
            "OMP_NUM_THREADS=1".to_owned(),
            "TORCHELASTIC_RESTART_COUNT=1".to_owned(),
            "TORCHELASTIC_MAX_RESTARTS=2".to_owned(),
            format!("RUSTSPEED_JOB_ID={JOB}"),
            "RUSTSPEED_ATTEMPT=2".to_owned(),
            "GREETING=hello".to_owned(),
        ] {
            assert!(env.lines().any(|line| line == wanted), "no {wanted} in:\n{env}");
        }
        assert!(!env.contains("RUSTSPEED_LINK_FD"), "{env}");
    }
    let notes = coordinator.history.iter().filter(|heard| matches!(heard, Heard::Notes(_)));
    assert_eq!(notes.count(), 1, "said once, by rank 0");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_of_a_command_is_told_for_what_it_is() {
    let exited = end_of("echo too bad >&2; exit 7", |_, _| {}).await;
    assert_eq!(kind(&exited), trainer_end::Kind::Exited(7));
    assert_eq!(exited.last_lines, ["too bad"]);
    let killed = end_of("touch up; sleep 60", |_, pid| {
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).unwrap();
    });
    let by_nine = trainer_end::Killed { signal: 9, core_dumped: false };
    assert_eq!(kind(&killed.await), trainer_end::Kind::Killed(by_nine));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_sigterm_to_the_whole_group_and_sigkill_after_the_grace() {
    let saves = "trap 'echo saved; exit 0' TERM; touch up; while :; do sleep 0.1; done";
    let end = end_of(saves, |coordinator, _| coordinator.say(stop(true, 5_000))).await;
    assert_eq!(kind(&end), trainer_end::Kind::Stopped(Empty {}));
    assert!(end.last_lines.contains(&"saved".to_owned()), "{end:?}");
    let dies = "touch up; sleep 60";
    let end = end_of(dies, |coordinator, _| coordinator.say(stop(false, 0))).await;
    assert_eq!(kind(&end), trainer_end::Kind::Stopped(Empty {}));
    let began = Instant::now();
    let deaf = "trap '' TERM; touch up; while :; do sleep 0.1; done";
    let end = end_of(deaf, |coordinator, _| coordinator.say(stop(true, 300))).await;
    assert_eq!(kind(&end), trainer_end::Kind::Stopped(Empty {}));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

/// As SLURM does it when it takes a node away.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_told_to_end_together_with_its_worker_was_stopped() {
    let terminate = |pid: u32| kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).unwrap();
    let stopped = trainer_end::Kind::Stopped(Empty {});
    let mut ends = Vec::new();
    // One of a few: this machine may have other work between the signal and the order.
    while ends.len() < 5 && !ends.contains(&stopped) {
        let end = end_of("touch up; sleep 60", |coordinator, pid| {
            terminate(pid);
            coordinator.say(stop(true, 5_000));
        });
        ends.push(kind(&end.await));
    }
    assert!(ends.contains(&stopped), "{ends:?}");
    let alone = end_of("touch up; sleep 60", |_, pid| terminate(pid)).await;
    let by_fifteen = trainer_end::Killed { signal: 15, core_dumped: false };
    assert_eq!(kind(&alone), trainer_end::Kind::Killed(by_fifteen), "of that alone it was killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_an_allocation_a_command_does_not_die_of_slurms_notice() {
    let lines = "kill -USR1 $$; exit 3";
    let outside = end_with(&[], lines, |_, _| {}).await;
    let by_ten = trainer_end::Killed { signal: 10, core_dumped: false };
    assert_eq!(kind(&outside), trainer_end::Kind::Killed(by_ten));
    let inside = end_with(&[("SLURM_JOB_ID", "7")], lines, |_, _| {}).await;
    assert_eq!(kind(&inside), trainer_end::Kind::Exited(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_stopped_before_the_table_comes_never_runs() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(allowed(&folders, &coordinator));
    coordinator.hello().await;
    coordinator.say(Say::Start(start(&shell(&folders, "touch ran"), 1, 1)));
    let is_ready = |heard| matches!(heard, Heard::TrainerReady(_)).then_some(());
    coordinator.wait("ready", is_ready).await;
    coordinator.say(stop(false, 0));
    assert_eq!(kind(&coordinator.ended().await), trainer_end::Kind::Stopped(Empty {}));
    assert!(!folders.path("ran").exists());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_here_is_refused_with_the_reason() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(folders.config(&coordinator.address));
    assert!(!coordinator.hello().await.allows_commands);
    coordinator.say(Say::Start(start(&shell(&folders, "true"), 1, 1)));
    let failed = prepare_failed(&mut coordinator).await;
    assert!(failed.message.contains("without --allow-commands"), "{failed:?}");
    let mut preloads = folders.spec(Script::Finish);
    preloads.job.env.insert("LD_PRELOAD".to_owned(), "/tmp/mine.so".to_owned());
    coordinator.say(Say::Start(start(&preloads, 2, 1)));
    let failed = prepare_failed(&mut coordinator).await;
    let is_told = failed.message.starts_with("job.env.LD_PRELOAD has the trainer load a library");
    assert!(failed.is_configuration && is_told, "{failed:?}");
    worker.stop().await;

    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(allowed(&folders, &coordinator));
    coordinator.hello().await;
    let absent = Command {
        line: vec!["./absent.sh".to_owned()],
        working_dir: folders.path(""),
        local_rank_at: None,
        binding: None,
    };
    coordinator.say(Say::Start(start(&command(&folders, absent), 2, 1)));
    let failed = prepare_failed(&mut coordinator).await;
    assert!(failed.is_configuration && failed.message.contains("absent.sh"), "{failed:?}");

    let taken = listener();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut spec = shell(&folders, "true");
    spec.job.env.insert("MASTER_PORT".to_owned(), port.clone());
    coordinator.say(Say::Start(start(&spec, 3, 1)));
    let end = coordinator.ended().await;
    let trainer_end::Kind::Failed(failure) = kind(&end) else { panic!("{end:?}") };
    assert!(failure.message.starts_with(&format!("MASTER_PORT {port} is not free")), "{failure:?}");
    drop(taken);
    coordinator.say(Say::Start(start(&spec, 4, 1)));
    hand_out_table(&mut coordinator, 4, 1).await;
    assert_eq!(kind(&coordinator.ended().await), trainer_end::Kind::Finished(Empty {}));
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_that_cannot_have_their_cores_do_not_start_and_the_numbers_say_why() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let worker = Worker::start(allowed(&folders, &coordinator));
    coordinator.hello().await;
    let here = Topology::of_this_machine();
    let first = here.cpus().next().unwrap();
    for (generation, list, part) in [
        (1, first.to_string(), "2 ranks of 1 physical core each do not fit into 1 physical core"),
        (2, format!("{first},8000"), "CPU 8000 is none of those that may be used here"),
    ] {
        let mut spec = shell(&folders, "touch ran");
        let binding = CoreBinding { list: Some(list.parse().unwrap()) };
        spec.command.as_mut().unwrap().binding = Some(binding);
        coordinator.say(Say::Start(start(&spec, generation, 2)));
        let failed = prepare_failed(&mut coordinator).await;
        assert!(failed.is_configuration && failed.message.contains(part), "{failed:?}");
    }
    assert!(!folders.path("ran").exists());
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_translated_address_others_are_told_that_one_and_ranks_here_the_inner_one() {
    let folders = Folders::new();
    let mut coordinator = Coordinator::start().await;
    let network = Network {
        advertise: Some([192, 0, 2, 9].into()),
        listen: Some([127, 0, 0, 1].into()),
        ports: Some("20000-29999".parse().unwrap()),
        interface: None,
    };
    let worker = Worker::start(Config { network, ..allowed(&folders, &coordinator) });
    assert_eq!(coordinator.hello().await.advertise, "192.0.2.9");
    let lines = "echo $MASTER_ADDR $MASTER_PORT > master.$RANK";
    coordinator.say(Say::Start(start(&shell(&folders, lines), 1, 2)));
    meet(&mut coordinator, 1, 2).await;
    for _ in 0..2 {
        assert_eq!(kind(&coordinator.ended().await), trainer_end::Kind::Finished(Empty {}));
    }
    let told = |heard: &Heard| match heard {
        Heard::TrainerReady(ready) => ready.peer.clone().map(|peer| (peer.rank, peer.address)),
        _ => None,
    };
    let addresses: BTreeMap<u32, String> = coordinator.history.iter().filter_map(told).collect();
    let port = addresses[&0].strip_prefix("192.0.2.9:").unwrap();
    assert!((20_000..30_000).contains(&port.parse::<u32>().unwrap()), "{addresses:?}");
    for rank in 0..2 {
        let master = fs_err::read_to_string(folders.path(&format!("master.{rank}"))).unwrap();
        assert_eq!(master.trim(), format!("127.0.0.1 {port}"));
    }
    worker.stop().await;
}

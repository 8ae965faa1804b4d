//! Claims about jobs that run a program of the user's own: they run where it is allowed, and nowhere
//! else.

use common::spec::{Command, JobSpec, Restart};
use common::status::{JobState, Question, SlotShortage, TrainerEnd, WaitReason};

use super::world::{World, id, on_hosts, spec};
use crate::coordinator::{Answer, CancelMode, Effect, Event, Refusal, Requeue, Ticket};

fn command(name: &str, world: Option<u32>) -> JobSpec {
    let line = vec!["./train.sh".to_owned()];
    let command =
        Command { line, working_dir: "/home/ada".into(), local_rank_at: None, binding: None };
    let JobSpec { job, resources, .. } = spec(name, world);
    JobSpec::of_command(command, job, resources, Restart::OF_COMMAND)
}

/// Joins a worker that runs commands.
fn join_for_commands(w: &mut World, name: &str, slots: u32) {
    let hello = crate::coordinator::WorkerHello { allows_commands: true, ..w.hello(name, slots) };
    w.send_hello(hello);
}

fn shortage(w: &World, job: &str) -> SlotShortage {
    let waiting = w.machine.status(&id(job), w.moment()).unwrap().waiting.unwrap();
    match waiting.reason {
        WaitReason::TooLarge(shortage) | WaitReason::Slots(shortage) => shortage,
        reason => panic!("{reason:?}"),
    }
}

fn answer(effects: &[Effect]) -> &Answer {
    let found = effects.iter().find_map(|effect| match effect {
        Effect::Answer { answer, .. } => Some(answer),
        _ => None,
    });
    found.unwrap()
}

#[test]
fn a_coordinator_that_allows_none_refuses_a_command_and_says_which_flag() {
    let mut w = World::new(&[("a", 2)]);
    w.machine.config.allow_commands = false;
    let effects = w.submit(command("job", Some(1)));
    let Answer::Refused(refusal) = answer(&effects) else { panic!("{effects:?}") };
    assert_eq!(*refusal, Refusal::NoCommands);
    assert!(refusal.to_string().contains("--allow-commands"));
    let effects = w.submit(spec("train", Some(1)));
    assert!(matches!(answer(&effects), Answer::Submitted(_)));
}

#[test]
fn an_ended_command_runs_again_for_those_alone_who_know_the_secret() {
    let mut w = World::new(&[]);
    let mut library = spec("library", Some(1));
    library.job.env.insert("LD_PRELOAD".to_owned(), "/tmp/mine.so".to_owned());
    for (job, key) in
        [(command("command", Some(1)), "job.command"), (library, "job.env.LD_PRELOAD")]
    {
        let ended = id(&job.job.name);
        let name = job.job.name.clone();
        w.submit(job);
        w.cancel(&name, CancelMode::Now);
        let mut requeue = |knows_secret| {
            let (job_id, request_id) = (id(&format!("again-{name}")), format!("again-{name}"));
            let requeue = Requeue { job_id, request_id, from_start: false, knows_secret };
            let ticket = Ticket(w.number());
            answer(&w.step(Event::Requeue { ticket, ended: ended.clone(), requeue })).clone()
        };
        let refusal = Refusal::SecretUnknown { key: key.to_owned() };
        assert_eq!(requeue(false), Answer::Refused(refusal));
        assert!(matches!(requeue(true), Answer::Submitted(_)), "{name}");
    }
}

#[test]
fn a_command_runs_on_workers_that_allow_it_and_nowhere_else() {
    let mut w = World::new(&[("a", 4), ("c", 4)]);
    join_for_commands(&mut w, "b", 2);
    w.submit(command("job", Some(2)));
    assert_eq!(w.places("job"), ["b", "b"]);
    w.submit(command("large", Some(3)));
    let lack = shortage(&w, "large");
    assert_eq!((lack.without_commands, lack.slots, lack.workers), (2, 2, 1));
    let reason = w.reason("large");
    assert!(reason.contains("2 workers run no commands: they need --allow-commands"), "{reason}");
    let explained = w.machine.explain(&id("large"), w.moment()).unwrap();
    let lacks: Vec<&str> = explained.workers.iter().map(|worker| worker.lacks.as_str()).collect();
    assert!(lacks[0].contains("--allow-commands") && !lacks[1].contains("commands"), "{lacks:?}");
    // Whoever trains goes anywhere.
    w.submit(spec("train", Some(8)));
    assert_eq!(w.places("train").len(), 8);
}

#[test]
fn a_named_host_that_runs_no_commands_is_not_called_missing() {
    let mut w = World::new(&[("a", 2)]);
    w.submit(on_hosts(command("job", Some(2)), &["a"]));
    let lack = shortage(&w, "job");
    assert_eq!((lack.hosts.unwrap().missing_count, lack.without_commands), (0, 1));
}

#[test]
fn a_queued_command_waits_while_the_coordinator_allows_none() {
    let mut w = World::new(&[]);
    w.submit(command("job", Some(1)));
    w.machine.config.allow_commands = false;
    join_for_commands(&mut w, "a", 1);
    assert_eq!(w.state("job"), JobState::Queued);
    assert_eq!(shortage(&w, "job").without_commands, 1);
}

#[test]
fn a_command_that_fails_starts_again_however_often_its_failures_are_alike() {
    let mut w = World::new(&[]);
    join_for_commands(&mut w, "a", 2);
    let mut job = command("job", Some(2));
    job.restart.application = 3;
    job.restart.backoff = std::time::Duration::from_millis(1);
    job.restart.max_backoff = std::time::Duration::from_millis(1);
    w.submit(job);
    for _ in 0..4 {
        w.train("job");
        let explained = w.machine.explain(&id("job"), w.moment()).unwrap();
        let told = explained.answers.iter().find(|a| a.question == Question::Unwatched);
        assert_eq!(told.unwrap().text, Command::UNWATCHED);
        w.end("job", 1, TrainerEnd::Exited { code: 3 });
        w.end("job", 0, TrainerEnd::Stopped);
        w.tick_after(std::time::Duration::from_secs(1));
    }
    let status = w.status("job");
    assert_eq!((status.row.state, status.attempts.len()), (JobState::Failed, 4));
    assert_eq!(status.failure.unwrap().rank, Some(common::ids::Rank(1)));
    let reason = status.row.reason;
    assert!(reason.contains("rank 1 on worker `a` exited with code 3;"), "{reason}");
    assert!(reason.contains("the budget of 3 restarts"), "{reason}");
}

#[test]
fn nobody_takes_a_command_for_one_that_hangs() {
    let mut w = World::new(&[]);
    join_for_commands(&mut w, "a", 1);
    w.submit(command("job", Some(1)));
    w.train("job");
    w.live_on(std::time::Duration::from_secs(1200));
    assert_eq!(w.state("job"), JobState::Running);
}

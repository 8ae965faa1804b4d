use super::*;

const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;

fn evidence(raw_status: i32) -> Evidence {
    Evidence {
        status: Some(ExitStatus::from_raw(raw_status)),
        said: None,
        is_stop_asked: false,
        killed: None,
        has_memory_run_out: false,
    }
}

fn check(evidence: Evidence, stderr: &[&str]) -> TrainerEnd {
    classify(evidence, stderr.iter().copied())
}

fn exit(code: i32) -> i32 {
    code << 8
}

#[test]
fn the_trainers_own_word_beats_how_it_left() {
    let said = |said| Evidence { said: Some(said), ..evidence(SIGKILL) };
    assert_eq!(check(said(Said::Finished), &[]), TrainerEnd::Finished);
    assert_eq!(check(said(Said::Stopped), &[]), TrainerEnd::Stopped);
    let failure = start_failure("x".to_owned());
    assert_eq!(check(said(Said::Failed(failure.clone())), &[]), TrainerEnd::Failed { failure });
}

#[test]
fn a_signal_is_named_unless_we_sent_it() {
    let killed = TrainerEnd::Killed { signal: SIGKILL, core_dumped: false };
    assert_eq!(check(evidence(SIGKILL), &[]), killed);
    let ordered =
        Evidence { killed: Some(KillReason::Order), is_stop_asked: true, ..evidence(SIGKILL) };
    assert_eq!(check(ordered, &[]), TrainerEnd::Stopped);
    let crashed = Evidence { is_stop_asked: true, ..evidence(SIGSEGV | 0x80) };
    let end = TrainerEnd::Killed { signal: SIGSEGV, core_dumped: true };
    assert_eq!(check(crashed, &[]), end, "a crash while stopping is still a crash");
}

#[test]
fn a_kill_while_memory_ran_out_says_so() {
    let end = check(Evidence { has_memory_run_out: true, ..evidence(SIGKILL) }, &[]);
    let TrainerEnd::Failed { failure } = end else { panic!("{end:?}") };
    assert_eq!(failure.kind, FailureKind::OutOfMemory);
}

#[test]
fn a_silent_exit_keeps_its_code_and_a_silent_start_names_its_time() {
    assert_eq!(check(evidence(exit(7)), &[]), TrainerEnd::Exited { code: 7 });
    assert_eq!(check(evidence(exit(0)), &[]), TrainerEnd::Exited { code: 0 });
    let mute = Evidence {
        killed: Some(KillReason::NoHello(Duration::from_secs(60))),
        ..evidence(SIGKILL)
    };
    let TrainerEnd::Failed { failure } = check(mute, &[]) else { panic!() };
    assert!(failure.message.contains("60 s"), "{failure:?}");
}

#[test]
fn a_panic_that_could_not_be_reported_is_read_from_stderr() {
    let stderr =
        ["warming up", "thread 'main' (7) panicked at src/a.rs:1:2:", "no room", "note: x"];
    let panicked =
        TrainerEnd::Panicked { message: "no room".to_owned(), place: "src/a.rs:1:2".to_owned() };
    assert_eq!(check(evidence(exit(PANIC_CODE)), &stderr), panicked);
    assert_eq!(check(evidence(Signal::SIGABRT as i32), &stderr), panicked);
    assert_eq!(check(evidence(exit(1)), &stderr), TrainerEnd::Exited { code: 1 });
}

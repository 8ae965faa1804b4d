use super::*;

const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;

fn evidence(raw_status: i32) -> Evidence {
    Evidence {
        status: Some(ExitStatus::from_raw(raw_status)),
        said: None,
        is_stop_asked: false,
        killed: None,
        memory_ran_out: None,
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
    let end = failure_of(FailureKind::Data, "x".to_owned());
    let TrainerEnd::Failed { failure } = end.clone() else { panic!() };
    assert_eq!(check(said(Said::Failed(failure)), &[]), end);
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
    let memory_ran_out = Some("the counter rose".to_owned());
    let end = check(Evidence { memory_ran_out: memory_ran_out.clone(), ..evidence(SIGKILL) }, &[]);
    let TrainerEnd::Failed { failure } = end else { panic!("{end:?}") };
    assert_eq!(failure.kind, FailureKind::OutOfMemory);
    assert!(failure.message.ends_with("the counter rose"), "{failure:?}");
    let crashed = check(Evidence { memory_ran_out, ..evidence(SIGSEGV) }, &[]);
    assert_eq!(crashed, TrainerEnd::Killed { signal: SIGSEGV, core_dumped: false });
}

#[test]
fn a_stop_that_outlasts_its_grace_is_cut_off_and_not_stopped() {
    let late = Some(KillReason::StopGrace(Duration::from_secs(10)));
    let asked = Evidence { is_stop_asked: true, killed: late, ..evidence(SIGKILL) };
    let TrainerEnd::Failed { failure } = check(asked, &[]) else { panic!() };
    assert_eq!(failure.kind, FailureKind::CutOff);
    assert!(failure.message.contains("after 10s"), "{failure:?}");
    // It had said its last word: the save was whole, only the exit hung.
    let said = Evidence { said: Some(Said::Stopped), killed: late, ..evidence(SIGKILL) };
    assert_eq!(check(said, &[]), TrainerEnd::Stopped);
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

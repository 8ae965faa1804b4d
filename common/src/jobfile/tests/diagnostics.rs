//! What a run is asked to measure, in the job file and in DeepSpeed's blocks.

use super::*;
use crate::spec::{Collective, CommsLog, Diagnostics, FlopsProfile, GradientCompression};

fn diagnostics(json: &str) -> Diagnostics {
    with_deepspeed(json).spec().monitor.diagnostics
}

#[test]
fn nothing_is_measured_unless_it_is_asked_for() {
    assert_eq!(diagnostics("{}"), Diagnostics::default());
}

#[test]
fn the_presence_of_comms_logger_turns_it_on_and_enabled_false_off_again() {
    assert_eq!(diagnostics(r#"{"comms_logger": {}}"#).comms_log, Some(CommsLog::default()));
    let off = with_deepspeed(r#"{"comms_logger": {"enabled": false}}"#).spec();
    assert_eq!(off.monitor.diagnostics.comms_log, None);
    assert!(off.notes.iter().any(|note| note.contains("DeepSpeed itself")), "{:?}", off.notes);
}

#[test]
fn prof_ops_count_only_where_prof_all_is_off() {
    let log = |all: bool| {
        let ops = r#"["all_reduce", "all_gather_into_tensor"]"#;
        diagnostics(&format!(r#"{{"comms_logger": {{"prof_all": {all}, "prof_ops": {ops}}}}}"#))
    };
    assert_eq!(log(true).comms_log.unwrap().only, None);
    let two = vec![Collective::AllReduce, Collective::AllGather];
    assert_eq!(log(false).comms_log.unwrap().only, Some(two));
    with_deepspeed(r#"{"comms_logger": {"prof_ops": ["all_redcue"]}}"#).check(&expect![[r#"
        ds.json:1: comms_logger.prof_ops = ["all_redcue"]: expected names of collectives such as all_reduce, reduce_scatter or all_gather
    "#]]);
}

#[test]
fn a_flops_profile_is_of_the_step_and_into_the_file_that_are_given() {
    let block =
        r#"{"flops_profiler": {"enabled": true, "profile_step": 5, "output_file": "f.txt"}}"#;
    let output_file = Some("/home/ada/here/f.txt".into());
    let wanted = FlopsProfile { step: 5, detailed: true, output_file };
    assert_eq!(diagnostics(block).flops_profile, Some(wanted));
    let off = r#"{"flops_profiler": {"enabled": false, "profile_step": 5}}"#;
    assert_eq!(diagnostics(off).flops_profile, None);
}

#[test]
fn the_job_file_asks_for_the_same() {
    let text = "data.kind = \"sine\"\n[monitor.diagnostics]\nwall-clock-breakdown = true\n\
                comms-log = true\nflops-profile-step = 3\n";
    let found = job(text).spec().monitor.diagnostics;
    assert!(found.wall_clock_breakdown);
    assert_eq!(found.comms_log, Some(CommsLog::default()));
    assert_eq!(found.flops_profile.unwrap().step, 3);
}

#[test]
fn a_block_keeps_its_settings_where_the_job_file_agrees() {
    let text = "deepspeed-config = \"ds.json\"\ndata.kind = \"sine\"\n\
                monitor.diagnostics.comms-log = true\n";
    let spec = job(text).file("ds.json", r#"{"comms_logger": {"verbose": true}}"#).spec();
    assert!(spec.monitor.diagnostics.comms_log.unwrap().verbose);
}

#[test]
fn gradients_are_compressed_by_name() {
    let with = |word: &str| {
        let text = format!("data.kind = \"sine\"\ntraining.gradient-compression = \"{word}\"\n");
        job(&text).spec().training.gradient_compression
    };
    assert_eq!(with("fp16"), GradientCompression::Fp16);
    assert_eq!(with("int8"), GradientCompression::Int8);
    assert_eq!(with("bf16"), GradientCompression::Bf16);
    let one_bit = "data.kind = \"sine\"\ntraining.gradient-compression = \"1bit\"\n";
    let mistakes = job(one_bit).load().unwrap_err();
    assert!(format!("{mistakes:?}").contains("not supported yet"), "{mistakes:?}");
}

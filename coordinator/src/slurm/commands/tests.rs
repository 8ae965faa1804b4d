use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use super::*;

fn output(code: i32, stderr: &str) -> Output {
    let status = ExitStatus::from_raw(code << 8);
    Output { status, stdout: Vec::new(), stderr: stderr.as_bytes().to_vec() }
}

#[test]
fn what_slurm_refuses_is_told_apart_from_what_passes() {
    let refused = "sbatch: error: invalid partition specified: nowhere\n\
                   sbatch: error: Batch job submission failed: Invalid partition name specified\n";
    match judged("sbatch", &output(1, refused)) {
        Err(Trouble::Refused { words }) => assert_eq!(
            words,
            "sbatch: error: invalid partition specified: nowhere; sbatch: error: Batch job \
             submission failed: Invalid partition name specified"
        ),
        other => panic!("{other:?}"),
    }
    for passing in [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: fatal: Could not establish a configuration source",
        "slurm_load_jobs error: Socket timed out on send/recv operation",
    ] {
        let judged = judged("sbatch", &output(1, passing));
        assert!(matches!(judged, Err(Trouble::Passing { .. })), "{judged:?}");
    }
    let silent = judged("sbatch", &output(3, ""));
    assert!(matches!(&silent, Err(Trouble::Refused { words }) if words.contains("exit status: 3")));
}

#[tokio::test]
async fn a_program_that_was_killed_may_have_done_it() {
    let killed = run("sh", &["-c", "kill -TERM $$"], None).await;
    assert!(matches!(killed, Err(Trouble::Passing { .. })), "{killed:?}");
}

#[test]
fn a_long_greeting_hides_nothing() {
    let greeting = "sbatch: Welcome to Alps!\n".repeat(50);
    let said = format!("{greeting}sbatch: error: Unable to contact slurm controller");
    match judged("sbatch", &output(1, &said)) {
        Err(Trouble::Passing { words }) => {
            assert!(words.len() < 500 && words.ends_with("slurm controller"), "{words}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn variables_that_change_what_the_programs_do_stay_here() {
    let handed = ["PATH", "SLURM_CONF", "SBATCH_PARTITION", "MODULEPATH"];
    assert!(handed.iter().all(|name| is_handed_on(name)));
    let kept = ["SLURM_JOB_ID", "SBATCH_ARRAY_INX", "SCANCEL_INTERACTIVE", "SQUEUE_PARTITION"];
    assert!(!kept.iter().any(|name| is_handed_on(name)));
    assert!(!is_handed_on("RUSTSPEED_COMMAND_SECRET"));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let trouble = run("no-such-sbatch", &[], None).await.unwrap_err();
    assert!(trouble.to_string().contains("no-such-sbatch is not in the coordinator's PATH"));
    assert!(matches!(trouble.news(), AllocationNews::Refused { .. }));
}

#[tokio::test]
async fn a_script_reaches_the_program_whole() {
    let script = "#!/bin/sh\n".to_owned() + &"# long\n".repeat(20_000);
    let said = run("cat", &[], Some(script.clone())).await.unwrap();
    assert_eq!(said, script);
}

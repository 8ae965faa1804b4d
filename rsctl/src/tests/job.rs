//! Claims about finding a job by what was typed.

use common::exit::ExitCode;
use common::ids::{AttemptId, JobId};
use common::status::AttemptStatus;

use crate::job::{choose, no_such_rank, read_regular};
use crate::tests::statuses::running;

fn ids() -> Vec<JobId> {
    ["co2-lstm-ab12cd", "co2-lstm-ab99zz", "sine-x1y2z3"].map(|id| id.parse().unwrap()).into()
}

#[test]
fn a_unique_prefix_is_enough() {
    assert_eq!(choose("sine", &ids()).unwrap().as_str(), "sine-x1y2z3");
    assert_eq!(choose("co2-lstm-ab1", &ids()).unwrap().as_str(), "co2-lstm-ab12cd");
}

#[test]
fn an_ambiguous_prefix_names_the_jobs() {
    let failure = choose("co2", &ids()).unwrap_err();
    assert_eq!(failure.code, ExitCode::Failed);
    assert_eq!(
        failure.render(),
        "error: `co2` could be any of 2 jobs\n\n\
         hint: type more of one of co2-lstm-ab12cd, co2-lstm-ab99zz"
    );
}

#[test]
fn an_unknown_job_names_the_nearest() {
    let failure = choose("sine-x1y2z4", &ids()).unwrap_err();
    assert_eq!(failure.code, ExitCode::Failed);
    assert_eq!(
        failure.render(),
        "error: there is no job `sine-x1y2z4`\n\nhint: the nearest are sine-x1y2z3"
    );
    let failure = choose("zzz", &[]).unwrap_err();
    assert!(failure.render().ends_with("hint: `rsctl jobs` lists them"), "{}", failure.render());
    assert!(choose("", &ids()).is_err(), "nothing is not a prefix of everything");
}

#[test]
fn a_rank_that_the_job_does_not_have_is_refused_with_those_that_it_has() {
    let mut status = running();
    assert!(no_such_rank(&status, 1, None).is_none());
    let failure = no_such_rank(&status, 9, None).unwrap();
    assert_eq!(failure.code, ExitCode::Usage);
    assert_eq!(failure.render(), "error: --rank 9: job co2-lstm-ab12cd has ranks 0 to 1");
    status.attempts.clear();
    status.ranks.clear();
    assert!(no_such_rank(&status, 9, None).is_none(), "nobody knows before it is placed");
}

#[test]
fn a_rank_of_an_earlier_larger_attempt_is_not_refused() {
    let mut status = running();
    let larger = AttemptStatus { world_size: 4, ..status.attempts[0].clone() };
    status.attempts[0].attempt = AttemptId(2);
    status.attempts.insert(0, larger);
    assert!(no_such_rank(&status, 3, None).is_none(), "the one that failed is asked for");
    assert!(no_such_rank(&status, 3, Some(1)).is_none());
    assert!(no_such_rank(&status, 4, None).unwrap().render().ends_with("has ranks 0 to 3"));
    let failure = no_such_rank(&status, 3, Some(2)).unwrap();
    let said = "error: --rank 3: attempt 2 of job co2-lstm-ab12cd has ranks 0 to 1";
    assert_eq!(failure.render(), said);
    assert!(no_such_rank(&status, 3, Some(3)).is_none(), "it may still come");
}

#[test]
fn a_job_is_read_from_a_regular_file_of_a_sane_size_only() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [pipe.as_path(), "/dev/zero".as_ref(), folder.path()] {
        let error = read_regular(path).unwrap_err().to_string();
        assert!(error.contains("is not a regular file"), "{error}");
    }
    let large = folder.path().join("large.toml");
    fs_err::File::create(&large).unwrap().set_len(5 << 20).unwrap();
    let error = read_regular(&large).unwrap_err().to_string();
    assert!(error.contains("large.toml") && error.contains("4 MiB"), "{error}");
    fs_err::write(&large, "a = 1").unwrap();
    assert_eq!(read_regular(&large).unwrap(), "a = 1");
}

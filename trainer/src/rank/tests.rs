use super::*;

fn assignment() -> Assignment {
    Assignment { job_id: "a-1".to_owned(), rank: 0, world: 1, ..Assignment::default() }
}

#[test]
fn an_assignment_that_makes_no_sense_is_refused_with_its_field() {
    let error = Identity::try_from(Assignment { rank: 2, world: 2, ..assignment() }).unwrap_err();
    assert_eq!(error.to_string(), "rank 2 of a world of 2");
    let error = Identity::try_from(assignment()).unwrap_err();
    let failure = error.failure();
    assert_eq!(failure.kind, FailureKind::Start);
    assert!(failure.message.contains("spec_json"), "{failure:?}");
}

use common::status::FailureKind;
use tch::TchError;

use super::Error;

#[test]
fn a_failure_carries_kind_step_and_the_whole_chain() {
    let error = Error::NotFinite { step: 7, what: "gradient of `fc.weight`".into(), loss: 0.5 };
    let failure = error.failure();
    assert_eq!((failure.kind, failure.step), (FailureKind::NotFinite, Some(7)));
    assert!(failure.message.starts_with("gradient of `fc.weight` is not finite"), "once is enough");
    let end = common::status::TrainerEnd::Failed { failure };
    assert_eq!(end.to_string().matches("step 7").count(), 1, "{end}");
}

#[test]
fn libtorchs_stack_stays_out_of_messages_and_memory_is_told_apart() {
    let refused = "[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to \
                   allocate 9 bytes\nException raised from alloc at x.cpp:1\nframe #0: ...";
    let error = Error::Torch { operation: "backward", source: TchError::Torch(refused.into()) };
    let failure = error.failure();
    assert_eq!(failure.kind, FailureKind::OutOfMemory);
    assert!(failure.message.starts_with("backward: "), "{}", failure.message);
    assert!(!failure.message.contains("frame #0"));
}

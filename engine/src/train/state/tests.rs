use common::spec::EarlyStopping;

use super::State;

#[test]
fn norms_are_counted_and_warned_of_at_powers_of_ten() {
    let mut state = State::default();
    let norms = [0.5, 20.0, 5.0, 0.0001, 1.0, 0.01];
    let warnings: Vec<_> = norms.iter().filter_map(|n| state.on_step(4, 1.0, *n)).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("step 2: gradient norm 2.000e1 is above 10"), "{warnings:?}");
    assert!(warnings[1].contains("below 0.001"), "{warnings:?}");
    let health = &state.gradients;
    assert_eq!(
        (health.healthy, health.exploding, health.vanishing, health.other, health.max),
        (3, 1, 1, 1, 20.0)
    );
    let later = (0..99).filter_map(|_| state.on_step(4, 1.0, 11.0)).count();
    assert_eq!(later, 2, "the 10th and the 100th");
}

#[test]
fn early_stopping_counts_misses_by_more_than_its_delta() {
    let stopping = Some(EarlyStopping { patience: 2, min_delta: 0.1 });
    let mut state = State::default();
    for (loss, stops) in [(1.0, false), (0.95, false), (0.8, false), (0.79, false), (0.78, true)] {
        assert!(state.on_validation(loss, None, stopping), "each is the best so far");
        assert_eq!(state.stopped_early, stops, "at {loss}");
    }
    assert_eq!((state.initial_val_loss, state.last_val_loss), (Some(1.0), Some(0.78)));
}

#[test]
fn without_early_stopping_a_run_goes_on_and_still_knows_its_best() {
    let mut state = State { step: 9, ..State::default() };
    assert!(state.on_validation(0.5, None, None));
    state.step = 12;
    assert!(!state.on_validation(0.7, None, None) && !state.stopped_early);
    let best = state.best.unwrap();
    assert_eq!((best.val_loss, best.step), (0.5, 9));
    assert_eq!(state.validation_here(), Some(0.7));
    state.step = 13;
    assert_eq!(state.validation_here(), None);
}

/// A resumed run must be the uninterrupted one, so floats keep every bit.
#[test]
fn the_state_survives_json_bit_for_bit() {
    let mut state = State::default();
    state.on_step(32, 0.1 + 0.2, 1.0 / 3.0);
    state.on_validation(2.0_f64.sqrt() * 1e-7, None, None);
    state.seconds_before = 1.0e-9_f64.exp();
    let value = serde_json::to_value(&state).unwrap();
    let text = serde_json::to_string(&value).unwrap();
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
}

/// docs/checkpoints.md promises that fields are only added: what a newer build saved must resume
/// here, and what is damaged must not look like a start.
#[test]
fn a_field_of_a_newer_build_is_passed_over_and_a_missing_one_is_not() {
    let mut state = State::default();
    state.on_step(4, 1.0, 0.5);
    let mut json = serde_json::to_value(&state).unwrap();
    json["of_a_newer_build"] = serde_json::json!({"x": 1});
    assert_eq!(serde_json::from_value::<State>(json.clone()).unwrap(), state);
    json.as_object_mut().unwrap().remove("epoch_samples");
    assert!(
        serde_json::from_value::<State>(json).unwrap_err().to_string().contains("epoch_samples")
    );
}

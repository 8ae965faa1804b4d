use super::{Measured, summarise};
use crate::train::State;

#[test]
fn reductions_and_quality_follow_the_best_validation() {
    let mut state = State::default();
    state.on_step(8, 2.0, 0.5);
    state.on_validation(1.0, None, None);
    state.on_step(8, 0.5, 0.5);
    state.on_validation(0.04, None, None);
    state.on_validation(0.3, None, None);
    let measured = Measured {
        trained_samples: 16,
        trained_seconds: 0.5,
        world: 2,
        is_regression: true,
        ..Measured::default()
    };
    let summary = summarise(&state, measured);
    assert_eq!(summary.loss_reduction_percent, Some(75.0));
    assert_eq!(summary.val_loss_reduction_percent, Some(96.0));
    assert_eq!(summary.quality.as_deref(), Some("Excellent"));
    assert_eq!((summary.best_val_loss, summary.best_val_step), (Some(0.04), Some(2)));
    assert_eq!(summary.samples_per_second, 32.0);
}

#[test]
fn a_run_without_steps_has_no_losses_and_no_rate() {
    let summary = summarise(&State::default(), Measured::default());
    assert_eq!((summary.initial_loss, summary.quality), (None, None));
    assert_eq!(summary.samples_per_second, 0.0);
}

#[test]
fn words_have_the_documented_bounds() {
    for (loss, word) in [(0.049, "Excellent"), (0.05, "Good"), (0.1, "Fair"), (0.2, "Poor")] {
        assert_eq!(super::quality(loss), word);
    }
}

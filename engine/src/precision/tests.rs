use common::spec::{DynamicLossScale, LossScale, OnOverflow, PrecisionKind};
use proptest::prelude::*;
use serde::Deserialize;

use super::{Error, MAX_IN_A_ROW, Precision, REMEMBERED, State};
use crate::fixture;

fn fp16(loss_scale: LossScale) -> Precision {
    let spec = common::spec::Precision {
        effective: PrecisionKind::Fp16,
        on_overflow: OnOverflow::Skip,
        loss_scale: Some(loss_scale),
        ..common::spec::Precision::FP32
    };
    Precision::new(&spec, 2)
}

/// One step; the scale after it, or why the run ends.
fn step(
    precision: &Precision,
    state: &mut State,
    number: u64,
    overflows: bool,
) -> Result<f64, Error> {
    if overflows {
        precision.on_overflow(state, (number, "the gradient of `w`".to_owned()), 0.5)?;
    } else {
        precision.on_update(state);
    }
    Ok(precision.scale(state).unwrap())
}

#[derive(Deserialize)]
struct Trace {
    power: u32,
    window: u64,
    hysteresis: u32,
    consecutive: bool,
    floor: f64,
    overflows: Vec<bool>,
    scales: Vec<f64>,
    ends: bool,
}

/// `tools/fixtures/make_loss_scale_traces.py`.
#[test]
fn the_dynamic_scale_is_deepspeeds_on_recorded_traces() {
    let text = fs_err::read_to_string(fixture::path("loss_scale.json")).unwrap();
    let traces: Vec<Trace> = serde_json::from_str(&text).unwrap();
    assert!(traces.iter().any(|trace| trace.ends) && traces.iter().any(|trace| !trace.ends));
    for (index, trace) in traces.into_iter().enumerate() {
        let settings = DynamicLossScale {
            initial_scale_power: trace.power,
            window: trace.window,
            hysteresis: trace.hysteresis,
            consecutive_hysteresis: trace.consecutive,
            min: trace.floor,
        };
        let precision = fp16(LossScale::Dynamic(settings));
        let mut state = State::default();
        let mut seen = Vec::new();
        for (number, overflows) in (1..).zip(&trace.overflows) {
            match step(&precision, &mut state, number, *overflows) {
                Ok(scale) => seen.push(scale),
                Err(error) => {
                    assert!(matches!(error, Error::AtTheFloor { .. }), "{error:?}");
                    assert_eq!(number as usize, trace.overflows.len(), "trace {index}");
                    assert!(trace.ends, "trace {index}");
                }
            }
        }
        assert_eq!(seen, trace.scales, "trace {index}");
        assert_eq!(trace.ends, seen.len() < trace.overflows.len(), "trace {index}");
    }
}

/// DeepSpeed's update, line by line, with its -1 for "never".
fn replay(settings: &DynamicLossScale, overflows: &[bool]) -> (Vec<f64>, bool) {
    let (mut scale, mut hysteresis) =
        (2.0_f64.powi(settings.initial_scale_power as i32), settings.hysteresis);
    let (mut iteration, mut last) = (0_i64, -1_i64);
    let mut scales = Vec::new();
    for overflow in overflows {
        if *overflow {
            if settings.hysteresis == 1 || hysteresis == 1 {
                if scale == settings.min {
                    return (scales, true);
                }
                scale = f64::max(scale / 2.0, settings.min);
            } else {
                hysteresis -= 1;
            }
            last = iteration;
        } else {
            if settings.consecutive_hysteresis {
                hysteresis = settings.hysteresis;
            }
            let stable = (iteration - last) - 1;
            if stable > 0 && stable % settings.window as i64 == 0 {
                if !settings.consecutive_hysteresis {
                    hysteresis = settings.hysteresis;
                }
                scale *= 2.0;
            }
        }
        iteration += 1;
        scales.push(scale);
    }
    (scales, false)
}

fn settings() -> impl Strategy<Value = DynamicLossScale> {
    let floors = prop::sample::select(vec![0.25, 1.0, 3.0, 16.0]);
    (0_u32..20, 1_u64..9, 1_u32..5, any::<bool>(), floors).prop_map(
        |(initial_scale_power, window, hysteresis, consecutive_hysteresis, min)| DynamicLossScale {
            initial_scale_power,
            window,
            hysteresis,
            consecutive_hysteresis,
            min,
        },
    )
}

proptest! {
    #[test]
    fn the_dynamic_scale_is_deepspeeds_on_random_overflows(
        settings in settings(),
        overflows in prop::collection::vec(prop::bool::weighted(0.35), 1..200),
    ) {
        let (expected, ends) = replay(&settings, &overflows);
        let precision = fp16(LossScale::Dynamic(settings));
        let mut state = State::default();
        let mut seen = Vec::new();
        for (number, overflow) in (1..).zip(&overflows) {
            let Ok(scale) = step(&precision, &mut state, number, *overflow) else { break };
            seen.push(scale);
            // What a checkpoint holds is all there is.
            let text = serde_json::to_string(&state).unwrap();
            state = serde_json::from_str(&text).unwrap();
        }
        prop_assert_eq!(&seen, &expected);
        prop_assert_eq!(seen.len() < overflows.len(), ends);
        let skipped = overflows.iter().take(seen.len()).filter(|it| **it).count() as u64;
        prop_assert_eq!(state.skipped, skipped + u64::from(ends));
    }
}

#[test]
fn the_floor_ends_the_run_with_what_overflowed_and_what_to_do() {
    let settings =
        DynamicLossScale { initial_scale_power: 1, hysteresis: 1, ..DynamicLossScale::default() };
    let precision = fp16(LossScale::Dynamic(settings));
    let mut state = State::default();
    assert_eq!(step(&precision, &mut state, 7, true), Ok(1.0));
    let error = step(&precision, &mut state, 9, true).unwrap_err();
    assert_eq!(error.step(), 9);
    let text = error.to_string();
    for part in [
        "step 9: the gradient of `w` overflows fp16",
        "floor of 1 (fp16.min_loss_scale)",
        "2 steps were skipped",
        "step 7 the gradient of `w` at scale 2, step 9 the gradient of `w` at scale 1",
        "lower the learning rate",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_static_scale_never_moves_and_gives_up_where_nothing_is_learned() {
    let precision = fp16(LossScale::Static { value: 128.0 });
    let mut state = State::default();
    assert_eq!(step(&precision, &mut state, 1, false), Ok(128.0));
    for number in 0..MAX_IN_A_ROW {
        assert_eq!(step(&precision, &mut state, 2 + number, true), Ok(128.0));
    }
    // One good step starts the count anew.
    let mut recovered = state.clone();
    assert_eq!(step(&precision, &mut recovered, 102, false), Ok(128.0));
    assert_eq!(step(&precision, &mut recovered, 103, true), Ok(128.0));
    let error = step(&precision, &mut state, 102, true).unwrap_err();
    let Error::NeverFinite { in_a_row, history, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*in_a_row, history.0.len()), (MAX_IN_A_ROW, REMEMBERED));
    assert!(error.to_string().contains("the 100 steps before it"), "{error}");
}

#[test]
fn skipped_steps_are_told_at_powers_of_ten_with_the_scale() {
    let precision = fp16(LossScale::Dynamic(DynamicLossScale::default()));
    let mut state = State::default();
    let mut notes = Vec::new();
    for number in 1..=10 {
        notes.extend(precision.on_overflow(&mut state, (number, "the loss".into()), 1.0).unwrap());
    }
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("(1 so far); the loss scale stays at 65536"), "{notes:?}");
    assert!(notes[1].contains("(10 so far); the loss scale goes from 256 to 128"), "{notes:?}");
}

#[test]
fn fp32_fails_at_once_and_has_no_scale() {
    let precision = Precision::new(&common::spec::Precision::FP32, 3);
    let mut state = State::default();
    assert_eq!((precision.scale(&state), precision.factor(&state)), (None, 1.0));
    precision.on_update(&mut state);
    let error = precision.on_overflow(&mut state, (4, "the loss".into()), 1.0).unwrap_err();
    assert!(matches!(error, Error::NotFinite { step: 4, .. }), "{error:?}");
    assert_eq!(state, State::default(), "nothing has happened");
}

#[test]
fn narrow_sums_take_deepspeeds_factors_and_wide_ones_none() {
    let factor = |communication, prescale_gradients, gradient_predivide_factor| {
        let spec = common::spec::Precision {
            communication,
            prescale_gradients,
            gradient_predivide_factor,
            ..common::spec::Precision::FP32
        };
        Precision::new(&spec, 6).factor(&State::default())
    };
    // Our loss is a share of the mean over all ranks: DeepSpeed's is the mean over one.
    assert_eq!(factor(PrecisionKind::Bf16, false, 1.0), 6.0);
    assert_eq!(factor(PrecisionKind::Bf16, false, 3.0), 2.0);
    assert_eq!(factor(PrecisionKind::Fp16, true, 3.0), 1.0);
    assert_eq!(factor(PrecisionKind::Fp32, false, 3.0), 1.0);
}

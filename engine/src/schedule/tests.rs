use common::spec::{Schedule as Spec, WarmupShape};

use super::Schedule;

fn rates(base: f64, shape: Spec, run_steps: u64, count: u64) -> Vec<f64> {
    let schedule = Schedule::of(base, &shape, run_steps);
    (0..count).map(|k| schedule.rate(k)).collect()
}

fn close(left: &[f64], right: &[f64], tolerance: f64) {
    assert_eq!(left.len(), right.len());
    for (k, (l, r)) in left.iter().zip(right).enumerate() {
        assert!((l - r).abs() <= tolerance, "update {k}: {l} is not {r}");
    }
}

/// The values that DeepSpeed 0.19.8's own classes give for a = 0, b = 0.01, W = 5.
#[test]
fn warmup_follows_deepspeed_step_by_step() {
    let warmup = |shape| Spec::WarmupLr { min_lr: 0.0, max_lr: 0.01, warmup_steps: 5, shape };
    close(
        &rates(1.0, warmup(WarmupShape::Log), 100, 8),
        &[0.0, 0.0, 0.004_307, 0.006_826, 0.008_614, 0.01, 0.01, 0.01],
        1e-6,
    );
    close(
        &rates(1.0, warmup(WarmupShape::Linear), 100, 8),
        &[0.0, 0.0, 0.002, 0.004, 0.006, 0.008, 0.01, 0.01],
        1e-15,
    );
}

#[test]
fn warmup_starts_at_its_minimum_and_is_never_shorter_than_two() {
    let shape =
        Spec::WarmupLr { min_lr: 0.001, max_lr: 0.01, warmup_steps: 1, shape: WarmupShape::Linear };
    close(&rates(1.0, shape, 100, 4), &[0.001, 0.001, 0.0055, 0.01], 1e-15);
}

#[test]
fn cosine_starts_at_zero_ends_at_its_floor_and_stays_there() {
    let shape = Spec::WarmupCosineLr {
        warmup_min_ratio: 0.1,
        cos_min_ratio: 0.01,
        warmup_steps: 4,
        shape: WarmupShape::Linear,
        total_steps: None,
    };
    let rates = rates(2.0, shape, 10, 14);
    close(&rates[..5], &[0.0, 0.2, 0.65, 1.1, 1.55], 1e-12);
    // t = 4: p = 1/6.
    let wave = (1.0 + (std::f64::consts::PI / 6.0).cos()) / 2.0;
    close(&rates[5..6], &[2.0 * (0.01 + 0.99 * wave)], 1e-12);
    close(&rates[10..], &[0.02, 0.02, 0.02, 0.02], 1e-12);
}

#[test]
fn a_cosine_length_of_its_own_beats_the_runs() {
    let shape = |total_steps| Spec::WarmupCosineLr {
        warmup_min_ratio: 0.0,
        cos_min_ratio: 0.0,
        warmup_steps: 2,
        shape: WarmupShape::Log,
        total_steps,
    };
    assert_eq!(rates(1.0, shape(Some(20)), 10, 30), rates(1.0, shape(None), 20, 30));
    assert_ne!(rates(1.0, shape(Some(20)), 10, 30), rates(1.0, shape(None), 10, 30));
}

#[test]
fn a_warmup_that_outlasts_the_run_is_told() {
    let shape =
        Spec::WarmupLr { min_lr: 0.0, max_lr: 0.01, warmup_steps: 1000, shape: WarmupShape::Log };
    let warning = Schedule::of(1.0, &shape, 40).warning(40).unwrap();
    assert!(warning.contains("1000") && warning.contains("40"), "{warning}");
    assert_eq!(Schedule::of(1.0, &shape, 4000).warning(4000), None);
    assert_eq!(Schedule::of(1.0, &Spec::Constant, 1).warning(1), None);
}

#[derive(serde::Deserialize)]
struct Traces {
    base: f64,
    updates: u64,
    /// The updates whose values are given.
    at: Vec<u64>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    scheduler: String,
    schedule: serde_json::Value,
    rates: Trace,
    beta1: Option<Trace>,
}

/// Some of the values, and two sums over all of them.
#[derive(serde::Deserialize)]
struct Trace {
    values: Vec<f64>,
    sum: f64,
    moment: f64,
}

impl Trace {
    fn check(&self, what: &str, traces: &Traces, ours: &dyn Fn(u64) -> f64) {
        let is_close =
            |ours: f64, theirs: f64| (ours - theirs).abs() <= 1e-12 + 1e-9 * theirs.abs();
        for (k, theirs) in traces.at.iter().zip(&self.values) {
            assert!(is_close(ours(*k), *theirs), "{what}: {k}: {} is not {theirs}", ours(*k));
        }
        let sum: f64 = (0..traces.updates).map(ours).sum();
        assert!(is_close(sum, self.sum), "{what}: sum {sum} is not {}", self.sum);
        let moment: f64 = (0..traces.updates).map(|k| k as f64 * ours(k)).sum();
        assert!(is_close(moment, self.moment), "{what}: moment {moment} is not {}", self.moment);
    }
}

/// What `tools/fixtures/make_schedule_fixtures.py` recorded of the classes themselves.
#[test]
fn ten_thousand_updates_have_the_rates_of_deepspeeds_and_torchs_own_schedulers() {
    let path = crate::fixture::path("schedules.json");
    let traces: Traces = serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap();
    assert!(traces.updates == 10_000 && traces.cases.len() >= 14);
    for case in &traces.cases {
        let shape: Spec = crate::fixture::in_kebab_case(&case.schedule);
        let schedule = Schedule::of(traces.base, &shape, 77);
        let what = format!("{} {shape:?}", case.scheduler);
        case.rates.check(&what, &traces, &|k| schedule.rate(k));
        match &case.beta1 {
            None => assert_eq!(schedule.betas(5), None, "{what}"),
            Some(beta1) => {
                beta1.check(&what, &traces, &|k| schedule.betas(k).unwrap()[0]);
                assert!((0..100).all(|k| schedule.betas(k).unwrap()[1] == 0.99));
            }
        }
    }
}

#[test]
fn a_momentum_that_grows_beyond_one_is_told() {
    let shape = |decay_rate| Spec::OneCycle {
        min_lr: 0.1,
        max_lr: 1.0,
        first_steps: 2,
        second_steps: 2,
        first_stairs: 0,
        second_stairs: 0,
        decay_rate: 0.0,
        decay_steps: 1,
        momentum: Some(common::spec::CycledMomentum { min: 0.8, max: 0.9, decay_rate }),
    };
    let warning = Schedule::of(1.0, &shape(0.01), 40).warning(40).unwrap();
    assert!(warning.contains("decay_mom_rate"), "{warning}");
    assert_eq!(Schedule::of(1.0, &shape(0.0), 40).warning(40), None);
}

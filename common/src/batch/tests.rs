use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

mod elastic;

fn sourced(value: u64, origin: &str) -> Sourced<u64> {
    Sourced { value, origin: origin.to_owned() }
}

fn batch(t: Option<u64>, m: Option<u64>, g: Option<u64>, mismatch: BatchMismatch) -> Batch {
    Batch {
        batch_size: t.map(|v| sourced(v, "ds.json:2")),
        micro_batch_size: m.map(|v| sourced(v, "ds.json:3")),
        gradient_accumulation: g.map(|v| sourced(v, "ds.json:4")),
        mismatch,
    }
}

/// The triad of one world in words, or why there is none.
fn check(given: [Option<u64>; 3], world: u32, mismatch: BatchMismatch, expected: &Expect) {
    let [t, m, g] = given;
    let text = match plan(&batch(t, m, g, mismatch), world) {
        Ok(plan) => {
            let mut text = format!(
                "T={} ({})\nm={} ({})\ng={} ({})\n",
                plan.batch_size.value,
                plan.batch_size.origin,
                plan.micro_batch_size.value,
                plan.micro_batch_size.origin,
                plan.gradient_accumulation.value,
                plan.gradient_accumulation.origin
            );
            if let Some(note) = plan.note {
                text.push_str(&format!("{note}\n"));
            }
            text
        }
        Err(error) => format!("{error}\n"),
    };
    expected.assert_eq(&text);
}

fn adapt(given: [Option<u64>; 3], world: u32, expected: &Expect) {
    check(given, world, BatchMismatch::Adapt, expected);
}

fn strict(given: [Option<u64>; 3], world: u32, expected: &Expect) {
    check(given, world, BatchMismatch::Error, expected);
}

#[test]
fn a_triad_that_fits_is_taken_as_given() {
    adapt(
        [Some(128), Some(32), Some(2)],
        2,
        &expect![[r#"
        T=128 (ds.json:2)
        m=32 (ds.json:3)
        g=2 (ds.json:4)
    "#]],
    );
    strict(
        [Some(128), Some(16), Some(8)],
        1,
        &expect![[r#"
        T=128 (ds.json:2)
        m=16 (ds.json:3)
        g=8 (ds.json:4)
    "#]],
    );
}

#[test]
fn missing_numbers_are_inferred_as_deepspeed_does() {
    adapt(
        [Some(128), Some(16), None],
        2,
        &expect![[r#"
        T=128 (ds.json:2)
        m=16 (ds.json:3)
        g=4 (inferred from batch-size, micro-batch-size and world)
    "#]],
    );
    adapt(
        [Some(128), None, Some(4)],
        2,
        &expect![[r#"
        T=128 (ds.json:2)
        m=16 (inferred from batch-size, gradient-accumulation and world)
        g=4 (ds.json:4)
    "#]],
    );
    adapt(
        [None, Some(16), Some(4)],
        2,
        &expect![[r#"
        T=128 (inferred from micro-batch-size, gradient-accumulation and world)
        m=16 (ds.json:3)
        g=4 (ds.json:4)
    "#]],
    );
    adapt(
        [Some(128), None, None],
        4,
        &expect![[r#"
        T=128 (ds.json:2)
        m=32 (inferred from batch-size and world)
        g=1 (inferred from batch-size, micro-batch-size and world)
    "#]],
    );
    adapt(
        [None, Some(16), None],
        4,
        &expect![[r#"
        T=64 (inferred from micro-batch-size and world)
        m=16 (ds.json:3)
        g=1 (inferred from batch-size, micro-batch-size and world)
    "#]],
    );
}

#[test]
fn a_world_that_does_not_fit_keeps_the_batch_and_gets_another_accumulation() {
    adapt(
        [Some(128), Some(16), Some(8)],
        2,
        &expect![[r#"
            T=128 (ds.json:2)
            m=16 (ds.json:3)
            g=4 (inferred: batch-size 128 over micro-batch-size 16 times world 2)
            batch-size 128 (ds.json:2) is not micro-batch-size 16 (ds.json:3) times gradient-accumulation 8 (ds.json:4) times world 2; a step keeps its 128 samples: 4 micro-steps of 32 samples, 16 on each rank
        "#]],
    );
    adapt(
        [Some(128), Some(16), Some(8)],
        3,
        &expect![[r#"
            T=128 (ds.json:2)
            m=16 (ds.json:3)
            g=3 (inferred: batch-size 128 over micro-batch-size 16 times world 3)
            batch-size 128 (ds.json:2) is not micro-batch-size 16 (ds.json:3) times gradient-accumulation 8 (ds.json:4) times world 3; a step keeps its 128 samples: 3 micro-steps of 42 or 43 samples, 14 to 15 on each rank
        "#]],
    );
    adapt(
        [Some(128), Some(32), Some(2)],
        1,
        &expect![[r#"
            T=128 (ds.json:2)
            m=32 (ds.json:3)
            g=4 (inferred: batch-size 128 over micro-batch-size 32 times world 1)
            batch-size 128 (ds.json:2) is not micro-batch-size 32 (ds.json:3) times gradient-accumulation 2 (ds.json:4) times world 1; a step keeps its 128 samples: 4 micro-steps of 32 samples, 32 on each rank
        "#]],
    );
    adapt(
        [Some(128), Some(32), Some(2)],
        3,
        &expect![[r#"
        T=128 (ds.json:2)
        m=32 (ds.json:3)
        g=2 (ds.json:4)
        batch-size 128 (ds.json:2) is not micro-batch-size 32 (ds.json:3) times gradient-accumulation 2 (ds.json:4) times world 3; a step keeps its 128 samples: 2 micro-steps of 64 samples, 21 to 22 on each rank
    "#]],
    );
}

#[test]
fn a_batch_that_does_not_divide_is_cut_unevenly() {
    adapt(
        [Some(10), Some(4), None],
        2,
        &expect![[r#"
        T=10 (ds.json:2)
        m=4 (ds.json:3)
        g=2 (inferred from batch-size, micro-batch-size and world)
        batch-size 10 (ds.json:2) is not a multiple of micro-batch-size 4 (ds.json:3) times world 2; a step keeps its 10 samples: 2 micro-steps of 5 samples, 2 to 3 on each rank
    "#]],
    );
    adapt(
        [Some(128), None, None],
        3,
        &expect![[r#"
            T=128 (ds.json:2)
            m=43 (inferred from batch-size and world)
            g=1 (inferred from batch-size, micro-batch-size and world)
            batch-size 128 (ds.json:2) does not divide by the world of 3 ranks; a step keeps its 128 samples: 1 micro-step of 128 samples, 42 to 43 on each rank
        "#]],
    );
    adapt(
        [Some(5), Some(1), None],
        4,
        &expect![[r#"
        T=5 (ds.json:2)
        m=1 (ds.json:3)
        g=2 (inferred from batch-size, micro-batch-size and world)
        batch-size 5 (ds.json:2) is not a multiple of micro-batch-size 1 (ds.json:3) times world 4; a step keeps its 5 samples: 2 micro-steps of 2 or 3 samples, 0 to 1 on each rank
    "#]],
    );
    adapt(
        [Some(4), None, Some(8)],
        2,
        &expect![[r#"
            T=4 (ds.json:2)
            m=1 (inferred from batch-size, gradient-accumulation and world)
            g=2 (inferred: batch-size 4 over micro-batch-size 1 times world 2)
            batch-size 4 (ds.json:2) is not micro-batch-size 1 (inferred from batch-size, gradient-accumulation and world) times gradient-accumulation 8 (ds.json:4) times world 2; a step keeps its 4 samples: 2 micro-steps of 2 samples, 1 on each rank
        "#]],
    );
}

#[test]
fn a_strict_job_is_told_the_nearest_valid_settings() {
    strict(
        [Some(128), Some(16), Some(8)],
        2,
        &expect![[r#"
        batch-size 128 (ds.json:2) is not micro-batch-size 16 (ds.json:3) times gradient-accumulation 8 (ds.json:4) times world 2, and batch-mismatch = "error"; valid are: gradient-accumulation = 4; or world-size = 1
    "#]],
    );
    strict(
        [Some(128), Some(16), Some(8)],
        3,
        &expect![[r#"
        batch-size 128 (ds.json:2) is not micro-batch-size 16 (ds.json:3) times gradient-accumulation 8 (ds.json:4) times world 3, and batch-mismatch = "error"; valid are: batch-size = 96 with gradient-accumulation = 2; or batch-size = 144 with gradient-accumulation = 3; or world-size = 1
    "#]],
    );
    strict(
        [Some(10), Some(4), None],
        2,
        &expect![[r#"
        batch-size 10 (ds.json:2) is not a multiple of micro-batch-size 4 (ds.json:3) times world 2, and batch-mismatch = "error"; valid are: batch-size = 8 with gradient-accumulation = 1; or batch-size = 16 with gradient-accumulation = 2; or micro-batch-size = 1 with gradient-accumulation = 5
    "#]],
    );
}

#[test]
fn what_cannot_be_is_refused() {
    adapt(
        [Some(3), None, None],
        4,
        &expect![[r#"
        batch-size 3 (ds.json:2) is smaller than the world of 4 ranks: use at most 3 ranks or a batch-size of at least 4
    "#]],
    );
    adapt(
        [None, None, Some(4)],
        2,
        &expect![[r#"
        gradient-accumulation 4 (ds.json:4) alone does not say how many samples a step has; give batch-size or micro-batch-size too
    "#]],
    );
    adapt(
        [None, None, None],
        2,
        &expect![[r#"
        neither batch-size nor micro-batch-size is given
    "#]],
    );
    adapt(
        [Some(0), None, None],
        2,
        &expect![[r#"
        batch-size is 0 (ds.json:2); it must be at least 1
    "#]],
    );
    adapt(
        [Some(8), Some(4), Some(0)],
        2,
        &expect![[r#"
        gradient-accumulation is 0 (ds.json:4); it must be at least 1
    "#]],
    );
    adapt(
        [Some(8), None, None],
        0,
        &expect![[r#"
        world-size is 0 (given); it must be at least 1
    "#]],
    );
    adapt(
        [None, Some(u64::MAX), Some(2)],
        2,
        &expect![[r#"
        micro-batch-size 18446744073709551615 times gradient-accumulation 2 times 2 ranks is too large
    "#]],
    );
}

#[test]
fn a_batch_is_possible_exactly_where_it_has_a_plan() {
    let numbers = [None, Some(0), Some(1), Some(6), Some(64)];
    let triads = numbers.iter().flat_map(|t| numbers.iter().map(move |m| (*t, *m)));
    for (t, m, g) in triads.flat_map(|(t, m)| numbers.iter().map(move |g| (t, m, *g))) {
        for (world, mismatch) in
            (0..9).flat_map(|w| [(w, BatchMismatch::Adapt), (w, BatchMismatch::Error)])
        {
            let batch = batch(t, m, g, mismatch);
            assert_eq!(
                is_possible(&batch, world),
                plan(&batch, world).is_ok(),
                "{batch:?} on {world}"
            );
        }
    }
}

proptest! {
    #[test]
    fn every_sample_of_a_batch_is_taken_exactly_once(
        t in 1u64..600, m in 1u64..80, g in proptest::option::of(1u64..20), world in 1u32..17,
    ) {
        prop_assume!(t >= u64::from(world));
        let plan = plan(&batch(Some(t), Some(m), g, BatchMismatch::Adapt), world).unwrap();
        prop_assert_eq!(plan.batch_size.value, t);
        let mut next = 0;
        for index in 0..plan.gradient_accumulation.value {
            let step = plan.micro_step(index);
            prop_assert_eq!(step.start, next);
            let even = t / plan.gradient_accumulation.value;
            let size = step.end - step.start;
            prop_assert!(size == even || size == even + 1);
            prop_assert!(size > 0);
            let runs: Vec<_> = (0..world).map(|rank| plan.rank_run(index, rank)).collect();
            let sizes: Vec<_> = runs.iter().map(|run| run.end - run.start).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            prop_assert!(*sizes.iter().max().unwrap() <= m);
            for run in runs {
                prop_assert_eq!(run.start, next);
                next = run.end;
            }
            prop_assert_eq!(step.end, next);
        }
        prop_assert_eq!(next, t);
    }

    #[test]
    fn any_positive_triad_has_a_plan_whose_micro_steps_fit(
        t in proptest::option::of(1u64..600), m in proptest::option::of(1u64..80),
        g in proptest::option::of(1u64..20), world in 1u32..17,
    ) {
        match plan(&batch(t, m, g, BatchMismatch::Adapt), world) {
            Ok(plan) => {
                let (m, g) = (plan.micro_batch_size.value, plan.gradient_accumulation.value);
                prop_assert!(m * g * u64::from(world) >= plan.batch_size.value);
                prop_assert!(m * (g - 1) * u64::from(world) < plan.batch_size.value);
            }
            Err(Error::TooFewSamples { .. }) => prop_assert!(t.unwrap() < u64::from(world)),
            Err(Error::AccumulationAlone(_) | Error::Nothing) => prop_assert!(t.or(m).is_none()),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        }
    }

    #[test]
    fn what_a_strict_job_is_offered_is_accepted(
        t in 1u64..300, m in 1u64..40, g in proptest::option::of(1u64..9), world in 1u32..9,
    ) {
        let asked = batch(Some(t), Some(m), g, BatchMismatch::Error);
        let Err(Error::Mismatch { nearest, .. }) = plan(&asked, world) else { return Ok(()) };
        prop_assert!(!nearest.is_empty());
        for offer in nearest {
            let (mut tried, mut w) = (asked.clone(), world);
            for setting in offer.split(" with ") {
                let (key, value) = setting.split_once(" = ").unwrap();
                let value = value.parse().unwrap();
                match key {
                    "batch-size" => tried.batch_size = Some(sourced(value, "offer")),
                    "micro-batch-size" => tried.micro_batch_size = Some(sourced(value, "offer")),
                    "gradient-accumulation" => tried.gradient_accumulation = Some(sourced(value, "offer")),
                    "world-size" => w = u32::try_from(value).unwrap(),
                    other => return Err(TestCaseError::fail(other.to_owned())),
                }
            }
            prop_assert!(plan(&tried, w).is_ok(), "{} of {:?} at {}", offer, asked, world);
        }
    }
}

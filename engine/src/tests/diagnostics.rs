//! What a run measures of itself where it is asked to, and that asking changes no bit.

use common::spec::{CommsLog, FlopsProfile};

use super::ranks::Attempt;
use super::spec;

#[test]
fn phases_collectives_and_operations_are_told_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("flops.txt");
    let run = |is_asked: bool, folder: &str| {
        let folder = dir.path().join(folder);
        fs_err::create_dir_all(&folder).unwrap();
        let spec = spec::job().batch(16, 4).stage(2).with(|spec| {
            let asked = &mut spec.monitor.diagnostics;
            asked.wall_clock_breakdown = is_asked;
            asked.comms_log = is_asked.then(CommsLog::default);
            let output_file = Some(profile.clone());
            let step = FlopsProfile { step: 2, detailed: true, output_file };
            asked.flops_profile = is_asked.then_some(step);
        });
        let (_, heard) = Attempt::new(spec.build(), 2, &folder).run().unwrap();
        let losses = heard.losses.lock().unwrap().clone();
        let seconds = heard.seconds.lock().unwrap().clone();
        (losses, seconds, folder)
    };
    let (plain, no_seconds, silent) = run(false, "plain");
    let (losses, seconds, folder) = run(true, "measured");
    assert_eq!(losses, plain);
    assert!(no_seconds.keys().all(|name| *name == "train/step-seconds"), "{no_seconds:?}");
    assert!(!silent.join("metrics/comms.csv").exists());

    let of = |name: &str| seconds[name].clone();
    let steps = of("train/step-seconds");
    for (step, whole) in steps.iter().enumerate() {
        let (forward, backward) = (of("train/forward-seconds"), of("train/backward-seconds"));
        assert!(forward[step] > 0.0 && backward[step] > 0.0);
        let names = ["fetch", "forward", "backward", "reduce", "optimizer"];
        let parts: f64 = names.map(|name| of(&format!("train/{name}-seconds"))[step]).iter().sum();
        assert!(parts <= *whole, "step {step}: {parts} s of {whole} s");
    }

    let comms = fs_err::read_to_string(folder.join("metrics/comms.csv")).unwrap();
    let count = |op: &str| {
        let lines = comms.lines().filter(|line| line.starts_with(op));
        lines.map(|line| line.split(',').nth(2).unwrap().parse::<usize>().unwrap()).sum::<usize>()
    };
    // Stage 2 sums every micro-step and gathers once a step.
    let buckets = count("all_gather") / steps.len();
    assert!(buckets >= 1, "{comms}");
    let micro_steps = 16 / (4 * 2);
    assert_eq!(count("reduce_scatter"), buckets * micro_steps * steps.len(), "{comms}");

    let profile = fs_err::read_to_string(&profile).unwrap();
    assert!(profile.starts_with("FLOPS profile of step 2, rank 0 of 2"), "{profile}");
    assert!(profile.contains("lstm.layer0"), "{profile}");
}

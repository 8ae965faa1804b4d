use std::path::Path;

use super::*;
use crate::jobfile::{self, Override};

fn spec(settings: &[&str]) -> JobSpec {
    let text = "[data]\nkind = \"sine\"\n[training]\nbatch-size = 128\n";
    let overrides: Vec<Override> =
        settings.iter().map(|text| Override::set(text).unwrap()).collect();
    let input = jobfile::Input {
        name: "job.toml",
        text,
        base_dir: Path::new("/"),
        caller_dir: Path::new("/"),
        overrides: &overrides,
        strict: false,
        read: &|path| fs_err::read_to_string(path),
        variable: &|_| None,
    };
    jobfile::load(&input).unwrap_or_else(|mistakes| panic!("{mistakes}")).spec
}

/// H = 64, two layers, one input, one output, as torch counts them.
const PARAMETERS: u64 = (4 * 64 * (1 + 64) + 2 * 256) + (4 * 64 * 128 + 2 * 256) + 65;

#[test]
fn adam_in_fp32_holds_sixteen_bytes_a_parameter_at_stage_0_and_spreads_what_the_stage_says() {
    let spec = spec(&[]);
    let at = |stage: u8, world: u32| {
        let mut spec = spec.clone();
        spec.zero.stage = stage;
        of_job(&spec, world).unwrap()
    };
    let close = |found: u64, wanted: u64| {
        let off = (found as f64 - wanted as f64).abs() / wanted as f64;
        assert!(off < 0.01, "{found}, not {wanted}");
    };
    let (psi, none) = (4 * PARAMETERS, at(0, 4));
    close(none.parameters, psi);
    close(none.gradients, psi);
    close(none.optimizer, 2 * psi);
    close(at(1, 4).optimizer, 2 * psi / 4);
    close(at(1, 4).gradients, psi + psi / 4);
    close(at(2, 4).gradients, psi / 4);
    close(at(2, 4).parameters, psi);
}

#[test]
fn activations_follow_the_micro_batch_and_nothing_else_does() {
    let whole = of_job(&spec(&[]), 1).unwrap();
    let half = of_job(&spec(&["training.micro-batch-size=64"]), 1).unwrap();
    // Gradients of weights come and go with them, and do not halve.
    let of_whole = half.activations as f64 / whole.activations as f64;
    assert!((0.5..0.55).contains(&of_whole), "{of_whole}");
    let state = |all| Estimate { activations: 0, buffers: 0, ..all };
    assert_eq!(state(half), state(whole));
}

#[test]
fn what_a_csv_file_holds_is_known_only_by_its_columns() {
    let csv = ["data={kind=\"csv\",path=\"x\"}"];
    assert_eq!(of_job(&spec(&csv), 1), None);
    let named = ["data={kind=\"csv\",path=\"x\",columns=[\"a\",\"b\"]}"];
    assert!(of_job(&spec(&named), 1).is_some());
}

#[test]
fn advice_fits_and_keeps_the_batch_of_a_step() {
    // Whose code runs layers by itself is the CPU's matter, and what they take with it.
    let spec = spec(&["model.kernel=native"]);
    let sizes = Sizes::of(&spec).unwrap();
    let needs = of_job(&spec, 2).unwrap();
    assert_eq!(advise(&spec, sizes, 2, needs.total()), Vec::<String>::new(), "it fits as it is");
    let fixed = needs.total() - needs.activations;
    let advice = advise(&spec, sizes, 2, fixed + needs.activations * 3 / 10);
    assert!(advice[0].starts_with("--set training.micro-batch-size=16 needs"), "{advice:?}");
    // Less than the state of one rank: only sharding helps.
    let large = self::spec(&["model.hidden-size=512"]);
    let needs = of_job(&large, 4).unwrap();
    let advice = advise(&large, sizes, 4, needs.total() - needs.activations);
    assert!(advice[0].contains("stage=1"), "{advice:?}");
    assert_eq!(advise(&spec, sizes, 2, 1000), Vec::<String>::new());
}

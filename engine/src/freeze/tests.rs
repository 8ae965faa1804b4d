use super::{Error, matches, trained};

const NAMES: [&str; 4] = ["lstm.weight_ih_l0", "lstm.bias_ih_l0", "fc.weight", "fc.bias"];

fn patterns(patterns: &[&str]) -> Vec<String> {
    patterns.iter().map(|&pattern| pattern.to_owned()).collect()
}

#[test]
fn patterns_match_whole_names() {
    for (pattern, name, expected) in [
        ("fc.bias", "fc.bias", true),
        ("fc.bia", "fc.bias", false),
        ("fc", "fc.bias", false),
        ("fc.*", "fc.bias", true),
        ("*", "fc.bias", true),
        ("*bias*", "lstm.bias_ih_l0", true),
        ("*.bias", "lstm.bias_ih_l0", false),
        ("lstm.*_l?", "lstm.bias_ih_l0", true),
        ("lstm.*_l?", "lstm.bias_ih_l10", false),
        ("", "fc.bias", false),
        ("**", "", true),
        ("?", "", false),
    ] {
        assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
    }
}

#[test]
fn what_no_pattern_names_is_trained() {
    assert_eq!(trained(&NAMES, &[]), Ok(vec![true; 4]));
    assert_eq!(
        trained(&NAMES, &patterns(&["lstm.*", "*.bias"])),
        Ok(vec![false, false, true, false])
    );
}

#[test]
fn patterns_that_cannot_be_meant_are_told_with_the_names_that_there_are() {
    let error = trained(&NAMES, &patterns(&["fc.*", "conv.*"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "training.freeze: no parameter is called like `conv.*`; the model has lstm.weight_ih_l0, \
         lstm.bias_ih_l0, fc.weight, fc.bias"
    );
    let error = trained(&NAMES, &patterns(&["*"])).unwrap_err();
    assert_eq!(error, Error::Everything { patterns: patterns(&["*"]) });
}

//! `--sweep KEY=V1,V2`: one job for every combination of values.

use common::exit::ExitCode;
use service::exit::Failure;

/// Jobs of one sweep, at most: more is a typing error, and each is a job of its own.
const MAX_JOBS: usize = 1000;

/// The settings of one job of a sweep, as `--set` takes them.
pub(crate) type Settings = Vec<(String, String)>;

/// Every combination, the last key changing fastest. Without a sweep: one, of no settings.
pub(crate) fn combinations(sweeps: &[String]) -> Result<Vec<Settings>, Failure> {
    let mut all: Vec<Settings> = vec![Vec::new()];
    for sweep in sweeps {
        let (key, values) = read(sweep).map_err(|why| usage(&format!("--sweep {sweep}: {why}")))?;
        if all[0].iter().any(|(known, _)| *known == key) {
            return Err(usage(&format!("--sweep {key}: the key is swept twice")));
        }
        let jobs = all.len() * values.len();
        if jobs > MAX_JOBS {
            return Err(usage(&format!("--sweep: {jobs} combinations; at most {MAX_JOBS}")));
        }
        let extend = |settings: &Settings| {
            let with = |value: &String| {
                let mut settings = settings.clone();
                settings.push((key.clone(), value.clone()));
                settings
            };
            values.iter().map(with).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(extend).collect();
    }
    Ok(all)
}

fn usage(text: &str) -> Failure {
    Failure::new(ExitCode::Usage, anyhow::anyhow!("{text}"))
        .hint("such as --sweep training.learning-rate=1e-3,3e-4")
}

fn read(sweep: &str) -> Result<(String, Vec<String>), &'static str> {
    let (key, values) = sweep.split_once('=').ok_or("a key and its values are joined by `=`")?;
    let key = key.trim();
    if key.is_empty() || key.split('.').any(|part| part.trim().is_empty()) {
        return Err("there is no key before `=`");
    }
    let values = split(values)?;
    if values.iter().any(String::is_empty) {
        return Err("a value is empty");
    }
    Ok((key.to_owned(), values))
}

/// Splits at commas that stand in no brackets and no quotes: a value may be a TOML array.
fn split(text: &str) -> Result<Vec<String>, &'static str> {
    let mut values = vec![String::new()];
    let (mut depth, mut quote) = (0_usize, None);
    for letter in text.chars() {
        match (letter, quote) {
            (',', None) if depth == 0 => {
                values.push(String::new());
                continue;
            }
            ('[' | '{', None) => depth += 1,
            (']' | '}', None) => depth = depth.checked_sub(1).ok_or("a bracket too many")?,
            ('"' | '\'', None) => quote = Some(letter),
            (_, Some(open)) if open == letter => quote = None,
            _ => {}
        }
        if let Some(last) = values.last_mut() {
            last.push(letter);
        }
    }
    if depth > 0 || quote.is_some() {
        return Err("a bracket or a quote is not closed");
    }
    Ok(values.into_iter().map(|value| value.trim().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::combinations;

    fn check(sweeps: &[&str], expected: &[&str]) {
        let sweeps: Vec<String> = sweeps.iter().map(|s| (*s).to_owned()).collect();
        let shown = |settings: &super::Settings| {
            settings.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
        };
        let found: Vec<String> = combinations(&sweeps).unwrap().iter().map(shown).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_sweep_is_the_cross_product_in_the_order_typed() {
        check(&[], &[""]);
        check(&["a.b=1,2", "c=x, y"], &["a.b=1 c=x", "a.b=1 c=y", "a.b=2 c=x", "a.b=2 c=y"]);
        check(&["m=[8,16],[32]", "n='a,b'"], &["m=[8,16] n='a,b'", "m=[32] n='a,b'"]);
    }

    #[test]
    fn what_is_no_sweep_is_a_usage_error() {
        for sweep in ["a", "=1", "a=", "a=1,,2", "a=[1", "a=1]", "a.=1"] {
            let failure = combinations(&[sweep.to_owned()]).unwrap_err();
            assert_eq!(failure.code, common::exit::ExitCode::Usage, "{sweep}");
        }
        let twice = ["a=1".to_owned(), "a=2".to_owned()];
        assert!(combinations(&twice).is_err());
        let many = (0..1001).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        assert!(combinations(&[format!("a={many}")]).is_err());
    }
}

//! Parameters that stay as they are: `training.freeze` names them by patterns.
//!
//! Promise: a pattern that names nothing, and a job that leaves nothing to train, are errors that
//! tell the names that there are. Refusal: no tensors; who calls acts on the answer.

/// Why a job's patterns cannot be what was meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "training.freeze: no parameter is called like `{pattern}`; the model has {}",
        .names.join(", ")
    )]
    NoMatch { pattern: String, names: Vec<String> },
    #[error("training.freeze = {patterns:?} leaves nothing to train: every parameter is frozen")]
    Everything { patterns: Vec<String> },
}

/// Whether each of the parameters with these names is trained.
pub(crate) fn trained(names: &[&str], patterns: &[String]) -> Result<Vec<bool>, Error> {
    for pattern in patterns {
        if !names.iter().any(|name| matches(pattern, name)) {
            let names = names.iter().map(|&name| name.to_owned()).collect();
            return Err(Error::NoMatch { pattern: pattern.clone(), names });
        }
    }
    let is_frozen = |name: &str| patterns.iter().any(|pattern| matches(pattern, name));
    let trained: Vec<bool> = names.iter().map(|name| !is_frozen(name)).collect();
    if trained.contains(&true) {
        Ok(trained)
    } else {
        Err(Error::Everything { patterns: patterns.to_vec() })
    }
}

/// `*` stands for any characters, also none; `?` for one.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    // What of the pattern so far matches each beginning of the name.
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for &letter in &pattern {
        let mut next = vec![false; name.len() + 1];
        for at in 0..=name.len() {
            next[at] = match letter {
                '*' => reached[at] || (at > 0 && next[at - 1]),
                '?' => at > 0 && reached[at - 1],
                letter => at > 0 && reached[at - 1] && name[at - 1] == letter,
            };
        }
        reached = next;
    }
    reached[name.len()]
}

#[cfg(test)]
mod tests;

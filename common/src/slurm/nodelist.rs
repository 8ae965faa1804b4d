//! SLURM's compressed lists of nodes, as in `SLURM_JOB_NODELIST`: `n[01-03,7],m1`. A name may hold
//! several brackets; numbers keep the width of the first one in their range.

/// More nodes than SLURM itself allows in a cluster: a longer list is no list of nodes.
pub const MAX_NODES: usize = 1 << 16;

/// Digits of a node's number that still fit its type.
const MAX_DIGITS: usize = 18;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a name is empty")]
    EmptyName,
    #[error("`{name}`: `{found}` cannot be in a node's name")]
    Character { name: String, found: char },
    #[error("`{name}`: `[` and `]` do not match")]
    Brackets { name: String },
    #[error("`{name}`: `{text}` is not a number of at most {MAX_DIGITS} digits")]
    Number { name: String, text: String },
    #[error("`{name}`: the range {low}-{high} runs backwards")]
    Backwards { name: String, low: u64, high: u64 },
    #[error("it names more than {MAX_NODES} nodes")]
    TooMany,
}

/// The names, in the list's order.
pub fn expand(text: &str) -> Result<Vec<String>, Error> {
    let mut nodes = Vec::new();
    for name in split_outside_brackets(text) {
        let room = MAX_NODES - nodes.len();
        nodes.extend(expand_name(name, room)?);
    }
    Ok(nodes)
}

/// Cuts at the commas that separate names, not at those that separate numbers.
fn split_outside_brackets(text: &str) -> impl Iterator<Item = &str> {
    let mut is_inside = false;
    text.split(move |c| {
        match c {
            '[' => is_inside = true,
            ']' => is_inside = false,
            _ => {}
        }
        c == ',' && !is_inside
    })
}

/// `r[1-2]n[3,5]-ib` is four names. At most `room` of them.
fn expand_name(name: &str, room: usize) -> Result<Vec<String>, Error> {
    if name.is_empty() {
        return Err(Error::EmptyName);
    }
    let mut found = vec![String::new()];
    let mut rest = name;
    while let Some((literal, after)) = rest.split_once('[') {
        let (numbers, after) =
            after.split_once(']').ok_or_else(|| Error::Brackets { name: name.to_owned() })?;
        check_literal(name, literal)?;
        found.iter_mut().for_each(|start| start.push_str(literal));
        found = with_each(&found, &ranges(name, numbers)?, room)?;
        rest = after;
    }
    check_literal(name, rest)?;
    found.iter_mut().for_each(|start| start.push_str(rest));
    if found.len() > room { Err(Error::TooMany) } else { Ok(found) }
}

fn check_literal(name: &str, literal: &str) -> Result<(), Error> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match literal.chars().find(|c| !is_allowed(*c)) {
        None => Ok(()),
        Some(']') => Err(Error::Brackets { name: name.to_owned() }),
        Some(found) => Err(Error::Character { name: name.to_owned(), found }),
    }
}

/// Numbers from `low` to `high`, with at least `width` digits.
#[derive(Debug, Clone, Copy)]
struct Range {
    low: u64,
    high: u64,
    width: usize,
}

fn ranges(name: &str, text: &str) -> Result<Vec<Range>, Error> {
    let number = |text: &str| {
        let is_number =
            (1..=MAX_DIGITS).contains(&text.len()) && text.chars().all(|c| c.is_ascii_digit());
        let wrong = || Error::Number { name: name.to_owned(), text: text.to_owned() };
        if is_number { text.parse::<u64>().map_err(|_| wrong()) } else { Err(wrong()) }
    };
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (low, high) = (number(first)?, number(last)?);
        if low > high {
            return Err(Error::Backwards { name: name.to_owned(), low, high });
        }
        Ok(Range { low, high, width: first.len() })
    };
    text.split(',').map(range).collect()
}

/// Every start with every number, starts first.
fn with_each(starts: &[String], ranges: &[Range], room: usize) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for start in starts {
        for Range { low, high, width } in ranges {
            for number in *low..=*high {
                if found.len() == room {
                    return Err(Error::TooMany);
                }
                found.push(format!("{start}{number:0width$}"));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;

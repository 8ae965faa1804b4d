//! Every key of DeepSpeed's configuration that we know: the form of its value, what it means and
//! what becomes of it. The table is the documentation: a test writes it into
//! `docs/configuration.md`, and `rsctl config explain` prints its lines. Reads no configuration.

mod run;
mod training;
mod zero;

/// What becomes of a key. To implement one: read it in `deepspeed.rs` or beside it, and make its
/// line in the table `Implemented`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fate {
    /// Read, and decides this key of the effective job; empty for blocks and for what spreads
    /// over several keys.
    Implemented(&'static str),
    /// Accepted and without effect, which is said with the reason, except for the harmless values.
    Ignored(Harmless, &'static str),
    /// Refused by name, except for the harmless values: without it the user would get something
    /// else than what was asked for.
    NotSupported(Harmless, &'static str),
    /// Newer DeepSpeed rejects it. Asking for nothing is accepted with a warning.
    Removed(Harmless, &'static str),
    /// A second name of another key of the block, as good as the first.
    Alias(&'static str),
    /// An old name; `rename` maps it to this one.
    Deprecated(&'static str),
}

/// Values that change nothing, so that nothing needs to be said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Harmless {
    Any,
    /// false, null, 0, empty, or a block that is not `enabled`.
    Off,
    /// As JSON writes them, or off.
    Is(&'static [&'static str]),
}

/// What a value looks like. `"auto"` and null are accepted for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Bool,
    /// A whole number; `5e8` and `"8"` are.
    Integer,
    Number,
    Text,
    List,
    Block,
    /// DeepSpeed takes several forms.
    Other,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) form: Form,
    /// One line, with DeepSpeed's default where it has one.
    pub(crate) meaning: &'static str,
    pub(crate) fate: Fate,
}

const fn key(name: &'static str, form: Form, meaning: &'static str, fate: Fate) -> Key {
    Key { name, form, meaning, fate }
}

/// Whether DeepSpeed itself refuses what it does not know there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Unknown keys and wrong forms are mistakes.
    Validated,
    /// Unknown keys are dropped in silence by DeepSpeed, and warned of by us.
    Loose,
}

/// Keys of one table; several blocks may share a path.
#[derive(Debug)]
pub(crate) struct Block {
    /// Dotted; empty for the top level.
    pub(crate) path: &'static str,
    pub(crate) rule: Rule,
    pub(crate) keys: &'static [Key],
}

/// The table, in the order of the documentation.
pub(crate) fn blocks() -> impl Iterator<Item = &'static Block> {
    [training::BLOCKS, zero::BLOCKS, run::BLOCKS].into_iter().flatten()
}

/// The line of a key.
pub(crate) fn find(block: &str, name: &str) -> Option<&'static Key> {
    blocks()
        .filter(|known| known.path == block)
        .flat_map(|known| known.keys)
        .find(|known| known.name == name)
}

/// Names that a block may hold; none: whatever it holds is accepted.
pub(crate) fn names_of(block: &str) -> Vec<&'static str> {
    let keys = blocks().filter(|known| known.path == block).flat_map(|known| known.keys);
    keys.map(|key| key.name).collect()
}

pub(crate) fn is_validated(block: &str) -> bool {
    blocks().any(|known| known.path == block && known.rule == Rule::Validated)
}

/// `zero_optimization.stage`.
pub(crate) fn path_of(block: &str, name: &str) -> String {
    if block.is_empty() { name.to_owned() } else { format!("{block}.{name}") }
}

//! Looking things up in a pickle, with errors that say where.

use crate::torch::pickle::{Id, Node, Pickle};
use crate::torch::{TensorRef, TorchError};

/// A node and the way to it, for messages: `optimizer_state_dict.partition_count`.
#[derive(Debug, Clone)]
pub(crate) struct At<'a> {
    pickle: &'a Pickle,
    id: Id,
    path: String,
}

impl Pickle {
    pub(crate) fn top(&self) -> At<'_> {
        At { pickle: self, id: self.root(), path: "the file".to_owned() }
    }
}

impl<'a> At<'a> {
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn node(&self) -> &'a Node {
        self.pickle.node(self.id)
    }

    fn to(&self, id: Id, step: &str) -> Self {
        let path =
            if self.path == "the file" { step.to_owned() } else { format!("{}.{step}", self.path) };
        Self { pickle: self.pickle, id, path }
    }

    fn wrong(&self, expected: &'static str) -> TorchError {
        let found = match self.node() {
            Node::None => "None",
            Node::Bool(_) => "a boolean",
            Node::Int(_) => "an integer",
            Node::Float(_) => "a number",
            Node::Text(_) => "a text",
            Node::Opaque => "bytes",
            Node::Tuple(_) => "a tuple",
            Node::List(_) => "a list",
            Node::Dict(_) => "a dictionary",
            Node::Global(_) | Node::Storage(_) => "a name or storage",
            Node::Tensor(_) => "a tensor",
            Node::Record { .. } => "an object",
        };
        TorchError::Shape { path: self.path.clone(), expected, found: found.to_owned() }
    }

    pub(crate) fn is_none(&self) -> bool {
        *self.node() == Node::None
    }

    /// A dictionary's value, or an object's attribute. The last of a key wins, as in Python.
    pub(crate) fn find(&self, key: &str) -> Result<Option<At<'a>>, TorchError> {
        let items = self.entries_of("a dictionary")?;
        let is_key = |id: Id| matches!(self.pickle.node(id), Node::Text(text) if text == key);
        let found = items.iter().rev().find(|(id, _)| is_key(*id));
        Ok(found.map(|(_, value)| self.to(*value, key)).filter(|value| !value.is_none()))
    }

    pub(crate) fn get(&self, key: &str) -> Result<At<'a>, TorchError> {
        self.find(key)?.ok_or_else(|| TorchError::Shape {
            path: self.to(self.id, key).path,
            expected: "a value",
            found: "none".to_owned(),
        })
    }

    fn entries_of(&self, expected: &'static str) -> Result<&'a [(Id, Id)], TorchError> {
        match self.node() {
            Node::Dict(items) => Ok(items),
            Node::Record { state: Some(state), .. } => match self.pickle.node(*state) {
                Node::Dict(items) => Ok(items),
                _ => Err(self.wrong(expected)),
            },
            _ => Err(self.wrong(expected)),
        }
    }

    /// A dictionary with names for keys, in its order.
    pub(crate) fn named(&self) -> Result<Vec<(&'a str, At<'a>)>, TorchError> {
        let items = self.entries_of("a dictionary of names")?;
        items
            .iter()
            .map(|(key, value)| match self.pickle.node(*key) {
                Node::Text(name) => Ok((name.as_str(), self.to(*value, name))),
                _ => Err(self.wrong("a dictionary of names")),
            })
            .collect()
    }

    /// A dictionary's value at an integer.
    pub(crate) fn at(&self, index: i64) -> Result<At<'a>, TorchError> {
        let items = self.entries_of("a dictionary of numbers")?;
        let is_key = |id: Id| *self.pickle.node(id) == Node::Int(index);
        let found = items.iter().rev().find(|(id, _)| is_key(*id));
        found.map(|(_, value)| self.to(*value, &index.to_string())).ok_or_else(|| {
            let path = format!("{}.{index}", self.path);
            TorchError::Shape { path, expected: "a value", found: "none".to_owned() }
        })
    }

    /// A list's or tuple's items.
    pub(crate) fn items(&self) -> Result<Vec<At<'a>>, TorchError> {
        match self.node() {
            Node::List(items) | Node::Tuple(items) => {
                let step = |(index, id): (usize, &Id)| self.to(*id, &index.to_string());
                Ok(items.iter().enumerate().map(step).collect())
            }
            _ => Err(self.wrong("a list")),
        }
    }

    pub(crate) fn count(&self) -> Result<u64, TorchError> {
        match self.node() {
            Node::Int(number) if *number >= 0 => Ok(*number as u64),
            // An enumeration is made of its number.
            Node::Record { arguments, .. } => match arguments[..] {
                [one] => self.to(one, "value").count(),
                _ => Err(self.wrong("a whole number")),
            },
            _ => Err(self.wrong("a whole number")),
        }
    }

    pub(crate) fn text(&self) -> Result<&'a str, TorchError> {
        match self.node() {
            Node::Text(text) => Ok(text),
            _ => Err(self.wrong("a text")),
        }
    }

    pub(crate) fn tensor(&self) -> Result<&'a TensorRef, TorchError> {
        match self.node() {
            Node::Tensor(tensor) => Ok(tensor),
            _ => Err(self.wrong("a tensor")),
        }
    }
}

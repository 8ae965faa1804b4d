//! A pickle as inert data.
//!
//! Promise: nothing is imported, called or built but the few kinds of [`Node`]; a global that is
//! not on [`ALLOWED`] ends the reading with its name. Input, nodes, stack and nesting are bounded.
//! Refusal: opcodes that torch does not write.

use std::collections::HashMap;

use crate::torch::TorchError;
use crate::torch::tensor::{Storage, TensorRef};

mod globals;
pub(crate) mod walk;

pub(crate) use globals::Global;

/// More nodes than any model's bookkeeping: about a dozen a parameter.
const MAX_NODES: usize = 4_000_000;

/// Lists within dictionaries within ...; real files have less than ten.
const MAX_DEPTH: usize = 100;

/// Values that wait on the stack; an APPENDS takes a whole list from it.
const MAX_STACK: usize = 4_000_000;

/// Where a node lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id(u32);

/// What a pickle can hold here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// Bytes, or an integer that no i64 holds: kept to be passed over.
    Opaque,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(TensorRef),
    /// An object of a class that is on the list, never made: what it would have been made of.
    Record {
        class: Global,
        arguments: Vec<Id>,
        state: Option<Id>,
    },
}

/// A pickle that was read to its end.
#[derive(Debug)]
pub(crate) struct Pickle {
    nodes: Vec<Node>,
    root: Id,
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Stack heights.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Pickle {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, TorchError> {
        let mut machine = Machine {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = machine.run()?;
        let pickle = Self { nodes: machine.nodes, root };
        pickle.check_nesting()?;
        Ok(pickle)
    }

    pub(crate) fn root(&self) -> Id {
        self.root
    }

    pub(crate) fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// Refuses what contains itself or is nested too deeply, so that no walk is endless.
    fn check_nesting(&self) -> Result<(), TorchError> {
        #[derive(Clone, Copy, PartialEq)]
        enum Seen {
            No,
            Open,
            Done,
        }
        let mut seen = vec![Seen::No; self.nodes.len()];
        let mut path: Vec<(Id, Vec<Id>)> = Vec::new();
        let mut next = Some(self.root);
        loop {
            if let Some(id) = next.take() {
                match seen[id.0 as usize] {
                    Seen::Open => return Err(TorchError::Cycle),
                    Seen::Done => {}
                    Seen::No => {
                        seen[id.0 as usize] = Seen::Open;
                        path.push((id, self.children(id)));
                        if path.len() > MAX_DEPTH {
                            let what = "levels of nesting";
                            return Err(TorchError::TooLarge { what, limit: MAX_DEPTH });
                        }
                    }
                }
            }
            let Some((id, children)) = path.last_mut() else { return Ok(()) };
            next = children.pop();
            if next.is_none() {
                seen[id.0 as usize] = Seen::Done;
                path.pop();
            }
        }
    }

    fn children(&self, id: Id) -> Vec<Id> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => items.clone(),
            Node::Dict(items) => items.iter().flat_map(|(key, value)| [*key, *value]).collect(),
            Node::Record { arguments, state, .. } => {
                arguments.iter().chain(state).copied().collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id, TorchError> {
        loop {
            let start = self.at;
            let opcode = self.take(1)?[0];
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode).map_err(|error| match error {
                TorchError::Pickle { problem, .. } => TorchError::Pickle { at: start, problem },
                other => other,
            })?;
        }
    }

    /// One opcode, by its value in Python's pickletools.
    fn step(&mut self, opcode: u8) -> Result<(), TorchError> {
        match opcode {
            // PROTO, FRAME: nothing to keep.
            0x80 => self.take(1).map(|_| ()),
            0x95 => self.take(8).map(|_| ()),
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'K' => self.number::<1>().and_then(|n| self.push(Node::Int(n as i64))),
            b'M' => self.number::<2>().and_then(|n| self.push(Node::Int(n as i64))),
            b'J' => self.number::<4>().and_then(|n| self.push(Node::Int((n as u32 as i32).into()))),
            0x8a => self.long(),
            b'G' => self.float(),
            b'X' => self.text::<4>(),
            0x8c => self.text::<1>(),
            // SHORT_BINBYTES, BINBYTES, SHORT_BINSTRING, BINSTRING.
            b'C' | b'U' => self.opaque::<1>(),
            b'B' | b'T' => self.opaque::<4>(),
            b'(' => {
                self.marks.push(self.stack.len());
                if self.marks.len() > MAX_STACK {
                    return Err(TorchError::TooLarge { what: "marks", limit: MAX_STACK });
                }
                Ok(())
            }
            b')' => self.push(Node::Tuple(Vec::new())),
            0x85..=0x87 => self.small_tuple(usize::from(opcode - 0x84)),
            b't' => self.since_mark().and_then(|items| self.push(Node::Tuple(items))),
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b'a' => self.pop().and_then(|item| self.append(vec![item])),
            b'e' => self.since_mark().and_then(|items| self.append(items)),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![key, value])
            }
            b'u' => self.since_mark().and_then(|items| self.set(items)),
            b'q' => self.number::<1>().and_then(|n| self.remember(n as u32)),
            b'r' => self.number::<4>().and_then(|n| self.remember(n as u32)),
            0x94 => self.remember(self.memo.len() as u32),
            b'h' => self.number::<1>().and_then(|n| self.recall(n as u32)),
            b'j' => self.number::<4>().and_then(|n| self.recall(n as u32)),
            b'c' => self.global(),
            b'Q' => self.storage(),
            // REDUCE and NEWOBJ: a callable and its arguments, which makes no difference here.
            b'R' | 0x81 => self.reduce(),
            b'b' => self.build(),
            b'0' => self.pop().map(|_| ()),
            other => Err(broken(format!("opcode 0x{other:02x} is not one that torch writes"))),
        }
    }

    fn take(&mut self, len: usize) -> Result<&[u8], TorchError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| TorchError::Pickle {
            at: self.at,
            problem: format!("it ends within {len} bytes that it announced"),
        })?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn number<const N: usize>(&mut self) -> Result<u64, TorchError> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.take(N)?);
        Ok(u64::from_le_bytes(wide))
    }

    fn push(&mut self, node: Node) -> Result<(), TorchError> {
        if self.nodes.len() == MAX_NODES {
            return Err(TorchError::TooLarge { what: "values", limit: MAX_NODES });
        }
        self.nodes.push(node);
        self.push_id(Id((self.nodes.len() - 1) as u32))
    }

    fn push_id(&mut self, id: Id) -> Result<(), TorchError> {
        if self.stack.len() == MAX_STACK {
            return Err(TorchError::TooLarge { what: "values on its stack", limit: MAX_STACK });
        }
        self.stack.push(id);
        Ok(())
    }

    /// Nothing below the last mark is given away.
    fn pop(&mut self) -> Result<Id, TorchError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => Ok(self.stack.pop().expect("the stack is above its floor")),
            false => Err(broken("it takes a value from an empty stack".to_owned())),
        }
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, TorchError> {
        let mark = self.marks.pop().ok_or_else(|| broken("a mark is missing".to_owned()))?;
        Ok(self.stack.split_off(mark))
    }

    fn small_tuple(&mut self, len: usize) -> Result<(), TorchError> {
        let mut items = (0..len).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Node::Tuple(items))
    }

    fn long(&mut self) -> Result<(), TorchError> {
        let len = self.number::<1>()? as usize;
        let bytes = self.take(len)?;
        if len > size_of::<i64>() {
            return self.push(Node::Opaque);
        }
        let sign = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        wide[..len].copy_from_slice(bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }

    fn float(&mut self) -> Result<(), TorchError> {
        let bytes = self.take(8)?.try_into().expect("eight bytes were asked for");
        self.push(Node::Float(f64::from_be_bytes(bytes)))
    }

    fn text<const N: usize>(&mut self) -> Result<(), TorchError> {
        let len = self.number::<N>()? as usize;
        let bytes = self.take(len)?.to_vec();
        let text =
            String::from_utf8(bytes).map_err(|_| broken("a text is not UTF-8".to_owned()))?;
        self.push(Node::Text(text))
    }

    fn opaque<const N: usize>(&mut self) -> Result<(), TorchError> {
        let len = self.number::<N>()? as usize;
        self.take(len)?;
        self.push(Node::Opaque)
    }

    fn top(&mut self, what: &str) -> Result<&mut Node, TorchError> {
        let id = self.stack.last().ok_or_else(|| broken(format!("no {what} on its stack")))?;
        Ok(&mut self.nodes[id.0 as usize])
    }

    fn append(&mut self, new: Vec<Id>) -> Result<(), TorchError> {
        match self.top("list")? {
            Node::List(items) => {
                items.extend(new);
                Ok(())
            }
            _ => Err(broken("it appends to what is no list".to_owned())),
        }
    }

    fn set(&mut self, new: Vec<Id>) -> Result<(), TorchError> {
        match self.top("dictionary")? {
            Node::Dict(items) if new.len().is_multiple_of(2) => {
                items.extend(new.chunks_exact(2).map(|pair| (pair[0], pair[1])));
                Ok(())
            }
            _ => Err(broken("it sets items of what is no dictionary".to_owned())),
        }
    }

    fn remember(&mut self, place: u32) -> Result<(), TorchError> {
        let id = self.stack.last().copied();
        let id = id.ok_or_else(|| broken("nothing to remember".to_owned()))?;
        self.memo.insert(place, id);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), TorchError> {
        let id = self.memo.get(&place).copied();
        self.push_id(id.ok_or_else(|| broken(format!("memo {place} was never set")))?)
    }

    fn line(&mut self) -> Result<String, TorchError> {
        /// Longer than any module's or class's name.
        const MAX_LINE: usize = 256;
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(MAX_LINE).position(|byte| *byte == b'\n');
        let end = end.ok_or_else(|| broken("a name does not end".to_owned()))?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        self.at += end + 1;
        Ok(line)
    }

    fn global(&mut self) -> Result<(), TorchError> {
        let (module, name) = (self.line()?, self.line()?);
        match Global::find(&module, &name) {
            Some(global) => self.push(Node::Global(global)),
            None => Err(TorchError::ForbiddenGlobal { module, name }),
        }
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn items(&self, id: Id) -> Result<Vec<Id>, TorchError> {
        match self.node(id) {
            Node::Tuple(items) => Ok(items.clone()),
            _ => Err(broken("arguments are no tuple".to_owned())),
        }
    }

    /// `("storage", class, key, device, elements)`.
    fn storage(&mut self) -> Result<(), TorchError> {
        let id = self.pop()?;
        let items = self.items(id)?;
        let nodes: Vec<&Node> = items.iter().map(|id| self.node(*id)).collect();
        let storage = match nodes[..] {
            [
                Node::Text(word),
                Node::Global(Global::Storage(dtype)),
                Node::Text(key),
                Node::Text(_),
                Node::Int(elements),
            ] if word == "storage" => {
                let elements = u64::try_from(*elements)
                    .map_err(|_| broken(format!("a storage of {elements} elements")))?;
                Storage { key: key.clone(), dtype: *dtype, elements }
            }
            _ => return Err(broken("a persistent id is no storage of torch".to_owned())),
        };
        self.push(Node::Storage(storage))
    }

    fn reduce(&mut self) -> Result<(), TorchError> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let arguments = self.items(arguments)?;
        let Node::Global(global) = *self.node(callable) else {
            return Err(broken("it calls what is no name".to_owned()));
        };
        let node = self.made_of(global, arguments)?;
        self.push(node)
    }

    fn made_of(&self, global: Global, arguments: Vec<Id>) -> Result<Node, TorchError> {
        match global {
            Global::OrderedDict if arguments.is_empty() => Ok(Node::Dict(Vec::new())),
            Global::RebuildTensor => self.tensor(&arguments).map(Node::Tensor),
            Global::RebuildParameter => match arguments.first().map(|id| self.node(*id)) {
                Some(node @ Node::Tensor(_)) => Ok(node.clone()),
                _ => Err(broken("a parameter is made of no tensor".to_owned())),
            },
            // (callable, type, arguments, state): a tensor with attributes of Python's.
            Global::RebuildFromType => {
                let [callable, _, inner, ..] = arguments[..] else {
                    return Err(broken("a tensor with a type lacks its arguments".to_owned()));
                };
                match self.node(callable) {
                    Node::Global(Global::RebuildTensor) => {
                        self.tensor(&self.items(inner)?).map(Node::Tensor)
                    }
                    _ => Err(broken("a tensor with a type is made in an unknown way".to_owned())),
                }
            }
            Global::Size => match arguments[..] {
                [sizes] => self.items(sizes).map(Node::Tuple),
                _ => Err(broken("a size has one argument".to_owned())),
            },
            Global::Inert(_) => Ok(Node::Record { class: global, arguments, state: None }),
            Global::OrderedDict | Global::Storage(_) | Global::Word(_) => {
                Err(broken(format!("it calls {global}, which is not called here")))
            }
        }
    }

    /// `(storage, offset, size, stride, ...)`.
    fn tensor(&self, arguments: &[Id]) -> Result<TensorRef, TorchError> {
        let [storage, offset, shape, stride, ..] = *arguments else {
            return Err(broken("a tensor lacks its arguments".to_owned()));
        };
        let numbers = |id: Id| {
            self.items(id)?
                .into_iter()
                .map(|id| match self.node(id) {
                    Node::Int(number) => u64::try_from(*number).ok(),
                    _ => None,
                })
                .collect::<Option<Vec<u64>>>()
                .ok_or_else(|| broken("a shape has what is no size".to_owned()))
        };
        match (self.node(storage), self.node(offset)) {
            (Node::Storage(storage), Node::Int(offset)) if *offset >= 0 => Ok(TensorRef {
                storage: storage.clone(),
                offset: *offset as u64,
                shape: numbers(shape)?,
                stride: numbers(stride)?,
            }),
            _ => Err(broken("a tensor has no storage".to_owned())),
        }
    }

    fn build(&mut self) -> Result<(), TorchError> {
        let new = self.pop()?;
        match self.top("object")? {
            Node::Record { state, .. } => *state = Some(new),
            // Attributes of a dictionary or a tensor, such as `_metadata`: not needed.
            Node::Dict(_) | Node::Tensor(_) => {}
            _ => return Err(broken("it sets the state of what has none".to_owned())),
        }
        Ok(())
    }
}

fn broken(problem: String) -> TorchError {
    TorchError::Pickle { at: 0, problem }
}

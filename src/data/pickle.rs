//! A reader of the pickled dictionaries in the python versions of CIFAR. It executes nothing.
//!
//! It knows the opcodes of protocols 2 and 3 that such files use: strings, integers, lists, tuples,
//! dictionaries, and numpy arrays of bytes. The few callables that occur are cases of a `match` here. Any
//! other opcode, name or value is an error.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::error::ensure;
use crate::files::transposed;

/// A value; containers hold indices of [`Pickle::nodes`], so that a value stored in the memo is never copied.
enum Node<'a> {
    /// A string of either kind; text as UTF-8.
    Bytes(Cow<'a, [u8]>),
    Integer(i64),
    Truth(bool),
    Nothing,
    List(Vec<usize>),
    Tuple(Vec<usize>),
    Dict(Vec<[usize; 2]>),
    /// A known callable, by its name.
    Callable(&'a str),
    /// numpy's `uint8`.
    ByteType,
    /// An array of `uint8`: its shape, and the node of its row-major bytes.
    Array(Vec<usize>, usize),
}

/// The most values of a pickle: CIFAR-100's 50,000 images have four each.
const MOST_VALUES: usize = 1 << 20;

/// A parsed dictionary.
pub(super) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: usize,
}

impl<'a> Pickle<'a> {
    /// Parses the dictionary in `bytes`; an error names the offending opcode and its offset.
    pub fn parse(bytes: &'a [u8]) -> Result<Pickle<'a>, String> {
        let mut reader = Reader { bytes, ..Reader::default() };
        loop {
            let at = reader.at;
            let no_end = || format!("the pickle ends at offset {at} without the opcode '.'");
            let opcode = *bytes.get(at).ok_or_else(no_end)?;
            let place = |problem: String| {
                format!("opcode {opcode:#04x} '{}' at offset {at}: {problem}", opcode.escape_ascii())
            };
            reader.at += 1;
            if opcode == b'.' {
                let root = reader.pop().map_err(place)?;
                return Ok(Pickle { nodes: reader.nodes, root });
            }
            reader.execute(opcode).map_err(place)?;
        }
    }

    fn get(&self, key: &str) -> Result<&Node<'a>, String> {
        let Node::Dict(items) = &self.nodes[self.root] else {
            return Err("expected a pickled dictionary".into());
        };
        let is_key = |node: &Node| matches!(node, Node::Bytes(name) if **name == *key.as_bytes());
        let item = items.iter().rev().find(|[name, _]| is_key(&self.nodes[*name]));
        item.map(|[_, value]| &self.nodes[*value]).ok_or(format!("the dictionary has no '{key}'"))
    }

    /// The shape and the row-major bytes of the array called `key`.
    pub fn array(&self, key: &str) -> Result<(&[usize], &[u8]), String> {
        match self.get(key)? {
            Node::Array(shape, bytes) => match &self.nodes[*bytes] {
                Node::Bytes(bytes) => Ok((shape, bytes)),
                _ => Err(format!("'{key}' is an array without content")),
            },
            _ => Err(format!("'{key}' is not an array of uint8")),
        }
    }

    /// The list of integers called `key`.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>, String> {
        self.list(key, "integers", |node| if let Node::Integer(value) = node { Some(*value) } else { None })
    }

    /// The list of strings called `key`.
    pub fn strings(&self, key: &str) -> Result<Vec<String>, String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.list(key, "strings", |node| if let Node::Bytes(bytes) = node { Some(text(bytes)) } else { None })
    }

    fn list<T>(&self, key: &str, what: &str, read: impl Fn(&Node) -> Option<T>) -> Result<Vec<T>, String> {
        let Node::List(items) = self.get(key)? else { return Err(format!("'{key}' is not a list")) };
        let values: Option<Vec<T>> = items.iter().map(|&item| read(&self.nodes[item])).collect();
        values.ok_or(format!("'{key}' is not a list of {what}"))
    }
}

#[derive(Default)]
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<usize>,
    /// Stack heights; values below the last one are out of reach.
    marks: Vec<usize>,
    memo: HashMap<u32, usize>,
    /// Bytes that do not stand in the file as they are but were made from others.
    made: usize,
}

impl<'a> Reader<'a> {
    /// Executes an opcode that pushes a new value; passes others on to `arrange`.
    fn execute(&mut self, opcode: u8) -> Result<(), String> {
        let value = match opcode {
            b'N' => Node::Nothing,
            0x88 | 0x89 => Node::Truth(opcode == 0x88),
            b'K' => Node::Integer(self.number(1)?.into()),
            b'M' => Node::Integer(self.number(2)?.into()),
            b'J' => Node::Integer((self.number(4)? as i32).into()),
            b'U' | b'C' => self.string(1)?,
            b'T' | b'X' | b'B' => self.string(4)?,
            b'}' => Node::Dict(Vec::new()),
            b']' => Node::List(Vec::new()),
            b't' => Node::Tuple(self.pop_to_mark()?),
            0x85..=0x87 => Node::Tuple(self.pop_many(usize::from(opcode - 0x84))?),
            // `encode` is how Python 3 writes bytes in protocol 2: as text with one character per byte.
            b'c' => match (self.line()?, self.line()?) {
                ("numpy.core.multiarray" | "numpy._core.multiarray", name @ "_reconstruct")
                | ("numpy", name @ ("ndarray" | "dtype"))
                | ("_codecs", name @ "encode") => Node::Callable(name),
                (module, name) => {
                    return Err(format!(
                        "it names {module}.{name}, which no CIFAR file does; nothing was run"
                    ));
                }
            },
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)?.ok_or("a call that no CIFAR file makes; nothing was run")?
            }
            _ => return self.arrange(opcode),
        };
        let node = self.add(value)?;
        self.stack.push(node);
        Ok(())
    }

    /// Keeps a value.
    fn add(&mut self, value: Node<'a>) -> Result<usize, String> {
        let full = || format!("more than {MOST_VALUES} values, which no CIFAR file has");
        ensure(self.nodes.len() < MOST_VALUES, full)?;
        self.nodes.push(value);
        Ok(self.nodes.len() - 1)
    }

    /// Counts `count` bytes that are about to be made. A few opcodes can ask for the same ones again and
    /// again; a file of CIFAR has each of its bytes converted and transposed once at most.
    fn make(&mut self, count: usize) -> Result<(), String> {
        self.made += count;
        let most = 2 * self.bytes.len();
        ensure(self.made <= most, || format!("more than {most} bytes are made from {}", self.bytes.len()))
    }

    /// Executes an opcode that changes the stack, the memo or the value on top.
    fn arrange(&mut self, opcode: u8) -> Result<(), String> {
        match opcode {
            0x80 => {
                let protocol = self.number(1)?;
                let problem = || format!("expected pickle protocol 2 or 3, found {protocol}");
                ensure(matches!(protocol, 2 | 3), problem)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'a' | b'e' | b's' | b'u' => {
                let new = match opcode {
                    b'a' => self.pop_many(1)?,
                    b's' => self.pop_many(2)?,
                    _ => self.pop_to_mark()?,
                };
                let target = self.top()?;
                match (opcode, &mut self.nodes[target]) {
                    (b'a' | b'e', Node::List(items)) => items.extend(new),
                    (b's' | b'u', Node::Dict(items)) => items.extend_from_slice(new.as_chunks().0),
                    _ => return Err("it adds to something other than a list or dictionary".into()),
                }
            }
            b'q' | b'r' => {
                let (index, value) = (self.number(if opcode == b'q' { 1 } else { 4 })?, self.top()?);
                self.memo.insert(index, value);
            }
            b'h' | b'j' => {
                let index = self.number(if opcode == b'h' { 1 } else { 4 })?;
                let value = self.memo.get(&index).ok_or_else(|| format!("memo {index} was never stored"))?;
                self.stack.push(*value);
            }
            b'b' => {
                let (state, object) = (self.pop()?, self.top()?);
                match self.nodes[object] {
                    Node::Array(..) => {
                        self.nodes[object] = self.fill(state)?.ok_or("not the state of an array of uint8")?
                    }
                    // Byte order and alignment, which do not concern bytes.
                    Node::ByteType => {}
                    _ => return Err("it sets the state of something other than an array".into()),
                }
            }
            _ => return Err("not one that CIFAR files use".into()),
        }
        Ok(())
    }

    /// The values of a tuple; none for another node.
    fn tuple(&self, node: usize) -> &[usize] {
        if let Node::Tuple(items) = &self.nodes[node] { items } else { &[] }
    }

    /// The value of a known call; `None` for another one.
    fn call(&mut self, function: usize, arguments: usize) -> Result<Option<Node<'a>>, String> {
        let Node::Callable(function) = self.nodes[function] else { return Ok(None) };
        let arguments: Vec<&Node> = self.tuple(arguments).iter().map(|&item| &self.nodes[item]).collect();
        let text = match (function, arguments.as_slice()) {
            ("_reconstruct", [Node::Callable("ndarray"), ..]) => {
                let empty = self.add(Node::Bytes(Cow::default()))?;
                return Ok(Some(Node::Array(vec![0], empty)));
            }
            ("dtype", [Node::Bytes(name), ..]) if matches!(&**name, b"u1" | b"|u1") => {
                return Ok(Some(Node::ByteType));
            }
            ("encode", [Node::Bytes(text), Node::Bytes(codec)]) if **codec == *b"latin1" => match text {
                // Of ASCII, text and bytes are the same.
                Cow::Borrowed(text) if text.is_ascii() => {
                    return Ok(Some(Node::Bytes(Cow::Borrowed(text))));
                }
                text => text.clone(),
            },
            _ => return Ok(None),
        };
        self.make(text.len())?;
        let Ok(text) = std::str::from_utf8(&text) else { return Ok(None) };
        let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
        Ok(bytes.map(|bytes| Node::Bytes(bytes.into())))
    }

    /// The array described by the tuple `(version, shape, type, column-major?, bytes)`.
    fn fill(&mut self, state: usize) -> Result<Option<Node<'a>>, String> {
        let &[version, shape, dtype, columns, content] = self.tuple(state) else { return Ok(None) };
        let (Node::Integer(1), Node::ByteType, &Node::Truth(columns), Node::Bytes(bytes)) =
            (&self.nodes[version], &self.nodes[dtype], &self.nodes[columns], &self.nodes[content])
        else {
            return Ok(None);
        };
        let size = |&node: &usize| match self.nodes[node] {
            Node::Integer(size) => usize::try_from(size).ok(),
            _ => None,
        };
        let shape: Option<Vec<usize>> = self.tuple(shape).iter().map(size).collect();
        let Some(shape) = shape else { return Ok(None) };
        if shape.iter().try_fold(1usize, |all, &size| all.checked_mul(size)) != Some(bytes.len()) {
            return Ok(None);
        }
        let content = match (columns, shape.as_slice()) {
            (false, _) => content,
            (true, &[height, width]) => {
                let count = bytes.len();
                self.make(count)?;
                let Node::Bytes(bytes) = &self.nodes[content] else { return Ok(None) };
                let rows = transposed(bytes, width, height);
                self.add(Node::Bytes(rows.into()))?
            }
            _ => return Ok(None),
        };
        Ok(Some(Node::Array(shape, content)))
    }

    fn top(&self) -> Result<usize, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor..].last().copied().ok_or_else(|| "the stack is empty".into())
    }

    fn pop(&mut self) -> Result<usize, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// The last `count` values, in the order in which they were pushed.
    fn pop_many(&mut self, count: usize) -> Result<Vec<usize>, String> {
        let mut values = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        values.reverse();
        Ok(values)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<usize>, String> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let short =
            || format!("{count} bytes are expected and {} remain; the file is incomplete", rest.len());
        let (taken, _) = rest.split_at_checked(count).ok_or_else(short)?;
        self.at += count;
        Ok(taken)
    }

    /// A string, preceded by its length.
    fn string(&mut self, width: usize) -> Result<Node<'a>, String> {
        let length = self.number(width)?;
        Ok(Node::Bytes(self.take(length as usize)?.into()))
    }

    /// A little-endian number of at most 4 bytes.
    fn number(&mut self, bytes: usize) -> Result<u32, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte)))
    }

    /// The text up to the next line break.
    fn line(&mut self) -> Result<&'a str, String> {
        let length =
            self.bytes[self.at..].iter().position(|&byte| byte == b'\n').ok_or("a name without its end")?;
        let line = self.take(length + 1)?;
        std::str::from_utf8(&line[..length]).map_err(|_| "a name that is not text".into())
    }
}

#[cfg(test)]
pub(super) mod tests;

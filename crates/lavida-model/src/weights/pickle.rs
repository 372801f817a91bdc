//! The pickle inside a `torch.save` file, read without running anything.
//!
//! A pickle is a program for a small stack machine that may name any Python function and call it. This machine knows the
//! opcodes that a state dict needs and a fixed list of names; every other name is refused, by name. Nothing is called:
//! the two or three calls that rebuild a tensor are read as its description. Values lie in one table and refer to each
//! other by index, so a deep or circular pickle costs no stack.
//! Source: Python's `pickletools`, `torch/_utils.py` and `torch/serialization.py`.

use std::collections::HashMap;
use std::sync::Arc;

use ::safetensors::Dtype;

/// Index of a value in the table.
pub(super) type Id = usize;

/// Values that a pickle may make at most: state dicts of the largest models stay below a hundredth of it.
const MAX_VALUES: usize = 10_000_000;

/// Axes of a tensor, as many as PyTorch's.
const MAX_AXES: usize = 64;

/// What a pickle holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// `None`, a float or anything else that no tensor is described by.
    Other(&'static str),
    Bool(bool),
    Int(i64),
    Text(Arc<str>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Known(Known),
    Storage(Storage),
    Tensor(Stored),
}

/// The names that a pickle may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    StorageOf(Dtype),
}

/// Numbers of one kind in a row, in the archive's entry `data/KEY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    /// Shared: a pickle of one long key may describe a storage again and again.
    pub key: Arc<str>,
    pub dtype: Dtype,
    pub n_values: usize,
}

/// A view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub storage: Storage,
    /// First value in the storage.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// Values from one index to the next, by axis.
    pub strides: Vec<usize>,
}

/// All values of a pickle, and which one it is about.
#[derive(Debug)]
pub(super) struct Pickle {
    pub values: Vec<Value>,
    pub top: Id,
}

/// What a pickle may not hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub expected: String,
    pub found: String,
}

impl Refused {
    fn new(expected: impl ToString, found: impl ToString) -> Self {
        Self {
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

impl Known {
    fn named(module: &str, name: &str) -> Result<Self, Refused> {
        let storage = |dtype| Ok(Self::StorageOf(dtype));
        match (module, name) {
            ("collections", "OrderedDict") => Ok(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Ok(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Ok(Self::RebuildParameter),
            ("torch", "DoubleStorage") => storage(Dtype::F64),
            ("torch", "FloatStorage") => storage(Dtype::F32),
            ("torch", "HalfStorage") => storage(Dtype::F16),
            ("torch", "BFloat16Storage") => storage(Dtype::BF16),
            ("torch", "LongStorage") => storage(Dtype::I64),
            ("torch", "IntStorage") => storage(Dtype::I32),
            ("torch", "ShortStorage") => storage(Dtype::I16),
            ("torch", "CharStorage") => storage(Dtype::I8),
            ("torch", "ByteStorage") => storage(Dtype::U8),
            ("torch", "BoolStorage") => storage(Dtype::BOOL),
            _ => Err(Refused::new(
                "the names of tensors and dicts only (nothing in a pickle is run)",
                format!("{}.{}", shortened(module), shortened(name)),
            )),
        }
    }
}

/// Reads a pickle.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle, Refused> {
    Machine {
        bytes,
        at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    }
    .run()
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack where a group of values begins.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl Machine<'_> {
    fn run(mut self) -> Result<Pickle, Refused> {
        loop {
            let place = self.at;
            match self.byte()? {
                0x80 => {
                    self.byte()?; // protocol
                }
                0x95 => {
                    self.take(8)?; // frame
                }
                b'.' => {
                    let top = self.pop()?;
                    let values = self.values;
                    return Ok(Pickle { values, top });
                }
                b'(' => self.marks.push(self.stack.len()),
                b'N' => self.push(Value::Other("None"))?,
                0x88 => self.push(Value::Bool(true))?,
                0x89 => self.push(Value::Bool(false))?,
                b'K' => {
                    let value = self.byte()?;
                    self.push(Value::Int(value.into()))?;
                }
                b'M' => {
                    let value = self.number(2)?;
                    self.push(Value::Int(value as i64))?;
                }
                b'J' => {
                    let value = self.number(4)? as u32;
                    self.push(Value::Int(i64::from(value as i32)))?;
                }
                0x8a => {
                    let n_bytes = self.byte()?;
                    let value = self.long(n_bytes)?;
                    self.push(Value::Int(value))?;
                }
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Other("a float"))?;
                }
                b'X' => self.text(4)?,
                0x8c => self.text(1)?,
                0x8d => self.text(8)?,
                b')' => self.push(Value::Tuple(Vec::new()))?,
                b']' => self.push(Value::List(Vec::new()))?,
                b'}' => self.push(Value::Dict(Vec::new()))?,
                b't' => {
                    let items = self.pop_group()?;
                    self.push(Value::Tuple(items))?;
                }
                code @ 0x85..=0x87 => {
                    let n_items = usize::from(code - 0x84);
                    let start = self.stack.len().checked_sub(n_items).ok_or_else(cut)?;
                    let items = self.stack.split_off(start);
                    self.push(Value::Tuple(items))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_group()?;
                    self.append(items)?;
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set_items(vec![key, value])?;
                }
                b'u' => {
                    let items = self.pop_group()?;
                    self.set_items(items)?;
                }
                b'q' => {
                    let slot = self.byte()?.into();
                    self.remember(slot)?;
                }
                b'r' => {
                    let slot = self.number(4)?;
                    self.remember(slot)?;
                }
                0x94 => self.remember(self.memo.len())?,
                b'h' => {
                    let slot = self.byte()?.into();
                    self.recall(slot)?;
                }
                b'j' => {
                    let slot = self.number(4)?;
                    self.recall(slot)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Value::Known(Known::named(&module, &name)?))?;
                }
                0x93 => {
                    let (name, module) = (self.pop_text()?, self.pop_text()?);
                    self.push(Value::Known(Known::named(&module, &name)?))?;
                }
                b'Q' => {
                    let described = self.pop()?;
                    let storage = self.storage(described)?;
                    self.push(Value::Storage(storage))?;
                }
                b'R' => {
                    let arguments = self.pop()?;
                    let called = self.pop()?;
                    let value = self.call(called, arguments)?;
                    self.push(value)?;
                }
                b'b' => {
                    // State of an object: of a state dict its `_metadata`, versions of modules that no tensor depends on.
                    self.pop()?;
                    let object = *self.stack.last().ok_or_else(cut)?;
                    if !matches!(self.values[object], Value::Dict(_)) {
                        return Err(Refused::new("state of a dict only", self.describe(object)));
                    }
                }
                other => {
                    return Err(Refused::new(
                        "the opcodes of a state dict",
                        format!("opcode 0x{other:02x} at byte {place}"),
                    ));
                }
            }
        }
    }

    fn take(&mut self, n_bytes: usize) -> Result<&[u8], Refused> {
        let end = self.at.checked_add(n_bytes).ok_or_else(cut)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(cut)?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Refused> {
        Ok(self.take(1)?[0])
    }

    /// Little-endian and without a sign, in at most eight bytes.
    fn number(&mut self, n_bytes: usize) -> Result<usize, Refused> {
        let bytes = self.take(n_bytes)?;
        let value = bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        usize::try_from(value).map_err(|_| cut())
    }

    /// Little-endian with a sign.
    fn long(&mut self, n_bytes: u8) -> Result<i64, Refused> {
        let bytes = self.take(n_bytes.into())?;
        if bytes.len() > 8 {
            return Err(Refused::new("an integer of 64 bits", "a longer one"));
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut filled = if negative { [0xff; 8] } else { [0; 8] };
        filled[..bytes.len()].copy_from_slice(bytes);
        Ok(i64::from_le_bytes(filled))
    }

    fn text(&mut self, size_bytes: usize) -> Result<(), Refused> {
        let n_bytes = self.number(size_bytes)?;
        let text: Arc<str> = str::from_utf8(self.take(n_bytes)?)
            .map_err(|_| Refused::new("text in UTF-8", "other bytes"))?
            .into();
        self.push(Value::Text(text))
    }

    fn line(&mut self) -> Result<String, Refused> {
        let rest = self.bytes.get(self.at..).ok_or_else(cut)?;
        let length = rest.iter().position(|b| *b == b'\n').ok_or_else(cut)?;
        let line = String::from_utf8_lossy(&rest[..length]).into_owned();
        self.at += length + 1;
        Ok(line)
    }

    fn push(&mut self, value: Value) -> Result<(), Refused> {
        if self.values.len() == MAX_VALUES {
            let expected = format!("at most {MAX_VALUES} values");
            return Err(Refused::new(expected, "more"));
        }
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, Refused> {
        self.stack.pop().ok_or_else(cut)
    }

    fn pop_text(&mut self) -> Result<Arc<str>, Refused> {
        let id = self.pop()?;
        match &self.values[id] {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(Refused::new("a text", self.describe(id))),
        }
    }

    fn pop_group(&mut self) -> Result<Vec<Id>, Refused> {
        let start = self.marks.pop().ok_or_else(cut)?;
        if start <= self.stack.len() {
            Ok(self.stack.split_off(start))
        } else {
            Err(cut())
        }
    }

    fn append(&mut self, items: Vec<Id>) -> Result<(), Refused> {
        let list = *self.stack.last().ok_or_else(cut)?;
        match &mut self.values[list] {
            Value::List(values) => {
                values.extend(items);
                Ok(())
            }
            _ => Err(Refused::new("a list to add to", self.describe(list))),
        }
    }

    fn set_items(&mut self, items: Vec<Id>) -> Result<(), Refused> {
        let dict = *self.stack.last().ok_or_else(cut)?;
        match &mut self.values[dict] {
            Value::Dict(entries) => {
                entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
                Ok(())
            }
            _ => Err(Refused::new("a dict to add to", self.describe(dict))),
        }
    }

    fn remember(&mut self, slot: usize) -> Result<(), Refused> {
        let id = *self.stack.last().ok_or_else(cut)?;
        self.memo.insert(slot, id);
        Ok(())
    }

    fn recall(&mut self, slot: usize) -> Result<(), Refused> {
        let id = *self.memo.get(&slot).ok_or_else(cut)?;
        self.stack.push(id);
        Ok(())
    }

    /// `("storage", torch.FloatStorage, KEY, DEVICE, N)`
    fn storage(&self, described: Id) -> Result<Storage, Refused> {
        let found = || Refused::new("the description of a storage", self.describe(described));
        let parts = self.tuple(described).ok_or_else(found)?;
        let [kind, class, key, _device, n_values] = parts else {
            return Err(found());
        };
        match (
            &self.values[*kind],
            &self.values[*class],
            &self.values[*key],
        ) {
            (Value::Text(kind), Value::Known(Known::StorageOf(dtype)), Value::Text(key))
                if &**kind == "storage" =>
            {
                Ok(Storage {
                    key: key.clone(),
                    dtype: *dtype,
                    n_values: self.size(*n_values).ok_or_else(found)?,
                })
            }
            _ => Err(found()),
        }
    }

    fn call(&self, called: Id, arguments: Id) -> Result<Value, Refused> {
        let Value::Known(known) = &self.values[called] else {
            return Err(Refused::new("a known name to call", self.describe(called)));
        };
        let found = || {
            Refused::new(
                format!("the arguments that torch.save writes for {known:?}"),
                self.describe(arguments),
            )
        };
        let arguments = self.tuple(arguments).ok_or_else(found)?;
        match (known, arguments) {
            (Known::OrderedDict, []) => Ok(Value::Dict(Vec::new())),
            // storage, offset, shape, strides, requires_grad, hooks[, metadata]
            (Known::RebuildTensor, [storage, offset, shape, strides, ..]) => {
                let Value::Storage(storage) = &self.values[*storage] else {
                    return Err(found());
                };
                Ok(Value::Tensor(Stored {
                    storage: storage.clone(),
                    offset: self.size(*offset).ok_or_else(found)?,
                    shape: self.sizes(*shape).ok_or_else(found)?,
                    strides: self.sizes(*strides).ok_or_else(found)?,
                }))
            }
            // tensor, requires_grad, hooks
            (Known::RebuildParameter, [tensor, ..]) => match &self.values[*tensor] {
                Value::Tensor(tensor) => Ok(Value::Tensor(tensor.clone())),
                _ => Err(found()),
            },
            _ => Err(found()),
        }
    }

    fn tuple(&self, id: Id) -> Option<&[Id]> {
        match &self.values[id] {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    fn size(&self, id: Id) -> Option<usize> {
        match &self.values[id] {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    /// At most as many as a tensor has axes: every call copies them.
    fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        let sizes = self.tuple(id).filter(|sizes| sizes.len() <= MAX_AXES)?;
        sizes.iter().map(|id| self.size(*id)).collect()
    }

    fn describe(&self, id: Id) -> String {
        describe(&self.values[id])
    }
}

/// A value as a message names it.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Other(what) => (*what).to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => format!("the integer {value}"),
        Value::Text(text) => format!("the text {:?}", shortened(text)),
        Value::Tuple(items) => format!("a tuple of {}", items.len()),
        Value::List(items) => format!("a list of {}", items.len()),
        Value::Dict(entries) => format!("a dict of {}", entries.len()),
        Value::Known(known) => format!("{known:?}"),
        Value::Storage(storage) => format!("a storage of {}", storage.n_values),
        Value::Tensor(tensor) => format!("a tensor {:?}", tensor.shape),
    }
}

/// The beginning of a text that may be of any length.
pub(super) fn shortened(text: &str) -> &str {
    let end = text
        .char_indices()
        .nth(100)
        .map_or(text.len(), |(at, _)| at);
    &text[..end]
}

fn cut() -> Refused {
    Refused::new("a whole pickle", "one that is cut or damaged")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn refused(pickle: &[u8], words: &str) {
        let refused = read(pickle).unwrap_err();
        assert!(refused.found.contains(words), "{refused:?}");
    }

    #[test]
    fn a_name_that_is_no_tensors_is_refused_by_name() {
        // os.system("true"), in the oldest and in the newest writing
        refused(b"cos\nsystem\n(X\x04\x00\x00\x00truetR.", "os.system");
        refused(
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
            "os.system",
        );
        refused(b"cbuiltins\neval\n.", "builtins.eval");
        refused(b"ctorch.storage\n_load_from_bytes\n.", "_load_from_bytes");
    }

    #[test]
    fn other_ways_to_run_something_are_refused() {
        // INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1, PERSID, REDUCE of a text
        for opcode in [b'i', b'o', 0x81, 0x92, 0x82, b'P'] {
            refused(&[b'(', opcode, b'.'], "opcode 0x");
        }
        refused(b"X\x02\x00\x00\x00os)R.", "the text \"os\"");
        // BUILD of anything but a dict
        refused(b"]}b.", "a list");
    }

    #[test]
    fn what_is_added_after_it_was_remembered_is_seen_by_all() {
        // {} remembered, filled, fetched again
        let pickle = read(b"}q\x00X\x01\x00\x00\x00aK\x07sh\x00.").unwrap();
        let Value::Dict(entries) = &pickle.values[pickle.top] else {
            panic!("{pickle:?}");
        };
        assert_eq!(pickle.values[entries[0].1], Value::Int(7));
    }

    #[test]
    fn numbers_have_their_sign() {
        for (pickle, value) in [
            (&b"K\xff."[..], 255),
            (b"M\x00\x01.", 256),
            (b"J\xff\xff\xff\xff.", -1),
            (b"\x8a\x05\x00\x00\x00\x00\x01.", 1 << 32),
            (b"\x8a\x01\xfe.", -2),
        ] {
            let pickle = read(pickle).unwrap();
            assert_eq!(pickle.values[pickle.top], Value::Int(value));
        }
    }

    #[test]
    fn a_tensor_of_more_axes_than_there_are_is_refused() {
        let rebuild = |n_axes: usize| {
            let storage =
                b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x01tQK\x00";
            let sizes = [b"(".as_slice(), &b"K\x01".repeat(n_axes), b"t"].concat();
            let parts: [&[u8]; 5] = [
                b"ctorch._utils\n_rebuild_tensor_v2\n(",
                storage,
                &sizes,
                &sizes,
                b"tR.",
            ];
            read(&parts.concat())
        };
        let pickle = rebuild(64).unwrap();
        assert!(matches!(pickle.values[pickle.top], Value::Tensor(_)));
        let refused = rebuild(65).unwrap_err();
        assert!(refused.expected.contains("RebuildTensor"), "{refused:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes); // an answer of either kind
        }

        #[test]
        fn no_sequence_of_opcodes_makes_it_panic(
            codes in proptest::collection::vec(proptest::sample::select(b"(N)]}t\x85\x86\x87aesuq\x00h\x00\x94RbQK\x01X\x01\x00\x00\x00a.".to_vec()), 0..60)
        ) {
            let _ = read(&codes);
        }
    }
}

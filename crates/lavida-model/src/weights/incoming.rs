//! A safetensors file that comes in pieces, from a disk or a bucket: each tensor is there once its last byte is.
//!
//! So whoever reads a file holds what it made of the tensors before, one tensor that is on its way, and a few pieces; never
//! the file. The bytes of a tensor are read into the number format of the file as they come.

use ::safetensors::tensor::{Dtype, Metadata};
use burn::tensor::TensorData;
use half::{bf16, f16};

use super::WeightError;
use super::files::size_of;

/// Bytes of the number at the start of a file that says how long its header is.
const LENGTH_BYTES: usize = 8;
/// No header is longer; the limit of the format's own library.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Reads one file, piece after piece.
#[derive(Debug)]
pub struct IncomingTensors {
    /// Of the whole file.
    n_bytes: u64,
    /// What came of the header, or of a value that the last piece cut.
    rest: Vec<u8>,
    /// What is to come, the last first; none until the header is there.
    expected: Option<Vec<Expected>>,
    /// The one on its way.
    current: Option<(Expected, Values)>,
}

/// A tensor that the header names.
#[derive(Debug)]
struct Expected {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    n_bytes: usize,
}

/// Values of a tensor as far as they came.
#[derive(Debug)]
enum Values {
    F64(Vec<f64>),
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    U8(Vec<u8>),
}

/// The same expression of whichever values there are.
macro_rules! of_any {
    ($values:expr, $vector:ident => $expression:expr) => {
        match $values {
            Values::F64($vector) => $expression,
            Values::F32($vector) => $expression,
            Values::F16($vector) => $expression,
            Values::BF16($vector) => $expression,
            Values::I64($vector) => $expression,
            Values::I32($vector) => $expression,
            Values::U8($vector) => $expression,
        }
    };
}

impl IncomingTensors {
    /// For a file of so many bytes.
    pub fn new(n_bytes: u64) -> Self {
        Self {
            n_bytes,
            rest: Vec::new(),
            expected: None,
            current: None,
        }
    }

    /// The next bytes of the file, and the tensors that are whole with them, in the order of the file.
    ///
    /// # Errors
    ///
    /// [`WeightError::Format`] for bytes that are not of this format, or more of them than it has; [`WeightError::Dtype`] for a
    /// number format no part of the model has.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<(String, TensorData)>, WeightError> {
        let mut whole = Vec::new();
        if self.expected.is_none() {
            let Some(n_taken) = self.read_header(bytes)? else {
                return Ok(whole);
            };
            bytes = &bytes[n_taken..];
        }
        loop {
            if self.current.is_none() {
                let Some(next) = self.expected.as_mut().and_then(Vec::pop) else {
                    break;
                };
                let values = Values::with_capacity(&next)?;
                self.current = Some((next, values));
            }
            let Some((tensor, values)) = &mut self.current else {
                break;
            };
            let missing = tensor.n_bytes - values.n_bytes() - self.rest.len();
            let (taken, after) = bytes.split_at(missing.min(bytes.len()));
            values.extend(&mut self.rest, taken);
            bytes = after;
            if values.n_bytes() < tensor.n_bytes {
                return Ok(whole);
            }
            let Some((tensor, values)) = self.current.take() else {
                break;
            };
            let data = of_any!(values, vector => TensorData::new(vector, tensor.shape));
            whole.push((tensor.name, data));
        }
        if bytes.is_empty() {
            Ok(whole)
        } else {
            Err(format("bytes after the last tensor"))
        }
    }

    /// To be called after the last piece.
    ///
    /// # Errors
    ///
    /// [`WeightError::Format`] for a file that is cut.
    pub fn finish(self) -> Result<(), WeightError> {
        match (self.expected, self.current) {
            (Some(expected), None) if expected.is_empty() => Ok(()),
            (None, _) => Err(format("it ends within its header")),
            (Some(expected), current) => {
                let first = current.map(|(tensor, _)| tensor);
                let name = first.as_ref().or(expected.last()).map(|t| t.name.as_str());
                Err(format(&format!(
                    "it ends before {}",
                    name.unwrap_or_default()
                )))
            }
        }
    }

    /// Adds bytes to the header. Says how many of them were of it, once it is whole.
    fn read_header(&mut self, bytes: &[u8]) -> Result<Option<usize>, WeightError> {
        let n_before = self.rest.len();
        let wanted = |rest: &[u8]| -> Result<usize, WeightError> {
            let Some(length) = rest.first_chunk::<LENGTH_BYTES>() else {
                return Ok(LENGTH_BYTES);
            };
            match u64::from_le_bytes(*length) {
                length if length <= MAX_HEADER_BYTES => Ok(LENGTH_BYTES + length as usize),
                length => Err(format(&format!("a header of {length} bytes"))),
            }
        };
        let mut left = bytes;
        while self.rest.len() < wanted(&self.rest)? {
            let missing = wanted(&self.rest)? - self.rest.len();
            if left.is_empty() {
                return Ok(None);
            }
            let (taken, after) = left.split_at(missing.min(left.len()));
            self.rest.extend_from_slice(taken);
            left = after;
        }
        let header = std::mem::take(&mut self.rest);
        let n_taken = header.len() - n_before;
        let metadata: Metadata = serde_json::from_slice(&header[LENGTH_BYTES..])
            .map_err(|error| format(&error.to_string()))?;
        // A header that lies about sizes must not take memory for them.
        let n_bytes = (header.len() + metadata.data_len()) as u64;
        if n_bytes != self.n_bytes {
            let found = format!("{n_bytes} bytes by its header, {} in all", self.n_bytes);
            return Err(format(&found));
        }
        let mut expected: Vec<Expected> = metadata
            .offset_keys()
            .into_iter()
            .filter_map(|name| {
                let info = metadata.info(&name)?;
                Some(Expected {
                    shape: info.shape.clone(),
                    dtype: info.dtype,
                    n_bytes: info.data_offsets.1 - info.data_offsets.0,
                    name,
                })
            })
            .collect();
        expected.reverse();
        self.expected = Some(expected);
        Ok(Some(n_taken))
    }
}

impl Values {
    /// None yet, of the format of a tensor, with room for all of them.
    fn with_capacity(tensor: &Expected) -> Result<Self, WeightError> {
        let n = tensor.n_bytes / size_of(tensor.dtype).max(1);
        Ok(match tensor.dtype {
            Dtype::F64 => Self::F64(Vec::with_capacity(n)),
            Dtype::F32 => Self::F32(Vec::with_capacity(n)),
            Dtype::F16 => Self::F16(Vec::with_capacity(n)),
            Dtype::BF16 => Self::BF16(Vec::with_capacity(n)),
            Dtype::I64 => Self::I64(Vec::with_capacity(n)),
            Dtype::I32 => Self::I32(Vec::with_capacity(n)),
            Dtype::U8 | Dtype::BOOL => Self::U8(Vec::with_capacity(n)),
            other => {
                return Err(WeightError::Dtype {
                    name: tensor.name.clone(),
                    found: format!("{other:?}"),
                });
            }
        })
    }

    fn n_bytes(&self) -> usize {
        of_any!(self, vector => size_of_val(vector.as_slice()))
    }

    /// Adds the values of `rest` and then `bytes`; what of the last value is missing stays in `rest`.
    fn extend(&mut self, rest: &mut Vec<u8>, bytes: &[u8]) {
        match self {
            Self::F64(values) => extend(values, rest, bytes, f64::from_le_bytes),
            Self::F32(values) => extend(values, rest, bytes, f32::from_le_bytes),
            Self::F16(values) => extend(values, rest, bytes, f16::from_le_bytes),
            Self::BF16(values) => extend(values, rest, bytes, bf16::from_le_bytes),
            Self::I64(values) => extend(values, rest, bytes, i64::from_le_bytes),
            Self::I32(values) => extend(values, rest, bytes, i32::from_le_bytes),
            Self::U8(values) => values.extend_from_slice(bytes),
        }
    }
}

fn extend<const N: usize, E>(
    values: &mut Vec<E>,
    rest: &mut Vec<u8>,
    mut bytes: &[u8],
    read: impl Fn([u8; N]) -> E,
) {
    if !rest.is_empty() {
        let (taken, after) = bytes.split_at((N - rest.len()).min(bytes.len()));
        rest.extend_from_slice(taken);
        bytes = after;
        let Some(value) = rest.first_chunk::<N>() else {
            return;
        };
        values.push(read(*value));
        rest.clear();
    }
    let (whole, cut) = bytes.as_chunks::<N>();
    values.extend(whole.iter().map(|value| read(*value)));
    rest.extend_from_slice(cut);
}

fn format(reason: &str) -> WeightError {
    WeightError::Format {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::weights::{Tensors, write_safetensors};

    fn some() -> Tensors {
        let floats: Vec<f32> = (0..7).map(|i| i as f32 - 2.5).collect();
        let f32s = TensorData::new(floats, [7]);
        Tensors::from([
            (
                "half".to_owned(),
                f32s.clone().convert_dtype(burn::tensor::DType::BF16),
            ),
            (
                "double".to_owned(),
                f32s.clone().convert_dtype(burn::tensor::DType::F64),
            ),
            (
                "empty".to_owned(),
                TensorData::new(Vec::<f32>::new(), [0, 3]),
            ),
            ("whole".to_owned(), TensorData::new(vec![3i64], [1])),
            ("bytes".to_owned(), TensorData::new(vec![1u8, 2, 3], [3])),
            ("float".to_owned(), f32s),
        ])
    }

    fn read(bytes: &[u8], n_at_once: usize) -> Result<Tensors, WeightError> {
        read_of(bytes.len(), bytes, n_at_once)
    }

    fn read_of(n_bytes: usize, bytes: &[u8], n_at_once: usize) -> Result<Tensors, WeightError> {
        let mut incoming = IncomingTensors::new(n_bytes as u64);
        let mut tensors = Tensors::new();
        for piece in bytes.chunks(n_at_once) {
            tensors.extend(incoming.push(piece)?);
        }
        incoming.finish()?;
        Ok(tensors)
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_tensors_of_the_file(n_at_once in 1usize..900) {
            let bytes = write_safetensors(&some(), None).unwrap();
            prop_assert_eq!(read(&bytes, n_at_once).unwrap(), some());
        }
    }

    #[test]
    fn a_file_that_is_cut_or_goes_on_is_refused() {
        let mut bytes = write_safetensors(&some(), None).unwrap();
        for length in [0, 4, 20, bytes.len() - 1] {
            let error = read_of(bytes.len(), &bytes[..length], 16).unwrap_err();
            assert!(error.to_string().contains("it ends"), "{error}");
        }
        let n_bytes = bytes.len();
        bytes.push(0);
        let error = read_of(n_bytes, &bytes, 16).unwrap_err();
        assert!(error.to_string().contains("bytes after"), "{error}");
        let error = read(&bytes, 16).unwrap_err();
        assert!(error.to_string().contains("by its header"), "{error}");
        let error = read(&[255; 16], 16).unwrap_err();
        assert!(error.to_string().contains("a header of"), "{error}");
    }
}

//! Tensors in files, read one by one: what is in them is known at once, values come when they are asked for.
//!
//! Files are memory-mapped: a safetensors file, several with `model.safetensors.index.json` as Hugging Face writes them, a
//! `torch.save` file, or Burn's burnpack.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use ::safetensors::{Dtype, SafeTensors};
use burn::module::Module;
use burn::tensor::{DType, FloatDType, TensorData};
use half::{bf16, f16};
use memmap2::Mmap;
use serde::Deserialize;

use super::names::{Layout, transpose};
use super::{CARRIED, Tensors, WeightError, burnpack, torch_file};
use crate::lavida::is_unused;
use crate::precision::Precision;

/// The file that says which of several files holds a tensor.
pub(super) const INDEX: &str = "model.safetensors.index.json";
/// What an index of a million tensors stays below.
const MAX_INDEX_BYTES: u64 = 256 << 20;
/// A whole model in one file.
pub(super) const SINGLE: &str = "model.safetensors";
/// A whole model as `torch.save` wrote it, where there is no safetensors file.
const TORCH: &str = "pytorch_model.bin";
/// A whole model in Burn's format.
pub(super) const BURNPACK: &str = "model.bpk";

/// Tensors of one or several files, by name.
#[derive(Debug)]
pub struct TensorFiles {
    name: String,
    tensors: BTreeMap<String, TensorEntry>,
}

/// One tensor: what it is, and where.
#[derive(Debug)]
pub(super) struct TensorEntry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub place: Place,
}

/// Where the values of a tensor are.
pub(super) enum Place {
    /// In a mapped file from this byte on, row-major or with strides (counted in values).
    Mapped {
        map: Arc<Mmap>,
        start: usize,
        strides: Option<Vec<usize>>,
    },
    /// In a burnpack file, in the layout of the module.
    Packed {
        tensor: burn_pack::Tensor,
        layout: Layout,
    },
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mapped { start, .. } => write!(f, "byte {start}"),
            Self::Packed { tensor, .. } => write!(f, "{tensor:?}"),
        }
    }
}

impl TensorFiles {
    /// The model in `folder`: the files of its index, else `model.safetensors`, else `pytorch_model.bin`.
    ///
    /// # Errors
    ///
    /// [`WeightError::File`] for each file that is missing, cut or of another kind, and for each tensor that the index
    /// names and its file lacks.
    pub fn open_folder(folder: &Path) -> Result<Self, WeightError> {
        let has = |file: &str| folder.join(file).exists();
        if has(INDEX) {
            return Self::open_index(folder);
        }
        if has(SINGLE) {
            return Self::open_safetensors(&folder.join(SINGLE));
        }
        if has(TORCH) {
            return Self::open_torch(&folder.join(TORCH));
        }
        let expected = format!("{INDEX}, {SINGLE} or {TORCH}");
        Err(WeightError::file(
            folder.display(),
            expected,
            "none of them",
        ))
    }

    /// One safetensors file.
    ///
    /// # Errors
    ///
    /// [`WeightError::File`] when it is cut or of another kind.
    pub fn open_safetensors(file: &Path) -> Result<Self, WeightError> {
        let name = file.display().to_string();
        let map = map(file)?;
        let start = map.as_ptr().addr();
        let read = SafeTensors::deserialize(&map)
            .map_err(|error| WeightError::file(&name, "a whole safetensors file", error))?;
        let tensors = read.iter().map(|(tensor, view)| {
            let place = Place::Mapped {
                map: map.clone(),
                start: view.data().as_ptr().addr() - start,
                strides: None,
            };
            let entry = TensorEntry {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                place,
            };
            (tensor.to_owned(), entry)
        });
        let tensors = tensors.collect();
        Ok(Self { name, tensors })
    }

    /// A file that `torch.save` wrote of a state dict, plain or under the key `model` or `state_dict`. Nothing in it is
    /// run.
    ///
    /// # Errors
    ///
    /// [`WeightError::File`] when it is damaged, no state dict, or uses a name that no tensor needs.
    pub fn open_torch(file: &Path) -> Result<Self, WeightError> {
        let name = file.display().to_string();
        let tensors = torch_file::entries(&name, &map(file)?)?;
        Ok(Self { name, tensors })
    }

    /// A burnpack file of `module`, under the names of the reference's checkpoint.
    ///
    /// # Errors
    ///
    /// [`WeightError::File`] when it is damaged or of another kind.
    pub fn open_burnpack<M: Module>(file: &Path, module: &M) -> Result<Self, WeightError> {
        let name = file.display().to_string();
        let tensors = burnpack::entries(&name, file, module)?;
        Ok(Self { name, tensors })
    }

    /// What [`write_shards`](super::write_shards) or [`write_burnpack`](super::write_burnpack) wrote for `module` in
    /// `folder`.
    ///
    /// # Errors
    ///
    /// As [`Self::open_folder`] and [`Self::open_burnpack`].
    pub fn open_exported<M: Module>(folder: &Path, module: &M) -> Result<Self, WeightError> {
        let burnpack = folder.join(BURNPACK);
        if !burnpack.exists() {
            return Self::open_folder(folder);
        }
        let mut packed = Self::open_burnpack(&burnpack, module)?;
        let carried = folder.join(CARRIED);
        if carried.exists() {
            packed
                .tensors
                .extend(Self::open_safetensors(&carried)?.tensors);
        }
        Ok(packed)
    }

    fn open_index(folder: &Path) -> Result<Self, WeightError> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let name = folder.join(INDEX).display().to_string();
        let bytes = lavida_files::read(&folder.join(INDEX), MAX_INDEX_BYTES)
            .map_err(|error| WeightError::file(&name, "a readable file", error))?;
        if let Some(found) = placeholder(&bytes) {
            return Err(WeightError::file(&name, "the file itself", found));
        }
        let Index { weight_map } = serde_json::from_slice(&bytes)
            .map_err(|error| WeightError::file(&name, "JSON with a weight_map", error))?;
        let mut faults = Vec::new();
        let mut tensors: BTreeMap<String, TensorEntry> = BTreeMap::new();
        let mut opened = BTreeSet::new();
        for file in weight_map.values().collect::<BTreeSet<_>>() {
            let path = folder.join(file);
            if Path::new(file).components().count() != 1 || !path.is_file() {
                let what = format!("{name}: {file}");
                faults.push(WeightError::file(what, "a file beside the index", "none"));
                continue;
            }
            match Self::open_safetensors(&path) {
                Ok(read) => {
                    opened.insert(file);
                    for (tensor, entry) in read.tensors {
                        if tensors.insert(tensor.clone(), entry).is_some() {
                            let what = format!("{name}: {tensor}");
                            faults.push(WeightError::file(what, "one file that holds it", "two"));
                        }
                    }
                }
                Err(error) => faults.push(error),
            }
        }
        for (tensor, file) in &weight_map {
            if opened.contains(file) && !tensors.contains_key(tensor) {
                let what = format!("{name}: {tensor}");
                faults.push(WeightError::file(
                    what,
                    format!("a tensor in {file}"),
                    "none",
                ));
            }
        }
        WeightError::all(faults)?;
        Ok(Self { name, tensors })
    }

    /// The file or folder, as messages name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names of all tensors, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    /// All tensors but those that are only carried, as they are stored (floats of 16 bits that are not bf16, and those
    /// of 64, as f32).
    ///
    /// # Errors
    ///
    /// A tensor that cannot be read or holds no floats.
    pub fn read_weights(&self) -> Result<Tensors, WeightError> {
        self.each_weight().collect()
    }

    /// The tensors of [`Self::read_weights`] one by one, each read when it is asked for.
    pub fn each_weight(&self) -> impl Iterator<Item = Result<(String, TensorData), WeightError>> {
        let weights = self.names().filter(|name| !is_unused(name));
        weights.map(|name| {
            let data = self.read_stored(name)?;
            let kept = kept(data.dtype(), None);
            Ok((name.to_owned(), in_format(data, kept)))
        })
    }

    /// The tensors that are only carried, exactly as they are stored.
    ///
    /// # Errors
    ///
    /// A tensor that cannot be read or holds no floats.
    pub fn read_carried(&self) -> Result<Tensors, WeightError> {
        let carried = self.names().filter(|name| is_unused(name));
        let read = |name: &str| Ok((name.to_owned(), self.read_stored(name)?));
        carried.map(read).collect()
    }

    pub(super) fn entry(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(name)
    }

    /// The values of a tensor of floats in the format they are stored in.
    pub(super) fn read_stored(&self, name: &str) -> Result<TensorData, WeightError> {
        let what = || format!("{}: {name}", self.name);
        let entry = self
            .tensors
            .get(name)
            .ok_or_else(|| WeightError::file(what(), "a tensor", "none"))?;
        let shape = entry.shape.clone();
        let (bytes, layout) = match &entry.place {
            Place::Mapped {
                map,
                start,
                strides,
            } => {
                let values = &map[*start..];
                (
                    row_major(values, &shape, strides.as_deref(), size_of(entry.dtype)),
                    Layout::Same,
                )
            }
            Place::Packed { tensor, layout } => {
                let bytes = tensor
                    .to_bytes()
                    .map_err(|error| WeightError::file(what(), "readable values", error))?;
                (Cow::Owned(bytes.to_vec()), *layout)
            }
        };
        let shape = match layout {
            Layout::Same => shape,
            Layout::Transposed => shape.into_iter().rev().collect(),
        };
        let data = match entry.dtype {
            Dtype::F64 => TensorData::new(values(&bytes, f64::from_le_bytes), shape),
            Dtype::F32 => TensorData::new(values(&bytes, f32::from_le_bytes), shape),
            Dtype::F16 => TensorData::new(values(&bytes, f16::from_le_bytes), shape),
            Dtype::BF16 => TensorData::new(values(&bytes, bf16::from_le_bytes), shape),
            other => return Err(WeightError::file(what(), "floats", format!("{other:?}"))),
        };
        Ok(match layout {
            Layout::Same => data,
            Layout::Transposed => transpose(data),
        })
    }
}

/// The format that weights stored as `stored` get: without a precision, bf16 stays bf16 and all else is f32.
pub(super) fn kept(stored: DType, precision: Option<Precision>) -> DType {
    let precision = precision.unwrap_or(match stored {
        DType::BF16 => Precision::Bf16,
        _ => Precision::F32,
    });
    FloatDType::from(precision).into()
}

/// The same values in another format, or as they are.
pub(super) fn in_format(data: TensorData, dtype: DType) -> TensorData {
    if data.dtype() == dtype {
        data
    } else {
        data.convert_dtype(dtype)
    }
}

/// Bytes of one value.
pub(super) fn size_of(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// The floats that weights may be stored as.
pub(super) fn float_dtype(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        _ => return None,
    })
}

pub(super) fn values<const N: usize, E>(bytes: &[u8], read: impl Fn([u8; N]) -> E) -> Vec<E> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| read(*chunk)).collect()
}

/// The bytes of a tensor in row-major order; copied only where they lie otherwise.
fn row_major<'a>(
    bytes: &'a [u8],
    shape: &[usize],
    strides: Option<&[usize]>,
    size: usize,
) -> Cow<'a, [u8]> {
    // Of an empty tensor the other axes may be so long that their product is no number.
    if shape.contains(&0) {
        return Cow::Borrowed(&[]);
    }
    let n_values: usize = shape.iter().product();
    let mut plain = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        plain[axis - 1] = plain[axis] * shape[axis];
    }
    let strides = strides.unwrap_or(&plain);
    // An axis of one is never stepped along.
    let is_plain = (0..shape.len()).all(|axis| shape[axis] <= 1 || strides[axis] == plain[axis]);
    if is_plain {
        return Cow::Borrowed(&bytes[..n_values * size]);
    }
    let mut gathered = Vec::with_capacity(n_values * size);
    let mut index = vec![0; shape.len()];
    for _ in 0..n_values {
        let at: usize = index
            .iter()
            .zip(strides)
            .map(|(i, stride)| i * stride)
            .sum();
        gathered.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    Cow::Owned(gathered)
}

/// What a file is that stands in a real one's place, with what to do about it; none where its bytes begin like no such thing.
pub fn placeholder(bytes: &[u8]) -> Option<&'static str> {
    const LOOKED_AT: usize = 256;
    let start = &bytes[..bytes.len().min(LOOKED_AT)];
    let start = String::from_utf8_lossy(start).trim_start().to_lowercase();
    if start.starts_with("version https://git-lfs.github.com/spec/") {
        Some("a Git LFS pointer: run `git lfs pull` in its folder, or download the file")
    } else if ["<!doctype html", "<html"]
        .iter()
        .any(|tag| start.starts_with(tag))
    {
        Some("an HTML page: download the file itself (a gated model wants a token)")
    } else {
        None
    }
}

#[expect(unsafe_code, reason = "mapping a file is unsafe wherever it is done")]
pub(super) fn map(path: &Path) -> Result<Arc<Mmap>, WeightError> {
    let unreadable = |error| WeightError::file(path.display(), "a readable file", error);
    let file = lavida_files::open(path).map_err(unreadable)?;
    // SAFETY: the file must not shrink or change while it is mapped. It is a checkpoint somebody finished writing; who
    // changes one while it is imported gets other weights or a bus error, as with every reader of such files.
    let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
    match placeholder(&map) {
        None => Ok(Arc::new(map)),
        Some(found) => Err(WeightError::file(path.display(), "the file itself", found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_in_the_order_of_the_shape_however_they_lie() {
        let bytes: Vec<u8> = (0..12).collect();
        // A transposed [3, 4]: shape [4, 3], strides [1, 4].
        let gathered = row_major(&bytes, &[4, 3], Some(&[1, 4]), 1);
        assert_eq!(*gathered, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        // One value seen from everywhere.
        assert_eq!(*row_major(&bytes[5..], &[2, 2], Some(&[0, 0]), 1), [5; 4]);
        // An axis of one may say any stride.
        let borrowed = row_major(&bytes, &[1, 6], Some(&[99, 1]), 2);
        assert!(matches!(borrowed, Cow::Borrowed(b) if b == bytes));
        assert!(row_major(&bytes, &[0, 3], Some(&[7, 7]), 1).is_empty());
        assert!(row_major(&bytes, &[0, 1 << 40, 1 << 40], None, 4).is_empty());
    }
}

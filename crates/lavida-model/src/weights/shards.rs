//! A module as safetensors files: one, or several with an index as transformers writes them. What is only carried goes with it.
//!
//! Where each value will lie follows from names and shapes alone, so tensors are written where they belong as the walk
//! comes by them, and no more than one is held beside the module.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ::safetensors::Dtype;
use burn::module::Module;
use burn::tensor::{DType, FloatDType, TensorData};
use serde_json::json;

use super::files::{INDEX, SINGLE, in_format, size_of};
use super::safetensors::{FilePlan, file_dtype};
use super::{Tensors, WeightError, parameters, try_each};
use crate::precision::Precision;

/// Writes every parameter of `module` and, as they are, the `carried` tensors into `folder`, as a [`ShardWriter`] does. `on_bytes`
/// is told how many bytes of tensors are written, of how many. Says the files' names.
///
/// # Errors
///
/// As [`ShardWriter`]'s.
pub fn write_shards<M: Module>(
    module: &M,
    carried: &Tensors,
    folder: &Path,
    precision: Precision,
    max_bytes: u64,
    mut on_bytes: impl FnMut(u64, u64),
) -> Result<Vec<String>, WeightError> {
    let parameters = parameters(module);
    let named = parameters.iter().map(|p| (p.name.as_str(), &*p.shape));
    let mut writer = ShardWriter::create(folder, named, precision, carried, max_bytes)?;
    try_each(module, |tensor, data| {
        writer.write(tensor, data)?;
        let (n_written, n_bytes) = writer.progress();
        on_bytes(n_written, n_bytes);
        Ok::<_, WeightError>(())
    })?;
    writer.finish()
}

/// Safetensors files whose tensors are written as they come, in any order: `model.safetensors`, or, where that would be larger
/// than asked for, `model-00001-of-0000N.safetensors` and so on with `model.safetensors.index.json`. A tensor larger than that
/// gets a file of its own.
pub struct ShardWriter {
    folder: PathBuf,
    files: Vec<PartialFile>,
    /// File and first byte of each tensor that is not written yet.
    places: BTreeMap<String, (usize, u64)>,
    weight_map: BTreeMap<String, String>,
    /// Of the weights.
    dtype: DType,
    n_written: u64,
    n_bytes: u64,
}

impl ShardWriter {
    /// Files in `folder`, each of at most `max_bytes`, for `weights` of these names and shapes in `precision`, and for the
    /// `carried` tensors, which are written at once, as they are.
    ///
    /// # Errors
    ///
    /// [`WeightError::Write`] when a file cannot be written; none is left then, as with every later error.
    pub fn create<'a>(
        folder: &Path,
        weights: impl Iterator<Item = (&'a str, &'a [usize])>,
        precision: Precision,
        carried: &Tensors,
        max_bytes: u64,
    ) -> Result<Self, WeightError> {
        let dtype: DType = FloatDType::from(precision).into();
        let listed = |name: &str, dtype: DType, shape: Vec<usize>| match file_dtype(dtype) {
            Some(dtype) => Ok((name.to_owned(), dtype, shape)),
            None => {
                let (name, found) = (name.to_owned(), format!("{dtype:?}"));
                Err(WeightError::Dtype { name, found })
            }
        };
        let weights = weights.map(|(name, shape)| listed(name, dtype, shape.to_vec()));
        let along = carried.iter();
        let along = along.map(|(name, data)| listed(name, data.dtype(), data.shape().to_vec()));
        let mut tensors = weights.chain(along).collect::<Result<Vec<_>, _>>()?;
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let shards = split(tensors, max_bytes);
        let n_shards = shards.len();
        let mut this = Self {
            folder: folder.to_owned(),
            files: Vec::with_capacity(n_shards),
            places: BTreeMap::new(),
            weight_map: BTreeMap::new(),
            dtype,
            n_written: 0,
            n_bytes: 0,
        };
        for (shard, tensors) in shards.into_iter().enumerate() {
            let name = match n_shards {
                1 => SINGLE.to_owned(),
                _ => format!("model-{:05}-of-{n_shards:05}.safetensors", shard + 1),
            };
            let plan = FilePlan::new(tensors)?;
            for (tensor, start) in &plan.starts {
                this.places.insert(tensor.clone(), (shard, *start));
                this.weight_map.insert(tensor.clone(), name.clone());
            }
            this.n_bytes += plan.n_bytes - plan.header.len() as u64;
            this.files
                .push(PartialFile::create(&folder.join(name), &plan)?);
        }
        for (name, data) in carried {
            this.write_bytes(name, data.as_bytes())?;
        }
        Ok(this)
    }

    /// Writes one of the weights, converted to the format of the files.
    ///
    /// # Errors
    ///
    /// [`WeightError::Write`] when it cannot be written; [`WeightError::File`] for a tensor that was not announced, or comes
    /// twice.
    pub fn write(&mut self, name: &str, data: TensorData) -> Result<(), WeightError> {
        self.write_bytes(name, in_format(data, self.dtype).as_bytes())
    }

    /// Bytes of tensors that are written, and of all.
    pub fn progress(&self) -> (u64, u64) {
        (self.n_written, self.n_bytes)
    }

    /// Makes the files count. Says their names.
    ///
    /// # Errors
    ///
    /// [`WeightError::Write`] when one cannot be written; [`WeightError::File`] when a tensor never came.
    pub fn finish(self) -> Result<Vec<String>, WeightError> {
        if let Some(name) = self.places.keys().next() {
            return Err(WeightError::file(name, "values", "none"));
        }
        let mut written = Vec::with_capacity(self.files.len());
        for file in self.files {
            let name = file.path.file_name().unwrap_or_default();
            written.push(name.to_string_lossy().into_owned());
            file.finish()?;
        }
        if written.len() > 1 {
            let index = json!({ "metadata": { "total_size": self.n_bytes }, "weight_map": self.weight_map });
            let path = self.folder.join(INDEX);
            let text = format!("{index:#}\n");
            std::fs::write(&path, text).map_err(|error| cannot_write(&path, &error))?;
            written.push(INDEX.to_owned());
        }
        Ok(written)
    }

    fn write_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), WeightError> {
        let place = self.places.remove(name);
        let (shard, start) = place.ok_or_else(|| WeightError::file(name, "one tensor", "two"))?;
        self.files[shard].write_at(start, bytes)?;
        self.n_written += bytes.len() as u64;
        Ok(())
    }
}

type Listed = (String, Dtype, Vec<usize>);

/// As transformers splits: tensors in order, a new file where the next one would make this one too large.
fn split(tensors: Vec<Listed>, max_bytes: u64) -> Vec<Vec<Listed>> {
    let mut shards: Vec<Vec<Listed>> = vec![Vec::new()];
    let mut in_last = 0;
    for tensor in tensors {
        let n_bytes = (tensor.2.iter().product::<usize>() * size_of(tensor.1)) as u64;
        let last = shards.last_mut().expect("there is one from the start");
        if last.is_empty() || in_last + n_bytes <= max_bytes {
            last.push(tensor);
            in_last += n_bytes;
        } else {
            shards.push(vec![tensor]);
            in_last = n_bytes;
        }
    }
    shards
}

/// A file under another name until it is whole; removed if it never is.
struct PartialFile {
    file: File,
    partial: PathBuf,
    path: PathBuf,
    is_whole: bool,
}

impl PartialFile {
    fn create(path: &Path, plan: &FilePlan) -> Result<Self, WeightError> {
        let partial = path.with_extension("partial");
        let file = File::create(&partial).map_err(|error| cannot_write(&partial, &error))?;
        let mut this = Self {
            file,
            partial,
            path: path.to_owned(),
            is_whole: false,
        };
        let sized = this.file.set_len(plan.n_bytes);
        sized.map_err(|error| cannot_write(path, &error))?;
        this.write_at(0, &plan.header)?;
        Ok(this)
    }

    fn write_at(&mut self, start: u64, bytes: &[u8]) -> Result<(), WeightError> {
        let sought = self.file.seek(SeekFrom::Start(start));
        sought
            .and_then(|_| self.file.write_all(bytes))
            .map_err(|error| cannot_write(&self.path, &error))
    }

    fn finish(mut self) -> Result<(), WeightError> {
        let whole = self.file.sync_all();
        whole
            .and_then(|()| std::fs::rename(&self.partial, &self.path))
            .map_err(|error| cannot_write(&self.path, &error))?;
        self.is_whole = true;
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.is_whole {
            let _ = std::fs::remove_file(&self.partial); // what is left of a write that failed anyway
        }
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> WeightError {
    WeightError::Write {
        what: path.display().to_string(),
        reason: error.to_string(),
    }
}

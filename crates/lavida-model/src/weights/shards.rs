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
use burn::tensor::{DType, FloatDType};
use serde_json::json;

use super::files::{INDEX, SINGLE, in_format, size_of};
use super::safetensors::{FilePlan, file_dtype};
use super::{Tensors, WeightError, parameters, try_each};
use crate::precision::Precision;

/// Writes every parameter of `module` and, as they are, the `carried` tensors into `folder`: `model.safetensors`, or, where that would be larger than
/// `max_bytes`, `model-00001-of-0000N.safetensors` and so on with `model.safetensors.index.json`. A tensor larger than
/// that gets a file of its own. `on_bytes` is told how many bytes of tensors are written, of how many. Says the files' names.
///
/// # Errors
///
/// [`WeightError::Write`] when a file cannot be written; none is left then.
pub fn write_shards<M: Module>(
    module: &M,
    carried: &Tensors,
    folder: &Path,
    precision: Precision,
    max_bytes: u64,
    mut on_bytes: impl FnMut(u64, u64),
) -> Result<Vec<String>, WeightError> {
    let wanted: DType = FloatDType::from(precision).into();
    let listed = |name: String, dtype: DType, shape: Vec<usize>| match file_dtype(dtype) {
        Some(dtype) => Ok((name, dtype, shape)),
        None => {
            let found = format!("{dtype:?}");
            Err(WeightError::Dtype { name, found })
        }
    };
    let parameters = parameters(module).into_iter();
    let mut tensors = parameters
        .map(|p| listed(p.name, wanted, p.shape))
        .chain(
            carried
                .iter()
                .map(|(name, data)| listed(name.clone(), data.dtype(), data.shape().to_vec())),
        )
        .collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let shards = split(tensors, max_bytes);
    let n_shards = shards.len();
    let name = |shard: usize| match n_shards {
        1 => SINGLE.to_owned(),
        _ => format!("model-{:05}-of-{n_shards:05}.safetensors", shard + 1),
    };
    let mut files = Vec::with_capacity(n_shards);
    let mut places = BTreeMap::new();
    let mut total_bytes = 0;
    for (shard, tensors) in shards.into_iter().enumerate() {
        let plan = FilePlan::new(tensors)?;
        for (tensor, start) in &plan.starts {
            places.insert(tensor.clone(), (shard, *start));
        }
        total_bytes += plan.n_bytes - plan.header.len() as u64;
        files.push(PartialFile::create(&folder.join(name(shard)), &plan)?);
    }
    let mut n_written = 0;
    let mut write = |tensor: &str, bytes: &[u8]| {
        let (shard, start) = places[tensor];
        files[shard].write_at(start, bytes)?;
        n_written += bytes.len() as u64;
        on_bytes(n_written, total_bytes);
        Ok::<_, WeightError>(())
    };
    try_each(module, |tensor, data| {
        write(tensor, in_format(data, wanted).as_bytes())
    })?;
    for (tensor, data) in carried {
        write(tensor, data.as_bytes())?;
    }
    let mut written = Vec::new();
    for (shard, file) in files.into_iter().enumerate() {
        file.finish()?;
        written.push(name(shard));
    }
    if n_shards > 1 {
        let weight_map: BTreeMap<&str, String> = places
            .iter()
            .map(|(tensor, (shard, _))| (tensor.as_str(), name(*shard)))
            .collect();
        let index = json!({ "metadata": { "total_size": total_bytes }, "weight_map": weight_map });
        let path = folder.join(INDEX);
        let text = format!("{index:#}\n");
        std::fs::write(&path, text).map_err(|error| cannot_write(&path, &error))?;
        written.push(INDEX.to_owned());
    }
    Ok(written)
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

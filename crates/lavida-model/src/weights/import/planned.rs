//! A safetensors file of an import: known to the byte before any value is read.

use std::collections::BTreeMap;

use burn::tensor::{DType, TensorData};

use crate::weights::files::{TensorFiles, in_format};
use crate::weights::safetensors::{FilePlan, file_dtype};
use crate::weights::{WeightError, is_finite};

/// A file and where its tensors come from.
#[derive(Debug)]
pub struct PlannedFile<'a> {
    /// In the order of the file.
    tensors: Vec<Planned<'a>>,
    header: Vec<u8>,
    n_bytes: u64,
}

/// One tensor of floats.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    pub name: String,
    /// The format it gets.
    pub dtype: DType,
    /// The shape it gets.
    pub shape: Vec<usize>,
    pub from: Origin<'a>,
}

/// Where values come from.
#[derive(Debug)]
pub(super) enum Origin<'a> {
    Stored {
        files: &'a TensorFiles,
        name: String,
        /// Rows it gets, where that is another number than it has.
        n_rows: Option<usize>,
    },
    Drawn(TensorData),
}

impl<'a> Origin<'a> {
    /// A tensor of `files` with the rows it has.
    pub fn stored(files: &'a TensorFiles, name: &str) -> Self {
        Self::Stored {
            files,
            name: name.to_owned(),
            n_rows: None,
        }
    }
}

impl<'a> PlannedFile<'a> {
    pub(super) fn new(mut tensors: Vec<Planned<'a>>) -> Result<Self, WeightError> {
        let listed = |planned: &Planned<'_>| {
            let dtype = file_dtype(planned.dtype).expect("safetensors has every float format");
            (planned.name.clone(), dtype, planned.shape.clone())
        };
        let plan = FilePlan::new(tensors.iter().map(listed).collect())?;
        let order: BTreeMap<&str, usize> = plan
            .starts
            .iter()
            .enumerate()
            .map(|(at, (name, _))| (name.as_str(), at))
            .collect();
        tensors.sort_by_key(|planned| order[planned.name.as_str()]);
        Ok(Self {
            tensors,
            header: plan.header,
            n_bytes: plan.n_bytes,
        })
    }

    /// Names of its tensors, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|planned| planned.name.as_str())
    }

    /// Size of the file that [`Self::chunks`] makes.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Bytes of its tensors, the header left out.
    pub fn n_tensor_bytes(&self) -> u64 {
        self.n_bytes - self.header.len() as u64
    }

    /// The file from its first byte to its last: the header, then a tensor at a time.
    pub fn chunks(&self) -> impl Iterator<Item = Result<Vec<u8>, WeightError>> {
        let header = std::iter::once_with(|| Ok(self.header.clone()));
        let tensors = self.tensors.iter().map(|planned| {
            let (bytes, _, _) = planned.read()?.into_parts();
            Ok(bytes.to_vec())
        });
        header.chain(tensors)
    }

    /// Reads every tensor and names those with NaN or an infinity.
    pub(super) fn not_finite(
        &self,
        on_bytes: &mut dyn FnMut(u64),
    ) -> Result<Vec<String>, WeightError> {
        let mut names = Vec::new();
        for planned in &self.tensors {
            let data = planned.read()?;
            if !is_finite(&data) {
                names.push(planned.name.clone());
            }
            on_bytes(data.as_bytes().len() as u64);
        }
        Ok(names)
    }
}

impl Planned<'_> {
    fn read(&self) -> Result<TensorData, WeightError> {
        match &self.from {
            Origin::Drawn(data) => Ok(in_format(data.clone(), self.dtype)),
            Origin::Stored {
                files,
                name,
                n_rows,
            } => {
                let data = in_format(files.read_stored(name)?, self.dtype);
                Ok(match n_rows {
                    Some(n_rows) => resized(data, *n_rows),
                    None => data,
                })
            }
        }
    }
}

/// A table with another number of rows: the first ones, or all and as many times their mean.
///
/// transformers draws new rows around the mean with a billionth of the rows' covariance; here they are the mean, so that
/// an import needs no chance.
fn resized(table: TensorData, n_rows: usize) -> TensorData {
    let [rows, width] = table.shape().dims();
    let dtype = table.dtype();
    let (bytes, _, _) = table.into_parts();
    let row_bytes = width * dtype.size();
    let mut resized = bytes[..n_rows.min(rows) * row_bytes].to_vec();
    if n_rows > rows {
        let values = TensorData::from_bytes(bytes, [rows, width], dtype).convert::<f32>();
        let values = values.as_slice::<f32>().expect("converted to f32");
        let mut mean = vec![0f64; width];
        for row in values.chunks_exact(width.max(1)) {
            for (sum, value) in mean.iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
        }
        let mean: Vec<f32> = mean.iter().map(|sum| (sum / rows as f64) as f32).collect();
        let row = TensorData::new(mean, [1, width]).convert_dtype(dtype);
        for _ in rows..n_rows {
            resized.extend_from_slice(row.as_bytes());
        }
    }
    TensorData::from_bytes_vec(resized, [n_rows, width], dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_cut_to_its_first_rows_or_grown_by_their_mean() {
        let table = || TensorData::new(vec![1.0f32, 10.0, 3.0, 30.0], [2, 2]);
        assert_eq!(
            resized(table(), 1),
            TensorData::new(vec![1.0f32, 10.0], [1, 2])
        );
        let grown = resized(table(), 4);
        let expected = vec![1.0f32, 10.0, 3.0, 30.0, 2.0, 20.0, 2.0, 20.0];
        assert_eq!(grown, TensorData::new(expected, [4, 2]));
        let half = resized(table().convert_dtype(DType::BF16), 3);
        assert_eq!(half.dtype(), DType::BF16);
        assert_eq!(half.shape().as_slice(), [3, 2]);
    }
}

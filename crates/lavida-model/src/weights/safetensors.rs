//! Tensors as the bytes of a safetensors file and back.

use std::borrow::Cow;
use std::collections::HashMap;

use ::safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorInfo, View};
use burn::tensor::{DType, FloatDType, TensorData};
use half::{bf16, f16};

use super::files::{size_of, values};
use super::{Tensors, WeightError, is_float};

/// The bytes of one safetensors file, the same for the same tensors; floats converted to `dtype` where one is given.
///
/// # Errors
///
/// [`WeightError::Dtype`] for a tensor safetensors has no type for.
pub fn write_safetensors(
    tensors: &Tensors,
    dtype: Option<FloatDType>,
) -> Result<Vec<u8>, WeightError> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, data) in tensors {
        let data = match dtype {
            Some(dtype) if is_float(data.dtype()) && data.dtype() != dtype.into() => {
                Cow::Owned(data.clone().convert_dtype(dtype.into()))
            }
            _ => Cow::Borrowed(data),
        };
        let dtype = file_dtype(data.dtype()).ok_or_else(|| WeightError::Dtype {
            name: name.clone(),
            found: format!("{:?}", data.dtype()),
        })?;
        views.push((name, DataView { data, dtype }));
    }
    ::safetensors::serialize(views, Some(file_metadata())).map_err(format_error)
}

/// One key only: the crate writes its map in random order, and equal tensors must give equal bytes.
fn file_metadata() -> HashMap<String, String> {
    HashMap::from([("format".to_owned(), "pt".to_owned())])
}

/// A safetensors file before its values are there: byte for byte what [`write_safetensors`] makes of the same tensors.
pub(super) struct FilePlan {
    /// The file up to the first value.
    pub header: Vec<u8>,
    /// Names with the place of their first byte in the file, in the order of the file.
    pub starts: Vec<(String, u64)>,
    /// Size of the whole file.
    pub n_bytes: u64,
}

impl FilePlan {
    /// The plan for tensors of these names, number formats and shapes.
    pub fn new(mut tensors: Vec<(String, Dtype, Vec<usize>)>) -> Result<Self, WeightError> {
        // The crate's own order: larger formats first, so that all values are aligned, then by name.
        tensors.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        let mut end = 0;
        let infos: Vec<(String, TensorInfo)> = tensors
            .into_iter()
            .map(|(name, dtype, shape)| {
                let start = end;
                end += shape.iter().product::<usize>() * size_of(dtype);
                let data_offsets = (start, end);
                let info = TensorInfo {
                    dtype,
                    shape,
                    data_offsets,
                };
                (name, info)
            })
            .collect();
        let starts: Vec<(String, usize)> = infos
            .iter()
            .map(|(name, info)| (name.clone(), info.data_offsets.0))
            .collect();
        let metadata = Metadata::new(Some(file_metadata()), infos).map_err(format_error)?;
        let json = serde_json::to_vec(&metadata).map_err(|error| WeightError::Format {
            reason: error.to_string(),
        })?;
        let padded = json.len().next_multiple_of(8);
        let mut header = Vec::with_capacity(8 + padded);
        header.extend((padded as u64).to_le_bytes());
        header.extend(json);
        header.resize(8 + padded, b' ');
        let first = header.len() as u64;
        Ok(Self {
            starts: starts
                .into_iter()
                .map(|(name, start)| (name, first + start as u64))
                .collect(),
            n_bytes: first + end as u64,
            header,
        })
    }
}

/// All tensors of a safetensors file, in the number formats of the file.
///
/// # Errors
///
/// [`WeightError::Format`] for bytes that are cut or not of this format, [`WeightError::Dtype`] for a number format no
/// part of the model has.
pub fn read_safetensors(bytes: &[u8]) -> Result<Tensors, WeightError> {
    let file = SafeTensors::deserialize(bytes).map_err(format_error)?;
    let mut tensors = Tensors::new();
    for (name, view) in file.iter() {
        let bytes = view.data();
        let shape = view.shape().to_vec();
        let data = match view.dtype() {
            Dtype::F64 => TensorData::new(values(bytes, f64::from_le_bytes), shape),
            Dtype::F32 => TensorData::new(values(bytes, f32::from_le_bytes), shape),
            Dtype::F16 => TensorData::new(values(bytes, f16::from_le_bytes), shape),
            Dtype::BF16 => TensorData::new(values(bytes, bf16::from_le_bytes), shape),
            Dtype::I64 => TensorData::new(values(bytes, i64::from_le_bytes), shape),
            Dtype::I32 => TensorData::new(values(bytes, i32::from_le_bytes), shape),
            Dtype::U8 | Dtype::BOOL => TensorData::new(bytes.to_vec(), shape),
            other => {
                return Err(WeightError::Dtype {
                    name: name.to_owned(),
                    found: format!("{other:?}"),
                });
            }
        };
        tensors.insert(name.to_owned(), data);
    }
    Ok(tensors)
}

/// How safetensors calls a number format.
pub(super) fn file_dtype(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::U8 => Dtype::U8,
        _ => return None,
    })
}

fn format_error(error: ::safetensors::SafeTensorError) -> WeightError {
    WeightError::Format {
        reason: error.to_string(),
    }
}

struct DataView<'a> {
    data: Cow<'a, TensorData>,
    dtype: Dtype,
}

impl View for DataView<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        self.data.shape().as_slice()
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.data.as_bytes())
    }
    fn data_len(&self) -> usize {
        self.data.as_bytes().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Tensors {
        Tensors::from([
            ("b".to_owned(), TensorData::new(vec![1.0f32, -2.5], [2])),
            ("a".to_owned(), TensorData::new(vec![3i64], [1])),
        ])
    }

    #[test]
    fn values_and_bytes_come_back() {
        let bytes = write_safetensors(&some(), None).unwrap();
        assert_eq!(read_safetensors(&bytes).unwrap(), some());
        assert_eq!(write_safetensors(&some(), None).unwrap(), bytes);
    }

    #[test]
    fn a_planned_file_is_the_written_one() {
        let bytes = write_safetensors(&some(), None).unwrap();
        let tensors = vec![
            ("a".to_owned(), Dtype::I64, vec![1]),
            ("b".to_owned(), Dtype::F32, vec![2]),
        ];
        let plan = FilePlan::new(tensors).unwrap();
        assert!(bytes.starts_with(&plan.header));
        assert_eq!(bytes.len() as u64, plan.n_bytes);
        for (name, start) in plan.starts {
            assert!(bytes[start as usize..].starts_with(some()[&name].as_bytes()));
        }
    }

    #[test]
    fn bf16_halves_the_floats_only() {
        let bytes = write_safetensors(&some(), Some(FloatDType::BF16)).unwrap();
        let read = read_safetensors(&bytes).unwrap();
        assert_eq!(
            read["b"].as_slice::<bf16>().unwrap(),
            [bf16::from_f32(1.0), bf16::from_f32(-2.5)]
        );
        assert_eq!(read["a"], some()["a"]);
    }

    #[test]
    fn a_cut_file_is_refused() {
        let bytes = write_safetensors(&some(), None).unwrap();
        for length in [0, 4, 20, bytes.len() - 1] {
            let error = read_safetensors(&bytes[..length]).unwrap_err();
            assert!(
                error.to_string().starts_with("not a safetensors file: "),
                "{error}"
            );
        }
    }
}

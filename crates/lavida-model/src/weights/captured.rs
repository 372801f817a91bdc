//! Tensors as they are now, and the safetensors file of them, made later and piece by piece.
//!
//! Taking them costs a reference each: on the CPU a tensor that somebody else holds is never written over (Flex copies
//! first), so an optimizer may go on while another thread makes the file. What the file takes beside the tensors is one of
//! them at a time, and each is let go once it is passed.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use ::safetensors::Dtype;
use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};
use bytes::Bytes;

use super::safetensors::{FilePlan, file_dtype};
use super::{Layout, ParameterWalk, WeightError, checkpoint_shape, in_layout, walk};

/// A tensor as it was when it was taken. A clone is the same tensor.
#[derive(Clone)]
pub struct CapturedTensor {
    name: String,
    dtype: burn::tensor::DType,
    /// In the file.
    shape: Vec<usize>,
    layout: Layout,
    read: Arc<dyn Fn() -> TensorData + Send + Sync>,
}

impl CapturedTensor {
    /// Takes `tensor` as the values, end to end, of a tensor of this name and shape.
    pub fn new<const D: usize>(name: String, shape: Vec<usize>, tensor: Tensor<D>) -> Self {
        let tensor = tensor.without_autodiff();
        Self {
            name,
            dtype: tensor.dtype(),
            shape,
            layout: Layout::Same,
            read: Arc::new(move || tensor.to_data()),
        }
    }

    /// Takes values that are in the host's memory.
    pub fn of_data(name: String, data: TensorData) -> Self {
        Self {
            name,
            dtype: data.dtype(),
            shape: data.shape().to_vec(),
            layout: Layout::Same,
            read: Arc::new(move || data.clone()),
        }
    }

    /// Its name in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same with its values in the host's memory. From a device with a memory of its own they are copied: nothing
    /// there keeps the values once its tensor is updated, except at the cost of a second copy there.
    pub fn on_host(self) -> Self {
        let data = (self.read)();
        Self {
            read: Arc::new(move || data.clone()),
            ..self
        }
    }

    fn into_bytes(self) -> Bytes {
        let data = in_layout((self.read)(), self.layout);
        Bytes::from_owner(Owned(data))
    }
}

impl fmt::Debug for CapturedTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} {:?}", self.name, self.dtype, self.shape)
    }
}

/// Bytes that a tensor owns.
struct Owned(TensorData);

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Every float parameter of a module as it is now.
pub fn capture<M: Module>(module: &M) -> Vec<CapturedTensor> {
    struct Capturer(Vec<CapturedTensor>);
    impl ParameterWalk for Capturer {
        fn parameter<const D: usize>(
            &mut self,
            name: String,
            layout: Layout,
            param: &Param<Tensor<D>>,
        ) {
            let shape = checkpoint_shape(param, layout);
            self.0.push(CapturedTensor {
                layout,
                ..CapturedTensor::new(name, shape, param.val())
            });
        }
    }
    let mut capturer = Capturer(Vec::new());
    walk(module, &mut capturer);
    capturer.0
}

/// A safetensors file that is not made yet: byte for byte what [`write_safetensors`](super::write_safetensors) makes of the
/// same tensors.
#[derive(Clone, Debug)]
pub struct CapturedFile {
    header: Vec<u8>,
    /// With the place of their first byte, in the order of the file.
    tensors: Vec<(u64, CapturedTensor)>,
    n_bytes: u64,
}

impl CapturedFile {
    /// The file of these tensors.
    ///
    /// # Errors
    ///
    /// [`WeightError::Dtype`] for a tensor safetensors has no type for.
    pub fn new(tensors: Vec<CapturedTensor>) -> Result<Self, WeightError> {
        let listed = tensors.iter().map(|tensor| {
            let dtype = file_dtype(tensor.dtype).ok_or_else(|| WeightError::Dtype {
                name: tensor.name.clone(),
                found: format!("{:?}", tensor.dtype),
            })?;
            Ok((tensor.name.clone(), dtype, tensor.shape.clone()))
        });
        let listed = listed.collect::<Result<Vec<(String, Dtype, Vec<usize>)>, WeightError>>()?;
        let FilePlan {
            header,
            starts,
            n_bytes,
        } = FilePlan::new(listed)?;
        let places: std::collections::HashMap<String, u64> = starts.into_iter().collect();
        let mut tensors: Vec<(u64, CapturedTensor)> = tensors
            .into_iter()
            .map(|tensor| (places[&tensor.name], tensor))
            .collect();
        // Empty tensors share their start with the next one; where they stand does not matter.
        tensors.sort_by_key(|(start, _)| *start);
        Ok(Self {
            header,
            tensors,
            n_bytes,
        })
    }

    /// Size of the whole file.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// The bytes of a range of the file, in order, one tensor at a time; tensors outside of it are not read.
    pub fn pieces(self, range: Range<u64>) -> impl Iterator<Item = Bytes> + Send {
        let n_bytes = self.n_bytes;
        let ends: Vec<u64> = self
            .tensors
            .iter()
            .map(|(start, _)| *start)
            .skip(1)
            .chain([n_bytes])
            .collect();
        let header = Bytes::from(self.header);
        let first = overlap(&range, 0, header.len() as u64).map(|part| header.slice(part));
        let rest = self.tensors.into_iter().zip(ends);
        first
            .into_iter()
            .chain(rest.filter_map(move |((start, tensor), end)| {
                let part = overlap(&range, start, end)?;
                Some(tensor.into_bytes().slice(part))
            }))
    }
}

/// Where `range` of the file lies in what stands at `start..end`, if it does.
fn overlap(range: &Range<u64>, start: u64, end: u64) -> Option<Range<usize>> {
    let (from, to) = (range.start.max(start), range.end.min(end));
    let within = |at: u64| usize::try_from(at - start).expect("a tensor fits in memory");
    (from < to).then(|| within(from)..within(to))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::linear::{Linear, LinearConfig};
    use crate::weights::{export, write_safetensors};

    fn linear() -> Linear {
        LinearConfig::new(3, 5)
            .init(&Device::flex())
            .with_lora(2, 1.0)
    }

    fn written(linear: &Linear) -> Vec<u8> {
        write_safetensors(&export(linear), None).unwrap()
    }

    #[test]
    fn what_was_captured_is_what_was_there_whatever_became_of_the_module() {
        let linear = linear();
        let expected = written(&linear);
        let file = CapturedFile::new(capture(&linear)).unwrap();
        let on_host = capture(&linear)
            .into_iter()
            .map(CapturedTensor::on_host)
            .collect();
        let on_host = CapturedFile::new(on_host).unwrap();
        // In place where nobody else holds the values.
        let weight = linear.weight.map(|w| w.mul_scalar(2.0).add_scalar(1.0));
        let later = Linear { weight, ..linear };
        assert_ne!(written(&later), expected);
        for file in [file, on_host] {
            assert_eq!(file.n_bytes(), expected.len() as u64);
            let n_bytes = file.n_bytes();
            let bytes: Vec<Bytes> = file.pieces(0..n_bytes).collect();
            assert_eq!(bytes.concat(), expected);
        }
    }

    proptest! {
        #[test]
        fn a_range_of_a_file_is_those_bytes_of_it(from in 0usize..700, length in 0usize..700) {
            let linear = linear();
            let expected = written(&linear);
            let range = from.min(expected.len())..(from + length).min(expected.len());
            let file = CapturedFile::new(capture(&linear)).unwrap();
            let bytes: Vec<Bytes> = file.pieces(range.start as u64..range.end as u64).collect();
            prop_assert_eq!(bytes.concat(), &expected[range]);
        }
    }
}

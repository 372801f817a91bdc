//! Tensors that LAVIDA hands on and never reads: SAM2's memory, which the reference's classes have.
//!
//! They come in with an import, lie in a file of their own beside the weights, and go out with an export: under the
//! reference's names and in the number formats they came in, whatever those of the weights are.

use super::{Tensors, WeightError, WeightMismatch, is_finite, is_float, read_safetensors};
use crate::lavida::is_unused;

/// The file that holds them.
pub const CARRIED: &str = "carried.safetensors";

/// The tensors of a file that holds nothing else.
///
/// # Errors
///
/// [`WeightError::Format`] for bytes that are cut or not of this format, [`WeightError::Mismatch`] naming every tensor
/// that is none of [`UNUSED_TENSORS`](crate::lavida::UNUSED_TENSORS), holds no floats, or NaN or an infinity.
pub fn read_carried(bytes: &[u8]) -> Result<Tensors, WeightError> {
    let tensors = read_safetensors(bytes)?;
    let mut mismatch = WeightMismatch::default();
    for (name, data) in &tensors {
        if !is_unused(name) {
            let shape = data.shape().to_vec();
            mismatch.left_over.push((name.clone(), shape));
        } else if !is_float(data.dtype()) {
            let found = format!("{:?}", data.dtype());
            mismatch.wrong_dtype.push((name.clone(), found));
        } else if !is_finite(data) {
            mismatch.not_finite.push(name.clone());
        }
    }
    if mismatch.is_empty() {
        Ok(tensors)
    } else {
        Err(WeightError::Mismatch(mismatch))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, TensorData};

    use super::*;
    use crate::weights::write_safetensors;

    fn tensors(names: &[&str], data: TensorData) -> Tensors {
        let named = |name: &&str| (name.to_string(), data.clone());
        names.iter().map(named).collect()
    }

    #[test]
    fn every_float_format_comes_back_as_it_was() {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            let data = TensorData::new(vec![1.0f32, -2.5], [2]).convert_dtype(dtype);
            let carried = tensors(&["seg_model.no_obj_ptr"], data);
            let bytes = write_safetensors(&carried, None).unwrap();
            assert_eq!(read_carried(&bytes).unwrap(), carried);
        }
    }

    #[test]
    fn what_is_a_weight_or_no_number_is_named() {
        let names = ["seg_model.no_mem_embed", "seg_model.no_obj_ptr"];
        let check = |data: TensorData, expected: &[&str]| {
            let bytes = write_safetensors(&tensors(&names, data), None).unwrap();
            let error = read_carried(&bytes).unwrap_err().to_string();
            for line in expected {
                assert!(error.contains(line), "no {line:?} in: {error}");
            }
        };
        let weight = "seg_model.no_mem_embed: expected nothing, found [1]";
        let no_number = "seg_model.no_obj_ptr: expected finite values";
        check(TensorData::new(vec![f32::NAN], [1]), &[weight, no_number]);
        let no_float = "seg_model.no_obj_ptr: expected floats, found I64";
        check(TensorData::new(vec![1i64], [1]), &[weight, no_float]);
    }
}

//! The number format of weights: of those that forward reads, and of those in files.
//!
//! In bf16 every weight and every activation takes half the bytes, and matrix products run on the units built for them;
//! sums inside products, norms, softmax, token compression and losses stay in f32. bf16 has f32's range, so no loss is
//! scaled. What trains is held in f32 by the optimizer, which gives the model a rounded copy after each update: a step
//! is often smaller than the distance of two bf16 numbers. Reference: mixed precision training (Micikevicius et al.,
//! arXiv 1710.03740); `torch.autocast(dtype=bfloat16)`.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::is_constant;
use crate::weights::{is_float, names::Path};

/// Number format of weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Exact, four bytes a value.
    #[default]
    F32,
    /// The range of f32 with eight bits of mantissa, two bytes a value.
    Bf16,
}

impl Precision {
    /// Bytes of a value.
    pub fn n_bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// The format that the weight of this name is held in: constants that are no weights keep every bit.
    pub fn dtype_of(self, name: &str) -> DType {
        if is_constant(name) {
            DType::F32
        } else {
            FloatDType::from(self).into()
        }
    }

    /// The values of the weight of this name as they are to be held, where that takes fewer bytes than they have; else as they
    /// are.
    pub fn narrowed(self, name: &str, data: TensorData) -> TensorData {
        let dtype = self.dtype_of(name);
        if is_float(data.dtype()) && dtype.size() < data.dtype().size() {
            data.convert_dtype(dtype)
        } else {
            data
        }
    }

    /// The module with weights in this format; constants that are no weights stay as they are. Which parameters train
    /// does not change.
    pub fn of<M: Module>(self, module: M) -> M {
        module.map(&mut Caster {
            dtype: self.into(),
            path: Path::default(),
        })
    }
}

impl From<Precision> for FloatDType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => FloatDType::F32,
            Precision::Bf16 => FloatDType::BF16,
        }
    }
}

struct Caster {
    dtype: FloatDType,
    path: Path,
}

impl ModuleMapper for Caster {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (name, _) = self.path.checkpoint_name();
        if is_constant(&name) {
            return param;
        }
        let dtype = self.dtype;
        param.map(|value| {
            let (is_autodiff, trains) = (value.is_autodiff(), value.is_require_grad());
            let value = value.without_autodiff().cast(dtype);
            if is_autodiff {
                value.autodiff().set_require_grad(trains)
            } else {
                value
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::LinearConfig;
    use burn::tensor::Device;

    #[test]
    fn what_trains_still_trains_in_half_the_bytes() {
        let device = Device::flex().autodiff();
        let layer = LinearConfig::new(3, 2).init(&device).with_lora(1, 1.0);
        let half = Precision::Bf16.of(layer);
        assert_eq!(half.weight.val().dtype(), DType::BF16);
        assert!(!half.weight.val().is_require_grad());
        let a = half.lora_a.as_ref().unwrap().val();
        assert!(a.is_require_grad() && a.dtype() == DType::BF16);
        let x = Tensor::<2>::ones([1, 3], &device).cast(DType::BF16);
        let gradients = half.forward(x).sum().backward();
        let b = half.lora_b.as_ref().unwrap().val();
        assert_eq!(b.grad(&gradients).unwrap().dtype(), DType::BF16);
    }

    #[test]
    fn constants_keep_every_bit() {
        let config = crate::sam2::position_encoding::PositionEmbeddingRandomConfig::new(8);
        let positions = config.init(&Device::flex());
        let expected = positions.forward([2, 2]).into_data();
        let found = Precision::Bf16.of(positions).forward([2, 2]).into_data();
        assert_eq!(found, expected);
    }
}

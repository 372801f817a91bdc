//! The weights that a model is served with: those of a checkpoint as they come, adapters merged into what they adapt.
//!
//! One tensor goes in and one comes out. A file holds the factors of an adapter before the weight they adapt (larger number
//! formats first, then by name, as safetensors orders them), so what is held is the factors: a few megabytes.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::files::in_format;
use super::names::transpose;
use super::{WeightError, WeightMismatch, is_finite, is_float, parameters};
use crate::linear::Linear;
use crate::policy::{TrainPolicies, TrainPolicy, is_adapter};

/// Ends of the names of an adapter's two factors.
const FACTORS: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];

/// Takes the weights of one checkpoint, in the order of its files.
#[derive(Debug)]
pub struct Merging<'a> {
    policies: &'a TrainPolicies,
    /// What is to come, with its shape.
    expected: BTreeMap<String, Vec<usize>>,
    /// Factors that came, by the name of the weight they adapt.
    factors: BTreeMap<String, [Option<TensorData>; 2]>,
    has_adapters: bool,
    mismatch: WeightMismatch,
}

impl<'a> Merging<'a> {
    /// For `model`, which is set up with `policies`. Its values are not looked at.
    pub fn new<M: Module>(model: &M, policies: &'a TrainPolicies) -> Self {
        let expected = parameters(model).into_iter();
        Self {
            policies,
            expected: expected.map(|p| (p.name, p.shape)).collect(),
            factors: BTreeMap::new(),
            has_adapters: false,
            mismatch: WeightMismatch::default(),
        }
    }

    /// Names and shapes of what comes out.
    pub fn served(&self) -> impl Iterator<Item = (&str, &[usize])> {
        let plain = self.expected.iter().filter(|(name, _)| !is_adapter(name));
        plain.map(|(name, shape)| (name.as_str(), shape.as_slice()))
    }

    /// The weight that is served for a tensor that came, in its own number format, or in f32 where an adapter was merged. None
    /// for the factors of an adapter, and for what does not fit, of which [`Self::finish`] tells.
    pub fn take(&mut self, name: &str, data: TensorData) -> Option<TensorData> {
        let found = data.shape().to_vec();
        let Some(expected) = self.expected.remove(name) else {
            self.mismatch.left_over.push((name.to_owned(), found));
            return None;
        };
        if found != expected {
            self.mismatch
                .misshapen
                .push((name.to_owned(), expected, found));
        } else if !is_float(data.dtype()) {
            let found = format!("{:?}", data.dtype());
            self.mismatch.wrong_dtype.push((name.to_owned(), found));
        } else if !is_finite(&data) {
            self.mismatch.not_finite.push(name.to_owned());
        } else if let Some((weight, factor)) = factor_of(name) {
            self.has_adapters = true;
            self.factors.entry(weight).or_default()[factor] = Some(data);
        } else {
            return Some(match self.factors.remove(name) {
                Some([Some(a), Some(b)]) => merged(data, a, b, self.scale_of(name)),
                _ => data, // a factor that is missing is told of in the end
            });
        }
        None
    }

    /// To be called after the last tensor. A checkpoint without any adapter has none to lack: what an import makes.
    ///
    /// # Errors
    ///
    /// [`WeightError::Mismatch`] lists every tensor that is missing, left over, of another shape, no floats or not finite.
    pub fn finish(self) -> Result<(), WeightError> {
        let mut mismatch = self.mismatch;
        let missing = self.expected.into_iter();
        let missing = missing.filter(|(name, _)| self.has_adapters || !is_adapter(name));
        mismatch.missing.extend(missing);
        // Factors whose weight did not come after them: it came before, or does not fit either.
        let late = self.factors.into_iter().flat_map(|(weight, factors)| {
            let layer = weight.trim_end_matches(".weight").to_owned();
            let of_layer = FACTORS.iter().zip(factors);
            of_layer
                .filter_map(move |(end, factor)| {
                    Some((format!("{layer}{end}"), factor?.shape().to_vec()))
                })
                .collect::<Vec<_>>()
        });
        mismatch.left_over.extend(late);
        if mismatch.is_empty() {
            Ok(())
        } else {
            Err(WeightError::Mismatch(mismatch))
        }
    }

    fn scale_of(&self, weight: &str) -> f64 {
        match self.policies.of(weight) {
            TrainPolicy::Lora { rank, alpha } => alpha / rank as f64,
            TrainPolicy::Frozen | TrainPolicy::Full => 0.0, // it has no adapter, so none is expected
        }
    }
}

/// The weight that a factor adapts, and which of the two it is.
fn factor_of(name: &str) -> Option<(String, usize)> {
    FACTORS.iter().enumerate().find_map(|(factor, end)| {
        let layer = name.strip_suffix(end)?;
        Some((format!("{layer}.weight"), factor))
    })
}

/// `W + s·A·B` in f32, by the layer's own arithmetic.
fn merged(weight: TensorData, a: TensorData, b: TensorData, scale: f64) -> TensorData {
    let device = Device::flex();
    let factor = |data: TensorData| {
        let data = transpose(in_format(data, DType::F32));
        Param::from_tensor(Tensor::<2>::from_data(data, &device))
    };
    let layer = Linear {
        weight: factor(weight),
        bias: None,
        lora_a: Some(factor(a)),
        lora_b: Some(factor(b)),
        lora_scale: scale,
    };
    transpose(layer.merge().weight.val().into_data())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::LinearConfig;
    use crate::weights::{Tensors, export};

    #[derive(Module, Debug)]
    struct Layer {
        proj: Linear,
    }

    const LORA: TrainPolicy = TrainPolicy::Lora {
        rank: 2,
        alpha: 8.0,
    };

    fn layer() -> Layer {
        let device = Device::flex();
        let mut proj = LinearConfig::new(5, 3).init(&device).with_lora(2, 8.0);
        let b = Tensor::random([2, 3], burn::tensor::Distribution::Default, &device);
        proj.lora_b = Some(Param::from_tensor(b));
        Layer { proj }
    }

    fn served(layer: &Layer, tensors: Tensors) -> Result<Tensors, WeightError> {
        let policies = TrainPolicies::new([("proj".to_owned(), LORA)]);
        let mut merging = Merging::new(layer, &policies);
        let served = tensors.into_iter().filter_map(|(name, data)| {
            let data = merging.take(&name, data)?;
            Some((name, data))
        });
        let served = served.collect();
        merging.finish()?;
        Ok(served)
    }

    #[test]
    fn what_is_merged_on_the_way_is_what_the_layer_merges() {
        let layer = layer();
        let tensors = export(&layer);
        let merged = Layer {
            proj: layer.proj.clone().merge(),
        };
        assert_eq!(served(&layer, tensors).unwrap(), export(&merged));
    }

    #[test]
    fn without_adapters_weights_come_out_as_they_are_and_half_an_adapter_is_missed() {
        let layer = layer();
        let mut tensors = export(&layer);
        let b = tensors.remove("proj.lora_B.weight");
        let error = served(&layer, tensors.clone()).unwrap_err().to_string();
        assert!(
            error.contains("proj.lora_B.weight: expected [3, 2], found nothing"),
            "{error}"
        );
        assert!(b.is_some() && tensors.remove("proj.lora_A.weight").is_some());
        assert_eq!(served(&layer, tensors.clone()).unwrap(), tensors);
        tensors.remove("proj.bias");
        tensors.insert("extra".into(), TensorData::new(vec![1.0f32], [1]));
        let error = served(&layer, tensors).unwrap_err().to_string();
        for line in [
            "proj.bias: expected [3], found nothing",
            "extra: expected nothing, found [1]",
        ] {
            assert!(error.contains(line), "{error}");
        }
    }
}

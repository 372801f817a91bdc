//! Weights under the names of the reference's checkpoint: out of a module, into a module, and as safetensors.
//!
//! A module is walked once; every float parameter has exactly one name ([`names`]). Loading takes all or nothing: a
//! tensor that is missing, left over, of another shape or not finite is listed by name, and nothing is loaded.

mod burnpack;
mod captured;
mod carried;
mod error;
mod files;
pub mod import;
mod incoming;
mod merging;
pub mod names;
mod pickle;
mod safetensors;
mod shards;
mod torch_file;

pub use burnpack::write_burnpack;
pub use captured::{CapturedFile, CapturedTensor, capture};
pub use carried::{CARRIED, read_carried};
pub use error::{WeightError, WeightMismatch};
pub use files::{TensorFiles, placeholder};
pub use incoming::IncomingTensors;
pub use merging::Merging;
pub use safetensors::{read_safetensors, write_safetensors};
pub use shards::{ShardWriter, write_shards};

pub use burn::tensor::TensorData;

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Tensor};
use half::{bf16, f16};

use names::{Layout, Path, transpose};

/// Tensors by checkpoint name, in order of name.
pub type Tensors = BTreeMap<String, TensorData>;

/// One parameter of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterInfo {
    /// Name in the checkpoint.
    pub name: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// Identity within the process, as optimizers and gradients know it.
    pub id: ParamId,
}

impl ParameterInfo {
    /// Values it holds.
    pub fn n_values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Every float parameter in the order of the walk. Values are not drawn, so a model of any size may be listed.
pub fn parameters<M: Module>(module: &M) -> Vec<ParameterInfo> {
    struct Lister(Vec<ParameterInfo>);
    impl ParameterWalk for Lister {
        fn parameter<const D: usize>(
            &mut self,
            name: String,
            layout: Layout,
            param: &Param<Tensor<D>>,
        ) {
            let shape = checkpoint_shape(param, layout);
            self.0.push(ParameterInfo {
                name,
                shape,
                id: param.id,
            });
        }
    }
    let mut lister = Lister(Vec::new());
    walk(module, &mut lister);
    lister.0
}

/// Every float parameter with its values.
///
/// # Panics
///
/// When two parameters have one name: a bug of the module's field names.
pub fn export<M: Module>(module: &M) -> Tensors {
    export_where(module, |_| true)
}

/// [`export`] of the parameters whose name is `wanted`; the others are not looked at, and not drawn.
pub(crate) fn export_where<M: Module>(module: &M, wanted: impl Fn(&str) -> bool) -> Tensors {
    struct Exporter<F>(Tensors, F);
    impl<F: Fn(&str) -> bool> ParameterWalk for Exporter<F> {
        fn parameter<const D: usize>(
            &mut self,
            name: String,
            layout: Layout,
            param: &Param<Tensor<D>>,
        ) {
            if self.1(&name) {
                let data = in_layout(param.val().into_data(), layout);
                insert(&mut self.0, name, data);
            }
        }
    }
    let mut exporter = Exporter(Tensors::new(), wanted);
    walk(module, &mut exporter);
    exporter.0
}

/// Gives every float parameter with its values, one after the other, so that no more than one is held twice.
///
/// # Errors
///
/// The first error of `sink`; nothing is given after it.
pub(crate) fn try_each<M: Module, E>(
    module: &M,
    sink: impl FnMut(&str, TensorData) -> Result<(), E>,
) -> Result<(), E> {
    struct Giver<F, E> {
        sink: F,
        outcome: Result<(), E>,
    }
    impl<F: FnMut(&str, TensorData) -> Result<(), E>, E> ParameterWalk for Giver<F, E> {
        fn parameter<const D: usize>(
            &mut self,
            name: String,
            layout: Layout,
            param: &Param<Tensor<D>>,
        ) {
            if self.outcome.is_ok() {
                let data = in_layout(param.val().into_data(), layout);
                self.outcome = (self.sink)(&name, data);
            }
        }
    }
    let outcome = Ok(());
    let mut giver = Giver { sink, outcome };
    walk(module, &mut giver);
    giver.outcome
}

/// Gradients under the names and in the layout of the weights; parameters without a gradient are left out.
pub fn export_gradients<M: Module>(module: &M, gradients: &GradientsParams) -> Tensors {
    struct Exporter<'a>(&'a GradientsParams, Tensors);
    impl ParameterWalk for Exporter<'_> {
        fn parameter<const D: usize>(
            &mut self,
            name: String,
            layout: Layout,
            param: &Param<Tensor<D>>,
        ) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                insert(&mut self.1, name, in_layout(gradient.into_data(), layout));
            }
        }
    }
    let mut exporter = Exporter(gradients, Tensors::new());
    walk(module, &mut exporter);
    exporter.1
}

/// The module with every parameter replaced by the tensor of its name, in f32. Which parameters train stays as it was.
///
/// # Errors
///
/// [`WeightError::Mismatch`] lists every tensor that is missing, left over, of another shape or not finite.
pub fn load<M: Module>(module: M, tensors: Tensors) -> Result<M, WeightError> {
    load_as(module, tensors, |_| DType::F32)
}

/// [`load`] of each parameter in the number format that `format` says for its name. Tensors are let go one by one as they are
/// taken, so no more than one is there twice.
///
/// # Errors
///
/// As [`load`].
pub fn load_as<M: Module>(
    module: M,
    tensors: Tensors,
    format: impl Fn(&str) -> DType,
) -> Result<M, WeightError> {
    let mut loader = Loader {
        path: Path::default(),
        format,
        tensors,
        mismatch: WeightMismatch::default(),
    };
    let module = module.map(&mut loader);
    let Loader {
        tensors,
        mut mismatch,
        ..
    } = loader;
    mismatch.left_over = tensors
        .into_iter()
        .map(|(name, data)| (name, data.shape().to_vec()))
        .collect();
    if mismatch.is_empty() {
        Ok(module)
    } else {
        Err(WeightError::Mismatch(mismatch))
    }
}

/// The tensors below `prefix`, without it; the others are dropped.
pub fn below(tensors: Tensors, prefix: &str) -> Tensors {
    tensors
        .into_iter()
        .filter_map(|(name, data)| Some((name.strip_prefix(prefix)?.to_owned(), data)))
        .collect()
}

/// A visit that gives each float parameter with its checkpoint name.
pub(crate) trait ParameterWalk {
    fn parameter<const D: usize>(&mut self, name: String, layout: Layout, param: &Param<Tensor<D>>);
}

/// Takes `visitor` to every float parameter.
pub(crate) fn walk<M: Module>(module: &M, visitor: &mut impl ParameterWalk) {
    struct Walk<'a, V> {
        path: Path,
        visitor: &'a mut V,
    }
    impl<V: ParameterWalk> ModuleVisitor for Walk<'_, V> {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.exit();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let (name, layout) = self.path.checkpoint_name();
            self.visitor.parameter(name, layout, param);
        }
    }
    module.visit(&mut Walk {
        path: Path::default(),
        visitor,
    });
}

struct Loader<F> {
    path: Path,
    format: F,
    tensors: Tensors,
    mismatch: WeightMismatch,
}

impl<F: Fn(&str) -> DType> ModuleMapper for Loader<F> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (name, layout) = self.path.checkpoint_name();
        let expected = checkpoint_shape(&param, layout);
        let Some(data) = self.tensors.remove(&name) else {
            self.mismatch.missing.push((name, expected));
            return param;
        };
        if data.shape().as_slice() != expected {
            let found = data.shape().to_vec();
            self.mismatch.misshapen.push((name, expected, found));
            return param;
        }
        if !is_float(data.dtype()) {
            let found = format!("{:?}", data.dtype());
            self.mismatch.wrong_dtype.push((name, found));
            return param;
        }
        if !is_finite(&data) {
            self.mismatch.not_finite.push(name);
            return param;
        }
        let dtype = (self.format)(&name);
        let data = in_layout(files::in_format(data, dtype), layout);
        let tensor = Tensor::from_data(data, (&param.lazy_device(), dtype));
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}

fn checkpoint_shape<const D: usize>(param: &Param<Tensor<D>>, layout: Layout) -> Vec<usize> {
    let mut shape = param.lazy_shape().to_vec();
    if layout == Layout::Transposed {
        shape.reverse();
    }
    shape
}

fn in_layout(data: TensorData, layout: Layout) -> TensorData {
    match layout {
        Layout::Same => data,
        Layout::Transposed => transpose(data),
    }
}

fn insert(tensors: &mut Tensors, name: String, data: TensorData) {
    let earlier = tensors.insert(name.clone(), data);
    assert!(earlier.is_none(), "two parameters are named {name}");
}

pub(crate) fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16)
}

/// Whether no float is NaN or infinite.
pub(crate) fn is_finite(data: &TensorData) -> bool {
    let bytes = data.as_bytes();
    match data.dtype() {
        DType::F32 => bytes
            .as_chunks()
            .0
            .iter()
            .all(|b| f32::from_le_bytes(*b).is_finite()),
        DType::F64 => bytes
            .as_chunks()
            .0
            .iter()
            .all(|b| f64::from_le_bytes(*b).is_finite()),
        DType::F16 => bytes
            .as_chunks()
            .0
            .iter()
            .all(|b| f16::from_le_bytes(*b).is_finite()),
        DType::BF16 => bytes
            .as_chunks()
            .0
            .iter()
            .all(|b| bf16::from_le_bytes(*b).is_finite()),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::{Linear, LinearConfig};
    use burn::nn::{LayerNorm, LayerNormConfig};
    use burn::tensor::Device;

    #[derive(Module, Debug)]
    struct Block {
        proj: Linear,
        norm: Option<LayerNorm>,
        layers: Vec<Linear>,
    }

    fn block(device: &Device) -> Block {
        Block {
            proj: LinearConfig::new(2, 3).init(device).with_lora(1, 1.0),
            norm: Some(LayerNormConfig::new(3).init(device)),
            layers: vec![LinearConfig::new(3, 4).with_bias(false).init(device)],
        }
    }

    #[test]
    fn a_module_comes_back_bit_for_bit() {
        let device = Device::default();
        let tensors = export(&block(&device));
        let names: Vec<_> = tensors.keys().cloned().collect();
        assert_eq!(
            names,
            [
                "layers.0.weight",
                "norm.bias",
                "norm.weight",
                "proj.bias",
                "proj.lora_A.weight",
                "proj.lora_B.weight",
                "proj.weight"
            ]
        );
        assert_eq!(tensors["layers.0.weight"].shape().as_slice(), [4, 3]);
        let bytes = write_safetensors(&tensors, None).unwrap();
        let loaded = load(block(&device), read_safetensors(&bytes).unwrap()).unwrap();
        assert_eq!(export(&loaded), tensors);
    }

    #[test]
    fn everything_that_does_not_fit_is_named() {
        let device = Device::default();
        let mut tensors = export(&block(&device));
        tensors.remove("proj.bias");
        tensors.insert("extra".into(), TensorData::new(vec![0f32; 2], [2]));
        tensors.insert("norm.bias".into(), TensorData::new(vec![0f32; 2], [2]));
        tensors.insert(
            "norm.weight".into(),
            TensorData::new(vec![1.0, f32::NAN, 1.0], [3]),
        );
        tensors.insert(
            "proj.lora_A.weight".into(),
            TensorData::new(vec![0i64; 2], [1, 2]),
        );
        let error = load(block(&device), tensors).unwrap_err();
        assert_eq!(
            error.to_string(),
            "weights do not fit the model: 5 tensors\n  \
             proj.bias: expected [3], found nothing\n  \
             extra: expected nothing, found [2]\n  \
             norm.bias: expected [3], found [2]\n  \
             proj.lora_A.weight: expected floats, found I64\n  \
             norm.weight: expected finite values, found NaN or infinity"
        );
    }

    #[test]
    fn listing_draws_no_values() {
        let module = LinearConfig::new(1 << 30, 1 << 30).init(&Device::default());
        let n_values: usize = parameters(&module)
            .iter()
            .map(ParameterInfo::n_values)
            .sum();
        assert_eq!(n_values, (1 << 60) + (1 << 30));
    }

    #[test]
    fn loading_keeps_what_trains() {
        let device = Device::default().autodiff();
        let tensors = export(&block(&device));
        let loaded = load(block(&device), tensors).unwrap();
        assert!(!loaded.proj.weight.is_require_grad());
        assert!(loaded.proj.lora_a.unwrap().is_require_grad());
        assert!(loaded.layers[0].weight.is_require_grad());
    }
}

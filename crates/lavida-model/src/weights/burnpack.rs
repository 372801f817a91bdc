//! Burn's own file format, for serving from Rust: `module.try_load_file("model.bpk")` reads it back without this crate's
//! names. Paths and layouts are Burn's (`mllm.model.layers.0.self_attn.q_proj.weight`, `[in, out]`). What is only carried
//! has no place in a module, so it lies beside the file.

use std::collections::BTreeMap;
use std::path::Path;

use ::safetensors::Dtype;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, FloatDType, Tensor};

use super::files::{BURNPACK, Place, TensorEntry};
use super::names::{self, Layout};
use super::{CARRIED, Tensors, WeightError, write_safetensors};
use crate::precision::Precision;

/// Writes every float parameter of `module` to `model.bpk` in `folder`, one after the other, and the `carried` tensors,
/// where there are any, to `carried.safetensors`. Says the files' names.
///
/// # Errors
///
/// [`WeightError::Write`] when a file cannot be written.
pub fn write_burnpack<M: Module>(
    module: &M,
    carried: &Tensors,
    folder: &Path,
    precision: Precision,
) -> Result<Vec<String>, WeightError> {
    let mut packer = Packer {
        path: names::Path::default(),
        dtype: FloatDType::from(precision).into(),
        tensors: Vec::new(),
    };
    module.visit(&mut packer);
    let path = folder.join(BURNPACK);
    burn_pack::Writer::new(packer.tensors)
        .write_to_file(&path)
        .map_err(|error| cannot_write(&path, error))?;
    let mut written = vec![BURNPACK.to_owned()];
    if !carried.is_empty() {
        let path = folder.join(CARRIED);
        let bytes = write_safetensors(carried, None)?;
        std::fs::write(&path, bytes).map_err(|error| cannot_write(&path, error))?;
        written.push(CARRIED.to_owned());
    }
    Ok(written)
}

fn cannot_write(path: &Path, error: impl std::fmt::Display) -> WeightError {
    WeightError::Write {
        what: path.display().to_string(),
        reason: error.to_string(),
    }
}

struct Packer {
    path: names::Path,
    dtype: DType,
    tensors: Vec<burn_pack::Tensor>,
}

impl ModuleVisitor for Packer {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }
    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (tensor, dtype) = (param.transform_for_save().val(), self.dtype);
        let shape = tensor.dims();
        let n_bytes = shape.iter().product::<usize>() * dtype.size();
        self.tensors.push(burn_pack::Tensor::deferred(
            self.path.burn_name(),
            dtype,
            shape.to_vec(),
            Some(param.id.val()),
            n_bytes,
            move || {
                let data = tensor.clone().into_data().convert_dtype(dtype);
                let (bytes, _, _) = data.into_parts();
                Ok(bytes)
            },
        ));
    }
}

/// The tensors of a burnpack file of `module` under their checkpoint names; what the module does not know keeps its own.
pub(super) fn entries<M: Module>(
    name: &str,
    file: &Path,
    module: &M,
) -> Result<BTreeMap<String, TensorEntry>, WeightError> {
    let damaged = |error: burn_pack::Error| WeightError::file(name, "a whole burnpack file", error);
    lavida_files::open(file) // the reader would wait for a pipe
        .map_err(|error| WeightError::file(name, "a readable file", error))?;
    let tensors = burn_pack::Reader::from_file(file)
        .and_then(burn_pack::Reader::into_tensors)
        .map_err(damaged)?;
    let mut namer = Namer::default();
    module.visit(&mut namer);
    let entries = tensors.into_iter().map(|tensor| {
        let (known, layout) = match namer.names.remove(&tensor.name) {
            Some(known) => known,
            None => (tensor.name.clone(), Layout::Same),
        };
        // Only a matrix can be transposed; another number of axes is another shape, which whoever reads it refuses.
        let layout = if tensor.shape.len() == 2 {
            layout
        } else {
            Layout::Same
        };
        let dtype = match tensor.dtype {
            DType::F64 => Dtype::F64,
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            _ => Dtype::I64, // no floats: refused by whoever reads it
        };
        let mut shape = tensor.shape.to_vec();
        if layout == Layout::Transposed {
            shape.reverse();
        }
        let place = Place::Packed { tensor, layout };
        let entry = TensorEntry {
            dtype,
            shape,
            place,
        };
        (known, entry)
    });
    Ok(entries.collect())
}

/// Burn's path of each float parameter → its checkpoint name and layout.
#[derive(Default)]
struct Namer {
    path: names::Path,
    names: BTreeMap<String, (String, Layout)>,
}

impl ModuleVisitor for Namer {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }
    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.exit();
    }
    fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
        let known = self.path.checkpoint_name();
        self.names.insert(self.path.burn_name(), known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::{Linear, LinearConfig};
    use crate::weights::{TensorFiles, export, load};
    use burn::nn::{LayerNorm, LayerNormConfig};
    use burn::tensor::Device;

    #[derive(Module, Debug)]
    struct Block {
        norm: LayerNorm,
        layers: Vec<Linear>,
    }

    fn block() -> Block {
        let device = Device::default();
        Block {
            norm: LayerNormConfig::new(3).init(&device),
            layers: vec![LinearConfig::new(3, 4).init(&device)],
        }
    }

    #[test]
    fn burn_itself_reads_the_file_back_and_so_do_we() {
        let folder = tempfile::tempdir().unwrap();
        let module = block();
        let written =
            write_burnpack(&module, &Tensors::new(), folder.path(), Precision::F32).unwrap();
        let path = folder.path().join(&written[0]);
        let by_burn = block().try_load_file(&path).unwrap();
        assert_eq!(export(&by_burn), export(&module));
        let files = TensorFiles::open_burnpack(&path, &module).unwrap();
        let names: Vec<_> = files.names().collect();
        let expected = [
            "layers.0.bias",
            "layers.0.weight",
            "norm.bias",
            "norm.weight",
        ];
        assert_eq!(names, expected);
        let by_us = load(block(), files.read_weights().unwrap()).unwrap();
        assert_eq!(export(&by_us), export(&module));
    }

    #[test]
    fn half_of_the_bytes_hold_the_rounded_values() {
        let folder = tempfile::tempdir().unwrap();
        let module = block();
        write_burnpack(&module, &Tensors::new(), folder.path(), Precision::Bf16).unwrap();
        let path = folder.path().join(BURNPACK);
        let read = TensorFiles::open_burnpack(&path, &module).unwrap();
        for (name, data) in read.read_weights().unwrap() {
            let rounded = export(&module)[&name].clone().convert_dtype(DType::BF16);
            assert_eq!(data, rounded, "{name}");
        }
    }

    /// A weight of one axis under the name of a matrix.
    #[test]
    fn a_matrix_of_one_axis_is_read_as_it_is_and_does_not_fit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(BURNPACK);
        let weight = burn_pack::Tensor::deferred(
            "layers.0.weight".to_owned(),
            DType::F32,
            vec![4],
            None,
            16,
            || Ok(burn::tensor::Bytes::from_elems(vec![0.0_f32; 4])),
        );
        burn_pack::Writer::new(vec![weight])
            .write_to_file(&path)
            .unwrap();
        let read = TensorFiles::open_burnpack(&path, &block()).unwrap();
        let weights = read.read_weights().unwrap();
        assert_eq!(weights["layers.0.weight"].shape().as_slice(), &[4]);
        let error = load(block(), weights).unwrap_err();
        assert!(error.to_string().contains("layers.0.weight"), "{error}");
    }

    #[test]
    fn a_cut_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        write_burnpack(&block(), &Tensors::new(), folder.path(), Precision::F32).unwrap();
        let path = folder.path().join(BURNPACK);
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 9, whole.len() / 2] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = TensorFiles::open_burnpack(&path, &block()).unwrap_err();
            assert!(
                error.to_string().contains("a whole burnpack file"),
                "{error}"
            );
        }
    }
}

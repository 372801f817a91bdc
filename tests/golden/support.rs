//! Reading fixtures and comparing with them.

use std::fmt::Debug;
use std::path::PathBuf;

use burn::tensor::{Device, Int, Tensor, TensorData};
use lavida_model::weights::{Tensors, read_safetensors};
use serde_json::Value;

/// Largest difference allowed, as a share of the largest value expected.
pub const TOLERANCE: f64 = 1e-4;

/// The device that the parts run on: what `LAVIDA_GOLDEN_DEVICE` names as settings do, or the processor.
///
/// A device that is not here fails the test.
pub fn device() -> Device {
    let name = std::env::var("LAVIDA_GOLDEN_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    lavida_dataflow::device::named(&name).unwrap_or_else(|error| panic!("{error}"))
}

/// The folder of one component.
pub struct Fixture {
    folder: PathBuf,
    /// `config.json`
    pub config: Value,
}

/// One safetensors file of a fixture.
pub struct FixtureTensors {
    file: PathBuf,
    tensors: Tensors,
}

impl Fixture {
    /// Opens `component` in `LAVIDA_GOLDEN_DIR` or, if that is not set, among the fixtures of this repository.
    /// A folder that is not there fails the test.
    pub fn open(component: &str) -> Self {
        let root = match std::env::var_os("LAVIDA_GOLDEN_DIR") {
            Some(folder) if !folder.is_empty() => PathBuf::from(folder),
            _ => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/golden/fixtures")),
        };
        let folder = root.join(component);
        let file = folder.join("config.json");
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let config = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self { folder, config }
    }

    /// Reads `name.safetensors`.
    pub fn tensors(&self, name: &str) -> FixtureTensors {
        let file = self.folder.join(name).with_extension("safetensors");
        let bytes =
            std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let tensors =
            read_safetensors(&bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        FixtureTensors { file, tensors }
    }

    /// A value of `config.json` at a JSON pointer, for example `/config/hidden_size`.
    pub fn setting(&self, pointer: &str) -> &Value {
        self.config.pointer(pointer).unwrap_or_else(|| {
            panic!("{}/config.json: no {pointer}", self.folder.display());
        })
    }

    /// A size of `config.json`.
    pub fn size(&self, pointer: &str) -> usize {
        let value = self.setting(pointer);
        value
            .as_u64()
            .unwrap_or_else(|| panic!("{pointer}: expected a size, found {value}")) as usize
    }

    /// A real number of `config.json`.
    pub fn number(&self, pointer: &str) -> f64 {
        let value = self.setting(pointer);
        value
            .as_f64()
            .unwrap_or_else(|| panic!("{pointer}: expected a number, found {value}"))
    }

    /// Several sizes of `config.json`.
    pub fn sizes<const N: usize>(&self, pointer: &str) -> [usize; N] {
        serde_json::from_value::<Vec<usize>>(self.setting(pointer).clone())
            .ok()
            .and_then(|sizes| sizes.try_into().ok())
            .unwrap_or_else(|| panic!("{pointer}: expected {N} sizes"))
    }
}

impl FixtureTensors {
    /// All tensors by name.
    pub fn all(self) -> Tensors {
        self.tensors
    }

    /// Names in the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether the file has `name`.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// One tensor as it is stored.
    pub fn data(&self, name: &str) -> &TensorData {
        self.tensors
            .get(name)
            .unwrap_or_else(|| panic!("{}: no tensor {name}", self.file.display()))
    }

    /// One tensor of floats on a device.
    pub fn floats<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        Tensor::from_data(self.data(name).clone(), device)
    }

    /// One tensor of integers on a device.
    pub fn ints<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D, Int> {
        Tensor::from_data(self.data(name).clone(), device)
    }

    /// Integers in row-major order.
    pub fn int_values(&self, name: &str) -> Vec<i64> {
        ints(self.data(name).clone())
    }

    /// Integers of a matrix, row by row.
    pub fn int_rows(&self, name: &str) -> Vec<Vec<i64>> {
        let width = *self.data(name).shape().last().expect("a matrix has axes");
        let values = self.int_values(name);
        values.chunks(width).map(<[i64]>::to_vec).collect()
    }

    /// Compares floats with the tensor of this name.
    #[track_caller]
    pub fn assert_close<const D: usize>(&self, name: &str, found: Tensor<D>) {
        assert_close(name, found.into_data(), self.data(name));
    }

    /// Compares integers with the tensor of this name.
    #[track_caller]
    pub fn assert_same<const D: usize>(&self, name: &str, found: Tensor<D, Int>) {
        assert_same(name, &ints(found.into_data()), &self.int_values(name));
    }
}

/// Fails unless shapes are equal and no value differs by more than [`TOLERANCE`] of the largest one expected.
/// Prints the difference, which `cargo nextest run --no-capture` shows.
#[track_caller]
pub fn assert_close(name: &str, found: TensorData, expected: &TensorData) {
    assert_eq!(found.shape(), expected.shape(), "{name}: shape");
    assert_close_values(name, &floats(found), &floats(expected.clone()));
}

/// [`assert_close`] for bare values.
#[track_caller]
pub fn assert_close_values(name: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{name}: number of values");
    let largest = expected
        .iter()
        .fold(0.0, |a: f64, b| a.max(f64::from(b.abs())));
    let (mut worst, mut at) = (0.0, 0);
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*found) - f64::from(*expected)).abs();
        // NaN is worse than any difference.
        if difference > worst || difference.is_nan() {
            (worst, at) = (difference, i);
        }
    }
    println!(
        "{name}: {:.1e} of its largest value {largest:.3e}",
        worst / largest.max(f64::MIN_POSITIVE)
    );
    assert!(
        worst <= TOLERANCE * largest,
        "{name}[{at}]: expected {}, found {}; off by {worst:.3e}, allowed {:.3e}",
        expected[at],
        found[at],
        TOLERANCE * largest
    );
}

/// Fails unless all values are equal.
#[track_caller]
pub fn assert_same<T: PartialEq + Debug>(name: &str, found: &[T], expected: &[T]) {
    assert_eq!(found.len(), expected.len(), "{name}: number of values");
    let first = found.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(at) = first {
        panic!(
            "{name}[{at}]: expected {:?}, found {:?}",
            expected[at], found[at]
        );
    }
}

fn floats(data: TensorData) -> Vec<f32> {
    data.convert::<f32>()
        .try_to_vec()
        .expect("converted to f32")
}

fn ints(data: TensorData) -> Vec<i64> {
    data.convert::<i64>()
        .try_to_vec()
        .expect("converted to i64")
}

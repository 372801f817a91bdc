//! Gradients of parameters against those of a fixture.

use burn::tensor::TensorData;
use lavida_model::weights::Tensors;

use crate::support::{Fixture, FixtureTensors, TOLERANCE, assert_close};

/// Every gradient of `expected` whose name starts with `prefix`: equal, or zero where the reference has none.
///
/// A bias of keys shifts all scores of a softmax alike, so its true gradient is zero and what is left is rounding;
/// the fixture names such biases, and they are measured against the gradient of their weight.
#[track_caller]
pub fn assert_gradients(
    fixture: &Fixture,
    expected: &FixtureTensors,
    prefix: &str,
    found: &Tensors,
) {
    let zeros = fixture
        .setting("/grads_zero_by_softmax_shift_invariance")
        .clone();
    let zeros: Vec<String> = serde_json::from_value(zeros).unwrap();
    let names: Vec<&str> = expected
        .names()
        .filter(|name| name.starts_with(prefix))
        .collect();
    assert!(!names.is_empty(), "the fixture has gradients");
    for name in names {
        let own_name = &name[prefix.len()..];
        let Some(gradient) = found.get(own_name) else {
            assert_eq!(largest(expected.data(name)), 0.0, "{name}: found none");
            continue;
        };
        if zeros.iter().any(|zero| zero == name) {
            let of_weight = largest(&found[&own_name.replace(".bias", ".weight")]);
            let of_bias = largest(gradient);
            assert!(
                of_bias <= TOLERANCE as f32 * of_weight,
                "{name}: expected zero, found {of_bias}"
            );
        } else {
            assert_close(name, gradient.clone(), expected.data(name));
        }
    }
}

/// Largest absolute value.
pub fn largest(data: &TensorData) -> f32 {
    let values = data.as_slice::<f32>().unwrap();
    values
        .iter()
        .fold(0.0, |largest, value| largest.max(value.abs()))
}

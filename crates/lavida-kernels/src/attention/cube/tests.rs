//! What no caller can choose: how many scores a block has, and the kernel of Burn that a device without matrix units runs.

use burn::tensor::{Device, Tolerance, read_sync};
use burn_cubecl::CubeDevice;
use cubek_attention::forward::launch::{BlueprintStrategy, Strategy};

use super::*;
use crate::attention::plain;

#[path = "../../../tests/devices/mod.rs"]
mod devices;

/// The devices that run these kernels.
fn cube_devices() -> Vec<(&'static str, CubeDevice)> {
    let of = |(name, _): (&'static str, Device)| match name {
        "cubecl-cpu" => Some((name, CubeDevice::Cpu(Default::default()))),
        "wgpu" => Some((name, CubeDevice::Wgpu(Default::default()))),
        _ => None,
    };
    devices::devices().into_iter().filter_map(of).collect()
}

/// Values without a pattern, the same in every run; heads lie as a projection leaves them.
fn tokens(shape: [usize; 4], seed: f32, device: &CubeDevice) -> CubeTensor {
    let [batch, n_heads, n_tokens, width] = shape;
    let values: Vec<f32> = (0..batch * n_heads * n_tokens * width)
        .map(|i| 1.5 * (i as f32 * 12.9898 + seed).sin())
        .collect();
    let data = TensorData::new(values, [batch, n_tokens, n_heads, width]);
    Cube::float_swap_dims(Cube::float_from_data(data, device), 1, 2)
}

#[track_caller]
fn check_close(found: CubeTensor, expected: &CubeTensor, what: &str) {
    println!("{what}");
    let [found, expected] = [found, expected.clone()]
        .map(|tensor| read_sync(Cube::float_into_data(tensor)).expect("the device answers"));
    // Sums of some hundred products: values are up to twenty.
    let tolerance = Tolerance::rel_abs(1e-5, 1e-5);
    found.assert_approx_eq::<f32>(&expected, tolerance);
}

/// Six query heads that share two key heads, in three batch entries.
fn inputs(n_queries: usize, n_keys: usize, device: &CubeDevice) -> [CubeTensor; 4] {
    [
        tokens([3, 6, n_queries, 16], 1.0, device),
        tokens([3, 2, n_keys, 16], 2.0, device),
        tokens([3, 2, n_keys, 32], 3.0, device),
        tokens([3, 6, n_queries, 32], 4.0, device),
    ]
}

fn masks(n_keys: usize) -> [AttentionMask; 2] {
    let ranges = [0..n_keys, 7..n_keys, 0..n_keys - 20];
    [
        AttentionMask::default(),
        AttentionMask::default().with_keys(ranges),
    ]
}

fn causal_masks(n_keys: usize) -> [AttentionMask; 2] {
    let ranges = [0..n_keys, 7..n_keys, 5..n_keys - 20];
    [
        AttentionMask::causal(),
        AttentionMask::causal().with_keys(ranges),
    ]
}

#[test]
#[ignore = "takes minutes where a processor stands in for a GPU: .ci/run devices"]
fn blocks_of_any_size_give_what_all_scores_at_once_give() {
    for (name, device) in cube_devices() {
        let problems = masks(61).map(|mask| (45, mask)).into_iter();
        for (n_queries, mask) in problems.chain(causal_masks(61).map(|mask| (61, mask))) {
            let [query, key, value, gradient] = inputs(n_queries, 61, &device);
            let (q, k, v, g) = (query.clone(), key.clone(), value.clone(), gradient.clone());
            let expected = plain::attend::<Cube>(q.clone(), k.clone(), v.clone(), &mask);
            let (of_query, of_key, of_value) = plain::attend_backward::<Cube>(q, k, v, g, &mask);
            // One query, some queries, one batch entry and some of its queries, all.
            for most_scores in [1, 6 * 61 * 7, 6 * 61 * 50, 6 * 61 * 100, 1 << 20] {
                let what = format!("{name}: {most_scores} scores, {mask:?}");
                let (q, k, v, g) = (query.clone(), key.clone(), value.clone(), gradient.clone());
                let found = attend(q.clone(), k.clone(), v.clone(), &mask, most_scores);
                check_close(found, &expected, &what);
                let found = attend_backward(q, k, v, g, &mask, most_scores);
                check_close(found.0, &of_query, &format!("{what}: query"));
                check_close(found.1, &of_key, &format!("{what}: key"));
                check_close(found.2, &of_value, &format!("{what}: value"));
            }
        }
    }
}

/// Matrix units are a GPU's; what is around Burn's kernel is tried with its other one, which any device runs.
#[test]
fn burns_fused_attention_reads_shared_heads_padding_and_causality_as_asked() {
    let strategy = Strategy::Unit(BlueprintStrategy::Inferred(()));
    for (name, device) in cube_devices() {
        let problems = masks(90).map(|mask| (45, mask)).into_iter();
        for (n_queries, mask) in problems.chain(causal_masks(90).map(|mask| (90, mask))) {
            let [query, key, value, _] = inputs(n_queries, 90, &device);
            let found = fused::attend_with(&strategy, [&query, &key, &value], &mask);
            let Some(found) = found else {
                // It wants more units in a cube than a CPU has.
                assert_eq!(name, "cubecl-cpu", "the kernel takes the problem");
                continue;
            };
            let expected = plain::attend::<Cube>(query, key, value, &mask);
            check_close(found, &expected, &format!("{name}: {mask:?}"));
        }
    }
}

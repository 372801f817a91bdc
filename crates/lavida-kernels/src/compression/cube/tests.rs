//! What no caller can choose: how many units a cube has, and how large a tile is.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::tensor::{Device, TensorData, read_sync};
use burn_cubecl::{CubeBackend, CubeDevice};

use super::*;
use crate::compression::KeepRatio;

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

/// Values in ±1 without a pattern, the same in every run.
fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 12.9898).sin()).collect()
}

fn on_device(n_rows: usize, d_token: usize, device: &CubeDevice) -> CubeTensor {
    let data = TensorData::new(values(n_rows * d_token), [n_rows, d_token]);
    CubeBackend::float_from_data(data, device)
}

/// Bytes of all that the kernels compute.
fn bits(
    device: &CubeDevice,
    samples: &Samples,
    config: &CompressionConfig,
    layout: Layout,
) -> Vec<Vec<u8>> {
    const D_TOKEN: usize = 150; // more than a tile holds at a time, more than lanes
    let tokens = on_device(samples.n_tokens().iter().sum(), D_TOKEN, device);
    let choice = choose(tokens.clone(), samples, config, layout);
    let (kept, assignment) = (choice.kept, choice.assignment);
    let merged = merge(
        tokens.clone(),
        kept.clone(),
        assignment.clone(),
        samples,
        layout,
    );
    let gradient = on_device(samples.n_kept().iter().sum(), D_TOKEN, device);
    let moved = merge_backward(
        tokens,
        kept.clone(),
        assignment.clone(),
        gradient,
        samples,
        layout,
    );
    let floats = [choice.density, choice.squared_lengths, merged, moved]
        .map(|tensor| read_sync(CubeBackend::float_into_data(tensor)));
    let ints = [kept, assignment].map(|tensor| read_sync(CubeBackend::int_into_data(tensor)));
    let bytes = |data: Result<TensorData, _>| data.expect("the device ran").as_bytes().to_vec();
    floats.into_iter().chain(ints).map(bytes).collect()
}

#[test]
fn the_number_of_units_and_the_size_of_a_tile_change_no_bit() {
    for (name, device) in cube_devices() {
        let most = Layout::of(&on_device(1, 1, &device));
        let mut smaller = Vec::new();
        for (units, across, down) in [(1, 1, 1), (4, 2, 2), (32, 4, 4), (64, 8, 8)] {
            if units < most.units && across * down < most.across * most.down {
                smaller.push(Layout {
                    units,
                    across,
                    down,
                });
            }
        }
        if smaller.is_empty() {
            eprintln!("not run: {name} has room for {most:?} and nothing smaller");
        }
        for density in [Density::Reachability, Density::Knn] {
            let config = CompressionConfig {
                keep_ratio: KeepRatio::new(0.2).expect("in range"),
                density,
                ..CompressionConfig::default()
            };
            let samples = Samples::new(&[97, 1, 40], &config).expect("samples with tokens");
            let expected = bits(&device, &samples, &config, most);
            for layout in &smaller {
                let found = bits(&device, &samples, &config, *layout);
                assert!(
                    found == expected,
                    "{name}, {density:?}: {layout:?} differs from {most:?}"
                );
            }
        }
    }
}

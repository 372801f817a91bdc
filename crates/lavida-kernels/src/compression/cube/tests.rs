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
    tiling: Option<Tiling>,
) -> Vec<Vec<u8>> {
    const D_TOKEN: usize = 150; // more than a tile holds at a time, more than lanes
    let tokens = on_device(samples.n_tokens().iter().sum(), D_TOKEN, device);
    let choice = choose(tokens.clone(), samples, config, layout, tiling);
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
fn the_number_of_units_the_size_of_a_tile_and_products_change_no_bit() {
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
            let expected = bits(&device, &samples, &config, most, None);
            for layout in &smaller {
                let found = bits(&device, &samples, &config, *layout, None);
                assert!(
                    found == expected,
                    "{name}, {density:?}: {layout:?} differs from {most:?}"
                );
            }
            let tiling = plain_tiling(most);
            let found = bits(&device, &samples, &config, most, Some(tiling));
            assert!(found == expected, "{name}, {density:?}: products differ");
        }
    }
}

/// Tiles whose products every unit computes some of.
fn plain_tiling(layout: Layout) -> Tiling {
    // Units of one cube are no more than cores on CubeCL's CPU runtime.
    let (plane, planes, fragments) = match layout.across * layout.down {
        1 => (1, (1, 1), (2, 2)),
        2..32 => (1, (1, 2), (2, 1)),
        _ => (8, (2, 2), (1, 1)),
    };
    Tiling {
        plane,
        planes,
        fragments,
        depth: 32,
        matrix_units: false,
    }
}

/// What both ways find: squared distances and tokens, and how many tokens the products lost.
fn both_ways(
    values: &[f32],
    n_tokens: &[usize],
    k: usize,
    device: &CubeDevice,
    layout: Layout,
) -> ([TensorData; 2], [TensorData; 2], usize) {
    let n: usize = n_tokens.iter().sum();
    let config = CompressionConfig::default();
    let samples = Samples::new(n_tokens, &config).expect("samples with tokens");
    let data = TensorData::new(values.to_vec(), [n, values.len() / n]);
    let tokens: CubeTensor = CubeBackend::float_from_data(data, device);
    let beside = Beside::new(&tokens, layout);
    let lengths = squared_lengths(&beside, &tokens);
    let read = |(distances, indices): (CubeTensor, CubeTensor)| {
        [
            read_sync(CubeBackend::float_into_data(distances)),
            read_sync(CubeBackend::int_into_data(indices)),
        ]
        .map(|data: Result<TensorData, _>| data.expect("the device ran"))
    };
    let all = beside.table((0..n as i32).collect());
    let unknown = beside.table(vec![-1; n]);
    let plain = nearest(&beside, &tokens, &all, &samples, false, &unknown, k);
    let tiling = plain_tiling(layout);
    let found = Search::new(&beside, &tokens, &lengths, &samples, tiling).nearest(k);
    let (distances, indices) = (found.nearest, found.nearest_tokens);
    let known = read_sync(CubeBackend::int_into_data(found.known)).expect("the device ran");
    let n_lost = known.iter::<i64>().filter(|known| *known < 0).count();
    (read(plain), read((distances, indices)), n_lost)
}

/// Tokens around some centres, a spread apart: distances to others of a centre are much below those to other centres.
fn around_centres(n: usize, d_token: usize, n_centres: usize, spread: f32) -> Vec<f32> {
    let centres = values(n_centres * d_token);
    let noise = values(n * d_token);
    let of_token = |token: usize| {
        let centre = &centres[token % n_centres * d_token..][..d_token];
        let noise = &noise[token * d_token..][..d_token];
        centre.iter().zip(noise).map(move |(c, n)| c + spread * n)
    };
    (0..n).flat_map(of_token).collect()
}

#[test]
#[ignore = "takes minutes where a processor stands in for a GPU: .ci/run devices"]
fn products_find_the_neighbours_of_all_distances_bit_for_bit() {
    let scaled = |values: Vec<f32>, by: f32| values.into_iter().map(|v| v * by).collect();
    let each = |mut values: Vec<f32>, d_token: usize, change: fn(usize, &mut [f32])| {
        for (i, token) in values.chunks_mut(d_token).enumerate() {
            change(i, token);
        }
        values
    };
    type Case = (&'static str, Vec<f32>, Vec<usize>, usize);
    let spread = || around_centres(300, 70, 300, 0.5);
    let cases: Vec<Case> = vec![
        ("spread", spread(), vec![300], 8),
        ("samples", spread(), vec![1, 100, 2, 33, 32, 9, 123], 8),
        ("one token", values(5), vec![1], 8),
        ("two tokens of one value", values(2), vec![2], 3),
        ("more neighbours than tokens", values(40 * 3), vec![40], 60),
        (
            "one neighbour",
            around_centres(129, 17, 20, 0.1),
            vec![129],
            1,
        ),
        ("equal tokens", vec![1.5; 200 * 20], vec![200], 8),
        ("copies", around_centres(240, 33, 30, 0.0), vec![240], 8),
        (
            "ties",
            (0..220 * 2).map(|i| (i * 7 % 5) as f32).collect(),
            vec![220],
            8,
        ),
        (
            "clusters closer than f16 tells",
            around_centres(256, 64, 2, 1e-5),
            vec![256],
            8,
        ),
        ("huge", scaled(spread(), 1e17), vec![300], 8),
        ("tiny", scaled(spread(), 1e-17), vec![300], 8),
        (
            "too tiny for squares in f32",
            scaled(spread(), 1e-23),
            vec![300],
            8,
        ),
        (
            "sizes of all orders",
            each(spread(), 70, |i, token| {
                let by = f32::exp2((i % 40) as f32 * 2.0 - 40.0);
                token.iter_mut().for_each(|v| *v *= by);
            }),
            vec![300],
            8,
        ),
        (
            "one value that is all of a token",
            each(spread(), 70, |i, token| token[i % 70] = 1e4),
            vec![300],
            8,
        ),
        (
            "an offset that all share",
            each(spread(), 70, |_, token| {
                token.iter_mut().for_each(|v| *v += 100.0)
            }),
            vec![300],
            8,
        ),
        (
            "distances out of the range of f32",
            each(spread(), 70, |i, token| {
                token.fill(0.0);
                token[0] = if i % 2 == 0 { 9e18 } else { -9e18 };
            }),
            vec![300],
            8,
        ),
    ];
    for (name, device) in cube_devices() {
        let most = Layout::of(&on_device(1, 1, &device));
        // Units of a cube wait for each other, which takes long where they are threads: one is enough for most cases.
        let few = Layout::new(if name == "cubecl-cpu" { 1 } else { 1024 }, 32 << 10);
        for (case, values, n_tokens, k) in &cases {
            if name == "wgpu" && *k != 8 {
                eprintln!(
                    "not run: {case} on wgpu, where each number of neighbours is compiled for a minute"
                );
                continue;
            }
            let layout = if *case == "spread" { most } else { few };
            let (plain, found, n_lost) = both_ways(values, n_tokens, *k, &device, layout);
            let [distances, indices] = &plain;
            assert_eq!(&found[1], indices, "{name}, {case}: tokens");
            assert_eq!(&found[0], distances, "{name}, {case}: distances");
            let n: usize = n_tokens.iter().sum();
            eprintln!("{name}, {case}: {n_lost} of {n} lost");
            if ["spread", "samples", "huge", "tiny"].contains(case) {
                assert_eq!(n_lost, 0, "{name}, {case}: products tell these apart");
            }
            if ["equal tokens", "clusters closer than f16 tells"].contains(case) {
                assert!(
                    n_lost > n / 3,
                    "{name}, {case}: products do not tell these apart"
                );
            }
        }
    }
}

#[test]
fn tokens_that_are_no_numbers_end_a_search_by_products() {
    for (name, device) in cube_devices() {
        let mut values = around_centres(100, 20, 100, 0.5);
        values[20 * 7 + 3] = f32::NAN;
        values[20 * 50] = f32::INFINITY;
        let (_, [distances, indices], _) =
            both_ways(&values, &[100], 8, &device, Layout::new(1, 32 << 10));
        assert_eq!(distances.shape().to_vec(), [100, 8], "{name}");
        let is_one = |index: i64| (0..100).contains(&index) || index == i64::from(i32::MAX);
        assert!(indices.iter::<i64>().all(is_one), "{name}");
    }
}

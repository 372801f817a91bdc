//! Draws for tests: Burn's own generator is shared by all threads of a process, so what a test draws from it depends on
//! which tests run beside it.

use burn::tensor::{Device, Tensor, TensorData};

/// Uniform values of [-1, 1), the same in every run for the same shape and seed (SplitMix64).
pub fn uniform<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw()).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

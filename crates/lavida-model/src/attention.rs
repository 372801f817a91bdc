//! Scaled dot-product attention: the one function every tower, decoder and projector goes through.
//!
//! `softmax(scale · q·kᵀ + mask) · v` per head, the same with and without a tape; the softmax is computed in f32 whatever the
//! type of its inputs. No `[S, L]` tensor outlives it in f32 on a CPU: see [`lavida_kernels::attention`].
//!
//! Shapes: `B` batch · `N` heads · `S` query positions · `L` key positions · `d` width of a head.

use burn::tensor::{Bool, Device, Tensor};
pub use lavida_kernels::attention::attention;

/// Added to the score of a masked key: its weight is exactly zero, unless every key of the row is
/// masked; then the weights are equal, as in the reference. Finite, because WGSL has no infinity.
pub const MASKED_SCORE: f64 = -1e30;

/// The additive mask of the keys to keep.
///
/// # Shapes
///
/// - keep: any `[B, N, S, L]`, true where the query may look; output: the same shape
pub fn additive_mask(keep: Tensor<4, Bool>) -> Tensor<4> {
    let device = keep.device();
    Tensor::zeros(keep.shape(), &device).mask_fill(keep.bool_not(), MASKED_SCORE)
}

/// Which keys a causal query may look at: its own position and those before.
///
/// # Shapes
///
/// - output: `[1, 1, S, S]`, true where key ≤ query
pub fn causal_keep(n_positions: usize, device: &Device) -> Tensor<4, Bool> {
    // Burn's `tril_mask` is false on and below the diagonal: it names what to drop.
    Tensor::<2, Bool>::tril_mask([n_positions, n_positions], 0, device)
        .bool_not()
        .reshape([1, 1, n_positions, n_positions])
}

/// Repeats each key or value head for the query heads that share it (grouped-query attention).
///
/// # Shapes
///
/// - heads: `[B, N_kv, L, d]`; output: `[B, N_kv·n_repeats, L, d]`, copies of one head adjacent
pub fn repeat_heads(heads: Tensor<4>, n_repeats: usize) -> Tensor<4> {
    if n_repeats == 1 {
        return heads;
    }
    let [batch, n_heads, n_keys, d_head] = heads.dims();
    heads
        .reshape([batch, n_heads, 1, n_keys, d_head])
        .expand([batch, n_heads, n_repeats, n_keys, d_head])
        .reshape([batch, n_heads * n_repeats, n_keys, d_head])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    /// A device whose draws repeat.
    fn seeded() -> Device {
        let device = Device::flex();
        device.seed(1);
        device
    }

    fn random(shape: [usize; 4], device: &Device) -> Tensor<4> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    #[test]
    fn with_and_without_a_tape_it_is_the_same_bit_for_bit() {
        let device = seeded();
        let (q, k, v) = (
            random([2, 3, 5, 4], &device),
            random([2, 3, 7, 4], &device),
            random([2, 3, 7, 4], &device),
        );
        let keep = random([2, 1, 5, 7], &device).lower_elem(0.8);
        let mask = additive_mask(keep);
        let plain = attention(q.clone(), k.clone(), v.clone(), Some(mask.clone()), 0.5);
        let q = q.autodiff().require_grad();
        let taped = attention(q, k.autodiff(), v.autodiff(), Some(mask.autodiff()), 0.5);
        let taped = taped.without_autodiff().into_data();
        plain.into_data().assert_eq(&taped, true);
    }

    #[test]
    fn a_causal_query_reads_only_what_came_before() {
        let device = seeded();
        let (q, k, v) = (
            random([1, 1, 4, 2], &device),
            random([1, 1, 4, 2], &device),
            random([1, 1, 4, 2], &device),
        );
        let mask = additive_mask(causal_keep(4, &device));
        let out = attention(q, k, v.clone(), Some(mask), 1.0);
        let first = out.narrow(2, 0, 1).into_data();
        first.assert_approx_eq::<f32>(&v.narrow(2, 0, 1).into_data(), Tolerance::absolute(1e-6));
    }

    #[test]
    fn a_row_without_keys_reads_all_alike() {
        let device = seeded();
        let v = random([1, 1, 3, 2], &device);
        let mask = Tensor::full([1, 1, 1, 3], MASKED_SCORE, &device);
        let expected = v.clone().mean_dim(2).into_data();
        for q in [
            random([1, 1, 1, 2], &device),
            random([1, 1, 1, 2], &device).autodiff().require_grad(),
        ] {
            let out =
                attention(q, v.clone(), v.clone(), Some(mask.clone()), 1.0).without_autodiff();
            out.into_data()
                .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
        }
    }

    #[test]
    fn shared_heads_are_repeated_side_by_side() {
        let device = seeded();
        let heads = Tensor::<4>::from_data([[[[1.0]], [[2.0]]]], &device);
        let repeated = repeat_heads(heads, 2).into_data();
        assert_eq!(repeated.try_to_vec::<f32>().unwrap(), [1.0, 1.0, 2.0, 2.0]);
    }
}

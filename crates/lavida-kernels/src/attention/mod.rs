//! Scaled dot-product attention, with a backward of its own.
//!
//! `softmax(scale·q·kᵀ + mask)·v` per head. On a CPU some queries at a time meet all keys, so that their scores stay in
//! the cache, are used and are forgotten: no `[S, L]` tensor is ever made, and backward computes the scores again. Results
//! do not depend on the number of threads: a block of queries is one thread's work, and so is a head's backward.
//!
//! Why a kernel: on one thread four heads of 4096 x 4096 x 96 took 1.34 s as Burn's products and a softmax, PyTorch took
//! .36 s; see docs/benchmarks.md for what it does to whole parts.
//!
//! Shapes: `B` batch · `N` heads · `S` query positions · `L` key positions · `d` width of a head, `d'` of a value.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, FloatDType, Tensor, assert_shape};

mod flex;

/// Attention and its gradients for every backend; Flex has kernels for f32.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait AttentionOps: Backend {
    /// Each query reads the values whose keys it matches; the mask is added to the scores.
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        composed::<Self>(query, key, value, mask, scale)
    }

    /// Gradients of query, key and value, from the gradient of the result.
    fn attend_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        composed_backward::<Self>(query, key, value, mask, gradient, scale)
    }
}

/// Each query reads the values whose keys it matches. The softmax is computed in f32 whatever the type of the inputs.
///
/// # Shapes
///
/// - query: `[B, N, S, d]`; key: `[B, N, L, d]`; value: `[B, N, L, d']`
/// - mask: in f32, added to the scores, each axis full or 1: `[B|1, N|1, S|1, L]`; no gradient flows into it
/// - output: `[B, N, S, d']`
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<4>>,
    scale: f64,
) -> Tensor<4> {
    let [batch, n_heads, _, d_head] = query.dims();
    let [_, _, n_keys, _] = key.dims();
    assert_shape!(key, [batch, n_heads, n_keys, d_head]);
    assert_shape!(value, [batch, n_heads, n_keys, _]);
    let mask = match mask {
        Some(mask) => {
            assert_shape!(mask, [_, _, _, n_keys]);
            mask.without_autodiff()
        }
        None => Tensor::zeros([1, 1, 1, 1], (&query.device().inner(), DType::F32)),
    };
    let mask = if query.is_autodiff() || key.is_autodiff() || value.is_autodiff() {
        mask.autodiff()
    } else {
        mask
    };
    Tensor::from_dispatch(Dispatch::attend(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        mask.into_dispatch(),
        scale as f32,
    ))
}

/// The weights of each query, in f32.
fn composed_weights<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    mask: FloatTensor<B>,
    scale: f32,
) -> FloatTensor<B> {
    let query = B::float_mul_scalar(query, scale.into());
    let scores = B::float_matmul(query, B::float_swap_dims(key, 2, 3));
    B::softmax(B::float_add(widened::<B>(scores), mask), 3)
}

fn widened<B: Backend>(tensor: FloatTensor<B>) -> FloatTensor<B> {
    if tensor.dtype() == DType::F32 {
        tensor
    } else {
        B::float_cast(tensor, FloatDType::F32)
    }
}

fn composed<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    mask: FloatTensor<B>,
    scale: f32,
) -> FloatTensor<B> {
    let weights = composed_weights::<B>(query, key, mask, scale);
    let dtype = FloatDType::from(value.dtype());
    B::float_matmul(B::float_cast(weights, dtype), value)
}

fn composed_backward<B: Backend>(
    query: FloatTensor<B>,
    key: FloatTensor<B>,
    value: FloatTensor<B>,
    mask: FloatTensor<B>,
    gradient: FloatTensor<B>,
    scale: f32,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let dtype = FloatDType::from(value.dtype());
    let weights = composed_weights::<B>(query.clone(), key.clone(), mask, scale);
    let narrow = B::float_cast(weights.clone(), dtype);
    let of_value = B::float_matmul(B::float_swap_dims(narrow, 2, 3), gradient.clone());
    let of_weights = B::float_matmul(gradient, B::float_swap_dims(value, 2, 3));
    let of_weights = widened::<B>(of_weights);
    let along = B::float_sum_dim(B::float_mul(weights.clone(), of_weights.clone()), 3);
    let of_scores = B::float_mul(weights, B::float_sub(of_weights, along));
    let of_scores = B::float_mul_scalar(of_scores, scale.into());
    let of_scores = B::float_cast(of_scores, dtype);
    let of_key = B::float_matmul(B::float_swap_dims(of_scores.clone(), 2, 3), query);
    (B::float_matmul(of_scores, key), of_key, of_value)
}

/// As Burn composes it.
#[cfg(feature = "cube")]
impl AttentionOps for burn_cubecl::CubeBackend {}

impl AttentionOps for Flex {
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        if has_kernel(&[&query, &key, &value, &mask]) {
            flex::attend(query, key, value, mask, scale)
        } else {
            composed::<Self>(query, key, value, mask, scale)
        }
    }

    fn attend_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if has_kernel(&[&query, &key, &value, &mask, &gradient]) {
            flex::attend_backward(query, key, value, mask, gradient, scale)
        } else {
            composed_backward::<Self>(query, key, value, mask, gradient, scale)
        }
    }
}

fn has_kernel(tensors: &[&FlexTensor]) -> bool {
    let mut tensors = tensors.iter();
    tensors.all(|tensor| tensor.dtype() == DType::F32 && tensor.shape().num_elements() > 0)
}

impl<B: Backend + AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Attend;

        impl<B: Backend + AttentionOps> Backward<B, 3> for Attend {
            type State = ([FloatTensor<B>; 4], f32);

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let gradient = grads.consume::<B>(&ops.node);
                let ([query, key, value, mask], scale) = ops.state;
                let (of_query, of_key, of_value) =
                    B::attend_backward(query, key, value, mask, gradient, scale);
                for (node, gradient) in ops.parents.into_iter().zip([of_query, of_key, of_value]) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        let prepared = Attend.prepare::<C>([query.node(), key.node(), value.node()]);
        let inputs = [query, key, value, mask].map(|tensor| tensor.into_primitive());
        let [query, key, value, mask] = inputs.clone();
        let out = B::attend(query, key, value, mask, scale);
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((inputs, scale), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }

    fn attend_backward(
        _query: FloatTensor<Self>,
        _key: FloatTensor<Self>,
        _value: FloatTensor<Self>,
        _mask: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
        _scale: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("the gradient of a gradient is not differentiable")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution, TensorData, Tolerance, activation};
    use proptest::prelude::*;

    fn random(shape: [usize; 4], device: &Device) -> Tensor<4> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    /// Attention as Burn composes it, the truth.
    fn plain(
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        mask: Option<Tensor<4>>,
        scale: f64,
    ) -> Tensor<4> {
        let mut scores = query.mul_scalar(scale).matmul(key.swap_dims(2, 3));
        if let Some(mask) = mask {
            scores = scores + mask;
        }
        activation::softmax(scores, 3).matmul(value)
    }

    /// Value and all gradients.
    fn results(
        attention: impl Fn(Tensor<4>, Tensor<4>, Tensor<4>, Option<Tensor<4>>, f64) -> Tensor<4>,
        inputs: [Tensor<4>; 3],
        mask: Option<Tensor<4>>,
    ) -> Vec<TensorData> {
        let inputs = inputs.map(|tensor| tensor.autodiff().require_grad());
        let [query, key, value] = inputs.clone();
        let out = attention(query, key, value, mask.map(Tensor::autodiff), 0.3);
        let [batch, heads, queries, width] = out.dims();
        let pull = Tensor::arange(0..(batch * heads * queries * width) as i64, &out.device());
        let pull = (pull.float() * 0.7).sin().reshape(out.shape());
        let gradients = (out.clone() * pull).sum().backward();
        let of_inputs = inputs
            .iter()
            .map(|tensor| tensor.grad(&gradients).expect("tracked").into_data());
        std::iter::once(out.without_autodiff().into_data())
            .chain(of_inputs)
            .collect()
    }

    fn check(inputs: [Tensor<4>; 3], mask: Option<Tensor<4>>) {
        let found = results(attention, inputs.clone(), mask.clone());
        let expected = results(plain, inputs, mask);
        for (found, expected) in found.iter().zip(&expected) {
            found.assert_approx_eq::<f32>(expected, Tolerance::absolute(2e-5));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn attention_equals_its_parts(
            batch in 1usize..3, heads in 1usize..4, queries in 1usize..60, keys in 1usize..70,
            width in 1usize..20, value_width in 1usize..40, mask_axes in any::<[bool; 3]>(),
            has_mask in any::<bool>(), split in any::<bool>(), seed in any::<u16>(),
        ) {
            let device = Device::flex();
            device.seed(u64::from(seed));
            // Heads lie as a projection leaves them, or by themselves.
            let tokens = |n: usize, width: usize| if split {
                random([batch, n, heads, width], &device).swap_dims(1, 2)
            } else {
                random([batch, heads, n, width], &device)
            };
            let inputs = [tokens(queries, width), tokens(keys, width), tokens(keys, value_width)];
            let axis = |i: usize, full: usize| if mask_axes[i] { full } else { 1 };
            let mask = random([axis(0, batch), axis(1, heads), axis(2, queries), keys], &device);
            check(inputs, has_mask.then_some(mask));
        }
    }

    #[test]
    fn many_queries_of_few_heads_equal_their_parts() {
        let device = Device::flex();
        device.seed(3);
        let tokens = |n: usize| random([1, n, 2, 24], &device).swap_dims(1, 2);
        check([tokens(700), tokens(900), tokens(900)], None);
    }

    #[test]
    fn a_causal_mask_is_a_mask_of_its_own_for_each_query() {
        let device = Device::flex();
        device.seed(5);
        let later = Tensor::<2>::ones([250, 250], &device).triu(1);
        let mask = (later * -1e30).reshape([1, 1, 250, 250]);
        let tokens = || random([2, 3, 250, 8], &device);
        check([tokens(), tokens(), tokens()], Some(mask));
    }

    #[test]
    fn one_position_reads_itself() {
        let device = Device::flex();
        let [query, key, value] = [3, 3, 5].map(|width| random([2, 2, 1, width], &device));
        check([query.clone(), key.clone(), value.clone()], None);
        let found = attention(query, key, value.clone(), None, 1.0);
        found.into_data().assert_eq(&value.into_data(), true);
    }

    #[test]
    fn narrow_numbers_are_composed() {
        let device = Device::flex();
        device.seed(6);
        let tokens = |n: usize| random([1, 2, n, 8], &device);
        let (query, key, value) = (tokens(5), tokens(7), tokens(7));
        let expected = attention(query.clone(), key.clone(), value.clone(), None, 0.5);
        let [query, key, value] = [query, key, value].map(|x| x.cast(FloatDType::BF16));
        let found = attention(query, key, value, None, 0.5);
        assert_eq!(found.dtype(), DType::BF16);
        let found = found.cast(FloatDType::F32).into_data();
        found.assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(3e-2));
    }

    #[test]
    fn what_is_masked_weighs_nothing_and_gets_no_gradient() {
        let device = Device::flex();
        let value = Tensor::<4>::from_data([[[[1.0, 2.0], [f32::MAX, 4.0], [3.0, 6.0]]]], &device);
        let (query, key) = (random([1, 1, 2, 2], &device), random([1, 1, 3, 2], &device));
        let mask = Tensor::<4>::from_data([[[[0.0, -1e30, 0.0]]]], &device);
        let found = results(attention, [query, key, value], Some(mask));
        let out = found[0].try_to_vec::<f32>().unwrap();
        assert!(
            out.iter().all(|value| (1.0..=6.0).contains(value)),
            "{out:?}"
        );
        let of_value = found[3].try_to_vec::<f32>().unwrap();
        assert_eq!(of_value[2..4], [0.0, 0.0]);
    }

    #[test]
    fn a_row_without_keys_reads_all_alike() {
        let device = Device::flex();
        let value = random([1, 1, 3, 2], &device);
        let expected = value.clone().mean_dim(2).into_data();
        let mask = Tensor::full([1, 1, 1, 3], -1e30, &device);
        let query = random([1, 1, 1, 2], &device);
        let found = attention(query, value.clone(), value, Some(mask), 1.0).into_data();
        found.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-6));
    }

    #[test]
    fn the_number_of_threads_and_the_tape_change_no_bit() {
        let device = Device::flex();
        device.seed(4);
        let tokens = |n: usize| random([1, n, 3, 16], &device).swap_dims(1, 2);
        let inputs = [tokens(900), tokens(1100), tokens(1100)];
        let with = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(n_threads)
                .build()
                .unwrap();
            pool.install(|| results(attention, inputs.clone(), None))
        };
        let (one, three) = (with(1), with(3));
        for (one, three) in one.iter().zip(&three) {
            one.assert_eq(three, true);
        }
        let [query, key, value] = inputs.clone();
        let untaped = attention(query, key, value, None, 0.3).into_data();
        untaped.assert_eq(&one[0], true);
    }
}

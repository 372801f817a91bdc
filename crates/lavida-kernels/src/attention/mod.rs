//! Scaled dot-product attention, with a backward of its own.
//!
//! `softmax(q·kᵀ/√d)·v` per head. Some queries at a time meet the keys they may read, so that no `[S, L]` tensor outlives
//! them, and backward computes the scores again: memory grows with `S` and not with `S·L`. Query heads that share a key
//! head (grouped-query attention) read it where it lies. On a CPU a block's scores stay in the cache; results do not
//! depend on the number of threads: a block of queries is one thread's work, and so is a head's backward.
//!
//! Why a kernel: on one thread four heads of 4096 x 4096 x 96 took 1.34 s as Burn's products and a softmax, PyTorch took
//! .36 s; see docs/benchmarks.md for what it does to whole parts.
//!
//! Shapes: `B` batch · `N` query heads · `N_kv` key heads, which divide them · `S` query positions · `L` key positions ·
//! `d` width of a head, `d'` of a value.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor, assert_shape};

#[cfg(feature = "cube")]
mod cube;
mod flex;
mod mask;
mod plain;

pub use mask::AttentionMask;

/// The score of a key that a query may not read: its weight is exactly zero. Finite, because WGSL has no infinity.
const MASKED_SCORE: f32 = -1e30;

/// Attention and its gradients for every backend.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait AttentionOps: Backend {
    /// Each query reads the values whose keys it matches.
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        mask: AttentionMask,
    ) -> FloatTensor<Self>;

    /// Gradients of query, key and value, from the gradient of the result.
    fn attend_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mask: AttentionMask,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Each query reads the values whose keys it matches, of those that the mask lets it read; a query that may read none
/// gets zeros. The softmax is computed in f32 whatever the type of the inputs.
///
/// # Shapes
///
/// - query: `[B, N, S, d]`; key: `[B, N_kv, L, d]`; value: `[B, N_kv, L, d']`
/// - output: `[B, N, S, d']`; query head `n` reads key head `n / (N / N_kv)`
///
/// # Panics
///
/// Panics if the key heads do not divide the query heads, if the mask has a range for another number of batch entries
/// or one beyond the keys, and if a causal mask is used with more or fewer queries than keys.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: &AttentionMask,
) -> Tensor<4> {
    let [batch, n_heads, n_queries, d_head] = query.dims();
    let [_, n_kv_heads, n_keys, _] = key.dims();
    assert_shape!(key, [batch, n_kv_heads, n_keys, d_head]);
    assert_shape!(value, [batch, n_kv_heads, n_keys, _]);
    assert!(
        n_kv_heads > 0 && n_heads % n_kv_heads == 0,
        "{n_kv_heads} key heads do not divide {n_heads} query heads"
    );
    Tensor::from_dispatch(Dispatch::attend(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        mask.checked(batch, n_queries, n_keys),
    ))
}

/// Factor of the scores: `1/√d`.
fn scale(d_head: usize) -> f32 {
    (d_head as f64).powf(-0.5) as f32
}

#[cfg(feature = "cube")]
impl AttentionOps for burn_cubecl::CubeBackend {
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        mask: AttentionMask,
    ) -> FloatTensor<Self> {
        cube::attend(query, key, value, &mask, cube::MOST_SCORES)
    }

    fn attend_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mask: AttentionMask,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        cube::attend_backward(query, key, value, gradient, &mask, cube::MOST_SCORES)
    }
}

/// With kernels for f32.
impl AttentionOps for Flex {
    fn attend(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        mask: AttentionMask,
    ) -> FloatTensor<Self> {
        if has_kernel(&[&query, &key, &value]) {
            flex::attend(query, key, value, &mask)
        } else {
            plain::attend::<Self>(query, key, value, &mask)
        }
    }

    fn attend_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mask: AttentionMask,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if has_kernel(&[&query, &key, &value, &gradient]) {
            flex::attend_backward(query, key, value, gradient, &mask)
        } else {
            plain::attend_backward::<Self>(query, key, value, gradient, &mask)
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
        mask: AttentionMask,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Attend;

        impl<B: Backend + AttentionOps> Backward<B, 3> for Attend {
            type State = ([FloatTensor<B>; 3], AttentionMask);

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let gradient = grads.consume::<B>(&ops.node);
                let ([query, key, value], mask) = ops.state;
                let (of_query, of_key, of_value) =
                    B::attend_backward(query, key, value, gradient, mask);
                for (node, gradient) in ops.parents.into_iter().zip([of_query, of_key, of_value]) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        let prepared = Attend.prepare::<C>([query.node(), key.node(), value.node()]);
        let inputs = [query, key, value].map(|tensor| tensor.into_primitive());
        let [query, key, value] = inputs.clone();
        let out = B::attend(query, key, value, mask.clone());
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((inputs, mask), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }

    fn attend_backward(
        _query: FloatTensor<Self>,
        _key: FloatTensor<Self>,
        _value: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
        _mask: AttentionMask,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        panic!("the gradient of a gradient is not differentiable")
    }
}

#[cfg(test)]
mod tests;

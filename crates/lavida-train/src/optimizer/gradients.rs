//! Gradients as the optimizer takes them and ranks exchange them.
//!
//! Shapes: `F` values of a bucket, `O` those of them that this worker owns.

use std::collections::HashSet;

use burn::{module::ParamId, tensor::Tensor};

/// Gradients of one step, flat, in the order of the optimizer's buckets.
#[derive(Clone, Debug)]
pub struct FlatGradients {
    /// One a bucket: `[F]`; summed over workers that share the optimizer's state, `[O]`.
    pub buckets: Vec<Tensor<1>>,
    /// Parameters that took part in a loss since the last update; the others keep their values.
    pub(super) reached: HashSet<ParamId>,
}

impl FlatGradients {
    /// One tensor a bucket, and the parameters that took part in a loss.
    pub fn from_parts(buckets: Vec<Tensor<1>>, reached: HashSet<ParamId>) -> Self {
        Self { buckets, reached }
    }

    /// See [`FlatGradients::from_parts`].
    pub fn into_parts(self) -> (Vec<Tensor<1>>, HashSet<ParamId>) {
        (self.buckets, self.reached)
    }

    /// Scales every gradient, for means over microbatches or ranks.
    pub fn scale(self, factor: f64) -> Self {
        if factor == 1.0 {
            return self;
        }
        let scaled = self.buckets.into_iter().map(|b| b.mul_scalar(factor));
        Self {
            buckets: scaled.collect(),
            reached: self.reached,
        }
    }
}

impl std::ops::Add for FlatGradients {
    type Output = Self;

    /// The gradients of two microbatches, summed.
    fn add(self, other: Self) -> Self {
        let pairs = self.buckets.into_iter().zip(other.buckets);
        Self {
            buckets: pairs.map(|(a, b)| a + b).collect(),
            reached: self.reached.into_iter().chain(other.reached).collect(),
        }
    }
}

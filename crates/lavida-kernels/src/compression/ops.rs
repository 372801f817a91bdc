//! Token compression as operations of a backend: a choice without a gradient, and a merge with one of its own.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, Backend, ExtensionType, Flex, backend_extension};

#[cfg(feature = "cube")]
use super::cube;
use super::{CompressionConfig, CompressionError, flex};

/// Sizes of the samples of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Samples {
    n_tokens: Arc<[usize]>,
    n_kept: Arc<[usize]>,
}

impl Samples {
    /// Samples of `n_tokens` tokens each; an error without samples or with a sample without tokens.
    pub fn new(n_tokens: &[usize], config: &CompressionConfig) -> Result<Self, CompressionError> {
        if n_tokens.is_empty() || n_tokens.contains(&0) {
            return Err(CompressionError::NoTokens);
        }
        Ok(Self {
            n_tokens: n_tokens.into(),
            n_kept: n_tokens
                .iter()
                .map(|n| config.keep_ratio.n_kept(*n))
                .collect(),
        })
    }

    /// `L` of each sample.
    pub fn n_tokens(&self) -> &[usize] {
        &self.n_tokens
    }

    /// `L_r` of each sample.
    pub fn n_kept(&self) -> &[usize] {
        &self.n_kept
    }

    /// Sample of a row of all tokens, and its row there.
    pub(super) fn place(&self, row: usize) -> (usize, usize) {
        let mut row = row;
        for (sample, n_tokens) in self.n_tokens.iter().enumerate() {
            if row < *n_tokens {
                return (sample, row);
            }
            row -= n_tokens;
        }
        panic!("row {row} is past the last sample")
    }
}

/// What is background, and who belongs to it, for samples one after the other.
#[derive(Debug, ExtensionType)]
pub struct BackgroundTokens<B: Backend> {
    /// `[N_r]` indices of the background tokens within their sample, ascending in each.
    pub kept: IntTensor<B>,
    /// `[N]` which of its sample's rows of `kept` each token belongs to.
    pub assignment: IntTensor<B>,
    /// `[N]` density of each token, in f32.
    pub density: FloatTensor<B>,
    /// `[N]` squared length of each token, in f32; where one is no number or too large, the other fields mean nothing.
    pub squared_lengths: FloatTensor<B>,
}

/// Choice and merge for every backend.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait CompressionOps: Backend {
    /// Densities, background tokens and clusters of the samples of `tokens` `[N, D]`; not differentiable.
    fn choose_background(
        tokens: FloatTensor<Self>,
        samples: Samples,
        config: CompressionConfig,
    ) -> BackgroundTokens<Self>;

    /// Eq. 4: inside each cluster, `Softmax(−Z^b_i Z_𝒩ᵀ / √D) · Z_𝒩`, from `[N, D]` to `[N_r, D]`.
    fn merge_clusters(
        tokens: FloatTensor<Self>,
        kept: IntTensor<Self>,
        assignment: IntTensor<Self>,
        samples: Samples,
    ) -> FloatTensor<Self>;

    /// Gradient of the tokens, from that of the merged tokens.
    fn merge_clusters_backward(
        tokens: FloatTensor<Self>,
        kept: IntTensor<Self>,
        assignment: IntTensor<Self>,
        gradient: FloatTensor<Self>,
        samples: Samples,
    ) -> FloatTensor<Self>;
}

impl CompressionOps for Flex {
    fn choose_background(
        tokens: FloatTensor<Self>,
        samples: Samples,
        config: CompressionConfig,
    ) -> BackgroundTokens<Self> {
        let choice = flex::choose(tokens, samples.n_tokens(), &config);
        BackgroundTokens {
            kept: choice.kept,
            assignment: choice.assignment,
            density: choice.density,
            squared_lengths: choice.squared_lengths,
        }
    }

    fn merge_clusters(
        tokens: FloatTensor<Self>,
        kept: IntTensor<Self>,
        assignment: IntTensor<Self>,
        samples: Samples,
    ) -> FloatTensor<Self> {
        flex::merge(
            tokens,
            kept,
            assignment,
            samples.n_tokens(),
            samples.n_kept(),
        )
    }

    fn merge_clusters_backward(
        tokens: FloatTensor<Self>,
        kept: IntTensor<Self>,
        assignment: IntTensor<Self>,
        gradient: FloatTensor<Self>,
        samples: Samples,
    ) -> FloatTensor<Self> {
        let (n_tokens, n_kept) = (samples.n_tokens(), samples.n_kept());
        flex::merge_backward(tokens, kept, assignment, gradient, n_tokens, n_kept)
    }
}

#[cfg(feature = "cube")]
impl CompressionOps for burn_cubecl::CubeBackend {
    fn choose_background(
        tokens: FloatTensor<Self>,
        samples: Samples,
        config: CompressionConfig,
    ) -> BackgroundTokens<Self> {
        let layout = cube::Layout::of(&tokens);
        let tiling = cube::tiling_of(&tokens);
        let choice = cube::choose(tokens, &samples, &config, layout, tiling);
        BackgroundTokens {
            kept: choice.kept,
            assignment: choice.assignment,
            density: choice.density,
            squared_lengths: choice.squared_lengths,
        }
    }

    fn merge_clusters(
        tokens: FloatTensor<Self>,
        kept: IntTensor<Self>,
        assignment: IntTensor<Self>,
        samples: Samples,
    ) -> FloatTensor<Self> {
        let layout = cube::Layout::of(&tokens);
        cube::merge(tokens, kept, assignment, &samples, layout)
    }

    fn merge_clusters_backward(
        tokens: FloatTensor<Self>,
        kept: IntTensor<Self>,
        assignment: IntTensor<Self>,
        gradient: FloatTensor<Self>,
        samples: Samples,
    ) -> FloatTensor<Self> {
        let layout = cube::Layout::of(&tokens);
        cube::merge_backward(tokens, kept, assignment, gradient, &samples, layout)
    }
}

impl<B: Backend + CompressionOps, C: CheckpointStrategy> CompressionOps for Autodiff<B, C> {
    fn choose_background(
        tokens: FloatTensor<Self>,
        samples: Samples,
        config: CompressionConfig,
    ) -> BackgroundTokens<Self> {
        let chosen = B::choose_background(tokens.into_primitive(), samples, config);
        BackgroundTokens {
            kept: chosen.kept,
            assignment: chosen.assignment,
            density: Self::from_inner(chosen.density),
            squared_lengths: Self::from_inner(chosen.squared_lengths),
        }
    }

    fn merge_clusters(
        tokens: FloatTensor<Self>,
        kept: IntTensor<Self>,
        assignment: IntTensor<Self>,
        samples: Samples,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct MergeClusters;

        impl<B: Backend + CompressionOps> Backward<B, 1> for MergeClusters {
            type State = (FloatTensor<B>, IntTensor<B>, IntTensor<B>, Samples);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let (tokens, kept, assignment, samples) = ops.state;
                unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
                    B::merge_clusters_backward(tokens, kept, assignment, gradient, samples)
                });
            }
        }

        let node = tokens.node();
        let tokens = tokens.into_primitive();
        match MergeClusters
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prepared) => {
                let merged = B::merge_clusters(
                    tokens.clone(),
                    kept.clone(),
                    assignment.clone(),
                    samples.clone(),
                );
                prepared.finish((tokens, kept, assignment, samples), merged)
            }
            OpsKind::UnTracked(prepared) => {
                prepared.finish(B::merge_clusters(tokens, kept, assignment, samples))
            }
        }
    }

    fn merge_clusters_backward(
        _tokens: FloatTensor<Self>,
        _kept: IntTensor<Self>,
        _assignment: IntTensor<Self>,
        _gradient: FloatTensor<Self>,
        _samples: Samples,
    ) -> FloatTensor<Self> {
        panic!("the gradient of a gradient is not differentiable")
    }
}

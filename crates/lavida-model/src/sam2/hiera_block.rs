//! A block of Hiera: attention within windows or over the frame, and an MLP.
//!
//! The first block of a stage still uses the windows of the stage before and shrinks its queries by 2 × 2
//! max-pooling, so that the window halves with them; one of an odd side loses its last row and column.
//! Reference: `MultiScaleBlock` and `MultiScaleAttention` in `hieradet.py` (SAM2).
//!
//! Shapes: `N` frames · `h w` grid of the map · `a` side of a window · `C` width · `K` heads · `d` width
//! of a head.

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;
use burn::tensor::Tensor;
use lavida_kernels::linear::linear;

use super::windows::WindowedMap;
use crate::attention::{AttentionMask, attention};
use crate::linear::linear_of;
use crate::norm::{LayerNorm, LayerNormConfig};
use crate::two_way::{Activation, Mlp, MlpConfig, merge_heads, split_heads};

/// Epsilon of Hiera's norms.
const NORM_EPSILON: f64 = 1e-6;
/// Hidden width of the MLP over that of the block.
const MLP_RATIO: usize = 4;

/// Sizes of a [`MultiScaleBlock`].
#[derive(Config, Debug)]
pub struct MultiScaleBlockConfig {
    /// Width of the input.
    pub dim: usize,
    /// Width of the output; where it differs the block also halves the side.
    pub dim_out: usize,
    /// Heads `K`.
    pub num_heads: usize,
    /// Side of the windows in cells of the input; 0 attends over the whole frame.
    pub window_size: usize,
}

/// Attention and MLP, each with norm and residual; at the start of a stage the map shrinks.
#[derive(Module, Debug)]
pub struct MultiScaleBlock {
    /// Before the attention.
    pub norm1: LayerNorm,
    /// Within windows or over the frame.
    pub attn: MultiScaleAttention,
    /// Before the MLP.
    pub norm2: LayerNorm,
    /// Two layers with GELU.
    pub mlp: Mlp,
    /// Widens the residual path where the block shrinks the map.
    pub proj: Option<Linear>,
    pub(super) window_size: usize,
}

impl MultiScaleBlockConfig {
    /// A new block with random weights.
    pub fn init(&self, device: &Device) -> MultiScaleBlock {
        let shrinks = self.dim != self.dim_out;
        let norm = |dim| {
            LayerNormConfig::new(dim)
                .with_epsilon(NORM_EPSILON)
                .init(device)
        };
        MultiScaleBlock {
            norm1: norm(self.dim),
            attn: MultiScaleAttention {
                qkv: LinearConfig::new(self.dim, 3 * self.dim_out).init(device),
                proj: LinearConfig::new(self.dim_out, self.dim_out).init(device),
                num_heads: self.num_heads,
            },
            norm2: norm(self.dim_out),
            mlp: MlpConfig::new(self.dim_out, MLP_RATIO * self.dim_out, self.dim_out, 2)
                .with_activation(Activation::Gelu)
                .init(device),
            proj: shrinks.then(|| LinearConfig::new(self.dim, self.dim_out).init(device)),
            window_size: self.window_size,
        }
    }
}

impl MultiScaleBlock {
    /// One block; the result has the input's grid, or half of it where the block shrinks.
    pub fn forward(&self, map: WindowedMap) -> WindowedMap {
        let side = self.window_size;
        // A window that is the whole frame is global attention, without moving a token.
        let is_global = side == 0 || map.grid == [side, side];
        let is_cut = self.proj.is_some() && !side.is_multiple_of(2); // pooled, its windows do not tile the pooled map
        let is_padded = !is_global && (is_cut || !map.divides([side, side]));
        let map = if is_global {
            map
        } else if is_padded {
            let grid = map.grid;
            map.in_windows(grid)
        } else {
            map.in_windows([side, side])
        };

        let normed = map.with_tokens(self.norm1.forward(map.tokens.clone()));
        let shortcut = match &self.proj {
            Some(proj) => normed
                .with_tokens(linear_of(proj, normed.tokens.clone()))
                .max_pooled(),
            None => map,
        };
        let shrinks = self.proj.is_some();
        let attended = if is_padded {
            self.attend_padded(normed, shortcut.grid)
        } else {
            self.attn.forward(&normed, is_global, shrinks).tokens
        };
        let tokens = shortcut.tokens.clone() + attended;
        let hidden = self.mlp.forward(self.norm2.forward(tokens.clone()));
        shortcut.with_tokens(tokens + hidden)
    }

    /// Attention in windows that do not tile the grid, or whose halves do not tile the next one: zeros fill the last ones, are
    /// attended to like any token, and are cut off afterwards.
    ///
    /// # Shapes
    ///
    /// - normed: row by row; output: `[N, h'·w', C]` for the grid `[h', w']` asked for
    ///
    /// # Panics
    ///
    /// Panics if the halves of odd windows are smaller together than that grid; settings with such windows are refused.
    fn attend_padded(&self, normed: WindowedMap, grid_out: [usize; 2]) -> Tensor<3> {
        let side = self.window_size;
        let (n_frames, n_channels) = (normed.n_frames(), normed.n_channels());
        let [h, w] = normed.grid;
        let padded = [h.next_multiple_of(side), w.next_multiple_of(side)];
        let cells = normed
            .tokens
            .reshape([n_frames, h, w, n_channels])
            .pad(
                [(0, 0), (0, padded[0] - h), (0, padded[1] - w), (0, 0)],
                0.0,
            )
            .reshape([n_frames, padded[0] * padded[1], n_channels]);
        let windows = WindowedMap::from_rows(cells, padded).in_windows([side, side]);
        let attended = self.attn.forward(&windows, false, self.proj.is_some());
        let ([hp, wp], n_channels) = (attended.grid, attended.n_channels());
        let [h, w] = grid_out;
        attended
            .into_rows()
            .reshape([n_frames, hp, wp, n_channels])
            .slice([0..n_frames, 0..h, 0..w])
            .reshape([n_frames, h * w, n_channels])
    }
}

/// Attention of a map's tokens among themselves.
#[derive(Module, Debug)]
pub struct MultiScaleAttention {
    /// Queries, keys and values in one projection.
    pub qkv: Linear,
    /// Of the heads' results.
    pub proj: Linear,
    num_heads: usize,
}

impl MultiScaleAttention {
    /// Attention within each window, or over each frame; `pools` shrinks the queries, and with them the
    /// result, by 2 × 2 max-pooling.
    pub fn forward(&self, map: &WindowedMap, is_global: bool, pools: bool) -> WindowedMap {
        let [n_groups, group, width_in] = map.tokens.dims();
        let rows = map.tokens.clone().reshape([n_groups * group, width_in]);
        let [_, width] = self.proj.weight.dims();
        // Three products with parts of the weight: the backward of cutting one wide result apart would
        // fill three wide gradients with zeros and add them up.
        let (weight, bias) = (
            self.qkv.weight.val(),
            self.qkv.bias.as_ref().map(Param::val),
        );
        let part = |i: usize| {
            let weight = weight.clone().narrow(1, i * width, width);
            let bias = bias.clone().map(|bias| bias.narrow(0, i * width, width));
            linear(rows.clone(), weight, bias).reshape([n_groups, group, width])
        };
        let queries = map.with_tokens(part(0));
        let queries = match (pools, is_global) {
            (false, _) => queries,
            (true, true) => queries.max_pooled(),
            (true, false) => queries.pooled_within_windows(),
        };

        let [groups, n_keys] = if is_global {
            let n_frames = map.n_frames();
            [n_frames, n_groups * group / n_frames]
        } else {
            [n_groups, group]
        };
        let [n_windows, cells, _] = queries.tokens.dims();
        let n_queries = n_windows * cells / groups;
        let heads = |tokens: Tensor<3>, n_tokens: usize| {
            split_heads(tokens.reshape([groups, n_tokens, width]), self.num_heads)
        };
        let attended = attention(
            heads(queries.tokens.clone(), n_queries),
            heads(part(1), n_keys),
            heads(part(2), n_keys),
            &AttentionMask::default(),
        ); // [groups, K, n_queries, d]
        let merged = merge_heads(attended).reshape([n_windows, cells, width]);
        queries.with_tokens(linear_of(&self.proj, merged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::pool::MaxPool2dConfig;
    use burn::tensor::activation::softmax;
    use burn::tensor::{Distribution, Tolerance};

    /// The reference, written down plainly: cut up, attend, put together, around every block.
    fn plain_block(block: &MultiScaleBlock, map: Tensor<4>) -> Tensor<4> {
        let pool = |map: Tensor<4>| {
            let max_pool = MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init();
            let pooled = max_pool.forward(map.permute([0, 3, 1, 2]));
            pooled.permute([0, 2, 3, 1])
        };
        let normed = block.norm1.forward(map.clone());
        let shortcut = match &block.proj {
            Some(proj) => pool(proj.forward(normed.clone())),
            None => map,
        };
        let [n_frames, h, w, _] = normed.dims();
        let [_, h_out, w_out, width] = shortcut.dims();
        let side = block.window_size;
        let (a, b) = if side == 0 { (h, w) } else { (side, side) };
        let (rows, columns) = (h.div_ceil(a), w.div_ceil(b));
        let padded = normed.pad(
            [(0, 0), (0, rows * a - h), (0, columns * b - w), (0, 0)],
            0.0,
        );
        let bands = (0..rows).map(|row| {
            let windows = (0..columns).map(|column| {
                let (top, left) = (row * a, column * b);
                let window = padded
                    .clone()
                    .slice([0..n_frames, top..top + a, left..left + b]);
                let qkv = block.attn.qkv.forward(window);
                let part = |i: usize| qkv.clone().narrow(3, i * width, width);
                let queries = if block.proj.is_some() {
                    pool(part(0))
                } else {
                    part(0)
                };
                let [_, a_out, b_out, _] = queries.dims();
                let d_head = width / block.attn.num_heads;
                let heads = |tokens: Tensor<4>| {
                    let [_, a, b, _] = tokens.dims();
                    let shape = [n_frames, a * b, block.attn.num_heads, d_head];
                    tokens.reshape(shape).swap_dims(1, 2)
                };
                let scores = heads(queries).matmul(heads(part(1)).transpose());
                let weights = softmax(scores / (d_head as f64).sqrt(), 3);
                let attended = weights.matmul(heads(part(2))).swap_dims(1, 2);
                block
                    .attn
                    .proj
                    .forward(attended.reshape([n_frames, a_out, b_out, width]))
            });
            Tensor::cat(windows.collect(), 2)
        });
        let attended = Tensor::cat(bands.collect(), 1).slice([0..n_frames, 0..h_out, 0..w_out]);
        let map = shortcut + attended;
        map.clone() + block.mlp.forward(block.norm2.forward(map))
    }

    fn check_block(grid: [usize; 2], window_size: usize, dim_out: usize) {
        let device = Device::flex();
        let block = MultiScaleBlockConfig {
            dim: 8,
            dim_out,
            num_heads: 2,
            window_size,
        }
        .init(&device);
        let [h, w] = grid;
        let rows = Tensor::<3>::random([3, h * w, 8], Distribution::Normal(0.0, 1.0), &device);
        let expected = plain_block(&block, rows.clone().reshape([3, h, w, 8]));
        let [_, h_out, w_out, _] = expected.dims();
        let expected = expected.reshape([3, h_out * w_out, dim_out]).into_data();
        let map = WindowedMap::from_rows(rows, grid);
        // However the tokens lay before, the block says the same.
        for window in [grid, [2, 2], [1, 1]] {
            if !map.divides(window) {
                continue;
            }
            let found = block.forward(map.clone().in_windows(window));
            assert_eq!(found.grid, [h_out, w_out]);
            found
                .into_rows()
                .into_data()
                .assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
        }
    }

    #[test]
    fn windows_equal_the_plain_block() {
        check_block([8, 8], 4, 8);
        check_block([4, 8], 2, 8);
    }

    #[test]
    fn windows_that_halve_equal_the_plain_block() {
        check_block([8, 8], 4, 16);
        check_block([8, 4], 2, 16);
    }

    #[test]
    fn global_attention_equals_the_plain_block() {
        check_block([4, 4], 0, 8);
        check_block([4, 6], 0, 16);
    }

    #[test]
    fn a_window_that_is_the_frame_equals_the_plain_block() {
        check_block([4, 4], 4, 8);
        check_block([4, 4], 4, 16);
    }

    #[test]
    fn a_window_larger_than_the_frame_is_padded() {
        check_block([4, 4], 14, 8);
        check_block([4, 4], 14, 16);
        check_block([4, 2], 6, 16);
    }

    #[test]
    fn windows_that_do_not_tile_are_padded() {
        check_block([6, 6], 4, 8);
        check_block([6, 6], 4, 16);
        check_block([10, 6], 4, 16);
    }

    #[test]
    fn an_odd_window_loses_its_last_row_and_column_where_it_is_pooled() {
        check_block([8, 8], 5, 16); // two windows a side, pooled to 2 cells each
        check_block([8, 8], 7, 16); // pooled to 3 each, of which 4 in all are kept
        check_block([7, 7], 7, 16); // the whole frame
        check_block([4, 4], 7, 16); // more than the frame
        check_block([8, 16], 7, 16);
    }
}

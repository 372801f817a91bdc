//! Burn's fused attention, where a device has matrix units for it: no score ever reaches memory.
//!
//! It makes its products of f16, so it is for narrow numbers only: an f32 it would round to 11 bits. Queries that share a
//! key head are heads of one batch entry with one key head, which the kernel reads for all of them. Padding is cut off and
//! not masked, for the kernel's mask is a tensor of a value for each query and key.

use std::ops::Range;

use burn::backend::ops::{AttentionModuleOptions, FloatTensorOps};
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend as Cube;
use burn_cubecl::kernel::attention::flash_attention;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::{ElemType, FloatKind};
use cubek_attention::forward::launch::{BlueprintStrategy, Strategy};
use cubek_attention::forward::routines::blackbox_accelerated::BlackboxAcceleratedStrategy;

use super::{Sizes, joined, part, zeros};
use crate::attention::AttentionMask;

/// Planes of a cube; each has a tile of queries.
const PLANES: u8 = 4;
/// Queries, keys and width of the tiles of matrix units.
const TILE: usize = 16;
/// The kernel takes whole cubes of queries.
const QUERIES: usize = TILE * PLANES as usize;
/// Widths beyond need more registers than a plane has.
const WIDEST: usize = 128;

/// None where the device or the problem is not for it.
pub(super) fn attend(
    sizes: &Sizes,
    query: &CubeTensor,
    key: &CubeTensor,
    value: &CubeTensor,
    mask: &AttentionMask,
) -> Option<CubeTensor> {
    let fits = |width: usize| width % TILE == 0 && width <= WIDEST;
    let is_narrow = |tensor: &CubeTensor| matches!(tensor.dtype, DType::F16 | DType::BF16);
    let narrow = [query, key, value].into_iter().all(is_narrow);
    if !(narrow && fits(sizes.d_head) && fits(sizes.d_value) && has_matrix_units(query)) {
        return None;
    }
    attend_with(&accelerated(), [query, key, value], mask)
}

/// Whether matrix units multiply tiles of f16 into f32.
fn has_matrix_units(tensor: &CubeTensor) -> bool {
    let [f16, f32] = [FloatKind::F16, FloatKind::F32].map(ElemType::Float);
    let features = &tensor.client.properties().features;
    features.matmul.cmma.iter().any(|units| {
        let sizes = [units.m, units.n, units.k].map(|size| size as usize);
        (units.a_type, units.b_type, units.cd_type) == (f16, f16, f32) && sizes == [TILE; 3]
    })
}

/// Burn's kernel on matrix units.
fn accelerated() -> Strategy {
    Strategy::BlackboxAccelerated(BlueprintStrategy::Inferred(BlackboxAcceleratedStrategy {
        num_planes: PLANES,
        seq_q: 1,
        seq_kv: 1,
    }))
}

/// Every query reads every key of its batch entry that the mask has.
pub(super) fn attend_with(
    strategy: &Strategy,
    [query, key, value]: [&CubeTensor; 3],
    mask: &AttentionMask,
) -> Option<CubeTensor> {
    let sizes = Sizes::of(query, key, value);
    let Some(ranges) = mask.key_ranges() else {
        return attend_all(strategy, [query, key, value], mask.is_causal());
    };
    let of_entry = |(entry, range): (usize, &Range<usize>)| {
        let [query, key, value] =
            [query, key, value].map(|tensor| part(tensor, 0, entry..entry + 1));
        let [key, value] = [&key, &value].map(|tensor| part(tensor, 2, range.clone()));
        // A causal query before the range reads no key, one behind it all of them.
        let n_before = if mask.is_causal() { range.start } else { 0 };
        let n_square = if mask.is_causal() {
            range.len()
        } else {
            sizes.n_queries
        };
        let n_behind = sizes.n_queries - n_before - n_square;
        let zeros = |n: usize| zeros([1, sizes.n_heads, n, sizes.d_value], value.dtype, &value);
        if range.is_empty() {
            return Some(zeros(sizes.n_queries));
        }
        let mut parts = Vec::new();
        if n_before > 0 {
            parts.push(zeros(n_before));
        }
        let square = part(&query, 2, n_before..n_before + n_square);
        parts.push(attend_all(
            strategy,
            [&square, &key, &value],
            mask.is_causal(),
        )?);
        if n_behind > 0 {
            let behind = part(&query, 2, n_before + n_square..sizes.n_queries);
            parts.push(attend_all(strategy, [&behind, &key, &value], false)?);
        }
        Some(joined(parts, 2))
    };
    let entries: Option<Vec<_>> = ranges.iter().enumerate().map(of_entry).collect();
    Some(joined(entries?, 0))
}

/// Every query reads every key, or those up to its own position.
fn attend_all(
    strategy: &Strategy,
    [query, key, value]: [&CubeTensor; 3],
    is_causal: bool,
) -> Option<CubeTensor> {
    let [batch, n_heads, n_queries, d_head] = query.meta.shape().dims();
    let [_, n_kv_heads, n_keys, d_value] = value.meta.shape().dims();
    let n_more = n_queries.next_multiple_of(QUERIES) - n_queries;
    // What is added at the end a causal query does not read, and others read no keys that were added.
    let n_more_keys = if is_causal { n_more } else { 0 };
    let [query, key, value] = [(query, n_more), (key, n_more_keys), (value, n_more_keys)]
        .map(|(tensor, n_more)| lengthened(tensor, n_more));
    let groups = batch * n_kv_heads;
    let shape = [groups, n_heads / n_kv_heads, n_queries + n_more, d_head];
    let query = Cube::float_reshape(query, Shape::new(shape));
    let [key, value] = [(key, d_head), (value, d_value)].map(|(tensor, width)| {
        Cube::float_reshape(tensor, Shape::new([groups, 1, n_keys + n_more_keys, width]))
    });
    let options = AttentionModuleOptions {
        scale: None, // 1/√d
        softcap: None,
        is_causal,
    };
    // The kernel refuses what its tiles or the device's shared memory do not hold; blocks of queries do that.
    let out = flash_attention(query, key, value, None, None, options, strategy.clone()).ok()?;
    let out = Cube::float_reshape(
        out,
        Shape::new([batch, n_heads, n_queries + n_more, d_value]),
    );
    Some(part(&out, 2, 0..n_queries))
}

/// With this many zeros behind the last position.
fn lengthened(tensor: &CubeTensor, n_more: usize) -> CubeTensor {
    if n_more == 0 {
        return tensor.clone();
    }
    let [batch, n_heads, _, width] = tensor.meta.shape().dims();
    let zeros = zeros([batch, n_heads, n_more, width], tensor.dtype, tensor);
    Cube::float_cat(vec![tensor.clone(), zeros], 2)
}

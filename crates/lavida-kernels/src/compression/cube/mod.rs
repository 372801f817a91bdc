//! Token compression in CubeCL: the same kernels on CUDA, on other GPUs through wgpu, and on CubeCL's CPU runtime.
//!
//! Distances that decide are sums of squared differences in f32 (no runtime but CUDA has f64 throughout), tokens may be f32,
//! f16 or bf16. Where the device has matrix units, products on them find which distances are needed (`search`), with the
//! same result bit for bit. Elsewhere all are computed: no plane operations, no atomics. A run repeats either way.
//! Memory beside input and output: at most 8 shares of `k` neighbours a token, 64 bytes each, and some 50 bytes a token;
//! with matrix units 40 MiB more and 770 bytes a token at 8 neighbours.

mod choose;
mod lanes;
mod merge;
mod pairs;
mod search;

use burn::backend::TensorMetadata;
use burn::backend::ops::IntTensorOps;
use burn::tensor::{DType, IntDType, Shape, TensorData};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::features::MmaConfig;
use cubecl::prelude::*;

use super::{CompressionConfig, Density, NO_DISTANCE, Samples};
use pairs::{FRAGMENT, Tiling};
use search::Search;

/// Values of a token that a tile holds at a time.
const DEPTH: usize = 16;

/// Most shares of the columns: enough cubes for a large GPU even with few rows.
const MOST_SHARES: usize = 8;

/// How many units a cube has, and how a tile's are laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Units of a cube that walks along a row.
    pub(super) units: usize,
    /// Units of a tile, side by side.
    pub(super) across: usize,
    /// Units of a tile, one below the other.
    pub(super) down: usize,
}

impl Layout {
    /// What the device of a tensor has room for.
    pub(super) fn of(tensor: &CubeTensor) -> Self {
        let hardware = &tensor.client.properties().hardware;
        let max_units = hardware.max_units_per_cube as usize;
        Self::new(max_units, hardware.max_shared_memory_size)
    }

    fn new(max_units: usize, max_shared_bytes: usize) -> Self {
        let units = lanes::LANES.min(1 << max_units.max(1).ilog2());
        let shared = |across: usize, down: usize| {
            let (columns, rows) = (across * choose::SIDE, down * choose::SIDE);
            4 * ((rows + columns + 2) * DEPTH + rows * columns)
        };
        let tiles = [(16, 16), (8, 8), (4, 4), (2, 2), (2, 1)];
        let fits = |(across, down): &(usize, usize)| {
            across * down <= max_units && shared(*across, *down) <= max_shared_bytes
        };
        let (across, down) = tiles.into_iter().find(fits).unwrap_or((1, 1));
        Self {
            units,
            across,
            down,
        }
    }
}

/// Whether and how the device multiplies tiles of tokens on matrix units.
pub(super) fn tiling_of(tensor: &CubeTensor) -> Option<Tiling> {
    let properties = tensor.client.properties();
    let half = half::f16::elem_type_native();
    let config = MmaConfig {
        a_type: half,
        b_type: half,
        cd_type: f32::elem_type_native(),
        m: FRAGMENT as u32,
        n: FRAGMENT as u32,
        k: FRAGMENT as u32,
    };
    let tiling = Tiling::MATRIX_UNITS;
    let hardware = &properties.hardware;
    let plane = tiling.plane as u32;
    let fits = properties.features.matmul.cmma.contains(&config)
        && hardware.plane_size_min == plane
        && hardware.plane_size_max == plane
        && hardware.max_units_per_cube as usize >= tiling.units()
        && hardware.max_shared_memory_size >= tiling.shared_bytes();
    fits.then_some(tiling)
}

/// What is background and who belongs to it, for all samples one after the other.
pub(super) struct Choice {
    pub(super) kept: CubeTensor,
    pub(super) assignment: CubeTensor,
    pub(super) density: CubeTensor,
    pub(super) squared_lengths: CubeTensor,
}

/// The samples as the kernels read them.
struct Tables {
    /// For each token its sample: first and last token, first cluster, number of clusters.
    samples: Vec<i32>,
    /// The same for each cluster.
    clusters: Vec<i32>,
}

impl Tables {
    fn new(samples: &Samples) -> Self {
        let mut tables = Self {
            samples: Vec::new(),
            clusters: Vec::new(),
        };
        let (mut token, mut cluster) = (0, 0);
        for (n_tokens, n_kept) in samples.n_tokens().iter().zip(samples.n_kept()) {
            let sample = [token, token + n_tokens, cluster, *n_kept].map(|n| n as i32);
            tables.samples.extend(sample.repeat(*n_tokens));
            tables.clusters.extend(sample.repeat(*n_kept));
            token += n_tokens;
            cluster += n_kept;
        }
        tables
    }
}

/// Rows of each tile of each sample, and the columns they look at: the sample's tokens or its clusters.
fn tiles(samples: &Samples, rows_of_tile: usize, of_clusters: bool) -> Vec<i32> {
    let mut tiles = Vec::new();
    let (mut token, mut cluster) = (0, 0);
    for (n_tokens, n_kept) in samples.n_tokens().iter().zip(samples.n_kept()) {
        let columns = if of_clusters {
            [cluster, cluster + n_kept]
        } else {
            [token, token + n_tokens]
        };
        for start in (token..token + n_tokens).step_by(rows_of_tile) {
            let end = (start + rows_of_tile).min(token + n_tokens);
            tiles.extend([start, end, columns[0], columns[1]].map(|n| n as i32));
        }
        token += n_tokens;
        cluster += n_kept;
    }
    tiles
}

/// Tensors beside a given one: on its device, through its client.
struct Beside {
    client: Client,
    like: CubeTensor,
    layout: Layout,
    dtype: ElemType,
}

type Client = cubecl::prelude::Client;

impl Beside {
    fn new(tokens: &CubeTensor, layout: Layout) -> Self {
        Self {
            client: tokens.client.clone(),
            like: tokens.clone(),
            layout,
            dtype: burn::backend::cubecl::dtype_to_storage_type(tokens.dtype),
        }
    }

    fn empty<const R: usize>(&self, shape: [usize; R], dtype: DType) -> CubeTensor {
        let device = self.like.device.clone();
        empty_device_dtype(self.client.clone(), device, Shape::new(shape), dtype)
    }

    fn table(&self, values: Vec<i32>) -> CubeTensor {
        let shape = [values.len()];
        CubeBackend::int_from_data(TensorData::new(values, shape), &self.like.device)
    }

    /// One unit for each of `n`.
    fn units_for(&self, n: usize) -> (CubeCount, CubeDim) {
        let units = self.layout.units.min(64);
        (cubes(n.div_ceil(units)), CubeDim::new_1d(units as u32))
    }

    /// One cube for each of `n`.
    fn cubes_for(&self, n: usize) -> (CubeCount, CubeDim) {
        (cubes(n), CubeDim::new_1d(self.layout.units as u32))
    }
}

/// `n` cubes or a few more, within the limit of every axis.
fn cubes(n: usize) -> CubeCount {
    const MOST: usize = 65_535;
    CubeCount::Static(n.min(MOST) as u32, n.div_ceil(MOST) as u32, 1)
}

pub(super) fn choose(
    tokens: CubeTensor,
    samples: &Samples,
    config: &CompressionConfig,
    layout: Layout,
    tiling: Option<Tiling>,
) -> Choice {
    let tokens = into_contiguous(tokens);
    let [n_tokens, d_token] = tokens.shape().dims();
    let n_kept: usize = samples.n_kept().iter().sum();
    let longest = samples.n_tokens().iter().copied().max().unwrap_or(1);
    let k = config.n_neighbors.get().min(longest - 1).max(1);
    let beside = Beside::new(&tokens, layout);
    let client = &beside.client;
    let tables = Tables::new(samples);
    let of_token = beside.table(tables.samples);

    let squared_lengths = squared_lengths(&beside, &tokens);
    let search =
        tiling.map(|tiling| Search::new(&beside, &tokens, &squared_lengths, samples, tiling));
    let (nearest, nearest_tokens) = if let Some(search) = &search {
        let found = search.nearest(k);
        (found.nearest, found.nearest_tokens)
    } else {
        let all = beside.table((0..n_tokens as i32).collect());
        let unknown = beside.table(vec![-1; n_tokens]);
        nearest(&beside, &tokens, &all, samples, false, &unknown, k)
    };

    let density = beside.empty([n_tokens], DType::F32);
    let (count, dim) = beside.units_for(n_tokens);
    choose::densities::launch(
        client,
        count.clone(),
        dim,
        nearest.into_tensor_arg(),
        nearest_tokens.clone().into_tensor_arg(),
        density.clone().into_tensor_arg(),
        d_token as f32,
        NO_DISTANCE as f32,
        k,
        config.density == Density::Reachability,
    );

    let int = |n: usize| beside.empty([n], DType::I32);
    let (flags, rows) = (int(n_tokens), int(n_tokens));
    let (kept, columns) = (int(n_kept), int(n_kept));
    choose::is_kept::launch(
        client,
        count.clone(),
        dim,
        density.clone().into_tensor_arg(),
        of_token.clone().into_tensor_arg(),
        flags.clone().into_tensor_arg(),
    );
    choose::list_kept::launch(
        client,
        count.clone(),
        dim,
        flags.into_tensor_arg(),
        of_token.into_tensor_arg(),
        kept.clone().into_tensor_arg(),
        columns.clone().into_tensor_arg(),
        rows.clone().into_tensor_arg(),
    );

    let near = int(n_tokens);
    choose::assign_near::launch(
        client,
        count.clone(),
        dim,
        rows.clone().into_tensor_arg(),
        nearest_tokens.into_tensor_arg(),
        near.clone().into_tensor_arg(),
        k,
    );
    let nearest_background = if let Some(search) = &search {
        search.nearest_background(&columns, &near).nearest_tokens
    } else {
        self::nearest(&beside, &tokens, &columns, samples, true, &near, 1).1
    };
    let assignment = int(n_tokens);
    choose::assign_far::launch(
        client,
        count,
        dim,
        near.into_tensor_arg(),
        rows.into_tensor_arg(),
        nearest_background.into_tensor_arg(),
        assignment.clone().into_tensor_arg(),
    );
    Choice {
        kept,
        assignment,
        density,
        squared_lengths,
    }
}

/// Squared length of each token.
fn squared_lengths(beside: &Beside, tokens: &CubeTensor) -> CubeTensor {
    let [n_tokens, _] = tokens.shape().dims();
    let squared_lengths = beside.empty([n_tokens], DType::F32);
    let (count, dim) = beside.cubes_for(n_tokens);
    choose::squared_lengths::launch(
        &beside.client,
        count,
        dim,
        tokens.clone().into_tensor_arg(),
        squared_lengths.clone().into_tensor_arg(),
        beside.layout.units,
        beside.dtype,
    );
    squared_lengths
}

/// The `k` nearest columns of each row: squared distances and tokens, `[N, k]`.
fn nearest(
    beside: &Beside,
    tokens: &CubeTensor,
    columns: &CubeTensor,
    samples: &Samples,
    of_clusters: bool,
    known: &CubeTensor,
    k: usize,
) -> (CubeTensor, CubeTensor) {
    let [n_tokens, _] = tokens.shape().dims();
    let Layout { across, down, .. } = beside.layout;
    let tiles = tiles(samples, down * choose::SIDE, of_clusters);
    let n_tiles = tiles.len() / 4;
    let longest = samples.n_tokens().iter().max().copied().unwrap_or(1);
    let n_shares = longest
        .div_ceil(4 * across * choose::SIDE)
        .clamp(1, MOST_SHARES);
    let distances = beside.empty([n_tokens, n_shares, k], DType::F32);
    let indices = beside.empty([n_tokens, n_shares, k], DType::I32);
    choose::nearest_tiles::launch(
        &beside.client,
        CubeCount::Static(n_tiles as u32, n_shares as u32, 1),
        CubeDim::new_1d((across * down) as u32),
        tokens.clone().into_tensor_arg(),
        columns.clone().into_tensor_arg(),
        beside.table(tiles).into_tensor_arg(),
        known.clone().into_tensor_arg(),
        distances.clone().into_tensor_arg(),
        indices.clone().into_tensor_arg(),
        k,
        across,
        down,
        DEPTH,
        beside.dtype,
    );
    let nearest = beside.empty([n_tokens, k], DType::F32);
    let nearest_tokens = beside.empty([n_tokens, k], DType::I32);
    let (count, dim) = beside.units_for(n_tokens);
    choose::join_shares::launch(
        &beside.client,
        count,
        dim,
        distances.into_tensor_arg(),
        indices.into_tensor_arg(),
        nearest.clone().into_tensor_arg(),
        nearest_tokens.clone().into_tensor_arg(),
        k,
    );
    (nearest, nearest_tokens)
}

/// Clusters on the device.
struct Clusters {
    beside: Beside,
    tokens: CubeTensor,
    kept: CubeTensor,
    assignment: CubeTensor,
    of_token: CubeTensor,
    starts: CubeTensor,
    members: CubeTensor,
    places: CubeTensor,
    weights: CubeTensor,
    /// `1/√D`
    scale: f32,
    n_kept: usize,
}

impl Clusters {
    fn new(
        tokens: CubeTensor,
        kept: CubeTensor,
        assignment: CubeTensor,
        samples: &Samples,
        layout: Layout,
    ) -> Self {
        let int =
            |tensor: CubeTensor| into_contiguous(CubeBackend::int_cast(tensor, IntDType::I32));
        let (tokens, kept, assignment) = (into_contiguous(tokens), int(kept), int(assignment));
        let [n_tokens, d_token] = tokens.shape().dims();
        let n_kept: usize = samples.n_kept().iter().sum();
        let beside = Beside::new(&tokens, layout);
        let tables = Tables::new(samples);
        let (of_token, of_cluster) = (beside.table(tables.samples), beside.table(tables.clusters));

        let starts = beside.empty([n_kept + 1], DType::I32);
        let (count, dim) = beside.units_for(n_kept + 1);
        merge::starts::launch(
            &beside.client,
            count,
            dim,
            assignment.clone().into_tensor_arg(),
            of_cluster.clone().into_tensor_arg(),
            starts.clone().into_tensor_arg(),
        );
        let members = beside.empty([n_tokens], DType::I32);
        let places = beside.empty([n_tokens], DType::I32);
        let (count, dim) = beside.units_for(n_tokens);
        merge::members::launch(
            &beside.client,
            count,
            dim,
            assignment.clone().into_tensor_arg(),
            of_token.clone().into_tensor_arg(),
            starts.clone().into_tensor_arg(),
            members.clone().into_tensor_arg(),
            places.clone().into_tensor_arg(),
        );
        let weights = beside.empty([n_tokens], DType::F32);
        let scale = (d_token as f32).powf(-0.5);
        let (count, dim) = beside.cubes_for(n_kept);
        merge::weights::launch(
            &beside.client,
            count,
            dim,
            tokens.clone().into_tensor_arg(),
            kept.clone().into_tensor_arg(),
            of_cluster.into_tensor_arg(),
            starts.clone().into_tensor_arg(),
            members.clone().into_tensor_arg(),
            weights.clone().into_tensor_arg(),
            scale,
            beside.layout.units,
            beside.dtype,
        );
        Self {
            beside,
            tokens,
            kept,
            assignment,
            of_token,
            starts,
            members,
            places,
            weights,
            scale,
            n_kept,
        }
    }
}

/// Merged tokens `[N_r, D]`.
pub(super) fn merge(
    tokens: CubeTensor,
    kept: CubeTensor,
    assignment: CubeTensor,
    samples: &Samples,
    layout: Layout,
) -> CubeTensor {
    let clusters = Clusters::new(tokens, kept, assignment, samples, layout);
    let beside = &clusters.beside;
    let [_, d_token] = clusters.tokens.shape().dims();
    let merged = beside.empty([clusters.n_kept, d_token], clusters.tokens.dtype);
    let (count, dim) = beside.cubes_for(clusters.n_kept);
    merge::merge::launch(
        &beside.client,
        count,
        dim,
        clusters.tokens.into_tensor_arg(),
        clusters.starts.into_tensor_arg(),
        clusters.members.into_tensor_arg(),
        clusters.weights.into_tensor_arg(),
        merged.clone().into_tensor_arg(),
        beside.layout.units,
        beside.dtype,
    );
    merged
}

/// Gradient of the tokens `[N, D]` from that of the merged ones.
pub(super) fn merge_backward(
    tokens: CubeTensor,
    kept: CubeTensor,
    assignment: CubeTensor,
    gradient: CubeTensor,
    samples: &Samples,
    layout: Layout,
) -> CubeTensor {
    let gradient = into_contiguous(gradient);
    let clusters = Clusters::new(tokens, kept, assignment, samples, layout);
    let beside = &clusters.beside;
    let [n_tokens, d_token] = clusters.tokens.shape().dims();
    let pulls = beside.empty([n_tokens], DType::F32);
    let (count, dim) = beside.cubes_for(clusters.n_kept);
    merge::pulls::launch(
        &beside.client,
        count,
        dim,
        clusters.tokens.clone().into_tensor_arg(),
        gradient.clone().into_tensor_arg(),
        clusters.starts.clone().into_tensor_arg(),
        clusters.members.clone().into_tensor_arg(),
        clusters.weights.clone().into_tensor_arg(),
        pulls.clone().into_tensor_arg(),
        beside.layout.units,
        beside.dtype,
    );
    let moved = beside.empty([n_tokens, d_token], clusters.tokens.dtype);
    let (count, dim) = beside.cubes_for(n_tokens);
    merge::gradient::launch(
        &beside.client,
        count,
        dim,
        clusters.tokens.into_tensor_arg(),
        gradient.into_tensor_arg(),
        clusters.kept.into_tensor_arg(),
        clusters.assignment.into_tensor_arg(),
        clusters.of_token.into_tensor_arg(),
        clusters.starts.into_tensor_arg(),
        clusters.members.into_tensor_arg(),
        clusters.places.into_tensor_arg(),
        clusters.weights.into_tensor_arg(),
        pulls.into_tensor_arg(),
        moved.clone().into_tensor_arg(),
        clusters.scale,
        beside.layout.units,
        beside.dtype,
    );
    moved
}

#[cfg(all(test, feature = "ptx"))]
mod ptx;

#[cfg(all(test, any(feature = "cubecl-cpu", feature = "wgpu")))]
mod tests;

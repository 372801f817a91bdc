//! The nearest tokens by products on matrix units: panels, the order of tiles, and what a product may be wrong by.
//!
//! A first launch multiplies each tile of tokens with itself and takes a radius from it. Then tiles further and further from
//! the diagonal are multiplied, each stage at most four times as many as all before: a token's list gets some four times `k`
//! entries a stage where tokens come in no order. In between radii shrink. Who is lost all the same is searched for by
//! [`super::choose::nearest_tiles`], which exact distances are those of.
//!
//! The background nearest to a token is found in the same way: first radii are from the first tile of the sample's background.
//!
//! Memory beside the tables: panels of at most [`PANEL_BYTES`] together, lists of `8·k + 32` candidates of 8 bytes a token, a
//! tile's products for each tile of a panel, and the shares of the search for who is lost.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::pairs::{self, Tiling, VECTOR};
use super::{Beside, Samples};

/// Most bytes of the rows' and the columns' panels together.
const PANEL_BYTES: usize = 40 << 20;

/// Tokens of a sample that its mean is taken from.
const LOOKED_AT: usize = 32;

/// How many tiles a sample's tokens fill, and where they lie.
struct Positions {
    /// Token at each position, or −1.
    tokens: Vec<i32>,
    /// First and last tile of each sample, and tokens of its last tile.
    samples: Vec<(usize, usize, usize)>,
}

impl Positions {
    fn new(n_tokens: &[usize], side: usize) -> Self {
        let mut positions = Self {
            tokens: Vec::new(),
            samples: Vec::new(),
        };
        let mut token = 0;
        for n_tokens in n_tokens {
            let first = positions.tokens.len() / side;
            let n_tiles = n_tokens.div_ceil(side);
            positions
                .tokens
                .extend((token..token + n_tokens).map(|token| token as i32));
            positions.tokens.resize((first + n_tiles) * side, -1);
            let of_last = n_tokens - (n_tiles - 1) * side;
            positions.samples.push((first, first + n_tiles, of_last));
            token += n_tokens;
        }
        positions
    }

    /// For each tile of rows the tile of columns that gives a first radius: itself, or the one before where that has more.
    fn first_tiles(&self, side: usize) -> Vec<[usize; 2]> {
        let of_sample = |(first, last, of_last): &(usize, usize, usize)| {
            let (first, last, is_short) = (*first, *last, *of_last < side / 2);
            (first..last).map(move |tile| {
                let is_last = tile + 1 == last;
                let before = is_last && is_short && tile > first;
                [tile, tile - usize::from(before)]
            })
        };
        self.samples.iter().flat_map(of_sample).collect()
    }

    /// Panels of at most so many tiles.
    fn panels(&self, side: usize, most: usize) -> Vec<(usize, usize)> {
        let n_tiles = self.tokens.len() / side;
        let panel = |first: usize| (first, (first + most).min(n_tiles));
        (0..n_tiles).step_by(most).map(panel).collect()
    }

    /// Pairs of tiles of a panel of rows and one of columns, each once, by stage.
    fn stages(&self, rows: (usize, usize), columns: (usize, usize)) -> Vec<Vec<[usize; 2]>> {
        let mut stages: Vec<Vec<[usize; 2]>> = Vec::new();
        for (first, last, _) in &self.samples {
            for row in rows.0.max(*first)..rows.1.min(*last) {
                for column in columns.0.max(row)..columns.1.min(*last) {
                    let stage = if rows == columns {
                        stage_of(column - row)
                    } else {
                        0 // radii are known from as many tokens
                    };
                    if stages.len() <= stage {
                        stages.resize(stage + 1, Vec::new());
                    }
                    stages[stage].push([row, column]);
                }
            }
        }
        stages.retain(|stage| !stage.is_empty());
        stages
    }
}

/// Stage of a tile so far from the diagonal: up to 1, 6, 26 ..
fn stage_of(offset: usize) -> usize {
    let (mut stage, mut last) = (0, 1);
    while offset > last {
        last = 4 * last + 2;
        stage += 1;
    }
    stage
}

/// What a squared distance from products may be wrong by beside what f16 rounds off, as a part of both squared lengths.
///
/// A product of `D` terms on matrix units: each instruction adds some terms to a sum, none of them rounded better than by
/// cutting at 2⁻²³ of the largest, four terms at a time at the least: within `1.5·D·2⁻²³` of the product of both lengths. The
/// lengths are of [`LANES`](super::lanes::LANES) sums, and the distances that decide of pieces of 16.
fn by_length(d_token: usize) -> f32 {
    let d_token = d_token as f64;
    let products = 1.01 * (1.5 * d_token + 128.0) * f64::exp2(-23.0);
    let lengths = (d_token / 128.0 + 160.0) * f64::exp2(-24.0);
    let distances = 2.0 * (d_token / 16.0 + 24.0) * f64::exp2(-23.0);
    (products + lengths + distances) as f32
}

/// What of a squared distance may be too small for f32, before tokens are scaled.
fn smallest(d_token: usize) -> f32 {
    d_token as f32 * f32::exp2(-125.0)
}

/// What products need to know of the tokens of some samples.
pub(super) struct Search<'a> {
    beside: &'a Beside,
    tokens: &'a CubeTensor,
    samples: &'a Samples,
    tiling: Tiling,
    n_slices: usize,
    sample_of: CubeTensor,
    means: CubeTensor,
    scales: CubeTensor,
    low: CubeTensor,
    high: CubeTensor,
}

/// What was found so far.
struct Lists {
    k: usize,
    capacity: usize,
    radii: CubeTensor,
    counts: CubeTensor,
    listed: CubeTensor,
    doubled: CubeTensor,
    known: CubeTensor,
}

/// A panel, the first of its tiles, and what is at all positions.
#[derive(Clone, Copy)]
struct Side<'a> {
    panel: &'a CubeTensor,
    first: usize,
    token_at: &'a CubeTensor,
}

/// Nearest of each token.
pub(super) struct Found {
    /// Squared distances, `[N, k]`.
    pub(super) nearest: CubeTensor,
    /// `[N, k]`
    pub(super) nearest_tokens: CubeTensor,
    /// −1 for who was lost, `[N]`.
    #[cfg_attr(not(test), allow(dead_code, reason = "tests count who was lost"))]
    pub(super) known: CubeTensor,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        beside: &'a Beside,
        tokens: &'a CubeTensor,
        squared_lengths: &CubeTensor,
        samples: &'a Samples,
        tiling: Tiling,
    ) -> Self {
        let [n_tokens, d_token] = tokens.shape().dims();
        let client = &beside.client;
        let n_samples = samples.n_tokens().len();
        let mut bounds = Vec::new();
        let mut sample_of = Vec::new();
        for (sample, n_tokens) in samples.n_tokens().iter().enumerate() {
            bounds.push(sample_of.len() as i32);
            sample_of.resize(sample_of.len() + n_tokens, sample as i32);
            bounds.push(sample_of.len() as i32);
        }
        let (bounds, sample_of) = (beside.table(bounds), beside.table(sample_of));
        let scales = beside.empty([n_samples], DType::F32);
        let (count, dim) = beside.cubes_for(n_samples);
        pairs::scales::launch(
            client,
            count,
            dim,
            squared_lengths.clone().into_tensor_arg(),
            bounds.clone().into_tensor_arg(),
            scales.clone().into_tensor_arg(),
            beside.layout.units,
        );
        let means = beside.empty([n_samples, d_token], DType::F32);
        let (count, dim) = beside.units_for(n_samples * d_token);
        pairs::means::launch(
            client,
            count,
            dim,
            tokens.clone().into_tensor_arg(),
            bounds.into_tensor_arg(),
            means.clone().into_tensor_arg(),
            LOOKED_AT,
            beside.dtype,
        );
        let low = beside.empty([n_tokens], DType::F32);
        let high = beside.empty([n_tokens], DType::F32);
        let (count, dim) = beside.cubes_for(n_tokens);
        pairs::measures::launch(
            client,
            count,
            dim,
            tokens.clone().into_tensor_arg(),
            squared_lengths.clone().into_tensor_arg(),
            sample_of.clone().into_tensor_arg(),
            means.clone().into_tensor_arg(),
            scales.clone().into_tensor_arg(),
            low.clone().into_tensor_arg(),
            high.clone().into_tensor_arg(),
            by_length(d_token),
            smallest(d_token),
            beside.layout.units,
            beside.dtype,
        );
        Self {
            beside,
            tokens,
            samples,
            tiling,
            n_slices: d_token.div_ceil(tiling.depth),
            sample_of,
            means,
            scales,
            low,
            high,
        }
    }

    fn lists(&self, k: usize) -> Lists {
        let beside = self.beside;
        let [n_tokens, _] = self.tokens.shape().dims();
        let capacity = 8 * k + 32;
        Lists {
            k,
            capacity,
            radii: beside.empty([n_tokens], DType::F32),
            counts: beside.table(vec![0; n_tokens]),
            listed: beside.empty([n_tokens, capacity], DType::I32),
            doubled: beside.empty([n_tokens, capacity], DType::F32),
            known: beside.table(vec![0; n_tokens]),
        }
    }

    /// Tiles of all panels that are held at a time.
    fn most_tiles(&self) -> usize {
        PANEL_BYTES / (self.n_slices * self.tiling.depth * 2 * self.tiling.side())
    }

    fn new_panel(&self, n_tiles: usize) -> CubeTensor {
        let shape = [
            n_tiles * self.tiling.side(),
            self.n_slices * self.tiling.depth,
        ];
        self.beside.empty(shape, DType::F16)
    }

    fn pack(&self, (first, last): (usize, usize), panel: &CubeTensor, token_at: &CubeTensor) {
        let side = self.tiling.side();
        let n_rows = (last - first) * side;
        let (count, dim) = self.beside.cubes_for(n_rows);
        pairs::pack::launch(
            &self.beside.client,
            count,
            dim,
            VECTOR,
            self.tokens.clone().into_tensor_arg(),
            token_at.clone().into_tensor_arg(),
            self.sample_of.clone().into_tensor_arg(),
            self.means.clone().into_tensor_arg(),
            self.scales.clone().into_tensor_arg(),
            panel.clone().into_tensor_arg(),
            (first * side) as u32,
            n_rows as u32,
            (self.n_slices * self.tiling.depth / VECTOR) as u32,
            self.beside.layout.units,
            VECTOR,
            self.beside.dtype,
        );
    }

    /// Lists who is near in these tiles, or writes the products down; gives the table of tiles.
    fn multiply(
        &self,
        tiles: &[[usize; 2]],
        (rows, columns): (Side, Side),
        lists: &Lists,
        both_ways: bool,
        written: Option<&CubeTensor>,
    ) -> CubeTensor {
        let side = self.tiling.side();
        let table = tiles.iter().flatten().map(|tile| (tile * side) as i32);
        let table = self.beside.table(table.collect());
        pairs::products::launch(
            &self.beside.client,
            CubeCount::Static(tiles.len() as u32, 1, 1),
            CubeDim::new_1d(self.tiling.units() as u32),
            VECTOR,
            rows.panel.clone().into_tensor_arg(),
            columns.panel.clone().into_tensor_arg(),
            table.clone().into_tensor_arg(),
            rows.token_at.clone().into_tensor_arg(),
            columns.token_at.clone().into_tensor_arg(),
            self.low.clone().into_tensor_arg(),
            lists.radii.clone().into_tensor_arg(),
            lists.counts.clone().into_tensor_arg(),
            lists.listed.clone().into_tensor_arg(),
            written.unwrap_or(&lists.doubled).clone().into_tensor_arg(),
            (rows.first * side) as u32,
            (columns.first * side) as u32,
            self.n_slices as u32,
            lists.capacity,
            both_ways,
            written.is_some(),
            self.tiling,
        );
        table
    }

    /// First radii of the rows of these tiles.
    fn first_radii(&self, tiles: &[[usize; 2]], sides: (Side, Side), lists: &Lists) {
        let side = self.tiling.side();
        let written = self.beside.empty([tiles.len(), side, side], DType::F32);
        let table = self.multiply(tiles, sides, lists, false, Some(&written));
        let (count, dim) = self.beside.units_for(tiles.len() * side);
        pairs::first_radii::launch(
            &self.beside.client,
            count,
            dim,
            table.into_tensor_arg(),
            sides.0.token_at.clone().into_tensor_arg(),
            sides.1.token_at.clone().into_tensor_arg(),
            self.high.clone().into_tensor_arg(),
            written.into_tensor_arg(),
            lists.radii.clone().into_tensor_arg(),
            (tiles.len() * side) as u32,
            lists.k,
            side,
        );
    }

    fn refine(&self, lists: &Lists) {
        let [n_tokens, _] = self.tokens.shape().dims();
        let (count, dim) = self.beside.units_for(n_tokens);
        pairs::refine::launch(
            &self.beside.client,
            count,
            dim,
            self.low.clone().into_tensor_arg(),
            self.high.clone().into_tensor_arg(),
            lists.radii.clone().into_tensor_arg(),
            lists.counts.clone().into_tensor_arg(),
            lists.listed.clone().into_tensor_arg(),
            lists.doubled.clone().into_tensor_arg(),
            lists.known.clone().into_tensor_arg(),
            lists.k,
            lists.capacity,
        );
    }

    /// Who is lost by distances alone; all others from their lists.
    fn settle(&self, lists: Lists, columns: &CubeTensor, of_clusters: bool) -> Found {
        let (beside, tokens) = (self.beside, self.tokens);
        let [n_tokens, _] = tokens.shape().dims();
        let (nearest, nearest_tokens) = super::nearest(
            beside,
            tokens,
            columns,
            self.samples,
            of_clusters,
            &lists.known,
            lists.k,
        );
        let (count, dim) = beside.cubes_for(n_tokens);
        pairs::settle::launch(
            &beside.client,
            count,
            dim,
            tokens.clone().into_tensor_arg(),
            lists.counts.into_tensor_arg(),
            lists.listed.into_tensor_arg(),
            lists.known.clone().into_tensor_arg(),
            nearest.clone().into_tensor_arg(),
            nearest_tokens.clone().into_tensor_arg(),
            lists.k,
            lists.capacity,
            beside.layout.units,
            beside.dtype,
        );
        Found {
            nearest,
            nearest_tokens,
            known: lists.known,
        }
    }

    /// The `k` nearest other tokens of each.
    pub(super) fn nearest(&self, k: usize) -> Found {
        let side = self.tiling.side();
        let [n_tokens, _] = self.tokens.shape().dims();
        let lists = self.lists(k);
        let positions = Positions::new(self.samples.n_tokens(), side);
        let token_at = self.beside.table(positions.tokens.clone());
        let n_tiles = positions.tokens.len() / side;
        let most = self.most_tiles();
        let per_panel = if n_tiles <= most {
            n_tiles
        } else {
            (most / 2).max(1)
        };
        let panels = positions.panels(side, per_panel);
        let row_panel = self.new_panel(per_panel);
        let column_panel = (panels.len() > 1).then(|| self.new_panel(per_panel));
        let column_panel = column_panel.as_ref().unwrap_or(&row_panel);
        let rows_from = |first: usize| Side {
            panel: &row_panel,
            first,
            token_at: &token_at,
        };

        // First radii, and what is near within each panel.
        let first_tiles = positions.first_tiles(side);
        for panel in &panels {
            let (first, last) = *panel;
            self.pack(*panel, &row_panel, &token_at);
            // A tile before the panel is not in it: then a short one takes what it has.
            let within =
                |[row, column]: &[usize; 2]| [*row, if *column < first { *row } else { *column }];
            let tiles: Vec<_> = first_tiles[first..last].iter().map(within).collect();
            let sides = (rows_from(first), rows_from(first));
            self.first_radii(&tiles, sides, &lists);
            for stage in positions.stages(*panel, *panel) {
                self.multiply(&stage, sides, &lists, true, None);
                self.refine(&lists);
            }
        }
        // What is near in different ones.
        for (i, rows) in panels.iter().enumerate() {
            let mut is_packed = false;
            for columns in &panels[i + 1..] {
                for stage in positions.stages(*rows, *columns) {
                    if !is_packed {
                        self.pack(*rows, &row_panel, &token_at);
                        is_packed = true;
                    }
                    self.pack(*columns, column_panel, &token_at);
                    let columns = Side {
                        panel: column_panel,
                        first: columns.0,
                        token_at: &token_at,
                    };
                    self.multiply(&stage, (rows_from(rows.0), columns), &lists, true, None);
                    self.refine(&lists);
                }
            }
        }
        let all = self.beside.table((0..n_tokens as i32).collect());
        self.settle(lists, &all, false)
    }

    /// The nearest of `kept`, the background of all samples, to each token of which none is `near` yet (−1).
    pub(super) fn nearest_background(&self, kept: &CubeTensor, near: &CubeTensor) -> Found {
        let side = self.tiling.side();
        let [n_tokens, _] = self.tokens.shape().dims();
        let lists = self.lists(1);
        let rows = Positions::new(self.samples.n_tokens(), side);
        let columns = Positions::new(self.samples.n_kept(), side);
        let row_at = self.beside.table(rows.tokens.clone());
        let column_at = self.beside.table(columns.tokens.clone());
        let (count, dim) = self.beside.units_for(columns.tokens.len());
        pairs::look_up::launch(
            &self.beside.client,
            count,
            dim,
            column_at.clone().into_tensor_arg(),
            kept.clone().into_tensor_arg(),
        );
        let most = self.most_tiles();
        let n_tiles = |positions: &Positions| positions.tokens.len() / side;
        let (per_row_panel, per_column_panel) = if n_tiles(&rows) + n_tiles(&columns) <= most {
            (n_tiles(&rows), n_tiles(&columns))
        } else {
            ((most / 2).max(1), (most / 2).max(1))
        };
        let row_panel = self.new_panel(per_row_panel);
        let column_panel = self.new_panel(per_column_panel);
        for row_tiles in rows.panels(side, per_row_panel) {
            self.pack(row_tiles, &row_panel, &row_at);
            for column_tiles in columns.panels(side, per_column_panel) {
                let (mut first_tiles, mut tiles) = (Vec::new(), Vec::new());
                for (rows, columns) in rows.samples.iter().zip(&columns.samples) {
                    for row in row_tiles.0.max(rows.0)..row_tiles.1.min(rows.1) {
                        for column in column_tiles.0.max(columns.0)..column_tiles.1.min(columns.1) {
                            if column == columns.0 {
                                first_tiles.push([row, column]);
                            }
                            tiles.push([row, column]);
                        }
                    }
                }
                if tiles.is_empty() {
                    continue;
                }
                self.pack(column_tiles, &column_panel, &column_at);
                let side_of = |panel, first, token_at| Side {
                    panel,
                    first,
                    token_at,
                };
                let sides = (
                    side_of(&row_panel, row_tiles.0, &row_at),
                    side_of(&column_panel, column_tiles.0, &column_at),
                );
                if !first_tiles.is_empty() {
                    self.first_radii(&first_tiles, sides, &lists);
                    let (count, dim) = self.beside.units_for(n_tokens);
                    pairs::leave_out::launch(
                        &self.beside.client,
                        count,
                        dim,
                        near.clone().into_tensor_arg(),
                        lists.radii.clone().into_tensor_arg(),
                    );
                }
                self.multiply(&tiles, sides, &lists, false, None);
                self.refine(&lists);
            }
        }
        self.settle(lists, kept, true)
    }
}

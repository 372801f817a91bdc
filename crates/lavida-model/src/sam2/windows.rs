//! A feature map whose tokens lie window by window.
//!
//! Hiera attends within windows, and everything else it does treats tokens one by one. Tokens
//! therefore stay in the order of their windows from block to block, and are moved only where a
//! block wants windows of another size: cutting the map up and putting it together around every
//! single block, as the reference does, would copy it twice per block.
//!
//! Shapes: `N` frames · `h w` grid · `a b` sides of a window · `C` channels.

use burn::tensor::{Tensor, assert_shape};
use lavida_kernels::max_pool::max_pool;

/// Tokens of `N` feature maps, cut into windows that tile the grid exactly.
#[derive(Clone, Debug)]
pub struct WindowedMap {
    /// `[N·(h/a)·(w/b), a·b, C]`: windows row by row, in each its cells row by row.
    pub tokens: Tensor<3>,
    /// Rows and columns of cells, `[h, w]`.
    pub grid: [usize; 2],
    /// Rows and columns of a window, `[a, b]`; equal to the grid, tokens lie row by row.
    pub window: [usize; 2],
}

impl WindowedMap {
    /// A map whose tokens lie row by row.
    ///
    /// # Shapes
    ///
    /// - tokens: `[N, h·w, C]`
    pub fn from_rows(tokens: Tensor<3>, grid: [usize; 2]) -> Self {
        assert_shape!(tokens, [_, grid[0] * grid[1], _]);
        Self {
            tokens,
            grid,
            window: grid,
        }
    }

    /// Number of frames `N`.
    pub fn n_frames(&self) -> usize {
        self.tokens.dims()[0] / self.n_windows()
    }

    /// Width `C`.
    pub fn n_channels(&self) -> usize {
        self.tokens.dims()[2]
    }

    fn n_windows(&self) -> usize {
        (self.grid[0] / self.window[0]) * (self.grid[1] / self.window[1])
    }

    /// The same place for other tokens.
    pub fn with_tokens(&self, tokens: Tensor<3>) -> Self {
        Self { tokens, ..*self }
    }

    /// Whether windows of these sides tile the grid.
    pub fn divides(&self, window: [usize; 2]) -> bool {
        self.grid[0].is_multiple_of(window[0]) && self.grid[1].is_multiple_of(window[1])
    }

    /// The same map in windows of other sides.
    ///
    /// # Panics
    ///
    /// Panics if they do not tile the grid.
    pub fn in_windows(self, window: [usize; 2]) -> Self {
        if window == self.window {
            return self;
        }
        assert!(
            self.divides(window),
            "windows of {window:?} do not tile a grid of {:?}",
            self.grid
        );
        let (n_frames, n_channels) = (self.n_frames(), self.n_channels());
        let rows = merge_windows(self.tokens, n_frames, self.grid, self.window);
        Self {
            tokens: cut_windows(rows, n_frames, self.grid, window, n_channels),
            grid: self.grid,
            window,
        }
    }

    /// The tokens row by row: `[N, h·w, C]`.
    pub fn into_rows(self) -> Tensor<3> {
        let grid = self.grid;
        self.in_windows(grid).tokens
    }

    /// The tokens frame by frame in whatever order they lie: `[N, h·w, C]`.
    pub fn per_frame(&self) -> Tensor<3> {
        let (n_frames, n_channels) = (self.n_frames(), self.n_channels());
        self.tokens
            .clone()
            .reshape([n_frames, self.grid[0] * self.grid[1], n_channels])
    }

    /// The largest of each 2 × 2 cells; a last odd row or column is dropped.
    ///
    /// The result keeps the windows, halved, where their sides are even; else it lies row by row.
    pub fn max_pooled(self) -> Self {
        let [a, b] = self.window;
        if a % 2 == 0 && b % 2 == 0 {
            let grid = self.grid.map(|side| side / 2);
            return Self {
                tokens: max_pool(self.tokens, [a, b]),
                grid,
                window: [a / 2, b / 2],
            };
        }
        let [h, w] = self.grid;
        let (n_frames, n_channels) = (self.n_frames(), self.n_channels());
        let even = [h / 2 * 2, w / 2 * 2];
        let rows = self
            .into_rows()
            .reshape([n_frames, h, w, n_channels])
            .slice([0..n_frames, 0..even[0], 0..even[1]])
            .reshape([n_frames, even[0] * even[1], n_channels]);
        Self::from_rows(max_pool(rows, even), [h / 2, w / 2])
    }
}

impl WindowedMap {
    /// The largest of each 2 × 2 cells of every window, whose last odd row or column is dropped: the windows stay as many, and
    /// the grid is what they make together.
    pub fn pooled_within_windows(self) -> Self {
        let [a, b] = self.window;
        let (grid, even) = (self.grid, [a / 2 * 2, b / 2 * 2]);
        let [n_windows, _, n_channels] = self.tokens.dims();
        let tokens = if even == [a, b] {
            self.tokens
        } else {
            self.tokens
                .reshape([n_windows, a, b, n_channels])
                .slice([0..n_windows, 0..even[0], 0..even[1]])
                .reshape([n_windows, even[0] * even[1], n_channels])
        };
        Self {
            tokens: max_pool(tokens, even),
            grid: [grid[0] / a * (a / 2), grid[1] / b * (b / 2)],
            window: [a / 2, b / 2],
        }
    }
}

/// `[N·windows, a·b, C]` to `[N, h·w, C]` row by row.
fn merge_windows(
    tokens: Tensor<3>,
    n_frames: usize,
    [h, w]: [usize; 2],
    [a, b]: [usize; 2],
) -> Tensor<3> {
    let n_channels = tokens.dims()[2];
    if [a, b] == [h, w] {
        return tokens;
    }
    tokens
        .reshape([n_frames * (h / a), w / b, a, b * n_channels])
        .swap_dims(1, 2)
        .reshape([n_frames, h * w, n_channels])
}

/// `[N, h·w, C]` row by row to `[N·windows, a·b, C]`.
fn cut_windows(
    rows: Tensor<3>,
    n_frames: usize,
    [h, w]: [usize; 2],
    [a, b]: [usize; 2],
    n_channels: usize,
) -> Tensor<3> {
    if [a, b] == [h, w] {
        return rows;
    }
    rows.reshape([n_frames * (h / a), a, w / b, b * n_channels])
        .swap_dims(1, 2)
        .reshape([n_frames * (h / a) * (w / b), a * b, n_channels])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    fn check_windows(grid: [usize; 2], window: [usize; 2]) {
        let device = Device::flex();
        let rows = Tensor::<3>::random(
            [3, grid[0] * grid[1], 5],
            Distribution::Normal(0.0, 1.0),
            &device,
        );
        let map = WindowedMap::from_rows(rows.clone(), grid).in_windows(window);
        assert_shape!(map.tokens, [_, window[0] * window[1], 5]);
        assert_eq!(map.n_frames(), 3);
        // The second cell of the window's second row, seen from the map.
        let cell = map
            .tokens
            .clone()
            .slice([0..1, window[1] + 1..window[1] + 2]);
        let same = rows.clone().slice([0..1, grid[1] + 1..grid[1] + 2]);
        cell.into_data().assert_eq(&same.into_data(), true);
        map.into_rows()
            .into_data()
            .assert_eq(&rows.into_data(), true);
    }

    #[test]
    fn cutting_and_merging_windows_is_the_identity() {
        check_windows([4, 8], [2, 2]);
        check_windows([4, 8], [4, 2]);
        check_windows([6, 6], [3, 3]);
        check_windows([6, 6], [6, 6]);
    }

    #[test]
    fn pooling_does_not_depend_on_the_windows() {
        let device = Device::flex();
        let rows = Tensor::<3>::random([2, 64, 3], Distribution::Normal(0.0, 1.0), &device);
        let map = WindowedMap::from_rows(rows, [8, 8]);
        let expected = map.clone().max_pooled().into_rows().into_data();
        for side in [1, 2, 4] {
            let pooled = map.clone().in_windows([side, side]).max_pooled();
            assert_eq!(pooled.grid, [4, 4]);
            pooled.into_rows().into_data().assert_eq(&expected, true);
        }
    }

    #[test]
    fn pooling_an_odd_grid_drops_the_last_row_and_column() {
        let device = Device::flex();
        let rows = Tensor::<3>::from_data(
            [[
                [1.0],
                [5.0],
                [9.0],
                [2.0],
                [3.0],
                [9.0],
                [9.0],
                [9.0],
                [9.0],
            ]],
            &device,
        );
        let pooled = WindowedMap::from_rows(rows, [3, 3]).max_pooled();
        assert_eq!(pooled.grid, [1, 1]);
        assert_eq!(
            pooled.into_rows().into_data().try_to_vec::<f32>().unwrap(),
            [5.0]
        );
    }
}

//! One sample's tokens on the host: their values as stored, and panels of them moved to the origin.
//!
//! Which tokens are close is decided on [`Tokens::squared_distance`], computed in f64 from the stored values. The
//! panels only find out which pairs need that: products of tokens less their mean, which keeps the digits that
//! `‖a‖² + ‖b‖² − 2·a·b` would lose, and scaled by a power of two, so that nothing leaves the range of f32. Panels of whole
//! numbers have a unit a token, and products a factor for each of theirs.

use rayon::prelude::*;

use super::product::{Arithmetic, GROUP, Step};
use super::words::{BLOCK, LARGEST_VALUE, LONGEST_BLOCK, rounded_to_whole, word_pair};
use crate::registers::Vectors;

/// A value as tokens store it.
pub(super) trait Value: Copy + Send + Sync {
    fn to_f32(self) -> f32;
    fn from_f32(value: f32) -> Self;
}

impl Value for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

macro_rules! half_value {
    ($type:ty) => {
        impl Value for $type {
            #[inline(always)]
            fn to_f32(self) -> f32 {
                <$type>::to_f32(self)
            }

            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                <$type>::from_f32(value)
            }
        }
    };
}

half_value!(half::bf16);
half_value!(half::f16);

/// Runs a generic function over slices, compiled once more for the vectors that the machine may have. The results are the
/// same: nothing is fused and sums have their own order.
macro_rules! vectorized {
    ($(#[$doc:meta])* $vis:vis fn $name:ident<$value:ident>($($argument:ident: $type:ty),*) -> $output:ty $body:block) => {
        $(#[$doc])*
        $vis fn $name<$value: Value>($($argument: $type),*) -> $output {
            #[inline(always)]
            fn body<$value: Value>($($argument: $type),*) -> $output $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn with_avx2<$value: Value>($($argument: $type),*) -> $output {
                    body($($argument),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
                fn with_avx512<$value: Value>($($argument: $type),*) -> $output {
                    body($($argument),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the machine has what the function needs.
                    return unsafe { with_avx512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the machine has AVX2.
                    return unsafe { with_avx2($($argument),*) };
                }
            }
            body($($argument),*)
        }
    };
}

/// Partial sums, the same on every machine.
const LANES: usize = 16;

/// `Σ_d f(a_d, b_d)` in f64, over a fixed number of partial sums.
#[inline(always)]
fn sum<T: Value>(a: &[T], b: &[T], f: impl Fn(f64, f64) -> f64) -> f64 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f64; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += f(f64::from(a[lane].to_f32()), f64::from(b[lane].to_f32()));
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += f(f64::from(a.to_f32()), f64::from(b.to_f32()));
    }
    sums.iter().sum()
}

vectorized! {
    /// `Σ_d (a_d − b_d)²`
    pub(super) fn squared_distance<T>(a: &[T], b: &[T]) -> f64 {
        sum(a, b, |a, b| (a - b) * (a - b))
    }
}

vectorized! {
    /// `Σ_d a_d·b_d`
    pub(super) fn inner_product<T>(a: &[T], b: &[T]) -> f64 {
        sum(a, b, |a, b| a * b)
    }
}

vectorized! {
    /// `Σ_d (a_d − m_d)²`
    fn from_mean<T>(a: &[T], mean: &[f32]) -> FromMean {
        let mut sums = [0f64; LANES];
        by_lanes(a, mean, |lane, difference| {
            let wide = f64::from(difference);
            sums[lane] += wide * wide;
        });
        FromMean {
            squared_length: sums.iter().sum(),
            squared_error: 0.0,
            units: 1.0,
        }
    }
}

vectorized! {
    /// The same, and of what is lost where values become whole numbers of the smallest units whose sums of products fit.
    fn whole_from_mean<T>(a: &[T], mean: &[f32]) -> FromMean {
        let mut squared_length = 0f64;
        let (mut longest, mut largest) = (0f64, 0f32);
        for (a, mean) in a.chunks(BLOCK).zip(mean.chunks(BLOCK)) {
            let mut sums = [0f64; LANES];
            let mut largest_of = [0f32; LANES];
            by_lanes(a, mean, |lane, difference| {
                let wide = f64::from(difference);
                sums[lane] += wide * wide;
                let size = difference.abs();
                largest_of[lane] = if size > largest_of[lane] { size } else { largest_of[lane] };
            });
            let of_block: f64 = sums.iter().sum();
            squared_length += of_block;
            longest = longest.max(of_block);
            largest = largest_of.into_iter().fold(largest, f32::max);
        }
        let most = (LONGEST_BLOCK / longest.sqrt()).min(LARGEST_VALUE / f64::from(largest));
        // A token at the mean has no units, and one almost there more than f32 has room for.
        let units = most.clamp(f64::exp2(-100.0), f64::exp2(100.0)) as f32;
        let by = 1.0 / f64::from(units);
        let mut errors = [0f64; LANES];
        by_lanes(a, mean, |lane, difference| {
            let whole = rounded_to_whole(difference * units);
            let error = f64::from(difference) - f64::from(whole) * by;
            errors[lane] += error * error;
        });
        FromMean {
            squared_length,
            squared_error: errors.iter().sum(),
            units,
        }
    }
}

/// Calls a function with each value's difference from the mean; value `d` is of lane `d mod LANES`.
#[inline(always)]
fn by_lanes<T: Value>(a: &[T], mean: &[f32], mut f: impl FnMut(usize, f32)) {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (mean_chunks, mean_rest) = mean.as_chunks::<LANES>();
    for (a, mean) in a_chunks.iter().zip(mean_chunks) {
        for lane in 0..LANES {
            f(lane, a[lane].to_f32() - mean[lane]);
        }
    }
    for (lane, (a, mean)) in a_rest.iter().zip(mean_rest).enumerate() {
        f(lane, a.to_f32() - mean);
    }
}

/// A token seen from the mean.
struct FromMean {
    squared_length: f64,
    /// Of rounding it.
    squared_error: f64,
    /// How many of the units that it is rounded to make 1.
    units: f32,
}

impl FromMean {
    /// Length of the error by that of the token.
    fn relative_error(&self) -> f64 {
        if self.squared_length > 0.0 {
            (self.squared_error / self.squared_length).sqrt()
        } else {
            0.0
        }
    }
}

/// Values of a token packed at a time.
const PIECE: usize = 128;

/// Tokens packed at a time.
const SIDE: usize = 8;

vectorized! {
    /// The tokens listed, at most a group of them, as a panel: `a_d − m_d`, scaled or in units, zeros where there is no token.
    fn pack<T>(tokens: &Tokens<T>, listed: &[u32], panel: &mut [Step]) -> () {
        let mut rows = [[0f32; PIECE]; SIDE];
        for (at, steps) in panel.chunks_mut(tokens.arithmetic.n_steps(PIECE)).enumerate() {
            let values = at * PIECE..((at + 1) * PIECE).min(tokens.d_token);
            let mean = &tokens.mean[values.clone()];
            for first in (0..GROUP).step_by(SIDE) {
                for (i, row) in rows.iter_mut().enumerate() {
                    match listed.get(first + i) {
                        Some(token) => {
                            let scale = tokens.panel_scale(*token);
                            let token = &tokens.row(*token)[values.clone()];
                            for (value, (token, mean)) in row.iter_mut().zip(token.iter().zip(mean)) {
                                *value = (token.to_f32() - mean) * scale;
                            }
                            if tokens.arithmetic.rounds() {
                                narrow(row, mean.len());
                            }
                        }
                        None => row.fill(0.0),
                    }
                }
                transpose(&rows, first, steps);
            }
        }
    }
}

/// Each two of the first values become a pair, one pair after the other.
#[inline(always)]
fn narrow(row: &mut [f32; PIECE], n_values: usize) {
    row[n_values..].fill(0.0);
    let mut pairs = [0f32; PIECE / 2];
    for (to, from) in pairs.iter_mut().zip(row.as_chunks::<2>().0) {
        *to = word_pair(from[0], from[1]);
    }
    row[..PIECE / 2].copy_from_slice(&pairs);
}

/// Eight rows become eight columns from `first`.
#[inline(always)]
fn transpose(rows: &[[f32; PIECE]; SIDE], first: usize, steps: &mut [Step]) {
    let mut at = 0;
    while at + SIDE <= steps.len() {
        let square: [[f32; SIDE]; SIDE] =
            std::array::from_fn(|i| *rows[i][at..].first_chunk().expect("a square fits"));
        for (d, step) in steps[at..at + SIDE].iter_mut().enumerate() {
            let column: [f32; SIDE] = std::array::from_fn(|i| square[i][d]);
            step.0[first..first + SIDE].copy_from_slice(&column);
        }
        at += SIDE;
    }
    for (step, d) in steps[at..].iter_mut().zip(at..) {
        for (i, row) in rows.iter().enumerate() {
            step.0[first + i] = row[d];
        }
    }
}

/// Squared length of each token in f64, or what makes it no number.
pub(super) fn squared_lengths<T: Value>(values: &[T], d_token: usize) -> Vec<f64> {
    values
        .par_chunks(d_token)
        .map(|row| inner_product(row, row))
        .collect()
}

/// The tokens of one sample.
pub(super) struct Tokens<'a, T> {
    values: &'a [T],
    d_token: usize,
    /// Near the middle of the tokens; any point would do, some cost more exact distances.
    mean: Vec<f32>,
    /// A power of two that brings the longest token, seen from the mean, to a length between 1/2 and 2.
    scale: f32,
    /// Squared length of each token from the mean, scaled.
    pub(super) lengths: Vec<f32>,
    /// What panels hold.
    arithmetic: Arithmetic,
    /// The length of what a panel rounds off, by that of the token, is at most this.
    relative_error: f64,
    /// For panels of whole numbers, what each token's values are multiplied by.
    units: Vec<f32>,
    /// A product of panels, times the factor of each of its tokens, is that of the scaled values.
    pub(super) factors: Vec<f32>,
}

impl<'a, T: Value> Tokens<'a, T> {
    /// Tokens of finite values, for panels of this arithmetic.
    pub(super) fn new(values: &'a [T], d_token: usize, arithmetic: Arithmetic) -> Self {
        const LOOKED_AT: usize = 256;
        let n_tokens = values.len() / d_token;
        let every = n_tokens.div_ceil(LOOKED_AT);
        let mut sums = vec![0f64; d_token];
        for row in values.chunks_exact(d_token).step_by(every) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += f64::from(value.to_f32());
            }
        }
        let n_looked_at = n_tokens.div_ceil(every) as f64;
        let mean: Vec<f32> = sums.iter().map(|sum| (sum / n_looked_at) as f32).collect();

        let seen: Vec<FromMean> = values
            .par_chunks(d_token)
            .map(|row| match arithmetic {
                Arithmetic::Words(_) => whole_from_mean(row, &mean),
                Arithmetic::Single(_) => from_mean(row, &mean),
            })
            .collect();
        let largest = |of: fn(&FromMean) -> f64| seen.iter().map(of).fold(0f64, f64::max);
        let longest = largest(|token| token.squared_length);
        let scale = if longest > 0.0 {
            f64::exp2(-longest.sqrt().log2().floor().clamp(-100.0, 100.0))
        } else {
            1.0
        };
        let (units, factors) = match arithmetic {
            Arithmetic::Words(_) => {
                let factor = |token: &FromMean| (scale / f64::from(token.units)) as f32;
                let units = seen.iter().map(|token| token.units).collect();
                (units, seen.iter().map(factor).collect())
            }
            Arithmetic::Single(_) => (Vec::new(), vec![1.0; n_tokens]),
        };
        Self {
            values,
            d_token,
            mean,
            units,
            factors,
            scale: scale as f32,
            lengths: seen
                .iter()
                .map(|token| (token.squared_length * scale * scale) as f32)
                .collect(),
            arithmetic,
            relative_error: largest(FromMean::relative_error),
        }
    }

    /// From now on panels hold f32.
    pub(super) fn stop_rounding(&mut self) {
        self.arithmetic = Arithmetic::Single(Vectors::of_this_machine());
        self.relative_error = 0.0;
        self.units = Vec::new();
        self.factors.fill(1.0);
    }

    /// What a token's values are multiplied by in a panel.
    #[inline(always)]
    fn panel_scale(&self, token: u32) -> f32 {
        self.units
            .get(token as usize)
            .copied()
            .unwrap_or(self.scale)
    }

    pub(super) fn n_tokens(&self) -> usize {
        self.lengths.len()
    }

    pub(super) fn d_token(&self) -> usize {
        self.d_token
    }

    pub(super) fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// Steps of a panel.
    pub(super) fn n_steps(&self) -> usize {
        self.arithmetic.n_steps(self.d_token)
    }

    /// The length of what a panel rounds off, by that of the token, is at most this.
    pub(super) fn relative_error(&self) -> f64 {
        self.relative_error
    }

    pub(super) fn row(&self, token: u32) -> &'a [T] {
        &self.values[token as usize * self.d_token..][..self.d_token]
    }

    /// What squared distances between panels are to be divided by.
    pub(super) fn squared_scale(&self) -> f64 {
        f64::from(self.scale) * f64::from(self.scale)
    }

    /// `‖a − b‖²` of the stored values, times [`Self::squared_scale`].
    pub(super) fn squared_distance(&self, a: u32, b: u32) -> f64 {
        squared_distance(self.row(a), self.row(b)) * self.squared_scale()
    }

    /// The tokens listed, packed group by group: group `g` has [`Self::n_steps`] from `g` times as many.
    pub(super) fn pack(&self, listed: &[u32], panels: &mut Vec<Step>) {
        let n_steps = self.n_steps();
        panels.resize(listed.len().div_ceil(GROUP) * n_steps, Step([0.0; GROUP]));
        panels
            .par_chunks_mut(n_steps)
            .zip(listed.par_chunks(GROUP))
            .for_each(|(panel, listed)| pack(self, listed, panel));
    }
}

//! The area under the ROC curve over the pixels of any number of frames, in memory that does not grow with them.
//!
//! ShanghaiTech's test videos have 1.5 thousand million pixels on the reference's grid. Up to [`MOST_EXACT`] pixels are held and
//! ranked as they are; from there on pixels are counted in [`N_BUCKETS`] buckets by the upper bits of their scores (sign,
//! exponent and eleven bits of the fraction), 21 MB however many there are. Pixels of one bucket whose scores differ count as
//! tied, and what that may cost is known to the last pair: [`PixelAuc::bound`].

use crate::metrics::Ranking;

/// Pixels that are held as they are: 21 MB.
pub const MOST_EXACT: usize = 1 << 22;
/// Buckets beyond.
pub const N_BUCKETS: usize = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 20;

/// Scored pixels with their labels, gathered frame by frame.
#[derive(Clone, Debug, Default)]
pub struct PixelRanking {
    held: Ranking,
    buckets: Option<Box<Buckets>>,
    most_exact: Option<usize>,
}

/// An area under the ROC curve over pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelAuc {
    /// The area, pixels of one bucket taken as tied.
    pub area: f64,
    /// How far the exact area may lie from it, at most; 0 where it is exact.
    pub bound: f64,
}

#[derive(Clone, Debug)]
struct Buckets {
    /// Normal and anomalous pixels.
    counts: Vec<[u64; 2]>,
    /// The first score of a bucket, as ordered bits.
    first: Vec<u32>,
    /// Whether a bucket has different scores.
    is_mixed: Vec<bool>,
}

impl PixelRanking {
    /// One that holds at most `most_exact` pixels as they are.
    pub fn holding(most_exact: usize) -> Self {
        Self {
            most_exact: Some(most_exact),
            ..Self::default()
        }
    }

    /// Adds scored pixels.
    ///
    /// # Panics
    ///
    /// When the lengths differ or a score is not a number: both are bugs of the caller.
    pub fn extend(&mut self, scores: &[f32], labels: &[bool]) {
        let most_exact = self.most_exact.unwrap_or(MOST_EXACT);
        if self.buckets.is_none() && self.held.len() + scores.len() <= most_exact {
            self.held.extend(scores, labels);
            return;
        }
        assert_eq!(scores.len(), labels.len(), "one label a score");
        let held = std::mem::take(&mut self.held);
        let buckets = self.buckets.get_or_insert_with(Box::default);
        for (score, label) in held
            .items()
            .chain(scores.iter().copied().zip(labels.iter().copied()))
        {
            buckets.count(score, label);
        }
    }

    /// Area under the ROC curve; none unless both labels occur.
    pub fn auc(&self) -> Option<PixelAuc> {
        match &self.buckets {
            Some(buckets) => buckets.auc(),
            None => self.held.auc().map(|area| PixelAuc { area, bound: 0.0 }),
        }
    }
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            counts: vec![[0; 2]; N_BUCKETS],
            first: vec![0; N_BUCKETS],
            is_mixed: vec![false; N_BUCKETS],
        }
    }
}

impl Buckets {
    fn count(&mut self, score: f32, label: bool) {
        assert!(!score.is_nan(), "a score is not a number");
        let ordered = ordered(score);
        let at = (ordered >> (32 - BUCKET_BITS)) as usize;
        let counts = &mut self.counts[at];
        if *counts == [0, 0] {
            self.first[at] = ordered;
        } else if self.first[at] != ordered {
            self.is_mixed[at] = true;
        }
        counts[usize::from(label)] += 1;
    }

    fn auc(&self) -> Option<PixelAuc> {
        let (mut anomalous, mut normal, mut won_halves, mut unsure) = (0u64, 0u64, 0u128, 0u128);
        for ([tied_normal, tied_anomalous], is_mixed) in
            self.counts.iter().zip(&self.is_mixed).rev()
        {
            let pairs = u128::from(*tied_normal) * u128::from(*tied_anomalous);
            won_halves += u128::from(*tied_normal) * u128::from(2 * anomalous) + pairs;
            unsure += if *is_mixed { pairs } else { 0 };
            anomalous += tied_anomalous;
            normal += tied_normal;
        }
        let pairs = anomalous as f64 * normal as f64;
        (pairs > 0.0).then(|| PixelAuc {
            area: won_halves as f64 / 2.0 / pairs,
            bound: unsure as f64 / 2.0 / pairs,
        })
    }
}

/// Bits that rise with the number; 0.0 and -0.0 are one.
fn ordered(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits();
    bits ^ ((((bits as i32) >> 31) as u32) | 1 << 31)
}

#[cfg(test)]
mod tests {
    use lavida_data::seed::StageRng;

    use super::*;

    fn pixels(n: usize, levels: f64) -> (Vec<f32>, Vec<bool>) {
        let mut rng = StageRng::new(5, "pixels", &[]);
        let pixel = |_| {
            let label = rng.unit() < 0.2;
            let score = rng.unit() * 8.0 - 5.0 + f64::from(u8::from(label));
            (((score * levels).round() / levels) as f32, label)
        };
        (0..n).map(pixel).unzip()
    }

    fn check(levels: f64, is_exact: bool) {
        let (scores, labels) = pixels(40_000, levels);
        let exact = crate::metrics::auc(&scores, &labels).unwrap();
        let mut ranking = PixelRanking::holding(10_000);
        for (scores, labels) in scores.chunks(7_000).zip(labels.chunks(7_000)) {
            ranking.extend(scores, labels);
        }
        let found = ranking.auc().unwrap();
        assert!(
            (found.area - exact).abs() <= found.bound + 1e-12,
            "{found:?} {exact}"
        );
        assert_eq!(found.bound == 0.0, is_exact, "{found:?}");
        assert!(found.bound < 1e-3, "{found:?}");
    }

    #[test]
    fn beyond_what_is_held_the_exact_area_lies_within_the_bound() {
        check(1e9, false);
    }

    #[test]
    fn buckets_of_one_score_each_are_exact() {
        check(16.0, true);
    }

    #[test]
    fn few_pixels_are_exact_and_one_label_has_no_area() {
        let mut ranking = PixelRanking::default();
        ranking.extend(&[0.5, 0.25], &[true, true]);
        assert_eq!(ranking.auc(), None);
        ranking.extend(&[0.25, 0.0], &[false, false]);
        let expected = PixelAuc {
            area: 3.5 / 4.0,
            bound: 0.0,
        };
        assert_eq!(ranking.auc(), Some(expected));
    }

    #[test]
    fn bits_rise_with_numbers() {
        let rising = [
            f32::NEG_INFINITY,
            -2.0,
            -1e-40,
            0.0,
            1e-40,
            1.0,
            f32::INFINITY,
        ];
        assert!(
            rising
                .windows(2)
                .all(|pair| ordered(pair[0]) < ordered(pair[1]))
        );
        assert_eq!(ordered(0.0), ordered(-0.0));
    }
}

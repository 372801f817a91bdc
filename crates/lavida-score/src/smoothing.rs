//! Smoothing of a video's scores over time, for benchmarks that are compared with smoothed scores.

/// Standard deviations after which the filter is cut, as SciPy's.
const TRUNCATE: f64 = 4.0;

/// What is done to the object logits of a video before its frames are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Smoothing {
    /// Nothing: what the model said is ranked.
    #[default]
    None,
    /// A Gaussian filter, mirrored at both ends; SciPy's `gaussian_filter1d` with its defaults.
    Gaussian {
        /// Standard deviation, in frames; above 0.
        sigma_frames: f64,
    },
}

impl Smoothing {
    /// The logits of a video's frames, in order, smoothed.
    pub fn apply(self, object_logits: &mut [f32]) {
        if let Self::Gaussian { sigma_frames } = self {
            let wide: Vec<f64> = object_logits
                .iter()
                .map(|logit| f64::from(*logit))
                .collect();
            for (logit, smoothed) in object_logits.iter_mut().zip(gaussian(&wide, sigma_frames)) {
                *logit = smoothed as f32;
            }
        }
    }

    /// Its standard deviation in frames; 0 for none.
    pub fn sigma_frames(self) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Gaussian { sigma_frames } => sigma_frames,
        }
    }
}

/// The values of a video's frames, in order, smoothed. The sums are made in SciPy's order, from the far ends to the middle.
pub(crate) fn gaussian(values: &[f64], sigma: f64) -> Vec<f64> {
    let n = values.len();
    if n == 0 {
        return Vec::new();
    }
    let radius = (TRUNCATE * sigma + 0.5) as usize;
    let weight = |offset: usize| (-0.5 / (sigma * sigma) * (offset * offset) as f64).exp();
    let sum: f64 = weight(0) + 2.0 * (1..=radius).map(weight).sum::<f64>();
    let reach = -(radius as isize)..(n + radius) as isize;
    let padded: Vec<f64> = reach.map(|i| values[mirrored(i, n)]).collect();
    let mut smoothed: Vec<f64> = values
        .iter()
        .map(|value| value * (weight(0) / sum))
        .collect();
    for offset in (1..=radius).rev() {
        let weight = weight(offset) / sum;
        let (before, after) = (&padded[radius - offset..], &padded[radius + offset..]);
        for ((value, before), after) in smoothed.iter_mut().zip(before).zip(after) {
            *value += (before + after) * weight;
        }
    }
    smoothed
}

/// The index in `0..n` that stands at `i` when the values are mirrored at both ends, each end twice: `b a | a b c | c b`.
fn mirrored(i: isize, n: usize) -> usize {
    let n = n as isize;
    let i = i.rem_euclid(2 * n);
    (if i < n { i } else { 2 * n - 1 - i }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smoothed(values: &[f32], sigma_frames: f64) -> Vec<f32> {
        let mut values = values.to_vec();
        Smoothing::Gaussian { sigma_frames }.apply(&mut values);
        values
    }

    /// `scipy.ndimage.gaussian_filter1d([0., 0., 1., 0., 4., 0.], sigma)` of SciPy 1.17.1.
    const SCIPY: [(f64, [f32; 6]); 2] = [
        (
            1.0,
            [
                0.0589583, 0.2598327, 0.614908, 1.2103926, 1.6674925, 1.188416,
            ],
        ),
        (
            15.0,
            [
                0.8333384, 0.8333352, 0.8333375, 0.8333228, 0.8333486, 0.8333175,
            ],
        ),
    ];

    #[test]
    fn values_are_those_of_scipy() {
        let values = [0.0, 0.0, 1.0, 0.0, 4.0, 0.0];
        for (sigma, expected) in SCIPY {
            for (found, expected) in smoothed(&values, sigma).into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found} {expected}");
            }
        }
    }

    #[test]
    fn a_constant_stays_and_nothing_stays_nothing() {
        for value in smoothed(&[2.5; 7], 15.0) {
            assert!((value - 2.5).abs() < 1e-6, "{value}");
        }
        assert!(smoothed(&[], 15.0).is_empty());
        let mut kept = vec![1.0, -1.0];
        Smoothing::None.apply(&mut kept);
        assert_eq!(kept, [1.0, -1.0]);
    }
}

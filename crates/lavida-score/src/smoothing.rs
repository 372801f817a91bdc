//! Smoothing of a video's object logits over time, for benchmarks that are compared with smoothed scores.

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
    pub fn apply(self, object_logits: &mut Vec<f32>) {
        if let Self::Gaussian { sigma_frames } = self {
            *object_logits = gaussian(object_logits, sigma_frames);
        }
    }
}

fn gaussian(values: &[f32], sigma: f64) -> Vec<f32> {
    let radius = (TRUNCATE * sigma + 0.5) as usize;
    let weight = |offset: usize| (-0.5 * (offset as f64 / sigma).powi(2)).exp();
    let sum: f64 = weight(0) + 2.0 * (1..=radius).map(weight).sum::<f64>();
    let at = |i: isize| f64::from(values[mirrored(i, values.len())]);
    (0..values.len() as isize)
        .map(|i| {
            let beside = (1..=radius)
                .map(|offset| weight(offset) * (at(i - offset as isize) + at(i + offset as isize)));
            ((weight(0) * at(i) + beside.sum::<f64>()) / sum) as f32
        })
        .collect()
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

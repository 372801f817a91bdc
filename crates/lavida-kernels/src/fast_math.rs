//! Exponential and its relatives for whole slices of f32: plain arithmetic that the compiler turns into vector code.
//!
//! The C library's `expf` takes one value at a time and is what softmax and the activations wait for on a CPU. Results
//! are within 2 units in the last place, the same on every machine: no fused multiply-add, sums over a fixed number
//! of lanes.

/// Partial sums of a reduction; also the widest vector the compiler can use.
pub(crate) const LANES: usize = 8;

/// Below this `e^x` leaves the normal numbers; it is taken as zero.
const SMALLEST_EXPONENT: f32 = -87.3;

/// `e^x`, for `x` up to 88.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // x = n·ln 2 + r with |r| ≤ ln 2 / 2. Adding 1.5·2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 355.0 / 512.0; // few digits, so n·LN_2_HIGH is exact
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    // Taylor series of e^r; the next term is below 6e-9.
    let mut e = 1.0 / 5040.0;
    for factorial in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        e = e * r + 1.0 / factorial;
    }
    let two_to_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < SMALLEST_EXPONENT {
        0.0
    } else {
        e * two_to_n
    }
}

/// `1 / (1 + e^{−x})`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    let numerator = if x < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// Distribution and density of the standard normal distribution.
#[derive(Clone, Copy)]
pub(crate) struct Normal {
    /// `Φ(x)`, to 3e-7
    pub(crate) distribution: f32,
    /// `φ(x)`
    pub(crate) density: f32,
}

/// Φ and φ at `x`, from one exponential (Abramowitz and Stegun, 7.1.26).
#[inline(always)]
pub(crate) fn normal(x: f32) -> Normal {
    const SQRT_2_PI_RECIPROCAL: f32 = 0.398_942_3;
    let e = exp(-0.5 * x * x);
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * x.abs());
    let mut series = 1.061_405_4;
    for coefficient in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        series = series * t + coefficient;
    }
    let tail = 0.5 * series * t * e; // 1 − Φ(|x|)
    Normal {
        distribution: if x < 0.0 { tail } else { 1.0 - tail },
        density: SQRT_2_PI_RECIPROCAL * e,
    }
}

/// Runs a loop over slices, compiled once more for AVX2 where the machine has it.
macro_rules! with_vectors {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),*) $body:block) => {
        $(#[$doc])*
        $visibility fn $name($($argument: $type),*) {
            #[inline(always)]
            fn body($($argument: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn body_avx2($($argument: $type),*) {
                    body($($argument),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the machine has the one feature that the function needs.
                    return unsafe { body_avx2($($argument),*) };
                }
            }
            body($($argument),*)
        }
    };
}
pub(crate) use with_vectors;

/// Values below which a second thread costs more than it saves.
const WORTH_A_THREAD: usize = 1 << 15;

/// How many values one thread takes at a time, a multiple of `unit`.
pub(crate) fn values_per_task(n_values: usize, unit: usize) -> usize {
    let at_least = WORTH_A_THREAD.min(n_values).max(1);
    at_least.div_ceil(unit) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error over a fine grid, as a share of the scale given.
    fn check(
        found: impl Fn(f32) -> f32,
        expected: impl Fn(f64) -> f64,
        scale: impl Fn(f64) -> f64,
        allowed: f64,
    ) {
        for step in -87_000..=87_000 {
            let x = step as f32 / 1000.0;
            let want = expected(f64::from(x));
            let error = (f64::from(found(x)) - want).abs() / scale(want);
            assert!(error <= allowed, "at {x}: off by {error:.1e}");
        }
    }

    /// Φ to full precision, from the series and the continued fraction of erfc.
    fn distribution(x: f64) -> f64 {
        let z = x.abs() / std::f64::consts::SQRT_2;
        let erfc = if z < 3.0 {
            let (mut term, mut sum) = (z, z);
            for n in 1..200 {
                term *= -z * z / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            1.0 - sum * 2.0 / std::f64::consts::PI.sqrt()
        } else {
            let fraction = (1..200).rev().fold(z, |f, n| z + f64::from(n) / 2.0 / f);
            (-z * z).exp() / fraction / std::f64::consts::PI.sqrt()
        };
        if x < 0.0 {
            0.5 * erfc
        } else {
            1.0 - 0.5 * erfc
        }
    }

    #[test]
    fn exp_is_exact_to_two_units() {
        check(exp, f64::exp, |want| want, 2.4e-7);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_is_exact_to_a_few_units() {
        check(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), |want| want, 4e-7);
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert!(sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn the_normal_distribution_is_right_to_six_digits() {
        check(|x| normal(x).distribution, distribution, |_| 1.0, 3e-7);
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        check(|x| normal(x).density, density, |_| 1.0, 3e-7);
        assert!(normal(f32::NAN).distribution.is_nan());
    }
}

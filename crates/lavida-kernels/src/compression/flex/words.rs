//! Pairs of whole numbers of 16 bits, whose products processors add up faster than those of f32: with VNNI in one
//! instruction, with AVX2 and AVX-512BW in two, of which one needs no multiplier.
//!
//! A token's values are divided by a unit of its own, as small as the sums allow, and rounded. Sums of products are whole
//! numbers of 32 bits and exact: over [`BLOCK`] values they are at most the product of both lengths (Cauchy and Schwarz),
//! and units are such that no block of a token is longer than [`LONGEST_BLOCK`].

use crate::registers::{Vector, Work};

/// Values that are multiplied before sums become f32.
pub(super) const BLOCK: usize = 256;

/// Length of a block in its token's units, before values are rounded: its square, and what rounding adds, fit 32 bits.
pub(super) const LONGEST_BLOCK: f64 = 46_000.0;

/// Largest value in its token's units.
pub(super) const LARGEST_VALUE: f64 = 32_700.0;

/// What multiplies pairs of whole numbers, each pair in the bits of one f32. All give the same sums.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum WordVectors {
    /// AVX512-VNNI: a tile has 8 rows of three registers.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// AVX512BW, the same tile.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-VNNI: a tile has 6 rows of two registers.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX2, the same tile.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Four rows of eight sums, for the compiler to put into whatever registers there are.
    Portable,
}

impl WordVectors {
    /// All that this machine has, the best first.
    pub(super) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let of_x86 = {
            use std::arch::is_x86_feature_detected as has;
            let avx512 = has!("avx512f") && has!("avx512bw");
            let avx512_vnni = has!("avx512f") && has!("avx512vnni");
            [
                avx512_vnni.then_some(Self::Avx512Vnni),
                avx512.then_some(Self::Avx512),
                (has!("avx2") && has!("avxvnni")).then_some(Self::AvxVnni),
                has!("avx2").then_some(Self::Avx2),
            ]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let of_x86: [Option<Self>; 0] = [];
        of_x86.into_iter().flatten().chain([Self::Portable])
    }

    /// The best of this machine, if it is faster than f32.
    pub(super) fn of_this_machine() -> Option<Self> {
        Self::available().find(|vectors| *vectors != Self::Portable)
    }

    /// Does the work in a function that may use these vectors; every value that the work reads is a pair.
    ///
    /// # Safety
    ///
    /// They are [available](Self::available).
    #[inline]
    pub(super) unsafe fn run(self, work: impl Work) {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx512f,avx512vnni")]
            fn avx512_vnni(work: impl Work) {
                work.run::<Avx512Vnni, 16, 8, 3, 48>();
            }

            #[target_feature(enable = "avx512f,avx512bw")]
            fn avx512(work: impl Work) {
                work.run::<Avx512, 16, 8, 3, 48>();
            }

            #[target_feature(enable = "avx2,avxvnni")]
            fn avx_vnni(work: impl Work) {
                work.run::<AvxVnni, 8, 6, 2, 16>();
            }

            #[target_feature(enable = "avx2")]
            fn avx2(work: impl Work) {
                work.run::<Avx2, 8, 6, 2, 16>();
            }

            match self {
                // SAFETY: the machine has them, as the caller promises.
                Self::Avx512Vnni => return unsafe { avx512_vnni(work) },
                // SAFETY: as above.
                Self::Avx512 => return unsafe { avx512(work) },
                // SAFETY: as above.
                Self::AvxVnni => return unsafe { avx_vnni(work) },
                // SAFETY: as above.
                Self::Avx2 => return unsafe { avx2(work) },
                Self::Portable => {}
            }
        }
        work.run::<Portable, 8, 4, 1, 8>();
    }
}

/// Added to a value of less than 2²² it leaves the nearest whole number (of two the even one) in the lowest bits.
const TO_WHOLE: f32 = 12_582_912.0;

/// The nearest whole number.
#[inline(always)]
pub(super) fn rounded_to_whole(value: f32) -> f32 {
    (value + TO_WHOLE) - TO_WHOLE
}

/// Two values of less than 2¹⁵, rounded to whole numbers of 16 bits, in the bits of one f32.
#[inline(always)]
pub(super) fn word_pair(low: f32, high: f32) -> f32 {
    let [low, high] = [low, high].map(|value| (value + TO_WHOLE).to_bits());
    f32::from_bits((low & 0xFFFF) | (high << 16))
}

/// Pairs, or sums of their products.
#[derive(Clone, Copy)]
struct Portable([u32; 8]);

impl Vector<8> for Portable {
    #[inline(always)]
    fn of(values: [f32; 8]) -> Self {
        Self(values.map(f32::to_bits))
    }

    #[inline(always)]
    fn values(self) -> [f32; 8] {
        self.0.map(|sum| sum as i32 as f32)
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value.to_bits(); 8])
    }

    #[inline(always)]
    fn add_product(sum: Self, a: Self, b: Self) -> Self {
        let halves = |pair: u32| [pair as i16, (pair >> 16) as i16].map(i32::from);
        Self(std::array::from_fn(|lane| {
            let ([a_low, a_high], [b_low, b_high]) = (halves(a.0[lane]), halves(b.0[lane]));
            let product = (a_low * b_low).wrapping_add(a_high * b_high);
            sum.0[lane].wrapping_add(product as u32)
        }))
    }
}

/// The same in a register.
#[cfg(target_arch = "x86_64")]
macro_rules! words {
    ($name:ident, $register:ident, $lanes:literal, $splat:ident, |$sum:ident, $a:ident, $b:ident| $add_product:expr) => {
        #[derive(Clone, Copy)]
        struct $name(std::arch::x86_64::$register);

        impl Vector<$lanes> for $name {
            #[inline(always)]
            fn of(values: [f32; $lanes]) -> Self {
                // SAFETY: the register is made of these bits.
                Self(unsafe {
                    std::mem::transmute::<[f32; $lanes], std::arch::x86_64::$register>(values)
                })
            }

            #[inline(always)]
            fn values(self) -> [f32; $lanes] {
                // SAFETY: the register is made of these sums.
                let sums: [i32; $lanes] = unsafe { std::mem::transmute(self.0) };
                sums.map(|sum| sum as f32)
            }

            #[inline(always)]
            fn splat(value: f32) -> Self {
                // SAFETY: only called where the machine has the feature.
                Self(unsafe { std::arch::x86_64::$splat(value.to_bits() as i32) })
            }

            #[inline(always)]
            fn add_product(sum: Self, a: Self, b: Self) -> Self {
                #[allow(clippy::wildcard_imports, reason = "instructions have long names")]
                use std::arch::x86_64::*;
                let ($sum, $a, $b) = (sum.0, a.0, b.0);
                // SAFETY: only called where the machine has the feature.
                Self(unsafe { $add_product })
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
words!(Avx512Vnni, __m512i, 16, _mm512_set1_epi32, |sum, a, b| {
    _mm512_dpwssd_epi32(sum, a, b)
});
#[cfg(target_arch = "x86_64")]
words!(Avx512, __m512i, 16, _mm512_set1_epi32, |sum, a, b| {
    _mm512_add_epi32(sum, _mm512_madd_epi16(a, b))
});
#[cfg(target_arch = "x86_64")]
words!(AvxVnni, __m256i, 8, _mm256_set1_epi32, |sum, a, b| {
    _mm256_dpwssd_avx_epi32(sum, a, b)
});
#[cfg(target_arch = "x86_64")]
words!(Avx2, __m256i, 8, _mm256_set1_epi32, |sum, a, b| {
    _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))
});

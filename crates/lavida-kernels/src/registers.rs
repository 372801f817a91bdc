//! Tiles of sums in the machine's vector registers: what products of matrices and of tokens are made of.
//!
//! Nothing here goes by pointers: builds with debug assertions check each one, which halves the speed of such a loop.

/// What the machine multiplies with. All round differently.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Vectors {
    /// 32 registers of 16 values: a tile has 8 rows of three.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 16 registers of 8 values: a tile has 6 rows of two.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Four rows of eight values, for the compiler to put into whatever registers there are.
    Portable,
}

impl Vectors {
    /// All that this machine has, the best first.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let of_x86 = {
            use std::arch::is_x86_feature_detected as has;
            let avx512 = has!("avx512f").then_some(Self::Avx512);
            let avx2 = (has!("avx2") && has!("fma")).then_some(Self::Avx2);
            avx512.into_iter().chain(avx2)
        };
        #[cfg(not(target_arch = "x86_64"))]
        let of_x86 = std::iter::empty();
        of_x86.chain([Self::Portable])
    }

    /// The best that this machine has.
    pub(crate) fn of_this_machine() -> Self {
        Self::available().next().expect("one is always available")
    }

    /// Rows and columns of a tile: its sums fill most of the registers.
    pub(crate) const fn tile(self) -> [usize; 2] {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => [8, 48],
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => [6, 16],
            Self::Portable => [4, 8],
        }
    }

    /// Does the work in a function that may use these vectors.
    ///
    /// # Safety
    ///
    /// They are [available](Self::available).
    #[inline]
    pub(crate) unsafe fn run(self, work: impl Work) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{__m256, __m512};

            #[target_feature(enable = "avx512f")]
            fn avx512(work: impl Work) {
                work.run::<__m512, 16, 8, 3, 48>();
            }

            #[target_feature(enable = "avx2,fma")]
            fn avx2(work: impl Work) {
                work.run::<__m256, 8, 6, 2, 16>();
            }

            match self {
                // SAFETY: the machine has them, as the caller promises.
                Self::Avx512 => return unsafe { avx512(work) },
                // SAFETY: the machine has them, as the caller promises.
                Self::Avx2 => return unsafe { avx2(work) },
                Self::Portable => {}
            }
        }
        work.run::<[f32; 8], 8, 4, 1, 8>();
    }
}

/// What is done by tiles of `ROWS` times `COLUMNS` = `VECTORS`·`LANES` sums.
pub(crate) trait Work {
    /// To be inlined always, as must be all that it calls with a `V`: only then is the code made of such vectors.
    fn run<
        V: Vector<LANES>,
        const LANES: usize,
        const ROWS: usize,
        const VECTORS: usize,
        const COLUMNS: usize,
    >(
        self,
    );
}

/// `sums[r] = Σ_i left(i, r)·right(i)` over all indices below `depth`, in their order.
#[inline(always)]
pub(crate) fn tile<
    'a,
    V: Vector<LANES>,
    const LANES: usize,
    const ROWS: usize,
    const VECTORS: usize,
    const COLUMNS: usize,
>(
    depth: usize,
    left: impl Fn(usize, usize) -> f32,
    right: impl Fn(usize) -> &'a [f32; COLUMNS],
) -> [[V; VECTORS]; ROWS] {
    const { assert!(COLUMNS == VECTORS * LANES) };
    let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
    for i in 0..depth {
        let (columns, _) = right(i).as_chunks::<LANES>();
        let columns: [V; VECTORS] = std::array::from_fn(|at| V::of(columns[at]));
        for (r, sums) in sums.iter_mut().enumerate() {
            let value = V::splat(left(i, r));
            for (sum, columns) in sums.iter_mut().zip(&columns) {
                *sum = V::add_product(*sum, value, *columns);
            }
        }
    }
    sums
}

/// Several f32 in a register. Nothing here may be called but where the machine has such registers.
pub(crate) trait Vector<const LANES: usize>: Copy {
    fn of(values: [f32; LANES]) -> Self;
    fn values(self) -> [f32; LANES];
    fn splat(value: f32) -> Self;
    fn add_product(sum: Self, a: Self, b: Self) -> Self;
}

impl<const LANES: usize> Vector<LANES> for [f32; LANES] {
    #[inline(always)]
    fn of(values: [f32; LANES]) -> Self {
        values
    }

    #[inline(always)]
    fn values(self) -> [f32; LANES] {
        self
    }

    #[inline(always)]
    fn splat(value: f32) -> Self {
        [value; LANES]
    }

    #[inline(always)]
    fn add_product(sum: Self, a: Self, b: Self) -> Self {
        std::array::from_fn(|lane| sum[lane] + a[lane] * b[lane])
    }
}

#[cfg(target_arch = "x86_64")]
macro_rules! vector {
    ($vector:ident, $lanes:literal, $splat:ident, $add_product:ident) => {
        impl Vector<$lanes> for std::arch::x86_64::$vector {
            #[inline(always)]
            fn of(values: [f32; $lanes]) -> Self {
                // SAFETY: the register is made of these values.
                unsafe { std::mem::transmute(values) }
            }

            #[inline(always)]
            fn values(self) -> [f32; $lanes] {
                // SAFETY: the register is made of these values.
                unsafe { std::mem::transmute(self) }
            }

            #[inline(always)]
            fn splat(value: f32) -> Self {
                // SAFETY: only called where the machine has the feature.
                unsafe { std::arch::x86_64::$splat(value) }
            }

            #[inline(always)]
            fn add_product(sum: Self, a: Self, b: Self) -> Self {
                // SAFETY: only called where the machine has the feature.
                unsafe { std::arch::x86_64::$add_product(a, b, sum) }
            }
        }
    };
}
#[cfg(target_arch = "x86_64")]
vector!(__m512, 16, _mm512_set1_ps, _mm512_fmadd_ps);
#[cfg(target_arch = "x86_64")]
vector!(__m256, 8, _mm256_set1_ps, _mm256_fmadd_ps);

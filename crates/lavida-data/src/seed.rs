//! One root seed, a random stream per purpose: the same draw on every machine, in every order, by any worker.
//!
//! A stream is named by (root seed, stage name, ids), hashed with BLAKE3 into a ChaCha8 key. What a stage draws for a clip
//! depends on nothing else, so the pipe may reorder, repeat or resume its work. The uniform draws are written out here, so
//! that an update of a random-number crate cannot change a run's samples.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Random stream of one stage for one thing.
#[derive(Clone, Debug)]
pub struct StageRng {
    chacha: ChaCha8Rng,
}

impl StageRng {
    /// The stream of `stage` for the thing that `ids` name (clip id, epoch …). Ids are length-prefixed: `["ab", "c"]` and
    /// `["a", "bc"]` are different streams.
    pub fn new(root_seed: u64, stage: &str, ids: &[&dyn SeedId]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("lavida 2026 stage seed");
        hasher.update(&root_seed.to_le_bytes());
        stage.feed(&mut hasher);
        for id in ids {
            id.feed(&mut hasher);
        }
        Self {
            chacha: ChaCha8Rng::from_seed(*hasher.finalize().as_bytes()),
        }
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.chacha.next_u64()
    }

    /// Uniform in `0..n`.
    ///
    /// # Panics
    ///
    /// When `n` is 0: there is nothing to draw from.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "a draw from nothing");
        let n = n as u64;
        // Values under `2^64 mod n` would make small results more likely: draw again.
        let biased = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= biased {
                return (product >> 64) as usize;
            }
        }
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * 2f64.powi(-53)
    }

    /// One of `items`, each as likely; `None` when there are none.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        (!items.is_empty()).then(|| &items[self.below(items.len())])
    }

    /// Every order of `items` as likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// Moves a uniform choice of `n` items, in uniform order, to the front and returns them.
    pub fn draw_front<'a, T>(&mut self, items: &'a mut [T], n: usize) -> &'a mut [T] {
        let n = n.min(items.len());
        for front in 0..n {
            let other = front + self.below(items.len() - front);
            items.swap(front, other);
        }
        &mut items[..n]
    }
}

/// Something that names a stream.
pub trait SeedId {
    /// Feeds the id, with its length, to the hash.
    fn feed(&self, hasher: &mut blake3::Hasher);
}

impl SeedId for str {
    fn feed(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&(self.len() as u64).to_le_bytes());
        hasher.update(self.as_bytes());
    }
}

impl SeedId for &str {
    fn feed(&self, hasher: &mut blake3::Hasher) {
        (**self).feed(hasher);
    }
}

impl SeedId for String {
    fn feed(&self, hasher: &mut blake3::Hasher) {
        self.as_str().feed(hasher);
    }
}

impl SeedId for u64 {
    fn feed(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&8u64.to_le_bytes());
        hasher.update(&self.to_le_bytes());
    }
}

impl SeedId for [u8; 32] {
    fn feed(&self, hasher: &mut blake3::Hasher) {
        hasher.update(&32u64.to_le_bytes());
        hasher.update(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stream_is_the_same_on_every_machine_and_release() {
        // Known answers: if these move, every run's samples move.
        let mut rng = StageRng::new(44, "exposure", &[&"ade20k/ADE_train_1", &3u64]);
        let bits = [rng.next_u64(), rng.next_u64()];
        assert_eq!(
            bits,
            [7_774_703_286_850_832_518, 15_736_223_563_948_536_067]
        );
        let mut rng = StageRng::new(44, "exposure", &[&"ade20k/ADE_train_1", &3u64]);
        assert_eq!([rng.below(30), rng.below(30)], [12, 25]);
    }

    #[test]
    fn ids_are_told_apart_by_their_lengths() {
        let draw = |ids: &[&dyn SeedId]| StageRng::new(1, "s", ids).next_u64();
        assert_ne!(draw(&[&"ab", &"c"]), draw(&[&"a", &"bc"]));
        assert_ne!(draw(&[&1u64]), draw(&[&2u64]));
        assert_ne!(
            StageRng::new(1, "a", &[]).next_u64(),
            StageRng::new(1, "b", &[]).next_u64()
        );
        assert_ne!(
            StageRng::new(1, "a", &[]).next_u64(),
            StageRng::new(2, "a", &[]).next_u64()
        );
    }

    #[test]
    fn draws_below_n_are_uniform() {
        let mut rng = StageRng::new(7, "test", &[]);
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[rng.below(6)] += 1;
        }
        // 5 standard deviations of a binomial count
        assert!(
            counts
                .iter()
                .all(|&c| (f64::from(c) - 10_000.0).abs() < 460.0),
            "{counts:?}"
        );
    }

    proptest! {
        #[test]
        fn a_shuffle_keeps_every_item(seed: u64, n in 0usize..40) {
            let mut items: Vec<usize> = (0..n).collect();
            StageRng::new(seed, "test", &[]).shuffle(&mut items);
            items.sort_unstable();
            prop_assert_eq!(items, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn a_front_draw_never_repeats(seed: u64, n in 0usize..40, k in 0usize..50) {
            let mut items: Vec<usize> = (0..n).collect();
            let mut front = StageRng::new(seed, "test", &[]).draw_front(&mut items, k).to_vec();
            front.sort_unstable();
            front.dedup();
            prop_assert_eq!(front.len(), k.min(n));
        }

        #[test]
        fn unit_draws_stay_under_one(seed: u64) {
            let x = StageRng::new(seed, "test", &[]).unit();
            prop_assert!((0.0..1.0).contains(&x));
        }
    }
}

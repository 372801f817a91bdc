//! The world's words: colours, shapes, their combinations, and which combinations training never shows.
//!
//! Every vocabulary colour goes with every vocabulary shape, except for the held-out combinations,
//! which are kept for evaluation. Colours and shapes without a word of their own keep a distance from
//! every one that has a word: a look-alike would put something close to a held-out combination into
//! training under its other word.

use lavida_data::seed::StageRng;

use super::shape::Outline;

/// A colour word and what it looks like, sRGB 0–255.
pub const COLOURS: [(&str, [u8; 3]); 8] = [
    ("red", [225, 25, 30]),
    ("green", [30, 160, 45]),
    ("blue", [30, 65, 230]),
    ("yellow", [240, 220, 30]),
    ("purple", [135, 35, 185]),
    ("orange", [250, 130, 10]),
    ("cyan", [30, 215, 225]),
    ("white", [245, 245, 245]),
];

/// Colours that no word of the world names: pink, magenta, brown, olive, black, navy, lavender, tan, maroon, mint.
pub const OTHER_COLOURS: [[u8; 3]; 10] = [
    [250, 130, 185],
    [240, 45, 160],
    [115, 70, 30],
    [120, 120, 20],
    [15, 15, 15],
    [15, 20, 90],
    [185, 160, 250],
    [215, 175, 125],
    [105, 10, 30],
    [150, 245, 190],
];

/// How far a single object's colour may lie from its table entry, per channel, 0–255.
pub const COLOUR_JITTER: u8 = 8;

/// Number of combinations held out of training.
pub const N_HELD_OUT: usize = 5;

/// A vocabulary colour with a vocabulary shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Combination {
    /// Index in [`COLOURS`].
    pub colour_idx: usize,
    /// One of [`Outline::VOCABULARY`].
    pub shape: Outline,
}

impl Combination {
    /// `"red circle"`.
    pub fn name(self) -> String {
        let shape = self
            .shape
            .word()
            .expect("combinations are made of vocabulary shapes");
        format!("{} {shape}", COLOURS[self.colour_idx].0)
    }
}

/// Which combinations training shows and which only evaluation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Never in any training clip, annotation or text. Five different colours, all shapes.
    pub held_out: Vec<Combination>,
    /// Every other combination.
    pub trained: Vec<Combination>,
}

impl Split {
    /// The split of the world with this seed: every held-out colour goes with one held-out shape, so
    /// each colour and each shape is still trained in several other combinations.
    pub fn of(seed: u64) -> Self {
        let mut rng = StageRng::new(seed, "synth/split", &[]);
        let held_out = one_of_each_shape(&mut rng, &all_combinations());
        let trained = all_combinations()
            .into_iter()
            .filter(|combination| !held_out.contains(combination))
            .collect();
        Self { held_out, trained }
    }

    /// Five trained combinations of five different colours and all shapes, to evaluate what was seen.
    pub fn seen_targets(&self, seed: u64) -> Vec<Combination> {
        let mut rng = StageRng::new(seed, "synth/seen-targets", &[]);
        one_of_each_shape(&mut rng, &self.trained)
    }

    /// Names of the class sets: the trained combinations, then the shapes and the colours alone, which
    /// name objects whose other attribute has no word.
    pub fn class_names(&self) -> Vec<String> {
        let shapes = Outline::VOCABULARY.iter().filter_map(|shape| shape.word());
        self.trained
            .iter()
            .map(|combination| combination.name())
            .chain(shapes.map(str::to_owned))
            .chain(COLOURS.iter().map(|(word, _)| (*word).to_owned()))
            .collect()
    }
}

fn all_combinations() -> Vec<Combination> {
    (0..COLOURS.len())
        .flat_map(|colour_idx| Outline::VOCABULARY.map(|shape| Combination { colour_idx, shape }))
        .collect()
}

/// One combination a shape, of different colours, all among `allowed`.
fn one_of_each_shape(rng: &mut StageRng, allowed: &[Combination]) -> Vec<Combination> {
    loop {
        let mut colours: Vec<usize> = (0..COLOURS.len()).collect();
        let drawn: Vec<Combination> = rng
            .draw_front(&mut colours, N_HELD_OUT)
            .iter()
            .zip(Outline::VOCABULARY)
            .map(|(&colour_idx, shape)| Combination { colour_idx, shape })
            .collect();
        if drawn
            .iter()
            .all(|combination| allowed.contains(combination))
        {
            return drawn;
        }
    }
}

/// What an object looks like, as far as words go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Both attributes have a word: described as `"red circle"`.
    Ordinary(Combination),
    /// A colour outside the vocabulary: described by its shape alone, `"circle"`.
    OtherColour {
        /// Index in [`OTHER_COLOURS`].
        colour_idx: usize,
        /// One of [`Outline::VOCABULARY`].
        shape: Outline,
    },
    /// A shape outside the vocabulary: described by its colour alone, `"red"`.
    OtherShape {
        /// Index in [`COLOURS`].
        colour_idx: usize,
        /// One of [`Outline::OTHERS`].
        shape: Outline,
    },
}

impl Look {
    /// The shape to paint.
    pub fn shape(self) -> Outline {
        match self {
            Self::Ordinary(combination) => combination.shape,
            Self::OtherColour { shape, .. } | Self::OtherShape { shape, .. } => shape,
        }
    }

    /// The table colour to paint.
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Ordinary(Combination { colour_idx, .. })
            | Self::OtherShape { colour_idx, .. } => COLOURS[colour_idx].1,
            Self::OtherColour { colour_idx, .. } => OTHER_COLOURS[colour_idx],
        }
    }

    /// The colour's word, when it has one.
    pub fn colour_word(self) -> Option<&'static str> {
        match self {
            Self::Ordinary(Combination { colour_idx, .. })
            | Self::OtherShape { colour_idx, .. } => Some(COLOURS[colour_idx].0),
            Self::OtherColour { .. } => None,
        }
    }

    /// The combination it shows, when both attributes have a word: what may be held out.
    pub fn combination(self) -> Option<Combination> {
        match self {
            Self::Ordinary(combination) => Some(combination),
            Self::OtherColour { .. } | Self::OtherShape { .. } => None,
        }
    }

    /// Every word that is true of it: `"red circle"`, `"circle"`, `"red"`.
    pub fn description(self) -> String {
        let words = [self.colour_word(), self.shape().word()];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// True when every word of this look's description is also true of `other`: `"red"` is true of a
    /// red circle, `"red circle"` is not true of a red bar.
    pub fn description_is_true_of(self, other: Look) -> bool {
        let colour = self.colour_word();
        let shape = self.shape().word();
        (colour.is_none() || colour == other.colour_word())
            && (shape.is_none() || shape == other.shape().word())
    }
}

/// Every word that any text of any world holds, sorted: what a tokenizer for it must know.
pub fn words() -> Vec<&'static str> {
    let mut words: Vec<&str> = COLOURS.iter().map(|(word, _)| *word).collect();
    words.extend(Outline::VOCABULARY.iter().filter_map(|shape| shape.word()));
    words.extend([
        "the", "object", "moving", "left", "right", "up", "down", "standing", "still",
    ]);
    words.sort_unstable();
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn distance(a: [u8; 3], b: [u8; 3]) -> f64 {
        let squares = a
            .iter()
            .zip(b)
            .map(|(&a, b)| (f64::from(a) - f64::from(b)).powi(2));
        squares.sum::<f64>().sqrt()
    }

    #[test]
    fn colours_keep_their_distance_from_every_vocabulary_colour() {
        for (i, (word, rgb)) in COLOURS.iter().enumerate() {
            for (other_word, other) in &COLOURS[..i] {
                assert!(distance(*rgb, *other) > 90.0, "{word} and {other_word}");
            }
            for other in OTHER_COLOURS {
                // jitter of both leaves 100 - 2·8·√3 = 72
                assert!(
                    distance(*rgb, other) >= 100.0,
                    "{word} and {other:?}: {}",
                    distance(*rgb, other)
                );
            }
        }
    }

    #[test]
    fn every_held_out_colour_and_shape_is_trained_in_other_combinations() {
        for seed in 0..200 {
            let split = Split::of(seed);
            assert_eq!(split.held_out.len(), N_HELD_OUT);
            assert_eq!(split.trained.len(), 40 - N_HELD_OUT);
            let colours: BTreeSet<usize> = split.held_out.iter().map(|c| c.colour_idx).collect();
            let shapes: BTreeSet<Outline> = split.held_out.iter().map(|c| c.shape).collect();
            assert_eq!((colours.len(), shapes.len()), (5, 5), "seed {seed}");
            for combination in &split.held_out {
                let same_colour = split
                    .trained
                    .iter()
                    .filter(|c| c.colour_idx == combination.colour_idx)
                    .count();
                let same_shape = split
                    .trained
                    .iter()
                    .filter(|c| c.shape == combination.shape)
                    .count();
                assert_eq!((same_colour, same_shape), (4, 7), "seed {seed}");
            }
            let seen = split.seen_targets(seed);
            assert!(
                seen.iter()
                    .all(|combination| split.trained.contains(combination))
            );
        }
    }

    #[test]
    fn the_split_depends_on_the_seed() {
        let splits: BTreeSet<Vec<Combination>> =
            (0..50).map(|seed| Split::of(seed).held_out).collect();
        assert!(splits.len() > 45, "{}", splits.len());
        assert_eq!(Split::of(7), Split::of(7));
    }

    #[test]
    fn a_description_is_true_of_what_shares_its_words() {
        let circle = Outline::Circle;
        let red_circle = Look::Ordinary(Combination {
            colour_idx: 0,
            shape: circle,
        });
        let red_ring = Look::Ordinary(Combination {
            colour_idx: 0,
            shape: Outline::Ring,
        });
        let red = Look::OtherShape {
            colour_idx: 0,
            shape: Outline::Bar,
        };
        let circle = Look::OtherColour {
            colour_idx: 0,
            shape: circle,
        };
        assert_eq!(red_circle.description(), "red circle");
        assert_eq!(red.description(), "red");
        assert_eq!(circle.description(), "circle");
        assert!(
            red.description_is_true_of(red_circle) && circle.description_is_true_of(red_circle)
        );
        assert!(
            !red_circle.description_is_true_of(red) && !red_circle.description_is_true_of(circle)
        );
        assert!(
            !red_circle.description_is_true_of(red_ring) && !red.description_is_true_of(circle)
        );
    }

    #[test]
    fn class_names_hold_no_held_out_combination() {
        let split = Split::of(3);
        let names = split.class_names();
        assert_eq!(names.len(), 35 + 5 + 8);
        assert!(
            split
                .held_out
                .iter()
                .all(|combination| !names.contains(&combination.name()))
        );
    }
}

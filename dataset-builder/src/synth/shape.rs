//! Shapes as sets of points: five with a word, eight without.
//!
//! The five of the vocabulary are, of the seven simple shapes tried (circle, square, triangle, diamond,
//! cross, star, ring), those that overlap one another least at a radius of 8 to 12 px: the best
//! intersection over union of any two stays under 0.72. The others keep under 0.65 of each of the five.
//!
//! Coordinates: `(u, v)` from the object's centre in units of its radius, `v` pointing down.

/// Farthest point of any shape from its centre, in radii.
pub const REACH: f64 = 1.5;

/// What an object's outline is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outline {
    /// A disc.
    Circle,
    /// Pointing up.
    Triangle,
    /// A plus sign.
    Cross,
    /// Five points.
    Star,
    /// A disc with a hole.
    Ring,
    /// A lying bar. No word.
    Bar,
    /// A standing bar. No word.
    Pillar,
    /// The letter L. No word.
    Corner,
    /// Two triangles that touch, side by side. No word.
    Bowtie,
    /// Two triangles that touch, one on the other. No word.
    Hourglass,
    /// The letter U. No word.
    Cup,
    /// The letter T. No word.
    Hammer,
    /// Two lying bars. No word.
    Equals,
}

impl Outline {
    /// The shapes with a word.
    pub const VOCABULARY: [Outline; 5] = [
        Self::Circle,
        Self::Triangle,
        Self::Cross,
        Self::Star,
        Self::Ring,
    ];

    /// The shapes without a word.
    pub const OTHERS: [Outline; 8] = [
        Self::Bar,
        Self::Pillar,
        Self::Corner,
        Self::Bowtie,
        Self::Hourglass,
        Self::Cup,
        Self::Hammer,
        Self::Equals,
    ];

    /// Its word, when it has one.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Circle => Some("circle"),
            Self::Triangle => Some("triangle"),
            Self::Cross => Some("cross"),
            Self::Star => Some("star"),
            Self::Ring => Some("ring"),
            _ => None,
        }
    }

    /// Whether the point belongs to the shape.
    pub fn contains(self, u: f64, v: f64) -> bool {
        let (au, av) = (u.abs(), v.abs());
        let from_centre = u.hypot(v);
        match self {
            Self::Circle => from_centre <= 1.0,
            Self::Triangle => v <= 0.85 && au <= (v + 1.1) / 1.95 * 1.2,
            Self::Cross => (au <= 0.33 && av <= 1.1) || (av <= 0.33 && au <= 1.1),
            Self::Star => star(u, v),
            Self::Ring => (0.6..=1.08).contains(&from_centre),
            Self::Bar => au <= 1.2 && av <= 0.38,
            Self::Pillar => av <= 1.2 && au <= 0.38,
            Self::Corner => au <= 1.0 && av <= 1.0 && (u <= -0.35 || v >= 0.35),
            Self::Bowtie => au <= 1.1 && av <= au * 0.9,
            Self::Hourglass => av <= 1.1 && au <= av * 0.9,
            Self::Cup => au <= 1.0 && av <= 1.0 && (au >= 0.4 || v >= 0.4),
            Self::Hammer => {
                (au <= 1.05 && (-1.0..=-0.35).contains(&v)) || (au <= 0.35 && av <= 1.0)
            }
            Self::Equals => au <= 1.0 && (0.35..=1.0).contains(&av),
        }
    }
}

/// A star with five points, the first one up.
fn star(u: f64, v: f64) -> bool {
    const TIP: f64 = 1.25;
    const NOTCH: f64 = 0.52;
    let half_point = std::f64::consts::PI / 5.0;
    // Fold the plane onto the wedge between a tip (angle 0) and the notch beside it.
    let angle = u.atan2(-v);
    let folded = ((angle + half_point).rem_euclid(2.0 * half_point) - half_point).abs();
    let (x, y) = (u.hypot(v) * folded.cos(), u.hypot(v) * folded.sin());
    let (notch_x, notch_y) = (NOTCH * half_point.cos(), NOTCH * half_point.sin());
    // Left of the edge that runs from the tip to the notch.
    (notch_x - TIP) * y - notch_y * (x - TIP) >= 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raster(shape: Outline, radius: f64, (dx, dy): (f64, f64)) -> Vec<bool> {
        let px = |i: usize, shift: f64| (i as f64 + 0.5 - 20.0 - shift) / radius;
        (0..40 * 40)
            .map(|i| shape.contains(px(i % 40, dx), px(i / 40, dy)))
            .collect()
    }

    /// Best intersection over union over the sizes and small shifts that a blurred eye would forgive.
    fn likeness(a: Outline, b: Outline) -> f64 {
        let fixed = raster(a, 10.0, (0.0, 0.0));
        let mut best: f64 = 0.0;
        for radius in [8.0, 9.0, 10.0, 11.0, 12.0] {
            for dx in [-1.5, 0.0, 1.5] {
                for dy in [-3.0, -1.5, 0.0, 1.5, 3.0] {
                    let moved = raster(b, radius, (dx, dy));
                    let both = fixed.iter().zip(&moved).filter(|(a, b)| **a && **b).count();
                    let any = fixed.iter().zip(&moved).filter(|(a, b)| **a || **b).count();
                    best = best.max(both as f64 / any as f64);
                }
            }
        }
        best
    }

    #[test]
    fn vocabulary_shapes_are_unlike_one_another() {
        for (i, a) in Outline::VOCABULARY.into_iter().enumerate() {
            for b in Outline::VOCABULARY.into_iter().skip(i + 1) {
                let likeness = likeness(a, b);
                assert!(likeness < 0.72, "{a:?} and {b:?}: {likeness:.2}");
            }
        }
    }

    #[test]
    fn shapes_without_a_word_look_like_none_that_has_one() {
        for other in Outline::OTHERS {
            assert_eq!(other.word(), None);
            for shape in Outline::VOCABULARY {
                let likeness = likeness(shape, other).max(likeness(other, shape));
                assert!(likeness < 0.65, "{shape:?} and {other:?}: {likeness:.2}");
            }
        }
    }

    #[test]
    fn no_shape_reaches_beyond_its_bound() {
        for shape in Outline::VOCABULARY.into_iter().chain(Outline::OTHERS) {
            for step in 0..3600 {
                let angle = f64::from(step) * std::f64::consts::PI / 1800.0;
                assert!(
                    !shape.contains(REACH * angle.cos(), REACH * angle.sin()),
                    "{shape:?}"
                );
            }
        }
    }
}

//! Ranking metrics, exact and tie-aware: area under the ROC curve and average precision.
//!
//! Scores are ranked, never thresholded on a grid, and equal scores form one step of the curve, so
//! the result does not depend on the order of the input. Both agree with scikit-learn's
//! `roc_auc_score` and `average_precision_score`.
//!
//! The reference code puts one artificial pair (score 0, label 0) before and (score 1, label 1) after
//! the scores; [`padded`] does the same for comparisons.

/// Scores with their labels, accumulated over videos.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ranking {
    scores: Vec<f32>,
    labels: Vec<bool>,
}

impl Ranking {
    /// Adds scored items.
    ///
    /// # Panics
    ///
    /// When the lengths differ or a score is not a number: both are bugs of the caller.
    pub fn extend(&mut self, scores: &[f32], labels: &[bool]) {
        assert_eq!(scores.len(), labels.len(), "one label a score");
        assert!(
            scores.iter().all(|s| !s.is_nan()),
            "a score is not a number"
        );
        self.scores.extend_from_slice(scores);
        self.labels.extend_from_slice(labels);
    }

    /// How many items were added.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// What was added, in order.
    pub fn items(&self) -> impl Iterator<Item = (f32, bool)> {
        self.scores.iter().copied().zip(self.labels.iter().copied())
    }

    /// Area under the ROC curve; `None` unless both labels occur.
    pub fn auc(&self) -> Option<f64> {
        auc(&self.scores, &self.labels)
    }

    /// Average precision; `None` unless a positive occurs.
    pub fn average_precision(&self) -> Option<f64> {
        average_precision(&self.scores, &self.labels)
    }
}

/// Area under the ROC curve: the chance that a positive outranks a negative, ties counting half.
/// `None` unless both labels occur.
pub fn auc(scores: &[f32], labels: &[bool]) -> Option<f64> {
    let (mut positives, mut negatives, mut won) = (0u64, 0u64, 0u128);
    // Descending: a negative loses to every positive seen before it; halves are counted doubled.
    for (tied_positives, tied_negatives) in descending_ties(scores, labels) {
        won += u128::from(tied_negatives) * u128::from(2 * positives + tied_positives);
        positives += tied_positives;
        negatives += tied_negatives;
    }
    (positives > 0 && negatives > 0)
        .then(|| won as f64 / 2.0 / (positives as f64 * negatives as f64))
}

/// Average precision `Σ (R_n − R_{n−1}) P_n` over the distinct thresholds; `None` unless a positive occurs.
pub fn average_precision(scores: &[f32], labels: &[bool]) -> Option<f64> {
    let n_positives = labels.iter().filter(|l| **l).count() as f64;
    if n_positives == 0.0 {
        return None;
    }
    let (mut positives, mut seen, mut sum) = (0u64, 0u64, 0.0);
    for (tied_positives, tied_negatives) in descending_ties(scores, labels) {
        positives += tied_positives;
        seen += tied_positives + tied_negatives;
        sum += tied_positives as f64 / n_positives * (positives as f64 / seen as f64);
    }
    Some(sum)
}

/// The reference's artificial end points: (0, false) in front and (1, true) behind.
pub fn padded(scores: &[f32], labels: &[bool]) -> (Vec<f32>, Vec<bool>) {
    let scores = std::iter::once(0.0)
        .chain(scores.iter().copied())
        .chain([1.0]);
    let labels = std::iter::once(false)
        .chain(labels.iter().copied())
        .chain([true]);
    (scores.collect(), labels.collect())
}

/// (positives, negatives) of each group of equal scores, highest score first.
fn descending_ties(scores: &[f32], labels: &[bool]) -> Vec<(u64, u64)> {
    let mut ranked: Vec<(f32, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    ranked.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    ranked
        .chunk_by(|a, b| a.0 == b.0) // -0.0 == 0.0, and total_cmp puts them side by side
        .map(|tied| {
            let positives = tied.iter().filter(|(_, label)| *label).count() as u64;
            (positives, tied.len() as u64 - positives)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranked_items() -> impl Strategy<Value = (Vec<f32>, Vec<bool>)> {
        prop::collection::vec((-4i8..4, any::<bool>()), 1..80)
            .prop_map(|v| v.into_iter().map(|(s, l)| (f32::from(s) / 2.0, l)).unzip())
    }

    proptest! {
        #[test]
        fn auc_is_the_share_of_pairs_won((scores, labels) in ranked_items()) {
            let (mut won, mut pairs) = (0.0, 0.0);
            for (s, l) in scores.iter().zip(&labels) {
                for (t, m) in scores.iter().zip(&labels) {
                    if *l && !*m {
                        pairs += 1.0;
                        won += if s > t { 1.0 } else if s == t { 0.5 } else { 0.0 };
                    }
                }
            }
            match auc(&scores, &labels) {
                Some(auc) => prop_assert!((auc - won / pairs).abs() < 1e-12),
                None => prop_assert_eq!(pairs, 0.0),
            }
        }

        #[test]
        fn order_of_the_items_changes_nothing((scores, labels) in ranked_items(), shift in 0usize..80) {
            let n = scores.len();
            let turned: (Vec<f32>, Vec<bool>) =
                (0..n).map(|i| (scores[(i + shift) % n], labels[(i + shift) % n])).unzip();
            prop_assert_eq!(auc(&scores, &labels), auc(&turned.0, &turned.1));
            prop_assert_eq!(
                average_precision(&scores, &labels),
                average_precision(&turned.0, &turned.1)
            );
        }

        #[test]
        fn negated_scores_mirror_the_auc((scores, labels) in ranked_items()) {
            let negated: Vec<f32> = scores.iter().map(|s| -s).collect();
            if let (Some(a), Some(b)) = (auc(&scores, &labels), auc(&negated, &labels)) {
                prop_assert!((a + b - 1.0).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn one_label_alone_has_no_auc() {
        assert_eq!(auc(&[0.1, 0.2], &[true, true]), None);
        assert_eq!(average_precision(&[0.1, 0.2], &[false, false]), None);
    }

    #[test]
    fn signed_zeros_tie() {
        assert_eq!(auc(&[0.0, -0.0], &[true, false]), Some(0.5));
    }
}

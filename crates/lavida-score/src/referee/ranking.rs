//! Frames in the order of their scores, and every figure that one walk over them gives. Exact; equal scores are one step.

use super::conventions::PADDING;
use super::pairing::PairedVideo;

/// Frames of equal score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreStep {
    /// Their score.
    pub score: f64,
    /// How many are labelled anomalous.
    pub n_anomalous: u64,
    /// How many are labelled normal.
    pub n_normal: u64,
}

/// One frame of a ranking.
#[derive(Clone, Copy)]
pub(super) struct RankedFrame {
    /// Falls as the score rises, so that the highest comes first.
    key: u64,
    pub video: u32,
    pub is_anomalous: bool,
}

impl RankedFrame {
    /// Whether both have the same score.
    pub(super) fn is_tied_with(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// How many frames are ranked before each artificial one: that labelled anomalous, that labelled normal.
pub(super) fn places_of_padding(frames: &[RankedFrame]) -> [usize; 2] {
    let [normal, anomalous] = PADDING.map(|(score, _)| key_of(score));
    [anomalous, normal].map(|key| frames.partition_point(|frame| frame.key < key))
}

/// Area of each video, of [`areas_by_video`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VideoAreas {
    /// None unless the video has frames of both labels.
    pub auc: Option<f64>,
    /// With the two artificial frames.
    pub padded: f64,
}

/// The frames of all videos, highest score first.
pub(super) fn ranked(videos: &[PairedVideo], scores: &[Vec<f64>]) -> Vec<RankedFrame> {
    let n_frames = scores.iter().map(Vec::len).sum();
    let mut frames = Vec::with_capacity(n_frames);
    for (video, (paired, scores)) in videos.iter().zip(scores).enumerate() {
        for (score, label) in scores.iter().zip(&paired.labels) {
            frames.push(RankedFrame {
                key: key_of(*score),
                video: video as u32,
                is_anomalous: *label,
            });
        }
    }
    frames.sort_unstable_by_key(|frame| frame.key);
    frames
}

/// Order of finite numbers turned round; 0.0 and -0.0 are one.
fn key_of(score: f64) -> u64 {
    let bits = (score + 0.0).to_bits();
    let rising = bits ^ ((((bits as i64) >> 63) as u64) | 1 << 63);
    !rising
}

fn score_of(key: u64) -> f64 {
    let rising = !key;
    f64::from_bits(if rising >> 63 == 1 {
        rising ^ 1 << 63
    } else {
        !rising
    })
}

/// The steps of a ranking, highest score first.
pub(super) fn steps(frames: &[RankedFrame]) -> Vec<ScoreStep> {
    let ties = frames.chunk_by(|a, b| a.key == b.key);
    ties.map(|tied| {
        let n_anomalous = tied.iter().filter(|frame| frame.is_anomalous).count() as u64;
        ScoreStep {
            score: score_of(tied[0].key),
            n_anomalous,
            n_normal: tied.len() as u64 - n_anomalous,
        }
    })
    .collect()
}

/// Adds the two artificial frames.
pub fn pad(steps: &mut Vec<ScoreStep>) {
    for (score, is_anomalous) in PADDING {
        let at = steps.partition_point(|step| step.score > score);
        if steps.get(at).is_none_or(|step| step.score != score) {
            steps.insert(
                at,
                ScoreStep {
                    score,
                    n_anomalous: 0,
                    n_normal: 0,
                },
            );
        }
        steps[at].n_anomalous += u64::from(is_anomalous);
        steps[at].n_normal += u64::from(!is_anomalous);
    }
}

/// Area under the ROC curve; none unless both labels occur.
pub fn auc(steps: &[ScoreStep]) -> Option<f64> {
    let (mut anomalous, mut normal, mut won_halves) = (0u64, 0u64, 0u128);
    for step in steps {
        won_halves += u128::from(step.n_normal) * u128::from(2 * anomalous + step.n_anomalous);
        anomalous += step.n_anomalous;
        normal += step.n_normal;
    }
    area(won_halves, anomalous, normal)
}

fn area(won_halves: u128, anomalous: u64, normal: u64) -> Option<f64> {
    (anomalous > 0 && normal > 0)
        .then(|| won_halves as f64 / 2.0 / (anomalous as f64 * normal as f64))
}

/// What the precision-recall curve gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecisionRecall {
    /// Average precision.
    pub average_precision: f64,
    /// Trapezoids under the curve, from precision 1 at recall 0.
    pub trapezoid: f64,
    /// F1 of the frames whose score is at least the threshold.
    pub f1_fixed: f64,
    /// The highest F1.
    pub f1_best: f64,
    /// The highest score from which on frames have to be called anomalous for it.
    pub f1_best_threshold: f64,
}

/// Figures of the precision-recall curve; none without an anomalous frame.
pub fn precision_recall(steps: &[ScoreStep], threshold: f64) -> Option<PrecisionRecall> {
    let n_anomalous: u64 = steps.iter().map(|step| step.n_anomalous).sum();
    if n_anomalous == 0 {
        return None;
    }
    let all = n_anomalous as f64;
    let mut found = PrecisionRecall {
        average_precision: 0.0,
        trapezoid: 0.0,
        f1_fixed: 0.0,
        f1_best: 0.0,
        f1_best_threshold: f64::NAN,
    };
    let (mut hits, mut called, mut last_precision) = (0u64, 0u64, 1.0);
    for step in steps {
        hits += step.n_anomalous;
        called += step.n_anomalous + step.n_normal;
        let precision = hits as f64 / called as f64;
        let gain = step.n_anomalous as f64 / all;
        found.average_precision += gain * precision;
        found.trapezoid += gain * (precision + last_precision) / 2.0;
        last_precision = precision;
        let f1 = 2.0 * hits as f64 / (n_anomalous + called) as f64;
        if step.score >= threshold {
            found.f1_fixed = f1;
        }
        if f1 > found.f1_best || found.f1_best_threshold.is_nan() {
            found.f1_best = f1;
            found.f1_best_threshold = step.score;
        }
    }
    Some(found)
}

/// The areas of `n_videos` videos from the ranking of all their frames.
pub(super) fn areas_by_video(frames: &[RankedFrame], n_videos: usize) -> Vec<VideoAreas> {
    #[derive(Clone, Copy)]
    struct Walk {
        key: u64,
        anomalous: u64,
        normal: u64,
        tied_anomalous: u64,
        tied_normal: u64,
        won_halves: u128,
        /// What an anomalous frame of score 1 and a normal one of score 0 win.
        padding_halves: u128,
    }
    impl Walk {
        fn close(&mut self) {
            self.won_halves +=
                u128::from(self.tied_normal) * u128::from(2 * self.anomalous + self.tied_anomalous);
            self.anomalous += self.tied_anomalous;
            self.normal += self.tied_normal;
            (self.tied_anomalous, self.tied_normal) = (0, 0);
        }
    }
    let [zero, one] = PADDING.map(|(score, _)| key_of(score));
    let mut walks = vec![
        Walk {
            key: 0,
            anomalous: 0,
            normal: 0,
            tied_anomalous: 0,
            tied_normal: 0,
            won_halves: 0,
            padding_halves: 2,
        };
        n_videos
    ];
    // Keys fall as scores rise.
    let halves = |wins: bool, ties: bool| u128::from(wins) * 2 + u128::from(ties);
    for frame in frames {
        let walk = &mut walks[frame.video as usize];
        if walk.key != frame.key {
            walk.close();
            walk.key = frame.key;
        }
        if frame.is_anomalous {
            walk.tied_anomalous += 1;
            walk.padding_halves += halves(frame.key < zero, frame.key == zero);
        } else {
            walk.tied_normal += 1;
            walk.padding_halves += halves(one < frame.key, one == frame.key);
        }
    }
    let areas = walks.into_iter().map(|mut walk| {
        walk.close();
        let won = walk.won_halves + walk.padding_halves;
        let padded = area(won, walk.anomalous + 1, walk.normal + 1);
        VideoAreas {
            auc: area(walk.won_halves, walk.anomalous, walk.normal),
            padded: padded.expect("the padding has both labels"),
        }
    });
    areas.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics;

    fn video(items: &[(f64, bool)]) -> PairedVideo {
        PairedVideo {
            name: "v".into(),
            scores: items.iter().map(|(score, _)| *score).collect(),
            labels: items.iter().map(|(_, label)| *label).collect(),
        }
    }

    fn items() -> impl Strategy<Value = Vec<(f64, bool)>> {
        prop::collection::vec(
            (-3i8..6, any::<bool>()).prop_map(|(s, l)| (f64::from(s) / 4.0, l)),
            1..40,
        )
    }

    #[test]
    fn keys_turn_the_order_round_and_lose_no_bit() {
        let scores = [3.5, 1.0, 1e-300, 0.0, -1e-300, -2.0, -7.25];
        for pair in scores.windows(2) {
            assert!(key_of(pair[0]) < key_of(pair[1]), "{pair:?}");
        }
        for score in scores {
            assert_eq!(score_of(key_of(score)), score);
        }
        assert_eq!(key_of(0.0), key_of(-0.0));
    }

    proptest! {
        #[test]
        fn one_walk_gives_what_each_ranking_alone_gives(videos in prop::collection::vec(items(), 1..5)) {
            let videos: Vec<_> = videos.iter().map(|items| video(items)).collect();
            let scores: Vec<_> = videos.iter().map(|video| video.scores.clone()).collect();
            let frames = ranked(&videos, &scores);
            let mut all = steps(&frames);
            let (mut flat, mut labels) = (Vec::new(), Vec::new());
            for (video, areas) in videos.iter().zip(areas_by_video(&frames, videos.len())) {
                let scores: Vec<f32> = video.scores.iter().map(|s| *s as f32).collect();
                prop_assert_eq!(areas.auc, metrics::auc(&scores, &video.labels));
                let (padded, padded_labels) = metrics::padded(&scores, &video.labels);
                prop_assert_eq!(Some(areas.padded), metrics::auc(&padded, &padded_labels));
                flat.extend(scores);
                labels.extend(&video.labels);
            }
            prop_assert_eq!(auc(&all), metrics::auc(&flat, &labels));
            let ap = precision_recall(&all, 0.0).map(|found| found.average_precision);
            prop_assert_eq!(ap, metrics::average_precision(&flat, &labels));
            pad(&mut all);
            let (padded, padded_labels) = metrics::padded(&flat, &labels);
            prop_assert_eq!(auc(&all), metrics::auc(&padded, &padded_labels));
        }
    }

    #[test]
    fn the_best_threshold_is_no_worse_than_any() {
        let items = [(0.9, true), (0.8, false), (0.7, true), (0.1, false)];
        let videos = [video(&items)];
        let all = steps(&ranked(&videos, &[videos[0].scores.clone()]));
        let found = precision_recall(&all, 0.75).unwrap();
        assert_eq!((found.f1_best, found.f1_best_threshold), (0.8, 0.7));
        assert_eq!(found.f1_fixed, 0.5);
        assert_eq!(precision_recall(&all, 2.0).unwrap().f1_fixed, 0.0);
    }
}

//! The report: every convention on every variant of the scores.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use serde::Serialize;

use super::{
    RefereeOptions,
    bootstrap::Resamples,
    pairing::PairedVideo,
    ranking::{
        VideoAreas, areas_by_video, auc, pad, places_of_padding, precision_recall, ranked, steps,
    },
};
use crate::smoothing;

/// What `lavida score --json` prints of frames.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RefereeReport {
    /// Frames scored.
    pub frames: usize,
    /// Frames labelled anomalous.
    pub anomalous_frames: usize,
    /// Videos scored.
    pub videos: usize,
    /// Videos without an anomalous frame.
    pub normal_videos: usize,
    /// Videos without a normal frame.
    pub anomalous_videos: usize,
    /// Least and greatest score.
    pub score_range: [f64; 2],
    /// Threshold of the fixed F1.
    pub threshold: f64,
    /// Resamples of the bootstrap over videos; the intervals hold 95 % of them.
    pub n_resamples: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// The scores as they are, stretched, smoothed.
    pub variants: Vec<Variant>,
    /// The scores as they are, by video.
    pub per_video: Vec<RefereeVideo>,
}

/// The figures of the scores after one treatment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Variant {
    /// Each video stretched to [0, 1] by its own least and greatest score, which uses its future; done before smoothing.
    pub min_max: bool,
    /// Standard deviation of the Gaussian filter over each video (SciPy's `gaussian_filter1d`), in frames; 0 is none.
    pub smoothing_sigma_frames: f64,
    /// The figures.
    pub figures: FrameFigures,
}

/// One figure.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// None where the labels allow none.
    pub value: Option<f64>,
    /// Between which 95 % of the resamples lie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// What of it the convention makes and not the scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artefact: Option<String>,
}

/// Every convention of [`CONVENTIONS`](super::CONVENTIONS), by its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FrameFigures {
    /// Micro AUC.
    pub frame_auc: Estimate,
    /// Micro AUC with the artificial frames.
    pub frame_auc_padded: Estimate,
    /// Macro AUC over videos of both labels.
    pub video_auc: Estimate,
    /// Macro AUC of all videos, each with the artificial frames.
    pub video_auc_padded: Estimate,
    /// Average precision.
    pub frame_ap: Estimate,
    /// Average precision with the artificial frames.
    pub frame_ap_padded: Estimate,
    /// Trapezoids under the precision-recall curve.
    pub frame_pr_trapezoid: Estimate,
    /// F1 at the threshold.
    pub f1_fixed: Estimate,
    /// The highest F1.
    pub f1_best: Estimate,
    /// The threshold of the highest F1.
    pub f1_best_threshold: Option<f64>,
}

/// One video, its scores as they are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RefereeVideo {
    /// Its name.
    pub video: String,
    /// Frames.
    pub frames: usize,
    /// Frames labelled anomalous.
    pub anomalous_frames: usize,
    /// None unless both labels occur.
    pub auc: Option<f64>,
    /// With the artificial frames.
    pub auc_padded: f64,
}

impl FrameFigures {
    /// The figures in the order of [`CONVENTIONS`](super::CONVENTIONS).
    pub fn in_order(&self) -> [&Estimate; 9] {
        [
            &self.frame_auc,
            &self.frame_auc_padded,
            &self.video_auc,
            &self.video_auc_padded,
            &self.frame_ap,
            &self.frame_ap_padded,
            &self.frame_pr_trapezoid,
            &self.f1_fixed,
            &self.f1_best,
        ]
    }
}

/// Everything about these videos.
///
/// # Panics
///
/// For a video whose scores and labels differ in number, or a score that is no finite number: bugs of the caller.
pub fn referee(videos: &[PairedVideo], options: &RefereeOptions) -> RefereeReport {
    for video in videos {
        assert_eq!(video.scores.len(), video.labels.len(), "{}", video.name);
        assert!(
            video.scores.iter().all(|score| score.is_finite()),
            "{}",
            video.name
        );
    }
    let resamples = Resamples::draw(options.n_resamples, videos.len(), options.seed);
    let treatments: Vec<(bool, f64)> = [false, true]
        .into_iter()
        .flat_map(|min_max| {
            options
                .smoothing_sigma_frames
                .iter()
                .map(move |sigma| (min_max, *sigma))
        })
        .collect();
    let computed: Vec<Mutex<Option<Variant>>> =
        treatments.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((at, treatment)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            treatments.get(at).map(|treatment| (at, *treatment))
        } {
            let variant = variant(videos, treatment, options.threshold, &resamples);
            *computed[at].lock().expect("no thread panics with it") = Some(variant);
        }
    };
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 1..n_threads.min(treatments.len()) {
            scope.spawn(work);
        }
        work();
    });
    let variants = computed.into_iter().map(|variant| {
        let variant = variant.into_inner().expect("no thread panics with it");
        variant.expect("every treatment was taken by a thread")
    });
    let variants = variants.collect();
    let plain: Vec<Vec<f64>> = videos.iter().map(|video| video.scores.clone()).collect();
    let areas = areas_by_video(&ranked(videos, &plain), videos.len());
    let per_video: Vec<RefereeVideo> = videos
        .iter()
        .zip(areas)
        .map(|(video, areas)| RefereeVideo {
            video: video.name.clone(),
            frames: video.labels.len(),
            anomalous_frames: n_anomalous(video),
            auc: areas.auc,
            auc_padded: areas.padded,
        })
        .collect();
    RefereeReport {
        frames: per_video.iter().map(|video| video.frames).sum(),
        anomalous_frames: per_video.iter().map(|video| video.anomalous_frames).sum(),
        videos: videos.len(),
        normal_videos: per_video.iter().filter(|v| v.anomalous_frames == 0).count(),
        anomalous_videos: per_video
            .iter()
            .filter(|v| v.anomalous_frames == v.frames)
            .count(),
        score_range: range(videos.iter().flat_map(|video| &video.scores)),
        threshold: options.threshold,
        n_resamples: options.n_resamples,
        seed: options.seed,
        variants,
        per_video,
    }
}

fn n_anomalous(video: &PairedVideo) -> usize {
    video.labels.iter().filter(|label| **label).count()
}

fn range<'a>(scores: impl Iterator<Item = &'a f64>) -> [f64; 2] {
    scores.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], score| {
        [low.min(*score), high.max(*score)]
    })
}

/// A video's scores after a treatment.
fn treated(scores: &[f64], (min_max, sigma): (bool, f64)) -> Vec<f64> {
    let mut scores = scores.to_vec();
    if min_max {
        let [low, high] = range(scores.iter());
        // A video of one score has no range: published scripts divide by zero there.
        let scale = if high > low { high - low } else { 1.0 };
        scores
            .iter_mut()
            .for_each(|score| *score = (*score - low) / scale);
    }
    if sigma > 0.0 {
        scores = smoothing::gaussian(&scores, sigma);
    }
    scores
}

fn variant(
    videos: &[PairedVideo],
    treatment: (bool, f64),
    threshold: f64,
    resamples: &Resamples,
) -> Variant {
    let scores: Vec<Vec<f64>> = videos
        .iter()
        .map(|video| treated(&video.scores, treatment))
        .collect();
    let frames = ranked(videos, &scores);
    let areas = areas_by_video(&frames, videos.len());
    let intervals = resamples.intervals(&frames, &areas, places_of_padding(&frames));
    let mut all = steps(&frames);
    drop(frames);
    let (plain_auc, curve) = (auc(&all), precision_recall(&all, threshold));
    pad(&mut all);
    let (padded_auc, padded_curve) = (auc(&all), precision_recall(&all, threshold));
    let defined: Vec<f64> = areas.iter().filter_map(|areas| areas.auc).collect();
    let estimate = |value, interval: Option<[f64; 2]>| Estimate {
        value,
        interval: interval.filter(|_| value.is_some()),
        artefact: None,
    };
    let of = |pick: fn(&super::ranking::PrecisionRecall) -> f64| curve.as_ref().map(pick);
    let mut figures = FrameFigures {
        frame_auc: estimate(plain_auc, intervals.auc),
        frame_auc_padded: estimate(padded_auc, intervals.auc_padded),
        video_auc: estimate(mean(defined.iter().copied()), intervals.video_auc),
        video_auc_padded: estimate(
            mean(areas.iter().map(|areas| areas.padded)),
            intervals.video_auc_padded,
        ),
        frame_ap: estimate(of(|c| c.average_precision), intervals.average_precision),
        frame_ap_padded: estimate(
            padded_curve.map(|curve| curve.average_precision),
            intervals.average_precision_padded,
        ),
        frame_pr_trapezoid: estimate(of(|c| c.trapezoid), intervals.trapezoid),
        f1_fixed: estimate(of(|c| c.f1_fixed), None),
        f1_best: estimate(of(|c| c.f1_best), None),
        f1_best_threshold: of(|c| c.f1_best_threshold),
    };
    mark_artefacts(&mut figures, &areas, range(scores.iter().flatten()));
    Variant {
        min_max: treatment.0,
        smoothing_sigma_frames: treatment.1,
        figures,
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> Option<f64> {
    let n = values.len();
    (n > 0).then(|| values.sum::<f64>() / n as f64)
}

/// What of the padded figures comes from the padding.
fn mark_artefacts(figures: &mut FrameFigures, areas: &[VideoAreas], [low, high]: [f64; 2]) {
    let among = (low < 0.0 || high > 1.0).then(|| {
        format!("scores reach from {low:.4} to {high:.4}: the artificial frames at 0 and 1 stand among them")
    });
    let alone = |value: &Estimate| {
        let text = "all frames have one label: this is the artificial frames' doing alone";
        value.value.is_none().then(|| text.to_owned())
    };
    let of_one_label: Vec<f64> = areas
        .iter()
        .filter(|a| a.auc.is_none())
        .map(|a| a.padded)
        .collect();
    let made = mean(of_one_label.iter().copied()).map(|mean| {
        format!(
            "{} of {} videos have one label and no area of their own; the artificial frames give them {mean:.4} on average",
            of_one_label.len(),
            areas.len()
        )
    });
    let joined = |parts: [Option<String>; 2]| {
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    };
    let frames_alone = alone(&figures.frame_auc);
    figures.frame_auc_padded.artefact = joined([frames_alone, among.clone()]);
    let none_anomalous = alone(&figures.frame_ap);
    figures.frame_ap_padded.artefact = joined([none_anomalous, among.clone()]);
    figures.video_auc_padded.artefact = joined([made, among]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(name: &str, scores: &[f64], labels: &[u8]) -> PairedVideo {
        PairedVideo {
            name: name.into(),
            scores: scores.to_vec(),
            labels: labels.iter().map(|label| *label == 1).collect(),
        }
    }

    fn report(videos: &[PairedVideo], sigmas: &[f64]) -> RefereeReport {
        let options = RefereeOptions {
            smoothing_sigma_frames: sigmas.to_vec(),
            n_resamples: 50,
            ..RefereeOptions::default()
        };
        referee(videos, &options)
    }

    #[test]
    fn a_level_that_differs_between_videos_goes_with_min_max_and_stays_without() {
        let videos = [
            video("a", &[10.0, 11.0, 12.0], &[0, 0, 1]),
            video("b", &[0.0, 1.0, 2.0], &[0, 0, 1]),
        ];
        let report = report(&videos, &[0.0]);
        let [plain, stretched] = [0, 1].map(|i| &report.variants[i].figures);
        assert_eq!(plain.frame_auc.value, Some(6.0 / 8.0));
        assert_eq!(stretched.frame_auc.value, Some(1.0));
        for figures in [plain, stretched] {
            assert_eq!(figures.video_auc.value, Some(1.0));
        }
        assert!(plain.frame_auc.interval.is_some());
    }

    #[test]
    fn what_the_artificial_frames_make_is_marked() {
        let videos = [
            video("normal", &[0.25, 0.5], &[0, 0]),
            video("both", &[0.25, 0.75], &[0, 1]),
        ];
        let found = report(&videos, &[0.0]);
        let figures = &found.variants[0].figures;
        assert_eq!(figures.video_auc.value, Some(1.0));
        let artefact = figures.video_auc_padded.artefact.as_deref().unwrap();
        assert!(artefact.starts_with("1 of 2 videos"), "{artefact}");
        assert_eq!(figures.frame_auc_padded.artefact, None);
        assert_eq!((found.normal_videos, found.anomalous_videos), (1, 0));

        let found = report(&[video("a", &[-3.0, 4.0], &[0, 0])], &[0.0]);
        let figures = &found.variants[0].figures;
        assert_eq!(figures.frame_auc.value, None);
        let artefact = figures.frame_auc_padded.artefact.as_deref().unwrap();
        assert!(
            artefact.contains("one label") && artefact.contains("-3.0000"),
            "{artefact}"
        );
    }

    #[test]
    fn threads_change_nothing() {
        let videos = [
            video("a", &[0.1, 0.9, 0.3, 0.7], &[0, 1, 0, 1]),
            video("b", &[0.4, 0.2, 0.8, 0.6], &[1, 0, 1, 0]),
        ];
        let sigmas = [0.0, 1.0, 2.0, 3.0];
        let all = report(&videos, &sigmas);
        for (at, sigma) in sigmas.iter().enumerate() {
            let alone = report(&videos, &[*sigma]);
            assert_eq!(alone.variants[0], all.variants[at]);
            assert_eq!(alone.variants[1], all.variants[sigmas.len() + at]);
        }
    }

    #[test]
    fn a_video_of_one_score_is_stretched_to_zeros() {
        assert_eq!(treated(&[3.0, 3.0], (true, 0.0)), [0.0, 0.0]);
        assert_eq!(treated(&[1.0, 3.0, 2.0], (true, 0.0)), [0.0, 1.0, 0.5]);
    }
}

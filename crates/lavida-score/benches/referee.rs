//! How long the referee takes for a million frames: every convention, six variants, a thousand resamples.
//!
//! `cargo bench -p lavida-score --bench referee`

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::time::Instant;

use lavida_data::seed::StageRng;
use lavida_score::referee::{PairedVideo, RefereeOptions, referee};

fn videos(n_videos: usize, n_frames: usize) -> Vec<PairedVideo> {
    let mut rng = StageRng::new(1, "referee bench", &[]);
    let video = |i: usize| {
        let begin = rng.below(n_frames);
        let is_anomalous = |t: usize| i.is_multiple_of(2) && t >= begin && t < begin + n_frames / 4;
        let labels: Vec<bool> = (0..n_frames).map(is_anomalous).collect();
        let scores = labels
            .iter()
            .map(|label| rng.unit() + 0.2 * f64::from(u8::from(*label)));
        PairedVideo {
            name: i.to_string(),
            scores: scores.collect(),
            labels: labels.clone(),
        }
    };
    (0..n_videos).map(video).collect()
}

fn main() {
    println!("{:>7} {:>9} {:>8}", "videos", "frames", "seconds");
    // As many videos as UBnormal, UCF-Crime and XD-Violence test on.
    for n_videos in [211, 290, 800] {
        let videos = videos(n_videos, 1_000_000 / n_videos);
        let n_frames: usize = videos.iter().map(|video| video.labels.len()).sum();
        let fastest = (0..3)
            .map(|_| {
                let begin = Instant::now();
                let report = referee(&videos, &RefereeOptions::default());
                assert_eq!(report.frames, n_frames);
                begin.elapsed().as_secs_f64()
            })
            .fold(f64::INFINITY, f64::min);
        println!("{n_videos:>7} {n_frames:>9} {fastest:>8.3}");
    }
}

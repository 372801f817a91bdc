//! Frame AUC and average precision against the reference's table, its artificial end points included.

use lavida_score::metrics::{auc, average_precision, padded};
use lavida_score::report::{EvaluationReport, EvaluationSettings, PixelTally};
use lavida_score::scored::ScoredVideo;
use serde_json::Value;

use crate::support::Fixture;

/// scikit-learn sums in another order; nothing else may differ.
const ROUNDING: f64 = 1e-12;

fn videos(case: &Value) -> Vec<ScoredVideo> {
    let videos = case["videos"].as_array().unwrap().iter().enumerate();
    let videos = videos.map(|(i, video)| ScoredVideo {
        video: i.to_string(),
        object_logits: serde_json::from_value(video[0].clone()).unwrap(),
        frame_labels: video[1]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| *l == 1)
            .collect(),
        ..ScoredVideo::default()
    });
    videos.collect()
}

#[track_caller]
fn check(what: &str, found: Option<f64>, expected: &Value) {
    let (found, expected) = (found.unwrap(), expected.as_f64().unwrap());
    assert!(
        (found - expected).abs() <= ROUNDING,
        "{what}: expected {expected}, found {found}"
    );
}

#[test]
fn frame_and_mean_video_scores_equal_the_reference() {
    let fixture = Fixture::open("prep");
    let cases = fixture.setting("/metrics").as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let metric = case["metric"].as_str().unwrap();
        let metric_of: fn(&[f32], &[bool]) -> Option<f64> = match metric {
            "AUC" => auc,
            "AP" => average_precision,
            other => panic!("metric {other}"),
        };
        let videos = videos(case);
        let scores: Vec<f32> = videos
            .iter()
            .flat_map(|v| v.object_logits.clone())
            .collect();
        let labels: Vec<bool> = videos.iter().flat_map(|v| v.frame_labels.clone()).collect();
        let (scores, labels) = padded(&scores, &labels);
        check(metric, metric_of(&scores, &labels), &case["frame_score"]);

        let by_video = videos.iter().map(|video| {
            let (scores, labels) = padded(&video.object_logits, &video.frame_labels);
            metric_of(&scores, &labels).unwrap()
        });
        let mean = by_video.sum::<f64>() / videos.len() as f64;
        check(metric, Some(mean), &case["mean_video_score"]);
    }
}

#[test]
fn a_report_with_reference_metrics_holds_the_reference_figures() {
    let fixture = Fixture::open("prep");
    for case in fixture.setting("/metrics").as_array().unwrap() {
        let settings = EvaluationSettings {
            categories: Vec::new(),
            n_frames: 1,
            interval: 1,
            reference_metrics: true,
            reference_windows: false,
            abnormal_only: false,
            smoothing_sigma_frames: 0.0,
            keep_ratio: 1.0,
            drop_static_patches: false,
        };
        let pixels = PixelTally::default();
        let report = EvaluationReport::new("table".into(), settings, &videos(case), &pixels);
        if case["metric"] == "AUC" {
            check("frame AUC", report.frame_auc, &case["frame_score"]);
            check("video AUC", report.video_auc, &case["mean_video_score"]);
        } else {
            check("frame AP", report.frame_ap, &case["frame_score"]);
        }
    }
}

//! The referee against scikit-learn and the arithmetic of published scripts: `tests/interop/referee.py` made the cases and what
//! is expected of them, all-normal and all-anomalous videos among them, and compares a thousand others where Python has it.

use std::path::Path;

use lavida_score::referee::{CONVENTIONS, PairedVideo, RefereeOptions, referee};
use serde_json::Value;

/// What the comparison with scikit-learn allows.
const TOLERANCE: f64 = 1e-9;

fn cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/fixtures/referee/cases.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn videos(case: &Value) -> Vec<PairedVideo> {
    let videos = case["videos"].as_array().unwrap().iter().enumerate();
    let numbers = |list: &Value| -> Vec<f64> { serde_json::from_value(list.clone()).unwrap() };
    let videos = videos.map(|(i, video)| PairedVideo {
        name: i.to_string(),
        scores: numbers(&video["scores"]),
        labels: numbers(&video["labels"])
            .iter()
            .map(|l| *l == 1.0)
            .collect(),
    });
    videos.collect()
}

#[test]
fn every_convention_equals_the_published_one() {
    let cases = cases();
    let (mut n_normal, mut n_anomalous, mut n_figures) = (0, 0, 0);
    for (at, case) in cases.iter().enumerate() {
        let videos = videos(case);
        n_normal += videos.iter().filter(|v| !v.labels.contains(&true)).count();
        n_anomalous += videos.iter().filter(|v| !v.labels.contains(&false)).count();
        let options = RefereeOptions {
            smoothing_sigma_frames: serde_json::from_value(case["sigmas"].clone()).unwrap(),
            n_resamples: 0,
            ..RefereeOptions::default()
        };
        let report = serde_json::to_value(referee(&videos, &options)).unwrap();
        let expected = case["variants"].as_array().unwrap();
        let found = report["variants"].as_array().unwrap();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            for key in ["min_max", "smoothing_sigma_frames"] {
                assert_eq!(found[key], expected[key]);
            }
            for convention in &CONVENTIONS {
                let found = &found["figures"][convention.name]["value"];
                let expected = &expected["figures"][convention.name];
                n_figures += 1;
                let is_equal = match (found.as_f64(), expected.as_f64()) {
                    (Some(found), Some(expected)) => (found - expected).abs() <= TOLERANCE,
                    (found, expected) => found == expected,
                };
                assert!(
                    is_equal,
                    "case {at}, {}: {found}, expected {expected}",
                    convention.name
                );
            }
        }
    }
    assert!(
        cases.len() >= 100 && n_normal > 50 && n_anomalous > 50,
        "{n_normal} {n_anomalous}"
    );
    assert!(n_figures > 2000, "{n_figures}");
}

//! Laws and distribution of the Anomaly Exposure Sampler.

use std::collections::{BTreeMap, BTreeSet};

use lavida_data::clip::Clip;
use lavida_data::exposure::{
    AnomalyExposureSampler, Exclusion, Exposure, ExposureSettings, MaxCategories,
};
use lavida_data::manifest::Positives;
use lavida_data::mask::RleMask;
use lavida_data::seed::StageRng;
use proptest::prelude::*;

use crate::world::{classes, clip, dataset, object, sampler, square};

/// A random dataset: some videos of one or two clips, objects with classes and shared texts, some frames without them.
fn random_dataset(
    seed: u64,
    positives: Positives,
    text: bool,
) -> lavida_data::catalog::MemoryDataset {
    let rng = &mut StageRng::new(seed, "world", &[]);
    let names = classes(12);
    let clips = (0..2 + rng.below(6))
        .map(|i| {
            let n_frames = 1 + rng.below(4);
            let objects = (0..rng.below(5))
                .map(|id| {
                    let mut seen: Vec<bool> = (0..n_frames).map(|_| rng.below(2) == 0).collect();
                    seen[rng.below(n_frames)] = true;
                    let category = rng.choose(&names).unwrap().clone();
                    let texts: Vec<String> = if text {
                        (0..1 + rng.below(3))
                            .map(|_| format!("text {:02}", rng.below(20)))
                            .collect()
                    } else {
                        vec![category.clone()]
                    };
                    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                    object(
                        id,
                        (!text).then_some(&category),
                        &texts,
                        &seen,
                        rng.below(16),
                    )
                })
                .collect();
            let mut clip = clip("set", &format!("v{}", i / 2), n_frames, objects);
            clip.id = format!("clip {i}");
            clip
        })
        .collect();
    let mut set = dataset("set", (!text).then_some(12), positives, clips);
    set.header.max_categories = 2 + rng.below(10);
    set
}

fn texts_of_video(clips: &[Clip], video: &str) -> BTreeSet<String> {
    let of_video = clips.iter().filter(|clip| clip.video == video);
    of_video
        .flat_map(|clip| &clip.objects)
        .flat_map(|o| o.descriptions.clone())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_draw_keeps_the_laws(seed: u64, epoch in 0u64..3, kind in 0usize..3, text: bool) {
        let positives = [Positives::One, Positives::OneOrTwo, Positives::All][kind];
        let set = random_dataset(seed, positives, text);
        let max_categories = set.header.max_categories;
        let (sampler, clips) = sampler(ExposureSettings::default(), set);
        for clip in &clips {
            let own = texts_of_video(&clips, &clip.video);
            let draw = match sampler.draw(clip, seed, epoch) {
                Ok(draw) => draw,
                Err(error) => {
                    // Only a text dataset whose other videos say nothing new may refuse, and says which dataset.
                    let all: BTreeSet<String> = clips.iter().flat_map(|c| texts_of_video(&clips, &c.video)).collect();
                    prop_assert!(text && all.is_subset(&own), "{}", error);
                    prop_assert!(error.to_string().contains("dataset set"), "{}", error);
                    prop_assert_eq!(error.exit_code(), 2);
                    continue;
                }
            };
            let k = draw.categories.len();
            prop_assert!(k >= 1 && k <= max_categories, "{} of {}", k, max_categories);
            prop_assert_eq!(draw.is_true.len(), k);
            let different: BTreeSet<&String> = draw.categories.iter().collect();
            prop_assert_eq!(different.len(), k, "without replacement");

            let (truth, distractors): (Vec<_>, Vec<_>) = draw.categories.iter().zip(&draw.is_true).partition(|(_, t)| **t);
            prop_assert!(!distractors.is_empty(), "at least one distractor");
            prop_assert_eq!(draw.is_anomaly, !truth.is_empty(), "a normal prompt names no true category");
            for (name, _) in distractors {
                prop_assert!(!clip.present_categories.contains(name), "{} is in the clip", name);
                prop_assert!(!text || !own.contains(name), "{} names something of the clip's video", name);
            }
            for (name, _) in &truth {
                prop_assert!(clip.objects.iter().any(|o| o.descriptions.contains(name)));
            }

            prop_assert_eq!(draw.pixel_masks.len(), clip.frames.len());
            prop_assert_eq!(draw.is_anomaly, draw.frame_labels.contains(&true));
            for (t, mask) in draw.pixel_masks.iter().enumerate() {
                // y^f[t] = any(y^p[t])
                prop_assert_eq!(draw.frame_labels[t], mask.as_ref().is_some_and(|m| !m.is_empty()));
                // y^p is the OR over every object that a true category names.
                let named = clip.objects.iter().filter(|o| truth.iter().any(|(name, _)| o.descriptions.contains(name)));
                let masks: Vec<&RleMask> = named.filter_map(|o| o.masks[t].as_ref()).collect();
                let expected = (!masks.is_empty()).then(|| RleMask::union(&masks).unwrap().to_raster().unwrap());
                prop_assert_eq!(mask.as_ref().map(|m| m.to_raster().unwrap()), expected);
            }
            prop_assert!(draw.user_template < 5 && draw.answer_template < 5);
        }
    }

    #[test]
    fn a_draw_is_a_function_of_clip_seed_and_epoch(seed: u64, epoch: u64) {
        let (first, clips) = sampler(ExposureSettings::default(), random_dataset(7, Positives::One, false));
        let (second, _) = sampler(ExposureSettings::default(), random_dataset(7, Positives::One, false));
        // The second sampler draws in another order, and twice.
        let a: Vec<Exposure> = clips.iter().map(|clip| first.draw(clip, seed, epoch).unwrap()).collect();
        for (clip, expected) in clips.iter().zip(&a).rev() {
            prop_assert_eq!(&second.draw(clip, seed, epoch).unwrap(), expected);
            prop_assert_eq!(&second.draw(clip, seed, epoch).unwrap(), expected);
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    min: usize,
    max: usize,
    mean: f64,
    n: usize,
}

/// K_E over 20 000 epochs, of anomalous and of normal draws.
fn count(sampler: &AnomalyExposureSampler, clip: &Clip) -> [Counts; 2] {
    let mut counts = [(); 2].map(|()| Counts {
        min: usize::MAX,
        ..Default::default()
    });
    for epoch in 0..20_000 {
        let draw = sampler.draw(clip, 44, epoch).unwrap();
        let k = draw.categories.len();
        let counts = &mut counts[usize::from(!draw.is_anomaly)];
        counts.min = counts.min.min(k);
        counts.max = counts.max.max(k);
        counts.mean += k as f64;
        counts.n += 1;
    }
    counts.map(|c| Counts {
        mean: c.mean / c.n as f64,
        ..c
    })
}

#[track_caller]
fn check_range(counts: &Counts, min: usize, max: usize) {
    assert_eq!((counts.min, counts.max), (min, max), "{counts:?}");
    let mean = (min + max) as f64 / 2.0;
    let variance = ((max - min + 1).pow(2) - 1) as f64 / 12.0;
    let error = (variance / counts.n as f64).sqrt();
    assert!(
        (counts.mean - mean).abs() < 4.0 * error,
        "mean of {counts:?}, expected {mean} ± {error}"
    );
}

#[test]
fn thirty_categories_give_2_to_30_and_1_to_29() {
    let one = vec![object(0, Some("class 00"), &["class 00"], &[true], 0)];
    let (sampler, clips) = sampler(
        ExposureSettings::default(),
        dataset(
            "set",
            Some(150),
            Positives::One,
            vec![clip("set", "v", 1, one)],
        ),
    );
    let [anomalous, normal] = count(&sampler, &clips[0]);
    check_range(&anomalous, 2, 30); // mean 16
    check_range(&normal, 1, 29); // mean 15
    let share = anomalous.n as f64 / 20_000.0;
    assert!((share - 0.5).abs() < 0.015, "anomaly ratio {share}");
}

#[test]
fn two_positives_give_3_to_30_and_1_to_28() {
    let two = vec![
        object(0, Some("class 00"), &["class 00"], &[true, true], 0),
        object(1, Some("class 01"), &["class 01"], &[true, true], 5),
    ];
    let (sampler, clips) = sampler(
        ExposureSettings::default(),
        dataset(
            "set",
            Some(65),
            Positives::All,
            vec![clip("set", "v", 2, two)],
        ),
    );
    let [anomalous, normal] = count(&sampler, &clips[0]);
    check_range(&anomalous, 3, 30);
    check_range(&normal, 1, 28);
}

#[test]
fn six_categories_give_2_to_6_and_1_to_5() {
    let one = vec![object(0, Some("class 00"), &["class 00"], &[true], 0)];
    let settings = ExposureSettings {
        max_categories: Some(MaxCategories::new(6).unwrap()),
        ..Default::default()
    };
    let set = dataset(
        "set",
        Some(8),
        Positives::One,
        vec![clip("set", "v", 1, one)],
    );
    let (sampler, clips) = sampler(settings, set);
    let [anomalous, normal] = count(&sampler, &clips[0]);
    check_range(&anomalous, 2, 6);
    check_range(&normal, 1, 5);
}

#[test]
fn an_anomaly_ratio_of_0_and_1_is_obeyed() {
    let one = vec![object(0, Some("class 00"), &["class 00"], &[true], 0)];
    let check = |anomaly_ratio: f64, expected: bool| {
        let settings = ExposureSettings {
            anomaly_ratio,
            ..Default::default()
        };
        let set = dataset(
            "set",
            Some(8),
            Positives::One,
            vec![clip("set", "v", 1, one.clone())],
        );
        let (sampler, clips) = sampler(settings, set);
        let draws = (0..200).map(|epoch| sampler.draw(&clips[0], 1, epoch).unwrap().is_anomaly);
        assert!(
            draws.into_iter().all(|is_anomaly| is_anomaly == expected),
            "p = {anomaly_ratio}"
        );
    };
    check(0.0, false);
    check(1.0, true);
}

#[test]
fn a_clip_without_an_object_is_normal() {
    let settings = ExposureSettings {
        anomaly_ratio: 1.0,
        ..Default::default()
    };
    let set = dataset(
        "set",
        Some(40),
        Positives::All,
        vec![clip("set", "v", 2, vec![])],
    );
    let (sampler, clips) = sampler(settings, set);
    let [anomalous, normal] = count(&sampler, &clips[0]);
    assert_eq!(anomalous.n, 0);
    check_range(&normal, 1, 29);
}

#[test]
fn a_text_that_names_two_objects_exposes_both() {
    let objects = vec![
        object(0, None, &["two dogs"], &[true, false, false], 0),
        object(1, None, &["two dogs"], &[false, true, false], 5),
    ];
    let other = clip("set", "w", 1, vec![object(0, None, &["a cat"], &[true], 1)]);
    let settings = ExposureSettings {
        anomaly_ratio: 1.0,
        ..Default::default()
    };
    let set = dataset(
        "set",
        None,
        Positives::One,
        vec![clip("set", "v", 3, objects), other],
    );
    let (sampler, clips) = sampler(settings, set);
    let draw = sampler.draw(&clips[0], 5, 0).unwrap();
    assert_eq!(draw.pixel_masks, [Some(square(0)), Some(square(5)), None]);
    assert_eq!(draw.frame_labels, [true, true, false]);
}

#[test]
fn a_class_exposes_all_its_objects() {
    let objects = vec![
        object(0, Some("class 03"), &["class 03"], &[true], 0),
        object(1, Some("class 03"), &["class 03"], &[true], 1),
    ];
    let settings = ExposureSettings {
        anomaly_ratio: 1.0,
        ..Default::default()
    };
    let set = dataset(
        "set",
        Some(9),
        Positives::One,
        vec![clip("set", "v", 1, objects)],
    );
    let (sampler, clips) = sampler(settings, set);
    let draw = sampler.draw(&clips[0], 5, 0).unwrap();
    let both = RleMask::union(&[&square(0), &square(1)]).unwrap();
    assert_eq!(draw.pixel_masks, [Some(both)]);
}

/// Were a text more often true than it is a distractor, the prompt alone would betray it.
#[test]
fn a_text_is_a_distractor_as_often_as_it_is_true() {
    let clips: Vec<Clip> = (0..20)
        .map(|i| {
            let text = if i < 14 {
                "common"
            } else {
                ["rare a", "rare b", "rare c"][i % 3]
            };
            clip(
                "set",
                &format!("v{i}"),
                1,
                vec![object(0, None, &[text], &[true], 0)],
            )
        })
        .collect();
    let settings = ExposureSettings {
        max_categories: Some(MaxCategories::new(2).unwrap()),
        ..Default::default()
    };
    let (sampler, clips) = sampler(settings, dataset("set", None, Positives::One, clips));
    let mut drawn: BTreeMap<String, f64> = BTreeMap::new();
    let probe = Clip {
        video: "elsewhere".into(),
        objects: vec![],
        ..clips[0].clone()
    };
    for epoch in 0..10_000 {
        for name in sampler.draw(&probe, 3, epoch).unwrap().categories {
            *drawn.entry(name).or_default() += 1e-4;
        }
    }
    let check = |name: &str, expected: f64| {
        assert!((drawn[name] - expected).abs() < 0.02, "{name}: {drawn:?}");
    };
    check("common", 0.7);
    check("rare a", 0.1);
    check("rare b", 0.1);
    check("rare c", 0.1);
}

#[test]
fn a_paraphrase_is_excluded_by_its_words_where_asked() {
    let scene = clip(
        "set",
        "v",
        1,
        vec![object(0, None, &["the red circle"], &[true], 0)],
    );
    let texts = ["circle", "a red object", "red star", "the object"];
    let other = clip(
        "set",
        "w",
        1,
        texts
            .iter()
            .enumerate()
            .map(|(i, t)| object(i, None, &[t], &[true], i))
            .collect(),
    );
    let drawn = |exclusion| {
        let settings = ExposureSettings {
            exclusion,
            ..Default::default()
        };
        let (sampler, clips) = sampler(
            settings,
            dataset(
                "set",
                None,
                Positives::One,
                vec![scene.clone(), other.clone()],
            ),
        );
        let draws = (0..300).map(|epoch| sampler.draw(&clips[0], 1, epoch).unwrap());
        let names = draws.flat_map(|draw| draw.categories.into_iter().zip(draw.is_true));
        names
            .filter(|(_, is_true)| !is_true)
            .map(|(name, _)| name)
            .collect::<BTreeSet<String>>()
    };
    assert_eq!(drawn(Exclusion::Equal).len(), 4);
    assert_eq!(
        Vec::from_iter(drawn(Exclusion::Words)),
        ["red star", "the object"]
    );
}

#[test]
fn a_dataset_without_a_distractor_is_named() {
    let check = |set: lavida_data::catalog::MemoryDataset, expected: &str| {
        let (sampler, clips) = sampler(ExposureSettings::default(), set);
        let error = sampler.draw(&clips[0], 0, 0).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.exit_code()),
            (expected, 2)
        );
    };
    let one = |name: &str| {
        clip(
            "set",
            "v",
            1,
            vec![object(0, Some(name), &[name], &[true], 0)],
        )
    };
    check(
        dataset("set", Some(1), Positives::One, vec![one("class 00")]),
        "dataset set, distractors for clip v/0: expected a category that the clip does not show, of its dataset or of another one of the run (a second --data brings some), found none among 1 texts",
    );
    check(
        dataset("set", None, Positives::One, vec![one("only text")]),
        "dataset set, distractors for clip v/0: expected a category that the clip does not show, of its dataset or of another one of the run (a second --data brings some), found none among 1 texts",
    );
}

#[test]
fn settings_that_cannot_hold_are_refused() {
    let check = |settings: ExposureSettings, expected: &str| {
        let set = dataset(
            "set",
            Some(8),
            Positives::One,
            vec![clip("set", "v", 1, vec![])],
        );
        let catalog = lavida_data::catalog::Catalog::in_memory(vec![set]).unwrap();
        let error = AnomalyExposureSampler::new(settings, &catalog).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    for (n_categories, found) in [(0, "0"), (1, "1"), (4097, "4097")] {
        let error = MaxCategories::new(n_categories).unwrap_err().to_string();
        let expected =
            "expected a number from 2 (one true category and one distractor) to 4096, found ";
        assert_eq!(error, format!("sampler.max_categories: {expected}{found}"));
    }
    check(
        ExposureSettings {
            anomaly_ratio: 1.5,
            ..Default::default()
        },
        "sampler.anomaly_ratio: expected a share in [0, 1], found 1.5",
    );
}

#[test]
fn a_clip_of_an_unknown_dataset_is_refused() {
    let set = dataset(
        "set",
        Some(8),
        Positives::One,
        vec![clip("set", "v", 1, vec![])],
    );
    let (sampler, _) = sampler(ExposureSettings::default(), set);
    let error = sampler
        .draw(&clip("else", "v", 1, vec![]), 0, 0)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "clip v/0: expected a dataset of the catalog (set), found else"
    );
}

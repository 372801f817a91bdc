//! Laws of the names drawn for the grounding stage.

use std::collections::BTreeSet;

use lavida_data::clip::Clip;
use lavida_data::exposure::{AnomalyExposureSampler, ExposureSettings};
use lavida_data::manifest::Positives;
use proptest::prelude::*;

use crate::world::{clip, dataset, object, sampler};

/// Two videos of coloured shapes; `red star` occurs in none.
fn world() -> (AnomalyExposureSampler, Vec<Clip>) {
    let first = clip(
        "set",
        "v",
        2,
        vec![
            object(
                0,
                None,
                &["red circle", "the red circle moving left"],
                &[true, true],
                0,
            ),
            object(1, None, &["circle"], &[true, false], 5),
            object(
                2,
                None,
                &["blue star", "the object standing still"],
                &[false, true],
                9,
            ),
        ],
    );
    let second = clip(
        "set",
        "w",
        1,
        vec![
            object(0, None, &["green ring"], &[true], 0),
            object(1, None, &["red ring"], &[true], 5),
            object(2, None, &["star"], &[true], 7),
        ],
    );
    sampler(
        ExposureSettings::default(),
        dataset("set", None, Positives::One, vec![first, second]),
    )
}

#[test]
fn a_names_objects_are_those_with_all_its_words() {
    let (sampler, clips) = world();
    let draw = sampler.draw_names(&clips[0], 1, 0, 100).unwrap();
    let check = |name: &str, expected: Option<&[usize]>| {
        let at = draw.names.iter().position(|n| n == name);
        let objects = at.map(|i| &draw.objects_of_name[i][..]);
        assert_eq!(objects, expected, "{name}");
    };
    check("red circle", Some(&[0]));
    // Motion is not seen in one frame, so it does not narrow the name.
    check("the red circle moving left", Some(&[0]));
    check("circle", Some(&[0, 1]));
    check("red", Some(&[0]));
    check("star", Some(&[2]));
    check("green ring", Some(&[]));
    check("red ring", Some(&[]));
    check("ring", Some(&[]));
    // Nothing that a frame shows, words that are not content, and combinations that no text holds.
    check("the object standing still", None);
    check("left", None);
    check("the", None);
    check("red star", None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn names_are_different_known_and_few(seed: u64, epoch: u64, max_names in 0usize..20) {
        let (sampler, clips) = world();
        let texts: BTreeSet<&String> = clips.iter().flat_map(|c| &c.objects).flat_map(|o| &o.descriptions).collect();
        for clip in &clips {
            let draw = sampler.draw_names(clip, seed, epoch, max_names).unwrap();
            prop_assert_eq!(&draw, &sampler.draw_names(clip, seed, epoch, max_names).unwrap());
            prop_assert!(draw.names.len() <= max_names);
            prop_assert_eq!(draw.names.len(), draw.objects_of_name.len());
            let different: BTreeSet<&String> = draw.names.iter().collect();
            prop_assert_eq!(different.len(), draw.names.len());
            for name in &draw.names {
                prop_assert!(texts.contains(name) || !name.contains(' '), "{} was put together", name);
            }
            if max_names >= 6 {
                prop_assert!(draw.objects_of_name.iter().any(|objects| objects.is_empty()), "an absent name");
                prop_assert!(draw.objects_of_name.iter().any(|objects| !objects.is_empty()), "a present name");
            }
        }
    }
}

//! Evaluation scenes: a target shown in part of the video, and whenever it is not, another object in its place.
//!
//! Beside the slot of the target, one to three objects are there throughout, one sharing the target's
//! colour, one its shape (near misses), one anything. All are trained combinations. Every frame shows the
//! same number of objects, so that counting them says nothing.

use lavida_data::seed::StageRng;

use super::paint::cover;
use super::scene::{Scene, SceneObject, blends, coincides, draw_wanderer, in_the_place_of};
use super::settings::WorldSettings;
use super::vocabulary::{Combination, Look};

/// A scene with its ground truth.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationScene {
    /// What the camera sees.
    pub scene: Scene,
    /// What is anomalous about it and which of its objects that is; none in a normal video.
    pub target: Option<(Combination, usize)>,
    /// `[T]` whether the target is shown.
    pub anomalous: Vec<bool>,
}

/// Which combinations an evaluation set is about.
#[derive(Clone, Debug)]
pub struct EvaluationSet {
    /// The anomaly categories.
    pub targets: Vec<Combination>,
    /// What all other objects are taken from: trained combinations that are no target.
    pub others: Vec<Combination>,
}

impl EvaluationSet {
    /// Whether `candidate` shares nothing with any other target than `about`, as `about` itself does not. With such an
    /// object in the target's place, a score for the other targets says nothing about which of the two is shown: asked
    /// only for absent categories, a model that reads the prompt is at chance. True of everything where the targets
    /// leave no such combination.
    fn is_told_apart_by(&self, about: Combination, candidate: &Combination) -> bool {
        let shares = |c: &Combination, target: &Combination| {
            target.colour_idx == c.colour_idx || target.shape == c.shape
        };
        let others = || self.targets.iter().filter(|target| **target != about);
        let is_fair = |c: &Combination| !others().any(|target| shares(c, target));
        let n_fair = self.others.iter().filter(|c| is_fair(c)).count();
        n_fair < ENOUGH_FAIR || is_fair(candidate)
    }
}

/// Two of the fair ones may already be there throughout.
const ENOUGH_FAIR: usize = 3;

/// Draws an evaluation scene about `about`, which appears only when `with_target`.
pub fn evaluation_scene(
    rng: &mut StageRng,
    settings: &WorldSettings,
    set: &EvaluationSet,
    about: Combination,
    with_target: bool,
) -> EvaluationScene {
    let n_frames = settings.evaluation_frames;
    let anomalous = if with_target {
        draw_interval(rng, n_frames)
    } else {
        vec![false; n_frames]
    };
    let mut looks = draw_others(rng, settings, set, about);
    let fair = |candidate: &Combination| set.is_told_apart_by(about, candidate);
    let replacement = pick(rng, set, &looks, fair);
    let slot_idx = rng.below(looks.len() + 1);
    looks.insert(slot_idx, replacement);

    let mut best: Option<(f64, Vec<SceneObject>)> = None;
    for _ in 0..1000 {
        let mut objects: Vec<SceneObject> = looks
            .iter()
            .map(|&look| SceneObject {
                shown: vec![true; n_frames],
                ..draw_wanderer(rng, settings, Look::Ordinary(look))
            })
            .collect();
        if with_target {
            let mut target = in_the_place_of(rng, &objects[slot_idx], Look::Ordinary(about));
            target.shown.clone_from(&anomalous);
            objects[slot_idx].shown = anomalous.iter().map(|shown| !shown).collect();
            objects.insert(slot_idx, target);
        }
        let scene = Scene {
            n_frames,
            frame_px: settings.frame_px,
            objects,
        };
        // Measured only where it can be good.
        let least = match (coincides(&scene), blends(&scene)) {
            (false, false) => least_visible(&scene),
            (coincides, blends) => -f64::from(u8::from(coincides) + u8::from(blends)),
        };
        if best.as_ref().is_none_or(|(most, _)| least > *most) {
            best = Some((least, scene.objects));
        }
        if least >= 0.5 {
            break;
        }
    }
    let (_, objects) = best.expect("a thousand draws are at least one");
    EvaluationScene {
        scene: Scene {
            n_frames,
            frame_px: settings.frame_px,
            objects,
        },
        target: with_target.then_some((about, slot_idx)),
        anomalous,
    }
}

/// A run of about half of the frames, anywhere, also at either end.
fn draw_interval(rng: &mut StageRng, n_frames: usize) -> Vec<bool> {
    let slack = n_frames / 8;
    let length = n_frames / 2 - slack + rng.below(2 * slack + 1);
    let start = rng.below(n_frames - length + 1);
    (0..n_frames)
        .map(|frame_idx| (start..start + length).contains(&frame_idx))
        .collect()
}

fn draw_others(
    rng: &mut StageRng,
    settings: &WorldSettings,
    set: &EvaluationSet,
    about: Combination,
) -> Vec<Combination> {
    let n_drawn = [1, 2, 2, 2, 3][rng.below(5)];
    let n_others = settings.max_objects.saturating_sub(1).clamp(1, n_drawn);
    let mut relations = [Relation::SameColour, Relation::SameShape, Relation::Any];
    rng.shuffle(&mut relations[..2]); // near misses come first when there are few
    let mut looks = Vec::new();
    for relation in &relations[..n_others] {
        looks.push(pick(rng, set, &looks, |candidate| match relation {
            Relation::SameColour => candidate.colour_idx == about.colour_idx,
            Relation::SameShape => candidate.shape == about.shape,
            Relation::Any => true,
        }));
    }
    rng.shuffle(&mut looks);
    looks
}

#[derive(Clone, Copy)]
enum Relation {
    SameColour,
    SameShape,
    Any,
}

/// One of the set's other combinations that is not taken yet and fulfils `condition`.
fn pick(
    rng: &mut StageRng,
    set: &EvaluationSet,
    taken: &[Combination],
    condition: impl Fn(&Combination) -> bool,
) -> Combination {
    let candidates: Vec<Combination> = set
        .others
        .iter()
        .filter(|c| !taken.contains(c) && condition(c))
        .copied()
        .collect();
    *rng.choose(&candidates)
        .expect("every colour and every shape has at least three trained combinations")
}

/// The smallest visible part of any shown object in any frame, in `[0, 1]`.
fn least_visible(scene: &Scene) -> f64 {
    cover(scene)
        .objects
        .iter()
        .flatten()
        .filter(|frame| frame.shape_px > 0)
        .map(|frame| frame.visible_px as f64 / frame.shape_px as f64)
        .fold(1.0, f64::min)
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::Split;
    use super::*;

    fn scenes(seed: u64, with_target: bool) -> Vec<EvaluationScene> {
        let settings = WorldSettings::default();
        let split = Split::of(seed);
        let set = EvaluationSet {
            targets: split.held_out.clone(),
            others: split.trained,
        };
        (0..10u64)
            .map(|i| {
                let mut rng = StageRng::new(seed, "test", &[&i]);
                evaluation_scene(
                    &mut rng,
                    &settings,
                    &set,
                    split.held_out[i as usize % 5],
                    with_target,
                )
            })
            .collect()
    }

    #[test]
    fn what_takes_a_targets_place_shares_nothing_with_the_other_targets() {
        let targets = Split::of(7).held_out;
        for scene in scenes(7, true) {
            let (about, slot_idx) = scene.target.unwrap();
            let place = scene.scene.objects[slot_idx + 1]
                .look
                .combination()
                .unwrap();
            for other in targets.iter().filter(|target| **target != about) {
                assert!(place.colour_idx != other.colour_idx && place.shape != other.shape);
            }
        }
    }

    #[test]
    fn every_frame_shows_as_many_objects_with_the_target_as_without() {
        for evaluation in scenes(1, true).into_iter().chain(scenes(2, false)) {
            let cover = cover(&evaluation.scene);
            let counts: Vec<usize> = (0..evaluation.scene.n_frames)
                .map(|t| {
                    cover
                        .objects
                        .iter()
                        .filter(|frames| frames[t].visible_px >= 30)
                        .count()
                })
                .collect();
            assert!(counts.iter().all(|&count| count == counts[0]), "{counts:?}");
        }
    }

    #[test]
    fn the_target_is_shown_in_one_run_of_about_half_of_the_frames() {
        for evaluation in scenes(3, true) {
            let (about, idx) = evaluation.target.expect("with target");
            assert_eq!(evaluation.scene.objects[idx].look, Look::Ordinary(about));
            assert_eq!(evaluation.scene.objects[idx].shown, evaluation.anomalous);
            let n_shown = evaluation.anomalous.iter().filter(|&&shown| shown).count();
            let n_changes = evaluation
                .anomalous
                .windows(2)
                .filter(|pair| pair[0] != pair[1])
                .count();
            assert!(
                (12..=20).contains(&n_shown) && n_changes <= 2,
                "{:?}",
                evaluation.anomalous
            );
        }
    }

    #[test]
    fn every_object_keeps_half_of_its_pixels_and_none_blends_into_another() {
        for seed in 0..6 {
            for evaluation in scenes(seed, true) {
                assert!(least_visible(&evaluation.scene) >= 0.5 && !blends(&evaluation.scene));
            }
        }
    }

    #[test]
    fn a_near_miss_is_always_there() {
        for evaluation in scenes(4, true) {
            let (about, idx) = evaluation.target.expect("with target");
            let near = |object: &SceneObject| {
                object
                    .look
                    .combination()
                    .is_some_and(|c| (c.colour_idx == about.colour_idx) != (c.shape == about.shape))
            };
            assert!(
                evaluation
                    .scene
                    .objects
                    .iter()
                    .enumerate()
                    .any(|(i, object)| {
                        i != idx && object.shown.iter().all(|&shown| shown) && near(object)
                    })
            );
        }
    }
}

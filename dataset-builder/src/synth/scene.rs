//! Scenes: which objects a fixed camera sees and how they move, drawn from one random stream.
//!
//! A training scene has two to four objects. Half of them (a setting) have an attribute without a word;
//! ordinary ones often share colour or shape with one another, so that telling them apart takes both
//! words. Objects move along straight, slightly wavering courses, in front of and behind one another;
//! some enter or leave. Placements in which an object is hardly ever visible are drawn again.

use lavida_data::seed::StageRng;

use super::paint::{Cover, cover};
use super::settings::WorldSettings;
use super::shape::Outline;
use super::vocabulary::{COLOUR_JITTER, COLOURS, Combination, Look, OTHER_COLOURS, Split};

/// How an object moves over the whole clip, as MeViS expressions name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Motion {
    /// Towards smaller x.
    Left,
    /// Towards larger x.
    Right,
    /// Towards smaller y.
    Up,
    /// Towards larger y.
    Down,
    /// Not at all.
    Still,
    /// To and fro. No words.
    Wander,
}

impl Motion {
    /// `"moving left"`, when it has words.
    pub fn words(self) -> Option<&'static str> {
        match self {
            Self::Left => Some("moving left"),
            Self::Right => Some("moving right"),
            Self::Up => Some("moving up"),
            Self::Down => Some("moving down"),
            Self::Still => Some("standing still"),
            Self::Wander => None,
        }
    }

    fn direction(self) -> [f64; 2] {
        match self {
            Self::Left => [-1.0, 0.0],
            Self::Right => [1.0, 0.0],
            Self::Up => [0.0, -1.0],
            Self::Down => [0.0, 1.0],
            Self::Still | Self::Wander => [0.0, 0.0],
        }
    }
}

/// Where an object's centre is, px, as a function of time in `[0, 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    /// Position halfway, px.
    pub middle: [f64; 2],
    /// Way from start to end, px.
    pub travel: [f64; 2],
    /// Half width of the swing about the way, px.
    pub swing: [f64; 2],
    /// Swings over the clip.
    pub turns: [f64; 2],
    /// Where the swing starts, in turns.
    pub phase: [f64; 2],
}

impl Course {
    /// Centre at `time` in `[0, 1]`, px.
    pub fn at(&self, time: f64) -> [f64; 2] {
        std::array::from_fn(|axis| {
            let angle = std::f64::consts::TAU * (self.turns[axis] * time + self.phase[axis]);
            self.middle[axis] + self.travel[axis] * (time - 0.5) + self.swing[axis] * angle.sin()
        })
    }
}

/// One object of a scene.
#[derive(Clone, Debug, PartialEq)]
pub struct SceneObject {
    /// What words are true of it.
    pub look: Look,
    /// The colour it is painted in, sRGB.
    pub rgb: [u8; 3],
    /// px
    pub radius_px: f64,
    /// Tilt, radians.
    pub tilt: f64,
    /// How it moves.
    pub motion: Motion,
    /// Where it is.
    pub course: Course,
    /// `[T]` whether it is in the scene at all.
    pub shown: Vec<bool>,
}

impl SceneObject {
    /// Centre in frame `frame_idx` of `n_frames`, px.
    pub fn centre(&self, frame_idx: usize, n_frames: usize) -> [f64; 2] {
        let time = if n_frames < 2 {
            0.5
        } else {
            frame_idx as f64 / (n_frames - 1) as f64
        };
        self.course.at(time)
    }
}

/// What one fixed camera sees over `T` frames. Later objects are in front of earlier ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Number of frames, `T`.
    pub n_frames: usize,
    /// Side of the frames, px.
    pub frame_px: u32,
    /// Objects from back to front.
    pub objects: Vec<SceneObject>,
}

/// What a scene's annotations must be able to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// One class name an object, as in COCO, ADE20K and YouTube-VOS: no object's class may also be true
    /// of another object, else the class's mask would leave that one out.
    Classes,
    /// Expressions that list every object they are true of, as in MeViS: objects may share them.
    Expressions,
}

/// Draws a training scene.
pub fn training_scene(
    rng: &mut StageRng,
    settings: &WorldSettings,
    split: &Split,
    naming: Naming,
    n_frames: usize,
) -> Scene {
    let n_objects =
        settings.min_objects + rng.below(settings.max_objects - settings.min_objects + 1);
    let mut looks: Vec<Look> = Vec::new();
    for _ in 0..n_objects {
        looks.extend(draw_look(rng, settings, split, naming, &looks));
    }
    rng.shuffle(&mut looks);
    place(rng, settings, looks, n_frames)
}

/// A look that may stand beside `others`; none when fifty draws found none.
fn draw_look(
    rng: &mut StageRng,
    settings: &WorldSettings,
    split: &Split,
    naming: Naming,
    others: &[Look],
) -> Option<Look> {
    let unknown = rng.unit() < settings.unknown_attribute;
    let unknown_colour = rng.unit() < 0.5;
    let near_miss = rng.unit() < 0.5;
    (0..50)
        .map(|_| {
            if unknown && unknown_colour {
                Look::OtherColour {
                    colour_idx: rng.below(OTHER_COLOURS.len()),
                    shape: Outline::VOCABULARY[rng.below(Outline::VOCABULARY.len())],
                }
            } else if unknown {
                Look::OtherShape {
                    colour_idx: rng.below(COLOURS.len()),
                    shape: Outline::OTHERS[rng.below(Outline::OTHERS.len())],
                }
            } else {
                Look::Ordinary(draw_ordinary(rng, split, others, near_miss))
            }
        })
        .find(|look| {
            others.iter().all(|other| match naming {
                Naming::Classes => {
                    !look.description_is_true_of(*other) && !other.description_is_true_of(*look)
                }
                Naming::Expressions => true,
            })
        })
}

/// A trained combination; a near miss shares exactly one attribute with one of `others`.
fn draw_ordinary(
    rng: &mut StageRng,
    split: &Split,
    others: &[Look],
    near_miss: bool,
) -> Combination {
    let partners: Vec<Combination> = others
        .iter()
        .filter_map(|look| look.combination())
        .collect();
    let partner = rng.choose(&partners).copied();
    let candidates: Vec<Combination> = split
        .trained
        .iter()
        .copied()
        .filter(|candidate| match partner.filter(|_| near_miss) {
            Some(partner) => {
                (candidate.colour_idx == partner.colour_idx) != (candidate.shape == partner.shape)
            }
            None => true,
        })
        .collect();
    candidates[rng.below(candidates.len())]
}

/// Gives `looks` places and courses, drawn again until every object is visible enough; when two hundred
/// draws are not enough, without the last object.
fn place(
    rng: &mut StageRng,
    settings: &WorldSettings,
    mut looks: Vec<Look>,
    n_frames: usize,
) -> Scene {
    loop {
        for _ in 0..200 {
            let scene = Scene {
                n_frames,
                frame_px: settings.frame_px,
                objects: looks
                    .iter()
                    .map(|&look| SceneObject {
                        shown: vec![true; n_frames],
                        ..draw_object(rng, settings, look)
                    })
                    .collect(),
            };
            if looks.len() == 1
                || (!coincides(&scene) && !blends(&scene) && is_legible(&cover(&scene)))
            {
                return scene;
            }
        }
        looks.pop();
    }
}

fn draw_object(rng: &mut StageRng, settings: &WorldSettings, look: Look) -> SceneObject {
    let motions = [
        Motion::Left,
        Motion::Right,
        Motion::Up,
        Motion::Down,
        Motion::Still,
    ];
    let motion = motions[rng.below(motions.len())];
    let mut object = draw_standing(rng, settings, look);
    object.motion = motion;
    if motion == Motion::Still {
        return object;
    }
    let scale = f64::from(settings.frame_px) / 64.0;
    let crosses_edge = rng.unit() < 0.2;
    let length = scale
        * if crosses_edge {
            between(rng, 18.0, 26.0)
        } else {
            between(rng, 8.0, 18.0)
        };
    let drift = length * between(rng, -0.2, 0.2);
    let waver = scale * between(rng, 0.0, 1.2);
    let side = f64::from(settings.frame_px);
    for (axis, direction) in motion.direction().into_iter().enumerate() {
        let along = direction != 0.0;
        object.course.travel[axis] = if along { direction * length } else { drift };
        object.course.swing[axis] = if along { 0.0 } else { waver };
        object.course.phase[axis] = rng.unit();
        if along && crosses_edge {
            object.course.middle[axis] = if rng.unit() < 0.5 { 0.0 } else { side };
        }
    }
    object
}

/// An object at a place of its own in the frame, not moving yet.
fn draw_standing(rng: &mut StageRng, settings: &WorldSettings, look: Look) -> SceneObject {
    let radius_px = between(rng, settings.min_radius_px, settings.max_radius_px);
    let side = f64::from(settings.frame_px);
    let margin = 0.8 * radius_px;
    SceneObject {
        look,
        rgb: jittered(rng, look.rgb()),
        radius_px,
        tilt: between(rng, -0.12, 0.12),
        motion: Motion::Still,
        course: Course {
            middle: [
                between(rng, margin, side - margin),
                between(rng, margin, side - margin),
            ],
            travel: [0.0; 2],
            swing: [0.0; 2],
            turns: [1.0; 2],
            phase: [0.0; 2],
        },
        shown: Vec::new(),
    }
}

/// An object that wanders about its place and stays inside the frame; for evaluation videos.
pub(super) fn draw_wanderer(
    rng: &mut StageRng,
    settings: &WorldSettings,
    look: Look,
) -> SceneObject {
    let mut object = draw_standing(rng, settings, look);
    let scale = f64::from(settings.frame_px) / 64.0;
    let side = f64::from(settings.frame_px);
    object.motion = Motion::Wander;
    for axis in 0..2 {
        let swing = scale * between(rng, 3.0, 9.0);
        let margin = (0.8 * object.radius_px + swing).min(side / 2.0);
        object.course.swing[axis] = swing;
        object.course.turns[axis] = between(rng, 0.5, 1.5);
        object.course.phase[axis] = rng.unit();
        object.course.middle[axis] = between(rng, margin, side - margin);
    }
    object
}

/// The same place, course and size with another look.
pub(super) fn in_the_place_of(rng: &mut StageRng, object: &SceneObject, look: Look) -> SceneObject {
    SceneObject {
        look,
        rgb: jittered(rng, look.rgb()),
        ..object.clone()
    }
}

/// True when two objects of one colour touch in any frame: together they would look like a third shape.
pub(super) fn blends(scene: &Scene) -> bool {
    any_pair(scene, |a, b, distance| {
        a.look.rgb() == b.look.rgb() && distance < a.radius_px + b.radius_px
    })
}

/// True when two objects are nearly in one place in any frame. Says at little cost that one surely hides
/// too much of the other.
pub(super) fn coincides(scene: &Scene) -> bool {
    any_pair(scene, |a, b, distance| {
        distance < 0.7 * a.radius_px.max(b.radius_px)
    })
}

/// Whether `condition` holds for two shown objects and the distance of their centres, px, in any frame.
fn any_pair(scene: &Scene, condition: impl Fn(&SceneObject, &SceneObject, f64) -> bool) -> bool {
    (0..scene.n_frames).any(|frame_idx| {
        let shown: Vec<(&SceneObject, [f64; 2])> = scene
            .objects
            .iter()
            .filter(|object| object.shown[frame_idx])
            .map(|object| (object, object.centre(frame_idx, scene.n_frames)))
            .collect();
        shown.iter().enumerate().any(|(i, (a, at_a))| {
            shown[..i]
                .iter()
                .any(|(b, at_b)| condition(a, b, (at_a[0] - at_b[0]).hypot(at_a[1] - at_b[1])))
        })
    })
}

/// True when each object is mostly visible once and never mostly hidden by others.
fn is_legible(cover: &Cover) -> bool {
    cover.objects.iter().all(|frames| {
        let mostly_visible = frames
            .iter()
            .any(|frame| frame.visible_px as f64 >= 0.55 * frame.shape_px as f64);
        let hidden = frames.iter().any(|frame| {
            let is_inside = frame.in_frame_px as f64 > 0.1 * frame.shape_px as f64;
            is_inside && (frame.visible_px as f64) < 0.4 * frame.in_frame_px as f64
        });
        mostly_visible && !hidden
    })
}

pub(super) fn between(rng: &mut StageRng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.unit()
}

fn jittered(rng: &mut StageRng, rgb: [u8; 3]) -> [u8; 3] {
    let jitter = i32::from(COLOUR_JITTER);
    rgb.map(|channel| {
        let shift = rng.below(2 * COLOUR_JITTER as usize + 1) as i32 - jitter;
        (i32::from(channel) + shift).clamp(0, 255) as u8
    })
}

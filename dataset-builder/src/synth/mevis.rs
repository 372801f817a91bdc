//! The world in the layout of MeViS: videos, expressions that may name several objects, and run lengths.
//!
//! ```text
//! mevis/train/JPEGImages/<video>/00000.jpg
//! mevis/train/meta_expressions.json   {"videos": {video: {"vid_id", "frames", "expressions": {id: {"exp", "obj_id", "anno_id"}}}}}
//! mevis/train/mask_dict.json          {anno_id: [run lengths or null, one a frame]}
//! ```

use serde::Serialize;
use serde_json::{Map, Value, json};

use lavida_data::Result;
use lavida_data::seed::StageRng;

use super::coco::{compressed, run_lengths};
use super::output::{Folder, SetSummary};
use super::paint::Painted;
use super::scene::{Naming, Scene, SceneObject};
use super::vocabulary::Look;
use super::{World, encode};

/// More are not read: the reference keeps the first eight expressions of a video.
const MAX_EXPRESSIONS: usize = 8;

/// A text and every object of the scene that it is true of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// `"red circle"`, `"the red circle moving left"`, …
    pub text: String,
    /// Indices of objects, ascending, at least one.
    pub objects: Vec<usize>,
}

#[derive(Serialize)]
struct Mask {
    size: [u32; 2],
    counts: String,
}

struct Video {
    name: String,
    frames: Vec<String>,
    /// Objects that show, as indices of the scene, with their masks.
    tracks: Vec<(usize, Vec<Option<Mask>>)>,
    expressions: Vec<Expression>,
    summary: SetSummary,
}

/// Writes the set into `root`.
pub(super) fn write(
    world: &World,
    root: &Folder,
    tick: &mut dyn FnMut(usize),
) -> Result<SetSummary> {
    let train = root.child("train")?;
    let pictures = train.child("JPEGImages")?;
    let n_frames = world.settings.frames_per_video;
    let videos = world.in_parallel(world.settings.mevis_videos, n_frames, tick, |idx| {
        let mut rng = world.stream("mevis", idx);
        let scene = world.training_scene(&mut rng, Naming::Expressions, n_frames);
        let painted = world.paint_all(&scene, "mevis", idx);
        let name = format!("{:012x}", rng.next_u64() >> 16);
        let folder = pictures.child(&name)?;
        let mut summary = SetSummary {
            scenes: 1,
            frames: n_frames,
            ..SetSummary::default()
        };
        let mut frames = Vec::new();
        for (frame_idx, frame) in painted.iter().enumerate() {
            let jpeg = encode::jpeg(&frame.rgb, scene.frame_px, world.settings.jpeg_quality)?;
            folder.write(&format!("{frame_idx:05}.jpg"), &jpeg, &mut summary)?;
            frames.push(format!("{frame_idx:05}"));
        }
        let tracks = tracks(&scene, &painted);
        let shown: Vec<usize> = tracks.iter().map(|(object_idx, _)| *object_idx).collect();
        let expressions = expressions(&scene.objects, &shown, &mut rng);
        summary.objects = tracks.len();
        Ok(Video {
            name,
            frames,
            tracks,
            expressions,
            summary,
        })
    })?;

    let mut summary = SetSummary::default();
    let mut meta = Map::new();
    let mut masks = Map::new();
    for (vid_id, video) in videos.into_iter().enumerate() {
        let first_anno_id = masks.len();
        let scene_ids: Vec<usize> = video
            .tracks
            .iter()
            .map(|(object_idx, _)| *object_idx)
            .collect();
        let track_of = |object_idx: &usize| {
            let track = scene_ids.iter().position(|id| id == object_idx);
            track.expect("expressions name objects that show")
        };
        let expressions: Map<String, Value> = video
            .expressions
            .iter()
            .enumerate()
            .map(|(id, expression)| {
                let tracks: Vec<usize> = expression.objects.iter().map(track_of).collect();
                let anno_ids: Vec<usize> =
                    tracks.iter().map(|track| first_anno_id + track).collect();
                (
                    id.to_string(),
                    json!({"exp": expression.text, "obj_id": tracks, "anno_id": anno_ids}),
                )
            })
            .collect();
        for (_, track) in &video.tracks {
            masks.insert(masks.len().to_string(), json!(track));
        }
        meta.insert(
            video.name,
            json!({"vid_id": vid_id, "frames": video.frames, "expressions": expressions}),
        );
        summary += video.summary;
    }
    train.write_json(
        "meta_expressions.json",
        &json!({"videos": meta}),
        &mut summary,
    )?;
    train.write_json("mask_dict.json", &masks, &mut summary)?;
    Ok(summary)
}

/// The masks of every object that shows in at least one frame.
fn tracks(scene: &Scene, painted: &[Painted]) -> Vec<(usize, Vec<Option<Mask>>)> {
    let side = scene.frame_px;
    (0..scene.objects.len())
        .filter(|&object_idx| painted.iter().any(|frame| frame.shows(object_idx)))
        .map(|object_idx| {
            let masks = painted.iter().map(|frame| {
                frame.shows(object_idx).then(|| Mask {
                    size: [side, side],
                    counts: compressed(&run_lengths(&frame.mask(object_idx), side)),
                })
            });
            (object_idx, masks.collect())
        })
        .collect()
}

/// What can be said of a scene, each text with all objects it is true of. Plain descriptions come first and
/// every object has one; then half of the objects are named by how they move, and some by one word alone.
pub fn expressions(
    objects: &[SceneObject],
    shown: &[usize],
    rng: &mut StageRng,
) -> Vec<Expression> {
    let mut expressions: Vec<Expression> = Vec::new();
    let mut say = |text: String, is_true: &dyn Fn(&SceneObject) -> bool| {
        let is_new = expressions.iter().all(|expression| expression.text != text);
        if is_new && expressions.len() < MAX_EXPRESSIONS {
            let objects = shown
                .iter()
                .copied()
                .filter(|&idx| is_true(&objects[idx]))
                .collect();
            expressions.push(Expression { text, objects });
        }
    };
    for &idx in shown {
        let look = objects[idx].look;
        say(look.description(), &|other| {
            look.description_is_true_of(other.look)
        });
    }
    for &idx in shown {
        let object = &objects[idx];
        let (look, motion) = (object.look, object.motion);
        let (by_motion, without_look, by_one_word, by_colour) = (
            rng.unit() < 0.5,
            rng.unit() < 0.25,
            rng.unit() < 0.2,
            rng.unit() < 0.5,
        );
        if let Some(words) = motion.words().filter(|_| by_motion) {
            if without_look {
                say(format!("the object {words}"), &|other| {
                    other.motion == motion
                });
            } else {
                say(format!("the {} {words}", noun_phrase(look)), &|other| {
                    other.motion == motion && look.description_is_true_of(other.look)
                });
            }
        }
        if by_one_word && look.combination().is_some() {
            let (colour, shape) = (look.colour_word(), look.shape().word());
            if by_colour {
                say(colour.unwrap_or_default().to_owned(), &|other| {
                    other.look.colour_word() == colour
                });
            } else {
                say(shape.unwrap_or_default().to_owned(), &|other| {
                    other.look.shape().word() == shape
                });
            }
        }
    }
    expressions
}

/// `"red circle"`, `"circle"`, `"red object"`.
fn noun_phrase(look: Look) -> String {
    match look {
        Look::OtherShape { .. } => format!("{} object", look.description()),
        Look::Ordinary(_) | Look::OtherColour { .. } => look.description(),
    }
}

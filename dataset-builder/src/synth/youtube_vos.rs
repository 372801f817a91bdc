//! The world in the layout of YouTube-VOS: videos, palette masks, one category an object.
//!
//! ```text
//! youtube-vos/train/JPEGImages/<video>/00000.jpg
//! youtube-vos/train/Annotations/<video>/00000.png    palette index = object id, 0 background
//! youtube-vos/train/meta.json                        {"videos": {video: {"objects": {id: {"category", "frames"}}}}}
//! ```

use serde_json::{Map, Value, json};

use lavida_data::Result;

use super::output::{Folder, SetSummary};
use super::scene::Naming;
use super::{World, encode};

/// Writes the set into `root`.
pub(super) fn write(
    world: &World,
    root: &Folder,
    tick: &mut dyn FnMut(usize),
) -> Result<SetSummary> {
    let train = root.child("train")?;
    let pictures = train.child("JPEGImages")?;
    let annotations = train.child("Annotations")?;
    let n_frames = world.settings.frames_per_video;
    let videos = world.in_parallel(world.settings.youtube_vos_videos, n_frames, tick, |idx| {
        let mut rng = world.stream("youtube-vos", idx);
        let scene = world.training_scene(&mut rng, Naming::Classes, n_frames);
        let painted = world.paint_all(&scene, "youtube-vos", idx);
        let name = format!("{:010x}", rng.next_u64() >> 24);
        let (pictures, annotations) = (pictures.child(&name)?, annotations.child(&name)?);
        let mut summary = SetSummary {
            scenes: 1,
            frames: n_frames,
            ..SetSummary::default()
        };
        for (frame_idx, frame) in painted.iter().enumerate() {
            let jpeg = encode::jpeg(&frame.rgb, scene.frame_px, world.settings.jpeg_quality)?;
            let png = encode::palette_png(&frame.index, scene.frame_px)?;
            pictures.write(&format!("{frame_idx:05}.jpg"), &jpeg, &mut summary)?;
            annotations.write(&format!("{frame_idx:05}.png"), &png, &mut summary)?;
        }
        let mut objects = Map::new();
        for (object_idx, object) in scene.objects.iter().enumerate() {
            let frames: Vec<String> = (0..n_frames)
                .filter(|&frame_idx| painted[frame_idx].shows(object_idx))
                .map(|frame_idx| format!("{frame_idx:05}"))
                .collect();
            if !frames.is_empty() {
                let entry = json!({"category": object.look.description(), "frames": frames});
                objects.insert((object_idx + 1).to_string(), entry);
            }
        }
        summary.objects = objects.len();
        Ok((name, objects, summary))
    })?;
    let mut summary = SetSummary::default();
    let mut meta: Map<String, Value> = Map::new();
    for (name, objects, video_summary) in videos {
        meta.insert(name, json!({"objects": objects}));
        summary += video_summary;
    }
    train.write_json("meta.json", &json!({"videos": meta}), &mut summary)?;
    Ok(summary)
}

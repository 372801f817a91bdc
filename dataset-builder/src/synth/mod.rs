//! A small world to learn from: a fixed camera sees coloured shapes move, and every dataset layout that the
//! builder reads is written from it, with no download.
//!
//! What it is for: `lavida demo`, tests, and anyone who wants to see LAVIDA learn on a laptop. A category is a
//! combination of attributes ("red circle"); five combinations are held out of every training picture,
//! annotation and text, and are the anomalies of the evaluation set. So a score above chance there can only
//! come from having understood the words one by one. `docs/world.md` has the rules and their reasons.
//!
//! ```text
//! DIR/{coco,ade20k,mevis,youtube-vos}    training, each in its own layout
//! DIR/ucsd-ped                           evaluation, on the held-out combinations
//! DIR/ucsd-ped-seen                      evaluation on trained combinations, when asked for
//! DIR/world.json                         seed, settings, vocabulary; written last
//! ```
//!
//! The same seed and settings give the same bytes, whatever the number of threads: every scene has its own
//! random stream, named by its set and its number.

mod ade20k;
mod coco;
mod encode;
mod evaluation;
mod mevis;
mod output;
mod paint;
mod polygon;
mod scene;
mod settings;
mod shape;
#[cfg(test)]
mod tests;
mod ucsd_ped;
mod vocabulary;
mod youtube_vos;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use lavida_data::seed::StageRng;
use lavida_data::{Error, Result};

use evaluation::EvaluationSet;
use output::{Folder, unavailable};
use paint::{Background, Painted};
use scene::{Naming, Scene};
use vocabulary::Split;

pub use output::SetSummary;
pub use settings::WorldSettings;
pub use vocabulary::words;

/// Sets a world consists of, in the order they are rendered; the last one only when asked for.
pub const SETS: [&str; 6] = [
    "coco",
    "ade20k",
    "mevis",
    "youtube-vos",
    "ucsd-ped",
    "ucsd-ped-seen",
];

/// Where sets are until all are whole.
const STAGING: &str = ".lavida-rendering";
/// What says that a staging folder is one. Locked while it is in use.
const MARK: &str = "lavida-rendering";

/// Scenes that are rendered between two reports of progress.
const SCENES_PER_REPORT: usize = 32;

/// What was rendered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynthSummary {
    /// The seed.
    pub seed: u64,
    /// The held-out combinations, the evaluation's anomaly categories.
    pub held_out: Vec<String>,
    /// The combinations that training shows.
    pub trained: Vec<String>,
    /// By set.
    pub sets: BTreeMap<String, SetSummary>,
}

/// Renders the world of `seed` into `out`. `progress` is told (frames done, frames in all).
///
/// The sets are rendered in a hidden folder and moved into place when all of them are whole: an interrupted
/// run leaves nothing that looks like a dataset.
///
/// # Errors
///
/// [`Error::Invalid`] for settings out of range and where another world is being rendered, [`Error::Exists`] when `out` already holds a set or a world,
/// [`Error::Unavailable`] when a file cannot be written.
pub fn render(
    out: &Path,
    seed: u64,
    size: &WorldSettings,
    mut progress: impl FnMut(usize, usize),
) -> Result<SynthSummary> {
    let settings = size.checked()?.clone();
    for name in SETS.into_iter().chain(["world.json"]) {
        let path = out.join(name);
        if lavida_files::is_there(&path) {
            return Err(Error::Exists {
                what: path.display().to_string(),
            });
        }
    }
    let world = World {
        seed,
        split: Split::of(seed),
        settings,
    };
    let staging = out.join(STAGING);
    let _lock = begin(&staging)?;
    let rendered = render_sets(&world, &staging, &mut progress).and_then(|summary| {
        for name in summary.sets.keys() {
            move_into_place(&staging.join(name), &out.join(name))?;
        }
        move_into_place(&staging.join("world.json"), &out.join("world.json"))?;
        Ok(summary)
    });
    let removed = remove_folder(&staging);
    let summary = rendered?;
    removed?;
    Ok(summary)
}

fn render_sets(
    world: &World,
    staging: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<SynthSummary> {
    let root = Folder::create(staging.to_owned())?;
    let total = n_frames(&world.settings);
    let mut done = 0;
    let mut tick = |n_frames: usize| {
        done += n_frames;
        progress(done, total);
    };
    let mut sets = BTreeMap::new();
    for name in SETS {
        if name == "ucsd-ped-seen" && !world.settings.seen_evaluation {
            continue;
        }
        let root = root.child(name)?;
        let summary = match name {
            "coco" => coco::write(world, &root, &mut tick)?,
            "ade20k" => ade20k::write(world, &root, &mut tick)?,
            "mevis" => mevis::write(world, &root, &mut tick)?,
            "youtube-vos" => youtube_vos::write(world, &root, &mut tick)?,
            "ucsd-ped" => ucsd_ped::write(world, &world.held_out_set(), name, &root, &mut tick)?,
            _ => ucsd_ped::write(world, &world.seen_set(), name, &root, &mut tick)?,
        };
        sets.insert(name.to_owned(), summary);
    }
    let names = |combinations: &[vocabulary::Combination]| {
        combinations
            .iter()
            .map(|combination| combination.name())
            .collect::<Vec<String>>()
    };
    let summary = SynthSummary {
        seed: world.seed,
        held_out: names(&world.split.held_out),
        trained: names(&world.split.trained),
        sets,
    };
    let description = json!({
        "format": "lavida/world",
        "version": 1,
        "seed": world.seed,
        "settings": world.settings,
        "held_out": summary.held_out,
        "trained": summary.trained,
        "words": words(),
        "sets": summary.sets,
    });
    root.write_json("world.json", &description, &mut SetSummary::default())?;
    Ok(summary)
}

fn n_frames(settings: &WorldSettings) -> usize {
    let images =
        settings.coco_images + settings.ade20k_training_images + settings.ade20k_validation_images;
    let videos = settings.mevis_videos + settings.youtube_vos_videos;
    let evaluation_videos = settings.evaluation_videos + settings.evaluation_training_videos;
    let evaluation_sets = 1 + usize::from(settings.seen_evaluation);
    images
        + videos * settings.frames_per_video
        + evaluation_sets * evaluation_videos * settings.evaluation_frames
}

/// Makes the staging folder and holds it, after taking away that of a run which was killed: one with its mark, and nobody's.
fn begin(staging: &Path) -> Result<File> {
    let mark = staging.join(MARK);
    let refused = |found: &str| {
        let expected = "no folder, or what an interrupted rendering left";
        Error::invalid(staging.display(), expected, found)
    };
    match lavida_files::open(&mark) {
        Ok(held) if held.try_lock().is_err() => {
            return Err(refused("that of one which is being rendered"));
        }
        Ok(_) => remove_folder(staging)?,
        Err(_) if !lavida_files::is_there(staging) => {}
        // Made, and killed before it was marked; anything in it is somebody else's.
        Err(_) => std::fs::remove_dir(staging)
            .map_err(|_| refused("another one: move it away, or give another --out"))?,
    }
    std::fs::create_dir_all(staging).map_err(|error| unavailable(staging, error))?;
    let file = File::create(&mark).map_err(|error| unavailable(&mark, error))?;
    let _ = file.try_lock(); // a file system without locks has none
    Ok(file)
}

fn move_into_place(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|error| unavailable(to, error))
}

fn remove_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unavailable(path, error)),
        _ => Ok(()),
    }
}

/// What every set's writer needs: which world it is, and how to draw and paint its scenes.
struct World {
    seed: u64,
    settings: WorldSettings,
    split: Split,
}

impl World {
    /// The random stream of scene `idx` of a set.
    fn stream(&self, set: &str, idx: usize) -> StageRng {
        StageRng::new(self.seed, &format!("synth/{set}"), &[&(idx as u64)])
    }

    fn training_scene(&self, rng: &mut StageRng, naming: Naming, n_frames: usize) -> Scene {
        scene::training_scene(rng, &self.settings, &self.split, naming, n_frames)
    }

    /// Every frame of scene `idx` of a set.
    fn paint_all(&self, scene: &Scene, set: &str, idx: usize) -> Vec<Painted> {
        let background = Background::draw(
            &mut self.stream(&format!("{set}/background"), idx),
            scene.frame_px,
        );
        let mut noise = self.stream(&format!("{set}/noise"), idx);
        (0..scene.n_frames)
            .map(|frame_idx| {
                paint::paint(
                    scene,
                    frame_idx,
                    &background,
                    self.settings.camera_noise,
                    &mut noise,
                )
            })
            .collect()
    }

    /// The only frame of scene `idx` of a set of images.
    fn paint_one(&self, scene: &Scene, set: &str, idx: usize) -> Painted {
        let mut frames = self.paint_all(scene, set, idx);
        frames.pop().expect("a scene has at least one frame")
    }

    /// The evaluation of what training never shows.
    fn held_out_set(&self) -> EvaluationSet {
        EvaluationSet {
            targets: self.split.held_out.clone(),
            others: self.split.trained.clone(),
        }
    }

    /// The evaluation of what training shows.
    fn seen_set(&self) -> EvaluationSet {
        let targets = self.split.seen_targets(self.seed);
        let others = self
            .split
            .trained
            .iter()
            .filter(|c| !targets.contains(c))
            .copied()
            .collect();
        EvaluationSet { targets, others }
    }

    /// `make(0..n)` on all cores, results in order; `tick` is told the frames as they come.
    fn in_parallel<T: Send>(
        &self,
        n: usize,
        frames_per_scene: usize,
        tick: &mut dyn FnMut(usize),
        make: impl Fn(usize) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let mut made = Vec::with_capacity(n);
        while made.len() < n {
            let some = made.len()..n.min(made.len() + SCENES_PER_REPORT);
            let n_some = some.len();
            made.extend(
                some.into_par_iter()
                    .map(&make)
                    .collect::<Result<Vec<T>>>()?,
            );
            tick(n_some * frames_per_scene);
        }
        Ok(made)
    }
}

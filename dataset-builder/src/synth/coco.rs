//! The world in the layout of COCO instances: one annotation an object, as polygons where the mask has no
//! hole, else as run lengths, compressed or plain.
//!
//! ```text
//! coco/annotations/instances_train.json
//! coco/images/000000000001.jpg
//! ```

use serde::Serialize;

use lavida_data::Result;
use lavida_data::seed::StageRng;
use vernier_mask::Rle;

use super::output::{Folder, SetSummary};
use super::paint::Painted;
use super::scene::{Naming, Scene};
use super::{World, encode, polygon};

#[derive(Serialize)]
struct Instances {
    info: Info,
    licenses: Vec<License>,
    images: Vec<Image>,
    categories: Vec<Category>,
    annotations: Vec<Annotation>,
}

#[derive(Serialize)]
struct Info {
    description: String,
    url: &'static str,
    version: &'static str,
    year: u32,
    contributor: &'static str,
    date_created: &'static str,
}

#[derive(Serialize)]
struct License {
    url: &'static str,
    id: u32,
    name: &'static str,
}

#[derive(Serialize)]
struct Image {
    license: u32,
    file_name: String,
    height: u32,
    width: u32,
    id: usize,
}

#[derive(Serialize)]
struct Category {
    supercategory: &'static str,
    id: usize,
    name: String,
}

#[derive(Serialize)]
struct Annotation {
    segmentation: Segmentation,
    area: usize,
    iscrowd: u8,
    image_id: usize,
    bbox: [usize; 4],
    category_id: usize,
    id: usize,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Segmentation {
    Polygons(Vec<Vec<f64>>),
    RunLengths { size: [u32; 2], counts: Counts },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Counts {
    Plain(Vec<u32>),
    Compressed(String),
}

/// Writes the set into `root`.
pub(super) fn write(
    world: &World,
    root: &Folder,
    tick: &mut dyn FnMut(usize),
) -> Result<SetSummary> {
    let names = world.split.class_names();
    let images = root.child("images")?;
    let rows = world.in_parallel(world.settings.coco_images, 1, tick, |idx| {
        let mut rng = world.stream("coco", idx);
        let scene = world.training_scene(&mut rng, Naming::Classes, 1);
        let painted = world.paint_one(&scene, "coco", idx);
        let mut summary = SetSummary {
            scenes: 1,
            frames: 1,
            ..SetSummary::default()
        };
        let file_name = format!("{:012}.jpg", idx + 1);
        let jpeg = encode::jpeg(&painted.rgb, scene.frame_px, world.settings.jpeg_quality)?;
        images.write(&file_name, &jpeg, &mut summary)?;
        let annotations = annotate(&scene, &painted, idx + 1, &names, &mut rng);
        summary.objects = annotations.len();
        let image = Image {
            license: 1,
            file_name,
            height: scene.frame_px,
            width: scene.frame_px,
            id: idx + 1,
        };
        Ok((image, annotations, summary))
    })?;

    let mut summary = SetSummary::default();
    let mut instances = Instances {
        info: Info {
            description: format!("a world of coloured shapes, seed {}", world.seed),
            url: "",
            version: "1.0",
            year: 2026,
            contributor: "lavida-dataset synth",
            date_created: "2026-01-01",
        },
        licenses: vec![License {
            url: "",
            id: 1,
            name: "none needed: rendered pictures",
        }],
        images: Vec::new(),
        categories: names
            .into_iter()
            .enumerate()
            .map(|(idx, name)| Category {
                supercategory: "object",
                id: idx + 1,
                name,
            })
            .collect(),
        annotations: Vec::new(),
    };
    for (image, annotations, row_summary) in rows {
        instances.images.push(image);
        for mut annotation in annotations {
            annotation.id = instances.annotations.len() + 1;
            instances.annotations.push(annotation);
        }
        summary += row_summary;
    }
    root.child("annotations")?
        .write_json("instances_train.json", &instances, &mut summary)?;
    Ok(summary)
}

fn annotate(
    scene: &Scene,
    painted: &Painted,
    image_id: usize,
    names: &[String],
    rng: &mut StageRng,
) -> Vec<Annotation> {
    let side = scene.frame_px as usize;
    let mut annotations = Vec::new();
    for (object_idx, object) in scene.objects.iter().enumerate() {
        let mask = painted.mask(object_idx);
        let Some(bbox) = bounding_box(&mask, side) else {
            continue; // hidden: not in the picture
        };
        let name = object.look.description();
        let class_idx = names.iter().position(|class| *class == name);
        annotations.push(Annotation {
            segmentation: segmentation(&mask, scene.frame_px, rng),
            area: mask.iter().map(|&inside| usize::from(inside)).sum(),
            iscrowd: 0,
            image_id,
            bbox,
            category_id: class_idx.expect("training looks have a class name") + 1,
            id: 0, // numbered over all images at the end
        });
    }
    annotations
}

/// Polygons for most masks, run lengths for the rest, so that a reader meets every form.
fn segmentation(mask: &[u8], side: u32, rng: &mut StageRng) -> Segmentation {
    let (wants_polygons, wants_compressed) = (rng.unit() < 0.6, rng.unit() < 0.5);
    let polygons = polygon::outlines(mask, side as usize).filter(|_| wants_polygons);
    match polygons {
        Some(polygons) => Segmentation::Polygons(polygons),
        None => {
            let rle = run_lengths(mask, side);
            let counts = if wants_compressed {
                Counts::Compressed(compressed(&rle))
            } else {
                Counts::Plain(rle.counts.to_vec())
            };
            Segmentation::RunLengths {
                size: [side, side],
                counts,
            }
        }
    }
}

/// A `[side, side]` 0/1 mask as COCO run lengths.
pub(super) fn run_lengths(mask: &[u8], side: u32) -> Rle {
    Rle::from_row_major_raster_bytes(mask, side, side).expect("a mask has side times side pixels")
}

/// COCO's compressed `counts`.
pub(super) fn compressed(rle: &Rle) -> String {
    String::from_utf8(rle.to_string_bytes()).expect("compressed counts are printable ASCII")
}

/// `[x, y, width, height]` px; none for an empty mask.
fn bounding_box(mask: &[u8], side: usize) -> Option<[usize; 4]> {
    let inside: Vec<usize> = (0..mask.len()).filter(|&px| mask[px] > 0).collect();
    let (top, bottom) = (inside.first()? / side, inside.last()? / side);
    let left = inside.iter().map(|px| px % side).min()?;
    let right = inside.iter().map(|px| px % side).max()?;
    Some([left, top, right - left + 1, bottom - top + 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounding_box_holds_exactly_the_mask() {
        let mut mask = vec![0; 16];
        assert_eq!(bounding_box(&mask, 4), None);
        mask[6] = 1; // x 2, y 1
        mask[13] = 1; // x 1, y 3
        assert_eq!(bounding_box(&mask, 4), Some([1, 1, 2, 3]));
    }
}

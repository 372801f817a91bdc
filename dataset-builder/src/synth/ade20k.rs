//! The world in the layout of ADE20K (ADEChallengeData2016): every pixel's class, 0 unlabelled.
//!
//! ```text
//! ade20k/objectInfo150.txt
//! ade20k/{images,annotations}/{training,validation}/ADE_{train,val}_00000001.{jpg,png}
//! ```
//!
//! `objectInfo150.txt` keeps the official name and form (`Idx Ratio Train Val Name`, tabs) and has a row for
//! each of the world's classes.

use lavida_data::Result;

use super::output::{Folder, SetSummary};
use super::scene::Naming;
use super::{World, encode};

/// What one image adds to the class table.
struct Row {
    class_of_pixel: Vec<u8>,
    summary: SetSummary,
}

/// Writes the set into `root`.
pub(super) fn write(
    world: &World,
    root: &Folder,
    tick: &mut dyn FnMut(usize),
) -> Result<SetSummary> {
    let settings = &world.settings;
    let names = world.split.class_names();
    let mut summary = SetSummary::default();
    let mut class_pixels = vec![0u64; names.len() + 1];
    let mut n_images = [vec![0usize; names.len() + 1], vec![0usize; names.len() + 1]];
    let parts = [
        ("training", "train", settings.ade20k_training_images),
        ("validation", "val", settings.ade20k_validation_images),
    ];
    for ((part, stem, n), n_images) in parts.into_iter().zip(&mut n_images) {
        for row in write_part(world, root, &names, part, stem, n, tick)? {
            for &class in &row.class_of_pixel {
                class_pixels[usize::from(class)] += 1;
            }
            for (class, n_images) in n_images.iter_mut().enumerate() {
                *n_images +=
                    usize::from(row.class_of_pixel.iter().any(|&c| usize::from(c) == class));
            }
            summary += row.summary;
        }
    }
    let n_pixels: u64 = class_pixels.iter().sum::<u64>().max(1);
    let mut table = String::from("Idx\tRatio\tTrain\tVal\tName\n");
    for (idx, name) in names.iter().enumerate() {
        let class = idx + 1;
        let ratio = class_pixels[class] as f64 / n_pixels as f64;
        let (train, val) = (n_images[0][class], n_images[1][class]);
        table.push_str(&format!("{class}\t{ratio:.4}\t{train}\t{val}\t{name}\n"));
    }
    root.write("objectInfo150.txt", table.as_bytes(), &mut summary)?;
    Ok(summary)
}

fn write_part(
    world: &World,
    root: &Folder,
    names: &[String],
    part: &str,
    stem: &str,
    n: usize,
    tick: &mut dyn FnMut(usize),
) -> Result<Vec<Row>> {
    let images = root.child("images")?.child(part)?;
    let annotations = root.child("annotations")?.child(part)?;
    let stage = format!("ade20k/{part}");
    world.in_parallel(n, 1, tick, |idx| {
        let scene = world.training_scene(&mut world.stream(&stage, idx), Naming::Classes, 1);
        let painted = world.paint_one(&scene, &stage, idx);
        let classes: Vec<u8> = scene
            .objects
            .iter()
            .map(|object| {
                let name = object.look.description();
                let idx = names.iter().position(|class| *class == name);
                idx.expect("training looks have a class name") as u8 + 1
            })
            .collect();
        let class_of_pixel: Vec<u8> = painted
            .index
            .iter()
            .map(|&index| {
                if index == 0 {
                    0
                } else {
                    classes[usize::from(index) - 1]
                }
            })
            .collect();
        let mut summary = SetSummary {
            scenes: 1,
            frames: 1,
            ..SetSummary::default()
        };
        summary.objects = (0..scene.objects.len())
            .filter(|&i| painted.shows(i))
            .count();
        let jpeg = encode::jpeg(&painted.rgb, scene.frame_px, world.settings.jpeg_quality)?;
        let png = encode::grey_png(&class_of_pixel, scene.frame_px)?;
        images.write(
            &format!("ADE_{stem}_{:08}.jpg", idx + 1),
            &jpeg,
            &mut summary,
        )?;
        annotations.write(
            &format!("ADE_{stem}_{:08}.png", idx + 1),
            &png,
            &mut summary,
        )?;
        Ok(Row {
            class_of_pixel,
            summary,
        })
    })
}

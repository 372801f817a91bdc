//! What a rendered world promises, checked on the files and on the scenes behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::path::{Path, PathBuf};

use lavida_data::clip::EncodedFrame;
use lavida_data::frame::decode_rgb;
use proptest::prelude::*;
use serde_json::Value;
use vernier_mask::Rle;

use super::mevis::expressions;
use super::paint::{Background, cover, paint};
use super::scene::{SceneObject, blends};
use super::shape::Outline;
use super::vocabulary::{COLOURS, Combination, Look};
use super::*;

const TRAINING_SETS: [(&str, Naming); 5] = [
    ("coco", Naming::Classes),
    ("ade20k/training", Naming::Classes),
    ("ade20k/validation", Naming::Classes),
    ("mevis", Naming::Expressions),
    ("youtube-vos", Naming::Classes),
];

fn world(seed: u64) -> World {
    World {
        seed,
        split: Split::of(seed),
        settings: WorldSettings::small(),
    }
}

fn render_small(seed: u64, settings: &WorldSettings) -> (tempfile::TempDir, PathBuf, SynthSummary) {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("world");
    let summary = render(&out, seed, settings, |_, _| ()).unwrap();
    (dir, out, summary)
}

/// Every file under `root` with its bytes.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(
                    path.strip_prefix(root).unwrap().to_owned(),
                    std::fs::read(&path).unwrap(),
                );
            }
        }
    }
    found
}

fn hash(files: &BTreeMap<PathBuf, Vec<u8>>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for (path, bytes) in files {
        hasher.update(path.to_str().unwrap().as_bytes());
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    hasher.finalize()
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Values of an 8-bit grey PNG, or a palette PNG's indices.
fn png_values(bytes: &[u8]) -> Vec<u8> {
    let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().unwrap();
    let mut values = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut values).unwrap();
    values.truncate(info.buffer_size());
    values
}

fn intersection_over_union(a: &[u8], b: &[u8]) -> f64 {
    let both = a.iter().zip(b).filter(|(a, b)| **a > 0 && **b > 0).count();
    let any = a.iter().zip(b).filter(|(a, b)| **a > 0 || **b > 0).count();
    both as f64 / any as f64
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let settings = WorldSettings {
        seen_evaluation: true,
        ..WorldSettings::small()
    };
    let (_a, first, summary) = render_small(11, &settings);
    let one_thread = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let (_b, second, again) = one_thread.install(|| render_small(11, &settings));
    let (_c, third, _) = render_small(12, &settings);
    assert_eq!(hash(&files(&first)), hash(&files(&second)));
    assert_ne!(hash(&files(&first)), hash(&files(&third)));
    assert_eq!(summary, again);

    let rendered = files(&first);
    assert_eq!(
        summary.sets.values().map(|set| set.files).sum::<usize>() + 1,
        rendered.len()
    );
    assert!(
        rendered
            .keys()
            .all(|path| !path.to_str().unwrap().contains(".lavida-rendering"))
    );
}

#[test]
fn no_text_of_a_training_set_names_a_held_out_combination() {
    for seed in [1, 2, 3] {
        let (_dir, out, summary) = render_small(seed, &WorldSettings::small());
        let mut n_texts = 0;
        for (path, bytes) in files(&out) {
            let is_training = !path.starts_with("ucsd-ped") && path != Path::new("world.json");
            let is_text = path
                .extension()
                .is_some_and(|ending| ending == "json" || ending == "txt");
            if is_training && is_text {
                let text = String::from_utf8(bytes).unwrap();
                n_texts += 1;
                for name in &summary.held_out {
                    assert!(
                        !text.contains(name.as_str()),
                        "{} names {name}",
                        path.display()
                    );
                }
            }
        }
        assert_eq!(n_texts, 5);
    }
}

#[test]
fn no_training_picture_shows_a_held_out_combination() {
    for seed in 0..5 {
        let world = world(seed);
        for (set, naming) in TRAINING_SETS {
            for idx in 0..100 {
                let scene = world.training_scene(&mut world.stream(set, idx), naming, 4);
                let shown = scene
                    .objects
                    .iter()
                    .filter_map(|object| object.look.combination());
                for combination in shown {
                    assert!(
                        !world.split.held_out.contains(&combination),
                        "{set} {idx}: {}",
                        combination.name()
                    );
                }
            }
        }
        // Evaluation shows one, and only as its target.
        let set = world.held_out_set();
        for idx in 0..10 {
            let evaluation = ucsd_ped::draw(&world, &set, "ucsd-ped", idx, idx % 2 == 0);
            for (object_idx, object) in evaluation.scene.objects.iter().enumerate() {
                let is_target = evaluation
                    .target
                    .is_some_and(|(_, target_idx)| target_idx == object_idx);
                let combination = object.look.combination().unwrap();
                assert_eq!(world.split.held_out.contains(&combination), is_target);
            }
        }
    }
}

#[test]
fn training_shows_every_colour_shape_and_trained_combination() {
    let world = world(5);
    let mut combinations = BTreeSet::new();
    let mut words = BTreeSet::new();
    let (mut n_objects, mut n_other_colour, mut n_other_shape) = (0, 0, 0);
    for idx in 0..400 {
        for object in world
            .training_scene(&mut world.stream("coco", idx), Naming::Classes, 1)
            .objects
        {
            n_objects += 1;
            match object.look {
                Look::Ordinary(combination) => _ = combinations.insert(combination),
                Look::OtherColour { .. } => n_other_colour += 1,
                Look::OtherShape { .. } => n_other_shape += 1,
            }
            words.extend(object.look.description().split(' ').map(str::to_owned));
        }
    }
    assert_eq!(combinations, world.split.trained.iter().copied().collect());
    assert_eq!(words.len(), COLOURS.len() + Outline::VOCABULARY.len());
    // a quarter each, within five standard deviations
    for n in [n_other_colour, n_other_shape] {
        let ratio = f64::from(n) / f64::from(n_objects);
        assert!((ratio - 0.25).abs() < 0.065, "{n} of {n_objects}");
    }
}

#[test]
fn masks_are_exactly_the_pixels_painted_in_the_objects_colour() {
    let world = world(6);
    for idx in 0..20 {
        let scene = world.training_scene(&mut world.stream("mevis", idx), Naming::Expressions, 3);
        let bare = Scene {
            objects: Vec::new(),
            ..scene.clone()
        };
        let background = Background::draw(&mut world.stream("background", idx), scene.frame_px);
        let mut noise = world.stream("noise", idx);
        let cover = cover(&scene);
        for frame_idx in 0..3 {
            let painted = paint(&scene, frame_idx, &background, 0.0, &mut noise);
            let empty = paint(&bare, frame_idx, &background, 0.0, &mut noise);
            for (px, &owner) in painted.index.iter().enumerate() {
                let rgb = &painted.rgb[3 * px..3 * px + 3];
                match usize::from(owner) {
                    0 => assert_eq!(rgb, &empty.rgb[3 * px..3 * px + 3]),
                    owner => assert_eq!(rgb, scene.objects[owner - 1].rgb),
                }
            }
            for (object_idx, frames) in cover.objects.iter().enumerate() {
                let area: usize = painted
                    .mask(object_idx)
                    .iter()
                    .map(|&inside| usize::from(inside))
                    .sum();
                assert_eq!(area, frames[frame_idx].visible_px);
            }
        }
    }
}

#[test]
fn jpegs_keep_the_colours_of_what_their_masks_hold() {
    let settings = WorldSettings {
        coco_images: 30,
        ..WorldSettings::small()
    };
    let (_dir, out, _) = render_small(9, &settings);
    let world = World {
        settings,
        ..world(9)
    };
    for idx in 0..30 {
        let path = format!("{:012}.jpg", idx + 1);
        let bytes = std::fs::read(out.join("coco/images").join(&path)).unwrap();
        let frame = decode_rgb(&EncodedFrame {
            path,
            bytes: bytes.into(),
        })
        .unwrap();
        let scene = world.training_scene(&mut world.stream("coco", idx), Naming::Classes, 1);
        let painted = world.paint_one(&scene, "coco", idx);
        for (object_idx, object) in scene.objects.iter().enumerate() {
            let mask = painted.mask(object_idx);
            let inside: Vec<usize> = (0..mask.len()).filter(|&px| mask[px] > 0).collect();
            for channel in 0..3 {
                let sum: f64 = inside
                    .iter()
                    .map(|px| f64::from(frame.pixels[3 * px + channel]))
                    .sum();
                let difference = sum / inside.len() as f64 - f64::from(object.rgb[channel]);
                // Noise that is clamped at 0 or 255 moves the mean by up to 0.4 of its deviation of 20.
                assert!(
                    difference.abs() < 16.0,
                    "image {idx}, object {object_idx}: {difference:.1}"
                );
            }
        }
    }
}

#[test]
fn noise_has_the_strength_asked_for_and_changes_no_mask() {
    let world = world(6);
    let scene = world.training_scene(&mut world.stream("coco", 0), Naming::Classes, 1);
    let background = Background::draw(&mut world.stream("background", 0), 64);
    let clean = paint(&scene, 0, &background, 0.0, &mut world.stream("noise", 0));
    let noisy = paint(&scene, 0, &background, 0.08, &mut world.stream("noise", 0));
    assert_eq!(clean.index, noisy.index);
    // where nothing is clamped
    let differences: Vec<f64> = clean
        .rgb
        .iter()
        .zip(&noisy.rgb)
        .filter(|(clean, _)| (75..=180).contains(*clean))
        .map(|(clean, noisy)| (f64::from(*noisy) - f64::from(*clean)) / 255.0)
        .collect();
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let deviation = (differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / n).sqrt();
    assert!(
        n > 3000.0 && mean.abs() < 0.006 && (deviation - 0.08).abs() < 0.004,
        "{n} {mean} {deviation}"
    );
}

#[test]
fn objects_of_one_colour_do_not_blend_and_classes_do_not_overlap() {
    let world = world(8);
    for (set, naming) in TRAINING_SETS {
        for idx in 0..60 {
            let scene = world.training_scene(&mut world.stream(set, idx), naming, 4);
            assert!(scene.objects.len() == 1 || !blends(&scene));
            for (i, a) in scene.objects.iter().enumerate() {
                for (j, b) in scene.objects.iter().enumerate() {
                    let shares_name = i != j && a.look.description_is_true_of(b.look);
                    assert!(naming == Naming::Expressions || !shares_name, "{set} {idx}");
                }
            }
        }
    }
}

#[test]
fn coco_segmentations_are_the_masks() {
    let (_dir, out, summary) = render_small(
        21,
        &WorldSettings {
            coco_images: 40,
            ..WorldSettings::small()
        },
    );
    let world = World {
        settings: WorldSettings {
            coco_images: 40,
            ..WorldSettings::small()
        },
        ..world(21)
    };
    let instances = json(out.join("coco/annotations/instances_train.json"));
    let categories = instances["categories"].as_array().unwrap();
    let mut n_of_form = BTreeMap::new();
    let mut annotations = instances["annotations"].as_array().unwrap().iter();
    for (idx, image) in instances["images"].as_array().unwrap().iter().enumerate() {
        assert!(
            out.join("coco/images")
                .join(image["file_name"].as_str().unwrap())
                .is_file()
        );
        let scene = world.training_scene(&mut world.stream("coco", idx), Naming::Classes, 1);
        let painted = world.paint_one(&scene, "coco", idx);
        for (object_idx, object) in scene.objects.iter().enumerate() {
            if !painted.shows(object_idx) {
                continue;
            }
            let annotation = annotations.next().unwrap();
            let category_idx = annotation["category_id"].as_u64().unwrap() as usize - 1;
            assert_eq!(annotation["image_id"], image["id"]);
            assert_eq!(categories[category_idx]["name"], object.look.description());
            let mask = painted.mask(object_idx);
            assert_eq!(
                annotation["area"],
                mask.iter().map(|&inside| u64::from(inside)).sum::<u64>()
            );
            let segmentation = &annotation["segmentation"];
            let (form, raster) = match (segmentation.as_array(), &segmentation["counts"]) {
                (Some(_), _) => {
                    let polygons: Vec<Vec<f64>> =
                        serde_json::from_value(segmentation.clone()).unwrap();
                    ("polygons", Rle::from_polygons(&polygons, 64, 64).unwrap())
                }
                (None, Value::String(counts)) => (
                    "compressed",
                    Rle::from_string_bytes(counts.as_bytes(), 64, 64).unwrap(),
                ),
                (None, counts) => {
                    let counts = serde_json::from_value(counts.clone()).unwrap();
                    ("plain", Rle::from_counts(64, 64, counts))
                }
            };
            *n_of_form.entry(form).or_insert(0) += 1;
            let raster = raster.to_row_major_raster_bytes();
            if form == "polygons" {
                assert!(intersection_over_union(&raster, &mask) > 0.9);
            } else {
                assert_eq!(raster, mask);
            }
        }
    }
    assert!(annotations.next().is_none());
    assert!(
        n_of_form.len() == 3 && n_of_form.values().all(|&n| n >= 10),
        "{n_of_form:?}"
    );
    assert_eq!(
        summary.sets["coco"].objects,
        n_of_form.values().sum::<usize>()
    );
}

#[test]
fn ade20k_pixels_hold_the_class_of_what_they_show() {
    let (_dir, out, _) = render_small(22, &WorldSettings::small());
    let world = world(22);
    let table = std::fs::read_to_string(out.join("ade20k/objectInfo150.txt")).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(rows[0], ["Idx", "Ratio", "Train", "Val", "Name"]);
    for (part, stem, n) in [("training", "train", 8), ("validation", "val", 2)] {
        for idx in 0..n {
            let stage = format!("ade20k/{part}");
            let scene = world.training_scene(&mut world.stream(&stage, idx), Naming::Classes, 1);
            let painted = world.paint_one(&scene, &stage, idx);
            let path = out.join(format!(
                "ade20k/annotations/{part}/ADE_{stem}_{:08}.png",
                idx + 1
            ));
            let classes = png_values(&std::fs::read(path).unwrap());
            for (&class, &owner) in classes.iter().zip(&painted.index) {
                match owner {
                    0 => assert_eq!(class, 0),
                    owner => {
                        let row = &rows[usize::from(class)];
                        assert_eq!(row[0], class.to_string());
                        assert_eq!(
                            row[4],
                            scene.objects[usize::from(owner) - 1].look.description()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn mevis_masks_and_expressions_belong_to_their_objects() {
    let (_dir, out, _) = render_small(23, &WorldSettings::small());
    let world = world(23);
    let meta = json(out.join("mevis/train/meta_expressions.json"));
    let masks = json(out.join("mevis/train/mask_dict.json"));
    let mut n_masks = 0;
    for (idx, (video, entry)) in meta["videos"].as_object().unwrap().iter().enumerate() {
        let scene = world.training_scene(&mut world.stream("mevis", idx), Naming::Expressions, 8);
        let painted = world.paint_all(&scene, "mevis", idx);
        for frame in entry["frames"].as_array().unwrap() {
            let name = format!("{}.jpg", frame.as_str().unwrap());
            assert!(
                out.join("mevis/train/JPEGImages")
                    .join(video)
                    .join(name)
                    .is_file()
            );
        }
        for expression in entry["expressions"].as_object().unwrap().values() {
            let objects = expression["obj_id"].as_array().unwrap();
            let annotations = expression["anno_id"].as_array().unwrap();
            assert!(!objects.is_empty() && objects.len() == annotations.len());
            for (object, annotation) in objects.iter().zip(annotations) {
                let object_idx = object.as_u64().unwrap() as usize; // every object of this world shows
                let track = masks[annotation.as_u64().unwrap().to_string()]
                    .as_array()
                    .unwrap();
                assert_eq!(track.len(), 8);
                for (frame, mask) in painted.iter().zip(track) {
                    let expected = frame.mask(object_idx);
                    match mask["counts"].as_str() {
                        Some(counts) => {
                            let rle = Rle::from_string_bytes(counts.as_bytes(), 64, 64).unwrap();
                            assert_eq!(rle.to_row_major_raster_bytes(), expected);
                        }
                        None => assert!(!frame.shows(object_idx)),
                    }
                    n_masks += 1;
                }
            }
        }
    }
    assert!(n_masks > 50);
}

#[test]
fn youtube_vos_palette_indices_are_object_ids() {
    let (_dir, out, _) = render_small(24, &WorldSettings::small());
    let world = world(24);
    let meta = json(out.join("youtube-vos/train/meta.json"));
    for (idx, (video, entry)) in meta["videos"].as_object().unwrap().iter().enumerate() {
        let scene = world.training_scene(&mut world.stream("youtube-vos", idx), Naming::Classes, 8);
        let painted = world.paint_all(&scene, "youtube-vos", idx);
        for (frame_idx, frame) in painted.iter().enumerate() {
            let path = format!("youtube-vos/train/Annotations/{video}/{frame_idx:05}.png");
            assert_eq!(
                png_values(&std::fs::read(out.join(path)).unwrap()),
                frame.index
            );
        }
        for (id, object) in entry["objects"].as_object().unwrap() {
            let object_idx = id.parse::<usize>().unwrap() - 1;
            assert_eq!(
                object["category"],
                scene.objects[object_idx].look.description()
            );
            let frames: Vec<usize> = (0..8).filter(|&t| painted[t].shows(object_idx)).collect();
            let named = object["frames"].as_array().unwrap().iter();
            assert_eq!(
                named
                    .map(|name| name.as_str().unwrap().parse().unwrap())
                    .collect::<Vec<usize>>(),
                frames
            );
        }
    }
}

#[test]
fn evaluation_truth_is_the_targets_visible_pixels() {
    let settings = WorldSettings {
        seen_evaluation: true,
        ..WorldSettings::small()
    };
    let (_dir, out, summary) = render_small(25, &settings);
    let world = World {
        settings,
        ..world(25)
    };
    for (name, set) in [
        ("ucsd-ped", world.held_out_set()),
        ("ucsd-ped-seen", world.seen_set()),
    ] {
        let sidecar = json(out.join(name).join("categories.json"));
        let names: Vec<String> = set.targets.iter().map(|target| target.name()).collect();
        assert_eq!(
            serde_json::from_value::<Vec<String>>(sidecar["categories"].clone()).unwrap(),
            names
        );
        assert_eq!(names == summary.held_out, name == "ucsd-ped");
        let test = out.join(name).join("UCSDped2/Test");
        for idx in 0..6 {
            let evaluation = ucsd_ped::draw(&world, &set, name, idx, idx < 5);
            let painted = world.paint_all(&evaluation.scene, name, idx);
            let video = format!("Test{:03}", idx + 1);
            let own = sidecar["videos"][&video].as_array().unwrap();
            assert_eq!(own.len(), usize::from(evaluation.target.is_some()));
            let mut n_objects = BTreeSet::new();
            for (t, frame) in painted.iter().enumerate() {
                let read = |folder: &str, ending: &str| {
                    std::fs::read(test.join(format!("{video}{folder}/{:03}.{ending}", t + 1)))
                        .unwrap()
                };
                let tiff = read("", "tif");
                let rgb = match tiff::decoder::Decoder::new(Cursor::new(tiff))
                    .unwrap()
                    .read_image()
                    .unwrap()
                {
                    tiff::decoder::DecodingResult::U8(rgb) => rgb,
                    other => panic!("{other:?}"),
                };
                assert_eq!(rgb, frame.rgb);
                let truth = image::load_from_memory(&read("_gt", "bmp"))
                    .unwrap()
                    .to_luma8()
                    .into_raw();
                let target = evaluation
                    .target
                    .map(|(_, object_idx)| frame.mask(object_idx));
                let expected = target.unwrap_or(vec![0; 64 * 64]);
                assert!(
                    truth
                        .iter()
                        .zip(&expected)
                        .all(|(&truth, &inside)| truth == 255 * inside)
                );
                assert_eq!(
                    truth.iter().any(|&truth| truth > 0),
                    evaluation.anomalous[t]
                );
                // Others are what is neither target nor background.
                let others = png_values(&read("_objects", "png"));
                for ((&other, &owner), &inside) in others.iter().zip(&frame.index).zip(&expected) {
                    assert_eq!(other > 0, owner > 0 && inside == 0);
                }
                let ids: BTreeSet<u8> = others.into_iter().filter(|&id| id > 0).collect();
                n_objects.insert(ids.len() + usize::from(evaluation.anomalous[t]));
            }
            assert_eq!(
                n_objects.len(),
                1,
                "{video}: as many objects with the target as without"
            );
        }
    }
}

#[test]
fn seen_targets_are_trained_and_never_stand_among_the_others() {
    for seed in 0..20 {
        let world = world(seed);
        let set = world.seen_set();
        assert!(
            set.targets
                .iter()
                .all(|target| world.split.trained.contains(target))
        );
        assert!(
            set.targets
                .iter()
                .all(|target| !set.others.contains(target))
        );
        for idx in 0..10 {
            ucsd_ped::draw(&world, &set, "ucsd-ped-seen", idx, true); // every choice has candidates
        }
    }
}

#[test]
fn progress_ends_at_all_frames() {
    let dir = tempfile::tempdir().unwrap();
    let mut reports = Vec::new();
    let summary = render(dir.path(), 3, &WorldSettings::small(), |done, total| {
        reports.push((done, total))
    })
    .unwrap();
    let n_frames: usize = summary.sets.values().map(|set| set.frames).sum();
    assert_eq!(reports.last(), Some(&(n_frames, n_frames)));
    assert!(reports.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

#[test]
fn a_folder_that_holds_a_world_is_left_as_it_is() {
    let (_dir, out, _) = render_small(1, &WorldSettings::small());
    let before = hash(&files(&out));
    let error = render(&out, 2, &WorldSettings::small(), |_, _| ()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(
        error.to_string().contains("coco: already exists"),
        "{error}"
    );
    assert_eq!(hash(&files(&out)), before);
}

#[test]
fn what_a_killed_run_left_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let left = dir.path().join(".lavida-rendering/coco/images");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("000000000001.jpg"), "half a pict").unwrap();
    std::fs::write(dir.path().join(".lavida-rendering/lavida-rendering"), "").unwrap();
    render(dir.path(), 1, &WorldSettings::small(), |_, _| ()).unwrap();
    let (_dir, out, _) = render_small(1, &WorldSettings::small());
    assert_eq!(hash(&files(dir.path())), hash(&files(&out)));
}

#[test]
fn an_output_that_cannot_be_written_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let error = render(&file.join("world"), 1, &WorldSettings::small(), |_, _| ()).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert_eq!(files(dir.path()).len(), 1);
}

#[test]
fn a_staging_folder_of_somebody_else_stays_and_that_of_a_killed_rendering_goes() {
    let dir = tempfile::tempdir().unwrap();
    let staging = dir.path().join(".lavida-rendering");
    let rendered = || render(dir.path(), 1, &WorldSettings::small(), |_, _| ());
    std::fs::create_dir(&staging).unwrap();
    std::fs::write(staging.join("mine.txt"), "mine").unwrap();
    let error = rendered().unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(error.to_string().contains(".lavida-rendering"), "{error}");
    assert_eq!(std::fs::read(staging.join("mine.txt")).unwrap(), b"mine");
    // One that is being rendered is left alone too.
    let mark = std::fs::File::create(staging.join("lavida-rendering")).unwrap();
    mark.lock().unwrap();
    let error = rendered().unwrap_err();
    assert!(error.to_string().contains("being rendered"), "{error}");
    drop(mark);
    rendered().unwrap();
    assert!(!staging.exists());
}

/// Objects of any look and motion.
fn any_objects() -> impl Strategy<Value = Vec<SceneObject>> {
    (any::<u64>(), 1usize..40).prop_map(|(seed, idx)| {
        let world = world(seed % 50);
        world
            .training_scene(&mut world.stream("mevis", idx), Naming::Expressions, 8)
            .objects
    })
}

proptest! {
    #[test]
    fn an_expression_lists_exactly_the_objects_it_is_true_of(objects in any_objects(), seed: u64) {
        let shown: Vec<usize> = (0..objects.len()).collect();
        let texts = expressions(&objects, &shown, &mut StageRng::new(seed, "test", &[]));
        let known: BTreeSet<&str> = words().into_iter().collect();
        prop_assert!(texts.len() <= 8);
        let distinct: BTreeSet<&str> = texts.iter().map(|expression| expression.text.as_str()).collect();
        prop_assert_eq!(distinct.len(), texts.len());
        for object in &objects {
            prop_assert!(distinct.contains(object.look.description().as_str()));
        }
        for expression in &texts {
            let spoken: Vec<&str> = expression.text.split(' ').collect();
            prop_assert!(spoken.iter().all(|word| known.contains(word)), "{}", expression.text);
            let is_true = |object: &SceneObject| {
                let motion = object.motion.words().unwrap_or_default();
                spoken.iter().all(|word| {
                    ["the", "object"].contains(word)
                        || object.look.colour_word() == Some(*word)
                        || object.look.shape().word() == Some(*word)
                        || motion.split(' ').any(|part| part == *word)
                })
            };
            let expected: Vec<usize> = shown.iter().copied().filter(|&idx| is_true(&objects[idx])).collect();
            prop_assert_eq!(&expression.objects, &expected, "{}", &expression.text);
        }
    }
}

#[test]
fn a_combination_is_named_colour_first() {
    assert_eq!(
        Combination {
            colour_idx: 0,
            shape: Outline::Circle
        }
        .name(),
        "red circle"
    );
}

//! Samples and batches: shapes, padding, labels.

use std::sync::Arc;

use lavida_data::batch::{Array, Batcher, HostBatch, HostSample};
use lavida_data::clip::Clip;
use lavida_data::exposure::{Exposure, ExposureSettings};
use lavida_data::grounding::GroundingDraw;
use lavida_data::manifest::Positives;
use lavida_data::preprocess::Preprocess;
use lavida_data::resize::PixelBounds;
use lavida_data::tokenizer::Tokenizers;

use crate::world::{clip, dataset, object, sampler, square};

fn batcher() -> Batcher {
    let pixels = PixelBounds {
        min: 16 * 16,
        max: 16 * 16,
    };
    let preprocess = Preprocess {
        patch_size: 4,
        temporal_patch_size: 2,
        spatial_merge_size: 2,
        image_pixels: pixels,
        video_pixels: pixels,
        sam2_size: 32,
        projector_grid: 8,
    };
    Batcher::new(preprocess, Arc::new(Tokenizers::tiny()), 77).unwrap()
}

fn video() -> Clip {
    let red = object(0, None, &["red circle"], &[true, false, true], 0);
    let blue = object(1, None, &["blue star"], &[false, true, true], 5);
    clip("set", "v", 3, vec![red, blue])
}

fn image() -> Clip {
    clip("set", "w", 1, vec![object(0, None, &["a"], &[true], 3)])
}

fn exposure(clip: &Clip, categories: &[&str], objects: &[usize]) -> Exposure {
    let categories: Vec<String> = categories.iter().map(|c| c.to_string()).collect();
    let mut exposure = Exposure::unlabelled(clip.frames.len(), &categories);
    for (t, mask) in exposure.pixel_masks.iter_mut().enumerate() {
        *mask = objects
            .iter()
            .find_map(|&o| clip.objects[o].masks[t].clone());
    }
    exposure
}

fn sample(clip: &Clip, exposure: &Exposure) -> HostSample {
    batcher()
        .sample(clip, &Batcher::decode(clip).unwrap(), exposure)
        .unwrap()
}

fn mixed() -> HostBatch {
    let (video, image) = (video(), image());
    let first = sample(
        &video,
        &exposure(&video, &["red circle", "the blue star moving left"], &[0]),
    );
    let second = sample(&image, &exposure(&image, &["star"], &[]));
    batcher().collate(vec![first, second]).unwrap()
}

#[test]
fn images_and_videos_share_a_batch() {
    let batch = mixed();
    assert_eq!(batch.clip_ids, ["v/0", "w/0"]);
    assert_eq!(batch.is_video, [true, false]);
    assert_eq!(batch.n_frames, [3, 1]);
    assert_eq!(batch.frames.shape, [4, 3, 32, 32]);
    assert_eq!(batch.pixel_masks.shape, [4, 32, 32]);
    // Three frames fill two patches in time.
    assert_eq!(batch.grids, [[2, 4, 4], [1, 4, 4]]);
    assert_eq!(batch.patches.shape, [48, 96]);
    assert_eq!(batch.n_categories, [2, 1]);
    assert_eq!(batch.category_ids.shape, [3, 7]);
    assert_eq!(batch.name_coverage, None);
    let check = |n: usize, values: usize| assert_eq!(n, values);
    check(batch.frames.values.len(), 4 * 3 * 32 * 32);
    check(
        batch.input_ids.values.len(),
        batch.input_ids.shape.iter().product(),
    );
}

#[test]
fn prompts_are_padded_on_the_left_and_categories_on_the_right() {
    let batch = mixed();
    let special = Tokenizers::tiny().special();
    let [n, width] = batch.input_ids.shape[..] else {
        panic!("{:?}", batch.input_ids.shape)
    };
    assert_eq!(n, 2);
    for row in 0..n {
        let range = row * width..(row + 1) * width;
        let (ids, mask) = (
            &batch.input_ids.values[range.clone()],
            &batch.attention_mask.values[range.clone()],
        );
        let n_padding = mask.iter().take_while(|&&m| m == 0).count();
        assert!(mask[n_padding..].iter().all(|&m| m == 1));
        assert!(ids[..n_padding].iter().all(|&id| id == special.pad));
        assert_eq!(ids[n_padding], special.im_start);
        let labels = &batch.labels.values[range];
        let kept: Vec<(i64, i64)> = labels
            .iter()
            .copied()
            .zip(ids.iter().copied())
            .filter(|(l, _)| *l != -100)
            .collect();
        assert!(kept.iter().all(|(label, id)| label == id));
        assert!(kept.iter().any(|(label, _)| *label == special.seg));
        let n_visual = batch.grids[row].iter().product::<usize>() / 4;
        let pad = if batch.is_video[row] {
            special.video_pad
        } else {
            special.image_pad
        };
        assert_eq!(ids.iter().filter(|&&id| id == pad).count(), n_visual);
    }
    assert_eq!(
        batch.category_ids.values[2 * 7 + 2..],
        [special.clip_end; 5]
    );
}

#[test]
fn labels_follow_the_resized_masks() {
    let batch = mixed();
    assert_eq!(batch.frame_labels, [true, false, true, false]);
    let first = &batch.pixel_masks.values[..32 * 32];
    let inside = |i: usize| i / 32 < 8 && i % 32 < 8;
    assert!(
        first
            .iter()
            .enumerate()
            .all(|(i, &v)| v == u8::from(inside(i)))
    );
    assert!(
        batch.pixel_masks.values[32 * 32..2 * 32 * 32]
            .iter()
            .all(|&v| v == 0)
    );
}

#[test]
fn coverage_is_the_or_of_a_names_objects() {
    let clip = video();
    let draw = GroundingDraw {
        names: vec!["red".into(), "thing".into(), "ring".into()],
        objects_of_name: vec![vec![0], vec![0, 1], vec![]],
    };
    let frames = Batcher::decode(&clip).unwrap();
    let sample = batcher().grounding_sample(&clip, &frames, &draw).unwrap();
    let coverage = sample.name_coverage.clone().unwrap();
    assert_eq!(coverage.shape, [3, 3, 8, 8]);
    let covered = |t: usize, name: usize| {
        coverage.values[(t * 3 + name) * 64..][..64]
            .iter()
            .sum::<f32>()
    };
    // A square of 4 of 16 px is 2 × 2 cells of the 8 × 8 grid.
    assert_eq!(
        [covered(0, 0), covered(1, 0), covered(2, 0)],
        [4.0, 0.0, 4.0]
    );
    assert_eq!(
        [covered(0, 1), covered(1, 1), covered(2, 1)],
        [4.0, 4.0, 8.0]
    );
    assert_eq!([covered(0, 2), covered(1, 2), covered(2, 2)], [0.0; 3]);
    assert_eq!(sample.frame_labels, [false; 3]);
    let batch = batcher().collate(vec![sample.clone(), sample]).unwrap();
    assert_eq!(batch.name_coverage.unwrap().len(), 2);
}

#[test]
fn fewer_frames_are_a_clip_of_their_own() {
    let clip = video();
    let part = clip.select_frames(&[0]);
    assert_eq!(part.frames.len(), 1);
    let seen: Vec<&str> = part.objects.iter().map(|o| o.id.as_str()).collect();
    assert_eq!(seen, ["0"], "the blue star is not in frame 0");
    let (sampler, _) = sampler(
        ExposureSettings {
            anomaly_ratio: 1.0,
            ..Default::default()
        },
        dataset("set", None, Positives::One, vec![clip.clone(), image()]),
    );
    let draw = sampler.draw(&part, 3, 0).unwrap();
    assert_eq!(draw.pixel_masks, [Some(square(0))]);
    assert_eq!(
        draw.categories.len(),
        2,
        "the star out of sight is no distractor"
    );
    assert_eq!(clip.draw_frames(2, 1, 0), clip.draw_frames(2, 1, 0));
}

#[test]
fn a_frame_of_another_size_names_clip_and_frame() {
    let clip = Clip {
        width: 17,
        ..video()
    };
    let error = Batcher::decode(&clip).unwrap_err();
    assert_eq!(
        error.to_string(),
        "clip v/0, frame 00000.png: expected a picture of 17 × 16 px, found 16 × 16 px"
    );
    assert_eq!(error.exit_code(), 3);
}

#[test]
fn a_benchmark_keeps_its_own_frame_labels() {
    let mut clip = video();
    clip.objects[0].anomalous = Some(true);
    clip.objects[1].anomalous = Some(false);
    clip.frame_labels = Some(vec![true, true, false]);
    let categories = ["red circle".to_owned(), "ring".to_owned()];
    let exposure = Exposure::of_benchmark(&clip, &categories, &categories[..1]).unwrap();
    assert_eq!(exposure.is_true, [true, false]);
    assert_eq!((exposure.user_template, exposure.answer_template), (0, 0));
    let sample = batcher()
        .benchmark_sample(&clip, &Batcher::decode(&clip).unwrap(), &exposure)
        .unwrap();
    assert_eq!(sample.frame_labels, [true, true, false]);
    let marked: Vec<bool> = sample
        .pixel_masks
        .values
        .chunks(32 * 32)
        .map(|m| m.contains(&1))
        .collect();
    assert_eq!(marked, [true, false, true]);
    let short = exposure.select_frames(&[2, 1]);
    assert_eq!(short.frame_labels, [false, true]);
    let nothing = Exposure::unlabelled(2, &categories);
    assert_eq!(nothing.pixel_masks, [None, None]);
}

#[test]
fn a_batch_of_two_shapes_is_a_bug() {
    let clip = video();
    let one = sample(&clip, &exposure(&clip, &["a"], &[]));
    let mut other = one.clone();
    other.frames = Array::new(vec![1, 3, 2, 2], vec![0.0; 12]);
    let error = batcher().collate(vec![one, other]).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert_eq!(batcher().collate(vec![]).unwrap_err().exit_code(), 1);
}

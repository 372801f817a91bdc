//! Resizing, patches and normalisation against torchvision and Qwen2-VL's processor; targets against the reference's search.

use lavida_data::frame::RgbFrame;
use lavida_data::mask::RleMask;
use lavida_data::preprocess::{Patches, Preprocess};
use lavida_data::prompt::labels_between;
use lavida_data::resize::{PixelBounds, bicubic, smart_resize};

use crate::support::{Fixture, FixtureTensors, assert_close_values, assert_same};

/// Ids of `<|im_start|>assistant\n` and `<|im_end|>\n` in Qwen2-VL's vocabulary, which the fixture's ids are of.
const ANSWER_START: [i64; 3] = [151_644, 77_091, 198];
const ANSWER_END: [i64; 2] = [151_645, 198];

/// Pictures `[T, 3, H, W]` of a fixture as frames.
fn frames(tensors: &FixtureTensors, name: &str) -> Vec<RgbFrame> {
    let data = tensors.data(name);
    let [_, channels, height, width] = data.shape()[..] else {
        panic!("{name}: {:?}", data.shape());
    };
    assert_eq!(channels, 3, "{name}");
    let values: Vec<u8> = data.clone().convert::<u8>().try_to_vec().unwrap();
    let interleave = |picture: &[u8]| {
        let area = height * width;
        let pixels = (0..area).flat_map(|i| [picture[i], picture[area + i], picture[2 * area + i]]);
        RgbFrame {
            width: width as u32,
            height: height as u32,
            pixels: pixels.collect(),
        }
    };
    values
        .chunks_exact(3 * height * width)
        .map(interleave)
        .collect()
}

fn size(frame: &RgbFrame) -> (usize, usize) {
    (frame.height as usize, frame.width as usize)
}

fn floats(tensors: &FixtureTensors, name: &str) -> Vec<f32> {
    tensors
        .data(name)
        .clone()
        .convert::<f32>()
        .try_to_vec()
        .unwrap()
}

#[test]
fn sizes_equal_the_reference() {
    let fixture = Fixture::open("prep");
    let cases = fixture.setting("/smart_resize").as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let value = |key: &str| case[key].as_u64().unwrap() as usize;
        let bounds = PixelBounds {
            min: value("min_pixels"),
            max: value("max_pixels"),
        };
        let found = smart_resize(value("h"), value("w"), 28, bounds).unwrap();
        assert_eq!(found, (value("H"), value("W")), "{case}");
        // 8 video frames are 4 steps in time, an image is one.
        let steps = if case["what"] == "train_image" { 1 } else { 4 };
        assert_eq!(
            steps * found.0 * found.1 / 784,
            value("visual_tokens_8_frames"),
            "{case}"
        );
    }
}

#[test]
fn bicubic_pixels_equal_the_reference() {
    let fixture = Fixture::open("prep");
    let (inputs, outputs) = (fixture.tensors("inputs"), fixture.tensors("outputs"));
    for (from, to) in [("image", "image_bicubic"), ("video", "video_bicubic")] {
        let (from, expected) = (frames(&inputs, from), frames(&outputs, to));
        assert_eq!(from.len(), expected.len());
        for (from, expected) in from.iter().zip(&expected) {
            assert_same(
                to,
                &bicubic(&from.pixels, size(from), size(expected)),
                &expected.pixels,
            );
        }
    }
}

#[test]
fn patches_equal_the_reference() {
    let fixture = Fixture::open("prep");
    let outputs = fixture.tensors("outputs");
    for kind in ["video", "image"] {
        let rows = outputs.data(&format!("{kind}_patches")).shape().to_vec();
        // A row is 3 channels × 2 frames × a square.
        let patch_size = (rows[1] as f64 / 6.0).sqrt().round() as usize;
        let grid = outputs.int_values(&format!("{kind}_grid"));
        let (height, width) = (grid[1] as usize * patch_size, grid[2] as usize * patch_size);
        let pictures = frames(&outputs, &format!("{kind}_bicubic"));
        let pictures: Vec<RgbFrame> = pictures
            .iter()
            .map(|picture| crop(picture, height, width))
            .collect();
        // Bounds wide enough that the picture keeps its size.
        let bounds = PixelBounds {
            min: 1,
            max: usize::MAX,
        };
        let preprocess = Preprocess {
            patch_size,
            temporal_patch_size: 2,
            spatial_merge_size: 2,
            image_pixels: bounds,
            video_pixels: bounds,
            sam2_size: 64,
            projector_grid: 4,
        };
        let Patches {
            values,
            grid: found,
        } = preprocess.patches(&pictures, kind == "video").unwrap();
        assert_eq!(found.map(|n| n as i64).to_vec(), grid, "{kind}");
        assert_eq!(values.shape, rows, "{kind}");
        let name = format!("{kind}_patches");
        assert_close_values(&name, &values.values, &floats(&outputs, &name));
    }
}

fn crop(frame: &RgbFrame, height: usize, width: usize) -> RgbFrame {
    let rows = frame
        .pixels
        .chunks_exact(frame.width as usize * 3)
        .take(height);
    RgbFrame {
        width: width as u32,
        height: height as u32,
        pixels: rows.flat_map(|row| &row[..width * 3]).copied().collect(),
    }
}

#[test]
fn the_frame_encoders_view_equals_the_reference() {
    let fixture = Fixture::open("prep");
    let (inputs, outputs) = (fixture.tensors("inputs"), fixture.tensors("outputs"));
    let images = frames(&inputs, "image");
    let views: Vec<String> = outputs
        .names()
        .filter(|name| name.starts_with("sam_image"))
        .map(str::to_owned)
        .collect();
    assert!(!views.is_empty());
    for view in views {
        let side = view.trim_start_matches("sam_image");
        let bounds = PixelBounds { min: 1, max: 1 };
        let preprocess = Preprocess {
            patch_size: 14,
            temporal_patch_size: 2,
            spatial_merge_size: 2,
            image_pixels: bounds,
            video_pixels: bounds,
            sam2_size: side.parse().unwrap(),
            projector_grid: 1,
        };
        let found = preprocess.sam2_frames(&images);
        assert_eq!(found.shape, outputs.data(&view).shape().to_vec(), "{view}");
        assert_close_values(&view, &found.values, &floats(&outputs, &view));

        let mask = format!("mask{side}");
        let [_, height, width] = inputs.data(&mask).shape()[..] else {
            panic!("{mask}: {:?}", inputs.data(&mask).shape());
        };
        let raster: Vec<u8> = floats(&inputs, &mask)
            .iter()
            .map(|&v| u8::from(v > 0.0))
            .collect();
        let mask = RleMask::from_raster(&raster, height as u32, width as u32);
        let found = preprocess.sam2_masks(&[Some(mask)]).unwrap();
        let expected: Vec<u8> = floats(&outputs, &format!("sam_mask{side}"))
            .iter()
            .map(|&v| v as u8)
            .collect();
        assert_same(&format!("sam_mask{side}"), &found.values, &expected);
    }
}

#[test]
fn targets_equal_the_reference() {
    let fixture = Fixture::open("prep");
    let (inputs, outputs) = (fixture.tensors("inputs"), fixture.tensors("outputs"));
    let expected = outputs.int_rows("label.labels");
    for (ids, expected) in inputs.int_rows("label.ids").iter().zip(&expected) {
        assert_same(
            "label.labels",
            &labels_between(ids, &ANSWER_START, &ANSWER_END),
            expected,
        );
    }
}

//! Tiny trees in the exact layouts in which the source datasets are published.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::pictures::{HEIGHT, SQUARE, WIDTH, gray_png, jpeg, palette_png, rectangle, rgb_png};

/// A file below `root`, its folders made.
pub fn write(root: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("mkdir");
    std::fs::write(&path, bytes).expect("write");
    path
}

pub fn write_json(root: &Path, name: &str, value: &Value) -> PathBuf {
    write(root, name, serde_json::to_vec(value).expect("json"))
}

fn filled(index: u8) -> Vec<u8> {
    vec![index; (WIDTH * HEIGHT) as usize]
}

/// An instances file and a folder of `n_images` images, each with a car.
pub fn coco_instances(n_images: usize, root: &Path, images: &str) -> Value {
    let (mut rows, mut annotations) = (Vec::new(), Vec::new());
    for i in 0..n_images {
        write(root, &format!("{images}/{i:04}.jpg"), jpeg(i as u8));
        rows.push(json!({ "id": i, "file_name": format!("{i:04}.jpg"), "width": WIDTH, "height": HEIGHT }));
        annotations.push(json!({
            "id": 100 + i, "image_id": i, "category_id": 3, "iscrowd": 0, "segmentation": [SQUARE],
        }));
    }
    let categories = json!([{ "id": 1, "name": "person" }, { "id": 3, "name": "car" }]);
    json!({ "images": rows, "annotations": annotations, "categories": categories })
}

/// The segment of [`coco_panoptic`]'s picture, by its colour.
pub const SEGMENT_ID: u32 = 5 + 256 * 7 + 65536 * 2;

/// A picture with a patch of sky, and one fault of each kind.
pub fn coco_panoptic(root: &Path, annotations: &str, panoptic: &str, images: &str) {
    write(root, &format!("{images}/a.jpg"), jpeg(0));
    let colours = rgb_png(&rectangle(1, [0, 4, 0, 4]), [5, 7, 2]);
    write(root, &format!("{panoptic}/a.png"), colours);
    let segments = json!([
        { "id": SEGMENT_ID, "category_id": 2 },
        { "id": 99, "category_id": 2 },
        { "id": 98, "category_id": 1, "iscrowd": 1 },
        { "id": 97, "category_id": 77 },
    ]);
    let file = json!({
        "images": [{ "id": 1, "file_name": "a.jpg" }, { "id": 2, "file_name": "b.jpg" }],
        "annotations": [
            { "image_id": 1, "file_name": "a.png", "segments_info": segments },
            { "image_id": 3, "file_name": "c.png", "segments_info": [] },
        ],
        "categories": [{ "id": 1, "name": "person" }, { "id": 2, "name": "sky-other-merged" }],
    });
    write_json(root, annotations, &file);
}

/// A street with a truck, a car and road.
pub fn cityscapes(root: &Path) {
    let mut map = rectangle(27, [0, 4, 0, 4]);
    map[300..400].fill(7);
    map[400..450].fill(26);
    write(
        root,
        "leftImg8bit/train/bonn/bonn_0_1_leftImg8bit.png",
        gray_png(&filled(9)),
    );
    write(
        root,
        "gtFine/train/bonn/bonn_0_1_gtFine_labelIds.png",
        gray_png(&map),
    );
}

/// A bench among ground animals.
pub fn mapillary(root: &Path) {
    write(root, "training/images/a.jpg", jpeg(0));
    let map = palette_png(&rectangle(1, [0, 4, 0, 4]));
    write(root, "training/v2.0/labels/a.png", map);
    let labels = json!([{ "readable": "Ground Animal" }, { "readable": "Bench" }, { "readable": "Unlabeled" }]);
    write_json(root, "config_v2.0.json", &json!({ "labels": labels }));
}

/// A car that drives through 19 frames.
pub fn davis(root: &Path) {
    for i in 0..19u32 {
        let frame = jpeg(i as u8);
        write(
            root,
            &format!("JPEGImages/480p/car-shadow/{i:05}.jpg"),
            frame,
        );
        let mask = gray_png(&rectangle(255, [i, i + 4, 0, 4]));
        write(
            root,
            &format!("Annotations/480p/car-shadow/{i:05}.png"),
            mask,
        );
    }
}

/// Two frames with a dog and a cat, and two faulty expressions. Hand-written, in the layout of Ref-YouTube-VOS.
pub fn referring_videos(root: &Path) {
    let mut indices = rectangle(1, [0, 4, 0, 4]);
    indices[200..220].fill(2);
    indices[300] = 3;
    for i in 0..2 {
        write(
            root,
            &format!("train/JPEGImages/v/{i:05}.jpg"),
            jpeg(i as u8),
        );
        let mask = palette_png(&indices);
        write(root, &format!("train/Annotations/v/{i:05}.png"), mask);
    }
    let expressions = json!({
        "0": { "exp": "a dog on the left", "obj_id": "1" },
        "1": { "exp": "the brown dog", "obj_id": "1" },
        "2": { "exp": "a cat", "obj_id": 2 },
        "3": { "exp": "", "obj_id": "2" },
    });
    let video = json!({ "frames": ["00000", "00001"], "expressions": expressions });
    let file = json!({ "videos": { "v": video } });
    write_json(root, "meta_expressions/train/meta_expressions.json", &file);
}

/// Nine labelled frames of ten, the last anomalous, and a video without masks.
pub fn shanghaitech(root: &Path) {
    let mut masks = Vec::new();
    for i in 0..10 {
        let frame = jpeg(i as u8);
        write(root, &format!("testing/frames/01_0014/{i:03}.jpg"), frame);
        if i < 9 {
            masks.extend(if i == 8 {
                rectangle(1, [0, 4, 0, 4])
            } else {
                filled(0)
            });
        }
    }
    write(root, "testing/frames/01_0015/000.jpg", jpeg(0));
    let header =
        format!("{{'descr': '|u1', 'fortran_order': False, 'shape': (9, {HEIGHT}, {WIDTH}), }}\n");
    let length = (header.len() as u16).to_le_bytes();
    let npy = [
        b"\x93NUMPY\x01\x00".as_slice(),
        &length,
        header.as_bytes(),
        &masks,
    ]
    .concat();
    write(root, "testing/test_pixel_mask/01_0014.npy", npy);
}

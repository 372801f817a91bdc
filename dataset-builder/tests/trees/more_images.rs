//! Images of COCO-Stuff, ADE20K's full release, older versions of Mapillary Vistas, and of somebody's own.

use std::path::Path;

use serde_json::json;

use super::pictures::{HEIGHT, WIDTH, gray_png, jpeg, palette_png, rectangle, rgb_pixels_png};
use super::{write, write_json};

/// Two pictures with a truck before a brick wall, and pixels of nothing.
pub fn coco_stuff(root: &Path) {
    let mut map = rectangle(7, [0, 4, 0, 4]);
    map.iter_mut()
        .filter(|value| **value == 0)
        .for_each(|value| *value = 170);
    map[400..500].fill(255);
    for (shade, name) in [(1, "000000000009"), (2, "000000000025")] {
        write(root, &format!("images/train2017/{name}.jpg"), jpeg(shade));
        write(
            root,
            &format!("annotations/train2017/{name}.png"),
            gray_png(&map),
        );
    }
}

/// Two streets, each with two cars before a building.
pub fn ade20k_full(root: &Path) {
    let object = |id: u32, name: &str, class: u32, level: u32| {
        json!({
            "id": id, "name": name, "name_ndx": class, "parts": { "part_level": level, "hasparts": [] },
            "polygon": { "x": [0, 1, 1], "y": [0, 0, 1] },
        })
    };
    // car, automobile is 401 there: R = ⌊401 / 256⌋ · 10, G = 401 mod 256.
    let objects = [
        object(0, "building, edifice", 312, 0),
        object(1, "car, auto", 401, 0),
        object(2, "wheel", 2978, 1),
    ];
    let pixel = |i: u32| match (i % WIDTH, i / WIDTH) {
        (0..8, 0..8) => [10, 145, 50],
        (16..24, 0..8) => [10, 145, 150],
        _ => [10, 56, 250],
    };
    let pixels: Vec<u8> = (0..WIDTH * HEIGHT).flat_map(pixel).collect();
    for i in 1..=2u8 {
        let name = format!("images/ADE/training/urban/street/ADE_train_{i:08}");
        write(root, &format!("{name}.jpg"), jpeg(i));
        write(root, &format!("{name}_seg.png"), rgb_pixels_png(&pixels));
        let annotation = json!({ "annotation": { "filename": format!("ADE_train_{i:08}.jpg"), "object": objects } });
        write_json(root, &format!("{name}.json"), &annotation);
        write(
            root,
            &format!("{name}/instance_000_ADE_train_{i:08}.png"),
            gray_png(&rectangle(255, [0, 8, 0, 8])),
        );
    }
}

/// Benches, in a zip of versions 1.2 and 2.0 without the latter's labels, and in the oldest.
pub fn older_mapillary(root: &Path, labels_of: &str, config: &str) {
    for (shade, name) in [(5, "a"), (6, "b")] {
        write(root, &format!("training/images/{name}.jpg"), jpeg(shade));
        let map = palette_png(&rectangle(1, [0, 4, 0, 4]));
        write(root, &format!("training/{labels_of}/{name}.png"), map);
    }
    let labels =
        json!([{ "readable": "Bird" }, { "readable": "Bench" }, { "readable": "Unlabeled" }]);
    write_json(root, config, &json!({ "labels": labels }));
}

/// Photos of concrete: masks of cracks and holes in a folder each, and maps of both.
pub fn masked_images(root: &Path) {
    for (shade, name) in [(1, "wall-1"), (2, "wall-2")] {
        write(root, &format!("images/{name}.jpg"), jpeg(shade));
        write(
            root,
            &format!("masks/crack/{name}.png"),
            gray_png(&rectangle(255, [0, 9, 0, 3])),
        );
        // The first wall has no hole.
        if name == "wall-2" {
            write(
                root,
                &format!("masks/hole/{name}_mask.png"),
                gray_png(&rectangle(1, [20, 24, 8, 12])),
            );
        }
        let mut map = rectangle(1, [0, 9, 0, 3]);
        map[300..310].fill(2);
        write(root, &format!("maps/{name}.png"), gray_png(&map));
    }
    write(root, "names.txt", "crack\nhole\n");
}

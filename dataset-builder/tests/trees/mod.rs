//! Tiny trees in the exact layouts in which the source datasets are published.
//!
//! All are sound: nothing in them is left out as a fault. The tests of the builder and those of the documents share them.

pub mod benchmarks;
pub mod more_images;
pub mod more_videos;
pub mod pictures;
pub mod refer;

use std::path::{Path, PathBuf};

use lavida_dataset_builder::synth::{self, WorldSettings};
use serde_json::{Value, json};

use self::pictures::{HEIGHT, SQUARE, WIDTH, gray_png, jpeg, palette_png, rectangle, rgb_png};

/// A tree for each source, under the names that `docs/datasets.md` gives them.
pub fn lay(root: &Path) {
    lay_rendered(root);
    let file = coco_instances(3, root, "val2017");
    write_json(root, "annotations/instances_val2017.json", &file);
    let file = coco_panoptic(root, "annotations/panoptic_train2017", "train2017");
    write_json(root, "annotations/panoptic_train2017.json", &file);
    cityscapes(&root.join("cityscapes"));
    mapillary(&root.join("mapillary-vistas-2.0"));
    davis(&root.join("DAVIS"));
    referring_videos(&root.join("Ref-YouTube-VOS"));
    referring_videos(&root.join("Ref-DAVIS"));
    shanghaitech(&root.join("shanghaitech"));
    refer::refer_family(&root.join("refer_seg"));
    more_images::coco_stuff(&root.join("cocostuff"));
    more_images::ade20k_full(&root.join("ADE20K_2021_17_01"));
    let older = root.join("mapillary-vistas-1.2");
    more_images::older_mapillary(&older, "v1.2/labels", "config_v1.2.json");
    more_images::older_mapillary(&root.join("mapillary-vistas"), "labels", "config.json");
    more_images::masked_images(&root.join("concrete"));
    more_videos::ref_davis_texts(&root.join("Ref-DAVIS17"));
    more_videos::own_videos(&root.join("mine"));
    benchmarks::ubnormal(&root.join("UBnormal"));
    benchmarks::ucf_crime(&root.join("UCF_Crimes"));
    benchmarks::xd_violence(&root.join("XD-Violence"));
    benchmarks::avenue(&root.join("Avenue"));
}

/// What `lavida-dataset synth` renders, under the published names.
fn lay_rendered(root: &Path) {
    let world = root.join("world");
    let settings = WorldSettings {
        coco_images: 8,
        ade20k_training_images: 2,
        ade20k_validation_images: 1,
        mevis_videos: 3,
        youtube_vos_videos: 2,
        evaluation_videos: 2,
        evaluation_normal_videos: 0,
        evaluation_frames: 5,
        evaluation_training_videos: 1,
        ..WorldSettings::small()
    };
    synth::render(&world, 3, &settings, |_, _| {}).expect("renders");
    std::fs::create_dir(root.join("annotations")).expect("mkdir");
    for (rendered, published) in [
        ("coco/images", "train2017"),
        (
            "coco/annotations/instances_train.json",
            "annotations/instances_train2017.json",
        ),
        ("ade20k", "ADEChallengeData2016"),
        ("mevis", "MeViS"),
        ("youtube-vos", "youtube-vos"),
        ("ucsd-ped", "UCSD_Anomaly_Dataset.v1p2"),
    ] {
        std::fs::rename(world.join(rendered), root.join(published)).expect("rename");
    }
    // The published dataset has no file of categories.
    let categories = root.join("UCSD_Anomaly_Dataset.v1p2/categories.json");
    std::fs::remove_file(categories).expect("remove");
    let test = root.join("UCSD_Anomaly_Dataset.v1p2/UCSDped2/Test");
    let folders = std::fs::read_dir(&test).expect("a folder").filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        let name = name.to_string_lossy().into_owned();
        name.starts_with("Test") && !name.contains('_')
    });
    let lines = "TestVideoFile{end+1}.gt_frame = [2:3];\n".repeat(folders.count());
    write(
        &test,
        "UCSDped2.m",
        format!("TestVideoFile = {{}};\n{lines}"),
    );
}

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

/// The segment of [`coco_panoptic`]'s first picture, by its colour.
pub const SEGMENT_ID: u32 = 5 + 256 * 7 + 65536 * 2;

/// A panoptic file, its folder of segments and three pictures with a patch of sky each.
pub fn coco_panoptic(root: &Path, panoptic: &str, images: &str) -> Value {
    let (mut rows, mut annotations) = (Vec::new(), Vec::new());
    for (id, name) in [(1, "a"), (2, "b"), (3, "c")] {
        write(root, &format!("{images}/{name}.jpg"), jpeg(id));
        let colours = rgb_png(&rectangle(1, [0, 4, 0, 4]), [5, 7, 1 + id]);
        write(root, &format!("{panoptic}/{name}.png"), colours);
        rows.push(json!({ "id": id, "file_name": format!("{name}.jpg") }));
        let segment = SEGMENT_ID + 65536 * u32::from(id - 1);
        annotations.push(json!({
            "image_id": id,
            "file_name": format!("{name}.png"),
            "segments_info": [{ "id": segment, "category_id": 2 }],
        }));
    }
    let categories =
        json!([{ "id": 1, "name": "person" }, { "id": 2, "name": "sky-other-merged" }]);
    json!({ "images": rows, "annotations": annotations, "categories": categories })
}

/// Three streets with a truck, a car and road.
pub fn cityscapes(root: &Path) {
    let mut map = rectangle(27, [0, 4, 0, 4]);
    map[300..400].fill(7);
    map[400..450].fill(26);
    for i in 1..=3 {
        let name = format!("train/bonn/bonn_0_{i}");
        let street = gray_png(&filled(i));
        write(root, &format!("leftImg8bit/{name}_leftImg8bit.png"), street);
        let labels = format!("gtFine/{name}_gtFine_labelIds.png");
        write(root, &labels, gray_png(&map));
    }
}

/// Three benches among ground animals.
pub fn mapillary(root: &Path) {
    for (shade, name) in [(0, "a"), (1, "b"), (2, "c")] {
        write(root, &format!("training/images/{name}.jpg"), jpeg(shade));
        let map = palette_png(&rectangle(1, [0, 4, 0, 4]));
        write(root, &format!("training/v2.0/labels/{name}.png"), map);
    }
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

/// Two videos of two frames with a dog and a cat. Hand-written, in the layout of Ref-YouTube-VOS.
pub fn referring_videos(root: &Path) {
    let mut indices = rectangle(1, [0, 4, 0, 4]);
    indices[200..220].fill(2);
    let expressions = json!({
        "0": { "exp": "a dog on the left", "obj_id": "1" },
        "1": { "exp": "the brown dog", "obj_id": "1" },
        "2": { "exp": "a cat", "obj_id": 2 },
    });
    let mut videos = serde_json::Map::new();
    for (shade, name) in [(0, "v"), (10, "w")] {
        for i in 0..2 {
            let frame = jpeg(shade + i);
            write(root, &format!("train/JPEGImages/{name}/{i:05}.jpg"), frame);
            let mask = palette_png(&indices);
            write(root, &format!("train/Annotations/{name}/{i:05}.png"), mask);
        }
        let video = json!({ "frames": ["00000", "00001"], "expressions": expressions });
        videos.insert(name.to_owned(), video);
    }
    write_json(root, EXPRESSIONS, &json!({ "videos": videos }));
}

/// The expressions of [`referring_videos`].
pub const EXPRESSIONS: &str = "meta_expressions/train/meta_expressions.json";

/// Two videos of ten labelled frames, the ninth anomalous.
pub fn shanghaitech(root: &Path) {
    for (shade, video) in [(0, "01_0014"), (10, "01_0015")] {
        let mut masks = Vec::new();
        for i in 0..10 {
            let frame = jpeg(shade + i);
            write(root, &format!("testing/frames/{video}/{i:03}.jpg"), frame);
            masks.extend(if i == 8 {
                rectangle(1, [0, 4, 0, 4])
            } else {
                filled(0)
            });
        }
        write(root, &shanghaitech_masks(video), npy(&masks));
    }
}

/// Where [`shanghaitech`] has the masks of a video.
pub fn shanghaitech_masks(video: &str) -> String {
    format!("testing/test_pixel_mask/{video}.npy")
}

/// A NumPy array of masks.
pub fn npy(masks: &[u8]) -> Vec<u8> {
    let n_frames = masks.len() / (WIDTH * HEIGHT) as usize;
    let header = format!(
        "{{'descr': '|u1', 'fortran_order': False, 'shape': ({n_frames}, {HEIGHT}, {WIDTH}), }}\n"
    );
    let length = (header.len() as u16).to_le_bytes();
    [
        b"\x93NUMPY\x01\x00".as_slice(),
        &length,
        header.as_bytes(),
        masks,
    ]
    .concat()
}

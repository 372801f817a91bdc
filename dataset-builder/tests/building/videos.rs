//! Video sources: windows, pairing by name, palette indices, expressions, evaluation labels.

use lavida_data::dataset::Dataset;
use lavida_data::manifest::CategorySource;
use lavida_dataset_builder::SourceSpec;
use lavida_dataset_builder::sources::{
    Ade20kArgs, Ade20kSplit, DavisArgs, MevisArgs, UcsdPedArgs, YoutubeVosArgs,
};
use serde_json::json;

use crate::support::{
    Folder, areas, bmp, built, gray_png, jpeg, object, palette_png, rectangle, rle, tiff,
};
use crate::trees;

fn davis(folder: &Folder, split: Option<&str>) -> SourceSpec {
    SourceSpec::Davis(DavisArgs {
        root: folder.path().to_owned(),
        split: split.map(str::to_owned),
    })
}

fn write_davis_frames(folder: &Folder, video: &str, n_frames: usize) {
    for i in 0..n_frames {
        folder.write(
            &format!("JPEGImages/480p/{video}/{i:05}.jpg"),
            jpeg(i as u8),
        );
    }
}

#[tokio::test]
async fn davis_windows_cover_the_video_and_the_last_is_aligned_to_its_end() {
    let folder = Folder::new();
    trees::davis(folder.path());
    let built = built(davis(&folder, None)).await;
    let ids: Vec<&str> = built.clips.iter().map(|clip| clip.id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "train/car-shadow/0",
            "train/car-shadow/8",
            "train/car-shadow/11"
        ]
    );
    let last = built.clip("train/car-shadow/11");
    assert_eq!(
        (last.frames.len(), last.first_frame, last.is_video),
        (8, 11, true)
    );
    assert_eq!(last.frames[0].path, "00011.jpg");
    assert_eq!(object(last, "1").descriptions, ["car shadow"]);
    assert_eq!(areas(object(last, "1")), [16; 8]);
}

#[tokio::test]
async fn frames_and_masks_are_paired_by_name_when_masks_are_missing() {
    let folder = Folder::new();
    write_davis_frames(&folder, "bike", 6);
    for i in [0, 2, 5] {
        // The mask of frame i is i + 1 px wide.
        let mask = palette_png(&rectangle(3, [0, i + 1, 0, 1]));
        folder.write(&format!("Annotations/480p/bike/{i:05}.png"), mask);
    }
    folder.write(
        "Annotations/480p/bike/00099.png",
        palette_png(&rectangle(3, [0, 9, 0, 9])),
    );
    let built = built(davis(&folder, None)).await;
    let clip = built.clip("train/bike/0");
    let names: Vec<&str> = clip
        .frames
        .iter()
        .map(|frame| frame.path.as_str())
        .collect();
    assert_eq!(names, ["00000.jpg", "00002.jpg", "00005.jpg"]);
    assert_eq!(areas(object(clip, "3")), [1, 3, 6]);
    assert_eq!(built.skipped("unannotated_frame"), 3);
    assert_eq!(built.skipped("mask_without_frame"), 1);
}

#[tokio::test]
async fn a_palette_png_gives_object_indices_not_colours() {
    let folder = Folder::new();
    write_davis_frames(&folder, "bike", 1);
    let mut indices = rectangle(1, [0, 10, 0, 2]);
    indices[100] = 2;
    indices[200] = 255; // void beside numbered objects
    folder.write("Annotations/480p/bike/00000.png", palette_png(&indices));
    folder.write_json(
        "davis_semantics.json",
        &json!({ "bike": { "1": "bicycle", "2": "person" } }),
    );
    let built = built(davis(&folder, None)).await;
    let clip = built.clip("train/bike/0");
    let named: Vec<(&str, &str)> = clip
        .objects
        .iter()
        .map(|object| (object.id.as_str(), object.descriptions[0].as_str()))
        .collect();
    assert_eq!(named, [("1", "bicycle"), ("2", "person")]);
    assert_eq!(areas(object(clip, "1")), [20]);
    assert_eq!(clip.present_categories, ["bicycle", "person"]);
}

#[tokio::test]
async fn one_davis_video_has_distractors_and_none_of_them_names_its_object() {
    let folder = Folder::new();
    write_davis_frames(&folder, "car-shadow", 1);
    let mask = gray_png(&rectangle(255, [0, 4, 0, 4]));
    folder.write("Annotations/480p/car-shadow/00000.png", mask);
    let built = built(davis(&folder, None)).await;
    let present = &built.clips[0].present_categories;
    for near in ["car shadow", "car turn", "car roundabout", "classic car"] {
        assert!(
            present.iter().any(|name| name == near),
            "{near} is not in {present:?}"
        );
    }
    let header = Dataset::open(&built.store)
        .await
        .expect("opens")
        .manifest()
        .header
        .clone();
    let CategorySource::Vocabulary(names) = header.category_source else {
        panic!("a class dataset");
    };
    assert_eq!((names.len(), names.len() - present.len() > 80), (90, true));
}

#[tokio::test]
async fn davis_takes_the_videos_its_split_lists() {
    let folder = Folder::new();
    for video in ["a", "b", "c"] {
        write_davis_frames(&folder, video, 1);
        folder.write(
            &format!("Annotations/480p/{video}/00000.png"),
            gray_png(&rectangle(255, [0, 4, 0, 4])),
        );
    }
    folder.write("ImageSets/2017/val.txt", "b\nmissing\n");
    folder.write(
        "ImageSets/480p/train.txt",
        "/JPEGImages/480p/c/00000.jpg /Annotations/480p/c/00000.png\n",
    );
    let val = built(davis(&folder, Some("val"))).await;
    assert_eq!(val.clips.len(), 1);
    assert_eq!(val.clip("val/b/0").video, "b");
    assert_eq!(val.skipped("incomplete_video"), 1);
    assert_eq!(
        built(davis(&folder, None)).await.clip("train/c/0").video,
        "c"
    );
}

#[tokio::test]
async fn youtube_vos_names_objects_and_leaves_out_windows_without_one() {
    let folder = Folder::new();
    for i in 0..16 {
        folder.write(
            &format!("train/JPEGImages/v1/{:05}.jpg", i * 5),
            jpeg(i as u8),
        );
        let index = if i < 8 { 0 } else { 2 };
        let mask = palette_png(&rectangle(index, [0, 5, 0, 5]));
        folder.write(&format!("train/Annotations/v1/{:05}.png", i * 5), mask);
    }
    let objects =
        json!({ "2": { "category": "giant_panda", "frames": [] }, "1": { "category": "dog" } });
    folder.write_json(
        "train/meta.json",
        &json!({ "videos": { "v1": { "objects": objects } } }),
    );
    let built = built(SourceSpec::YoutubeVos(YoutubeVosArgs {
        root: folder.path().to_owned(),
        split: "train".to_owned(),
    }))
    .await;
    assert_eq!((built.summary.samples, built.skipped("no_object")), (1, 1));
    let panda = object(built.clip("train/v1/8"), "2");
    assert_eq!(
        (panda.category.as_deref(), areas(panda)),
        (Some("giant panda"), vec![25; 8])
    );
}

/// The expressions are hand-written, in MeViS's layout.
#[tokio::test]
async fn mevis_keeps_every_expression_and_an_expression_may_name_several_objects() {
    let folder = Folder::new();
    for i in 0..3 {
        folder.write(&format!("train/JPEGImages/v1/{i:05}.jpg"), jpeg(i as u8));
    }
    let mut expressions = serde_json::Map::new();
    for i in 0..12 {
        expressions.insert(
            i.to_string(),
            json!({ "exp": format!("the dog number {i}"), "obj_id": [1], "anno_id": [70] }),
        );
    }
    expressions.insert(
        "12".to_owned(),
        json!({ "exp": "both animals", "obj_id": [1, 2], "anno_id": [70, 71] }),
    );
    expressions.insert(
        "13".to_owned(),
        json!({ "exp": " ", "obj_id": [1], "anno_id": [70] }),
    );
    expressions.insert(
        "14".to_owned(),
        json!({ "exp": "a cut one", "obj_id": [3], "anno_id": [72] }),
    );
    let frames = ["00000", "00001", "00002"];
    let video = json!({ "frames": frames, "expressions": expressions });
    folder.write_json(
        "train/meta_expressions.json",
        &json!({ "videos": { "v1": video } }),
    );
    let masks = json!({
        "70": [rle([0, 4, 0, 4]), null, rle([0, 2, 0, 2])],
        "71": [null, rle([8, 16, 8, 16]), null],
        "72": [null, null],
    });
    folder.write_json("train/mask_dict.json", &masks);
    let built = built(SourceSpec::Mevis(MevisArgs {
        root: folder.path().to_owned(),
        split: "train".to_owned(),
    }))
    .await;
    let clip = built.clip("train/v1/0");
    assert_eq!(object(clip, "70").descriptions.len(), 13);
    assert_eq!(areas(object(clip, "70")), [16, 0, 4]);
    assert_eq!(object(clip, "71").descriptions, ["both animals"]);
    assert_eq!(areas(object(clip, "71")), [0, 64, 0]);
    assert_eq!(built.skipped("missing_description"), 1);
    assert_eq!(built.skipped("mask_count_mismatch"), 1);
    assert!(clip.present_categories.is_empty());
}

fn write_ped2(folder: &Folder) {
    for i in 1..=11 {
        folder.write(&format!("UCSDped2/Test/Test001/{i:03}.tif"), tiff(i as u8));
        let truth = bmp((4..=6).contains(&i).then_some([0, 5, 0, 5]));
        folder.write(&format!("UCSDped2/Test/Test001_gt/{i:03}.bmp"), truth);
        let others = gray_png(&rectangle(2, [10, 12, 10, 12]));
        folder.write(&format!("UCSDped2/Test/Test001_objects/{i:03}.png"), others);
    }
    folder.write("UCSDped2/Test/Test001/._001.tif", b"left by another system");
}

fn ucsd_ped(folder: &Folder, categories: Option<&str>) -> SourceSpec {
    SourceSpec::UcsdPed(UcsdPedArgs {
        root: folder.path().to_owned(),
        categories: categories.map(str::to_owned),
    })
}

#[tokio::test]
async fn ucsd_ped_holds_every_frame_once_with_its_label() {
    let folder = Folder::new();
    write_ped2(&folder);
    folder.write_json(
        "categories.json",
        &json!({ "categories": ["red circle", "cart"], "videos": { "Test001": ["red circle"] } }),
    );
    let built = built(ucsd_ped(&folder, None)).await;
    let labels: Vec<bool> = built
        .clips
        .iter()
        .flat_map(|clip| clip.frame_labels.clone().expect("labels"))
        .collect();
    let expected: Vec<bool> = (1..=11).map(|i| (4..=6).contains(&i)).collect();
    assert_eq!(labels, expected);
    let clip = built.clip("test/UCSDped2/Test001/0");
    let anomaly = object(clip, "anomaly");
    assert_eq!(
        (anomaly.anomalous, anomaly.descriptions.as_slice()),
        (Some(true), ["red circle".to_owned()].as_slice())
    );
    assert_eq!(areas(anomaly), [0, 0, 0, 25, 25, 25, 0, 0]);
    assert_eq!(object(clip, "object-2").anomalous, Some(false));
    assert_eq!(built.clip("test/UCSDped2/Test001/8").frames.len(), 3);

    let manifest = Dataset::open(&built.store)
        .await
        .expect("opens")
        .manifest()
        .clone();
    assert_eq!(
        manifest.header.eval_categories,
        Some(vec!["red circle".to_owned(), "cart".to_owned()])
    );
    assert_eq!(
        manifest.header.true_categories["UCSDped2/Test001"],
        ["red circle"]
    );
}

#[tokio::test]
async fn ucsd_ped_asks_for_the_categories_it_is_told() {
    let folder = Folder::new();
    write_ped2(&folder);
    for (categories, asked) in [
        (None, vec!["car", "cart", "wheelchair", "skate", "bicycle"]),
        (Some("truck, dog ,"), vec!["truck", "dog"]),
    ] {
        let built = built(ucsd_ped(&folder, categories)).await;
        let manifest = Dataset::open(&built.store)
            .await
            .expect("opens")
            .manifest()
            .clone();
        assert_eq!(manifest.header.eval_categories.expect("evaluation"), asked);
        assert!(manifest.header.true_categories.is_empty());
    }
}

#[tokio::test]
async fn ade20k_never_makes_an_object_of_scenery_but_records_it() {
    let folder = Folder::new();
    let names = [
        "wall",
        "building, edifice",
        "sky",
        "bed ",
        "windowpane, window ",
    ];
    let rows: String = (1..)
        .zip(names)
        .map(|(i, name)| format!("{i}\t0.1\t10\t1\t{name}\n"))
        .collect();
    folder.write(
        "objectInfo150.txt",
        format!("Idx\tRatio\tTrain\tVal\tName\n{rows}"),
    );
    let mut scene = rectangle(4, [0, 4, 0, 4]);
    scene[400..500].fill(1);
    scene[500..600].fill(200); // no class of any table
    for (stem, map) in [("a", scene), ("b", rectangle(3, [0, 9, 0, 9]))] {
        folder.write(&format!("images/training/{stem}.jpg"), jpeg(0));
        folder.write(&format!("annotations/training/{stem}.png"), gray_png(&map));
    }
    folder.write("images/training/c.jpg", jpeg(0));
    let built = built(SourceSpec::Ade20k(Ade20kArgs {
        root: folder.path().to_owned(),
        split: Ade20kSplit::Training,
    }))
    .await;
    let clip = built.clip("training/a/0");
    assert_eq!(clip.objects.len(), 1);
    assert_eq!(object(clip, "4").descriptions, ["bed"]);
    assert_eq!(clip.present_categories, ["bed", "wall"]);
    assert_eq!(built.skipped("background_only"), 1);
    assert_eq!(built.skipped("unknown_category"), 1);
    assert_eq!(built.skipped("missing_mask"), 1);
}

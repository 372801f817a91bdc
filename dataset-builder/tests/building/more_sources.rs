//! Street scenes, panoptic segments, referring videos, ShanghaiTech.

use lavida_data::dataset::Dataset;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives};
use lavida_dataset_builder::SourceSpec;
use lavida_dataset_builder::sources::{
    CityscapesArgs, CocoPanopticArgs, MapillaryArgs, RefDavisArgs, RefYoutubeVosArgs,
    ShanghaitechArgs, UcsdPedArgs,
};

use serde_json::json;

use crate::support::{
    Built, Folder, HEIGHT, WIDTH, areas, built, object, palette_png, rectangle, try_build,
};
use crate::trees;

async fn header(built: &Built) -> DatasetHeader {
    let dataset = Dataset::open(&built.store).await.expect("opens");
    dataset.manifest().header.clone()
}

#[tokio::test]
async fn cityscapes_makes_objects_of_eight_classes_and_records_the_others() {
    let folder = Folder::new();
    trees::cityscapes(folder.path());
    let built = built(SourceSpec::Cityscapes(CityscapesArgs {
        root: folder.path().to_owned(),
        split: "train".to_owned(),
    }))
    .await;
    let clip = built.clip("train/bonn_0_1/0");
    assert_eq!(clip.objects.len(), 1);
    assert_eq!(
        (
            object(clip, "27").descriptions[0].as_str(),
            areas(object(clip, "27"))
        ),
        ("truck", vec![16])
    );
    assert_eq!(clip.present_categories, ["car", "road", "truck"]);
    let header = header(&built).await;
    assert_eq!(header.max_categories, 6);
    assert!(
        matches!(header.category_source, CategorySource::Vocabulary(names) if names.len() == 8)
    );
}

#[tokio::test]
async fn mapillary_names_classes_by_its_config_file() {
    let folder = Folder::new();
    trees::mapillary(folder.path());
    let built = built(SourceSpec::Mapillary(MapillaryArgs {
        root: folder.path().to_owned(),
        split: "training".to_owned(),
        version: None,
    }))
    .await;
    let clip = built.clip("training/a/0");
    assert_eq!(clip.present_categories, ["bench", "ground animal"]);
    assert_eq!(areas(object(clip, "1")), [16]);
    assert_eq!(header(&built).await.max_categories, 20);
}

#[tokio::test]
async fn coco_panoptic_reads_segment_ids_from_colours() {
    let folder = Folder::new();
    let mut file = trees::coco_panoptic(folder.path(), "panoptic", "images");
    let segments = file["annotations"][0]["segments_info"]
        .as_array_mut()
        .expect("a list");
    segments.extend([
        json!({ "id": 99, "category_id": 2 }),
        json!({ "id": 98, "category_id": 1, "iscrowd": 1 }),
        json!({ "id": 97, "category_id": 77 }),
    ]);
    let images = file["images"].as_array_mut().expect("a list");
    images.push(json!({ "id": 4, "file_name": "without_annotation.jpg" }));
    let annotations = file["annotations"].as_array_mut().expect("a list");
    annotations
        .push(json!({ "image_id": 5, "file_name": "without_image.png", "segments_info": [] }));
    folder.write_json("panoptic.json", &file);
    let built = built(SourceSpec::CocoPanoptic(CocoPanopticArgs {
        annotations: folder.join("panoptic.json"),
        panoptic: folder.join("panoptic"),
        images: folder.join("images"),
        split: "train".to_owned(),
    }))
    .await;
    let clip = built.clip("train/1/0");
    assert_eq!(clip.objects.len(), 1);
    let sky = object(clip, &trees::SEGMENT_ID.to_string());
    assert_eq!(
        (sky.descriptions[0].as_str(), areas(sky)),
        ("sky", vec![16])
    );
    assert_eq!(clip.present_categories, ["person", "sky"]);
    for reason in [
        "crowd",
        "empty_mask",
        "unknown_category",
        "unknown_image",
        "no_object",
    ] {
        assert_eq!(built.skipped(reason), 1, "{reason}");
    }
}

#[tokio::test]
async fn referring_videos_give_every_object_all_its_expressions() {
    let folder = Folder::new();
    trees::referring_videos(folder.path());
    // An object that no expression names, and an expression without words.
    let mut indices = rectangle(1, [0, 4, 0, 4]);
    indices[200..220].fill(2);
    indices[300] = 3;
    folder.write("train/Annotations/v/00000.png", palette_png(&indices));
    let file = std::fs::read(folder.join(trees::EXPRESSIONS)).expect("read");
    let mut file: serde_json::Value = serde_json::from_slice(&file).expect("json");
    file["videos"]["v"]["expressions"]["3"] = json!({ "exp": "", "obj_id": "2" });
    folder.write_json(trees::EXPRESSIONS, &file);
    let youtube = built(SourceSpec::RefYoutubeVos(RefYoutubeVosArgs {
        root: folder.path().to_owned(),
        split: "train".to_owned(),
    }))
    .await;
    let clip = youtube.clip("train/v/0");
    assert_eq!(
        object(clip, "1").descriptions,
        ["a dog on the left", "the brown dog"]
    );
    assert_eq!(object(clip, "2").descriptions, ["a cat"]);
    assert_eq!(
        (clip.objects.len(), youtube.skipped("missing_description")),
        (2, 2)
    );
    assert_eq!(header(&youtube).await.positives, Positives::OneOrTwo);
    let davis = built(SourceSpec::RefDavis(RefDavisArgs {
        root: folder.path().to_owned(),
        split: "train".to_owned(),
    }))
    .await;
    assert_eq!(davis.summary.dataset, "ref-davis");
    assert_eq!(header(&davis).await.positives, Positives::One);
}

#[tokio::test]
async fn shanghaitech_reads_its_masks_from_numpy_arrays() {
    let folder = Folder::new();
    trees::shanghaitech(folder.path());
    // One video has a mask less than frames, the other has none.
    let masks = folder.join(&trees::shanghaitech_masks("01_0014"));
    let whole = std::fs::read(&masks).expect("read");
    let n_pixels = (WIDTH * HEIGHT) as usize;
    let of_ten = &whole[whole.len() - 10 * n_pixels..];
    std::fs::write(&masks, trees::npy(&of_ten[..9 * n_pixels])).expect("write");
    let masks = folder.join(&trees::shanghaitech_masks("01_0015"));
    std::fs::remove_file(masks).expect("remove");
    let built = built(SourceSpec::Shanghaitech(ShanghaitechArgs {
        root: folder.path().to_owned(),
        categories: None,
    }))
    .await;
    let labels: Vec<bool> = built
        .clips
        .iter()
        .flat_map(|clip| clip.frame_labels.clone().expect("labels"))
        .collect();
    assert_eq!(
        labels,
        [false, false, false, false, false, false, false, false, true]
    );
    assert_eq!(areas(object(built.clip("test/01_0014/8"), "anomaly")), [16]);
    assert_eq!(
        (
            built.skipped("missing_mask"),
            built.skipped("incomplete_video")
        ),
        (1, 1)
    );
    assert_eq!(
        self::header(&built)
            .await
            .eval_categories
            .expect("evaluation")
            .len(),
        18
    );
}

#[tokio::test]
async fn an_empty_list_of_categories_is_refused() {
    let folder = Folder::new();
    folder.write("UCSDped2/Test/Test001/001.tif", b"");
    let source = SourceSpec::UcsdPed(UcsdPedArgs {
        root: folder.path().to_owned(),
        categories: Some(" , ".to_owned()),
    });
    let error = try_build(source, &folder.join("out"))
        .await
        .expect_err("empty");
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(
        error.to_string().contains("at least one category"),
        "{error}"
    );
}

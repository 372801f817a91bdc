//! Street scenes, panoptic segments, referring videos, ShanghaiTech.

use lavida_data::dataset::Dataset;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives};
use lavida_dataset_builder::SourceSpec;
use lavida_dataset_builder::sources::{
    CityscapesArgs, CocoPanopticArgs, MapillaryArgs, RefVideosArgs, ShanghaitechArgs, UcsdPedArgs,
};
use serde_json::json;

use crate::support::{
    Built, Folder, HEIGHT, WIDTH, areas, built, gray_png, jpeg, object, palette_png, rectangle,
    rgb_png, try_build,
};

async fn header(built: &Built) -> DatasetHeader {
    let dataset = Dataset::open(&built.store).await.expect("opens");
    dataset.manifest().header.clone()
}

fn filled(index: u8) -> Vec<u8> {
    vec![index; (WIDTH * HEIGHT) as usize]
}

#[tokio::test]
async fn cityscapes_makes_objects_of_eight_classes_and_records_the_others() {
    let folder = Folder::new();
    let mut map = rectangle(27, [0, 4, 0, 4]);
    map[300..400].fill(7);
    map[400..450].fill(26);
    folder.write(
        "leftImg8bit/train/bonn/bonn_0_1_leftImg8bit.png",
        gray_png(&filled(9)),
    );
    folder.write(
        "gtFine/train/bonn/bonn_0_1_gtFine_labelIds.png",
        gray_png(&map),
    );
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
    folder.write("training/images/a.jpg", jpeg(0));
    folder.write(
        "training/v2.0/labels/a.png",
        palette_png(&rectangle(1, [0, 4, 0, 4])),
    );
    let labels = json!([{ "readable": "Ground Animal" }, { "readable": "Bench" }, { "readable": "Unlabeled" }]);
    folder.write_json("config_v2.0.json", &json!({ "labels": labels }));
    let built = built(SourceSpec::Mapillary(MapillaryArgs {
        root: folder.path().to_owned(),
        split: "training".to_owned(),
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
    let id = 5 + 256 * 7 + 65536 * 2;
    folder.write("images/a.jpg", jpeg(0));
    folder.write(
        "panoptic/a.png",
        rgb_png(&rectangle(1, [0, 4, 0, 4]), [5, 7, 2]),
    );
    let segments = json!([
        { "id": id, "category_id": 2 },
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
    let built = built(SourceSpec::CocoPanoptic(CocoPanopticArgs {
        json: folder.write_json("panoptic.json", &file),
        panoptic: folder.join("panoptic"),
        images: folder.join("images"),
        split: "train".to_owned(),
    }))
    .await;
    let clip = built.clip("train/1/0");
    assert_eq!(clip.objects.len(), 1);
    let sky = object(clip, &id.to_string());
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

/// The expressions are hand-written, in the layout of Ref-YouTube-VOS.
#[tokio::test]
async fn referring_videos_give_every_object_all_its_expressions() {
    let folder = Folder::new();
    let mut indices = rectangle(1, [0, 4, 0, 4]);
    indices[200..220].fill(2);
    indices[300] = 3;
    for i in 0..2 {
        folder.write(&format!("train/JPEGImages/v/{i:05}.jpg"), jpeg(i as u8));
        folder.write(
            &format!("train/Annotations/v/{i:05}.png"),
            palette_png(&indices),
        );
    }
    let expressions = json!({
        "0": { "exp": "a dog on the left", "obj_id": "1" },
        "1": { "exp": "the brown dog", "obj_id": "1" },
        "2": { "exp": "a cat", "obj_id": 2 },
        "3": { "exp": "", "obj_id": "2" },
    });
    let video = json!({ "frames": ["00000", "00001"], "expressions": expressions });
    folder.write_json(
        "meta_expressions/train/meta_expressions.json",
        &json!({ "videos": { "v": video } }),
    );
    let args = || RefVideosArgs {
        root: folder.path().to_owned(),
        split: "train".to_owned(),
    };
    let youtube = built(SourceSpec::RefYoutubeVos(args())).await;
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
    let davis = built(SourceSpec::RefDavis(args())).await;
    assert_eq!(davis.summary.dataset, "ref-davis");
    assert_eq!(header(&davis).await.positives, Positives::One);
}

#[tokio::test]
async fn shanghaitech_reads_its_masks_from_numpy_arrays() {
    let folder = Folder::new();
    let mut masks = Vec::new();
    for i in 0..10 {
        folder.write(&format!("testing/frames/01_0014/{i:03}.jpg"), jpeg(i as u8));
        if i < 9 {
            masks.extend(if i == 8 {
                rectangle(1, [0, 4, 0, 4])
            } else {
                filled(0)
            });
        }
    }
    folder.write("testing/frames/01_0015/000.jpg", jpeg(0));
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
    folder.write("testing/test_pixel_mask/01_0014.npy", npy);
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

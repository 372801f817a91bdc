//! Bad input: each case has its own message and exit code, and leaves nothing half-committed.

use lavida_data::dataset::Dataset;
use lavida_dataset_builder::sources::{
    Ade20kArgs, Ade20kSplit, DavisArgs, MevisArgs, UcsdPedArgs, YoutubeVosArgs,
};
use lavida_dataset_builder::{BuildRequest, SourceSpec, build};
use lavida_store::Error;
use serde_json::json;

use crate::support::{
    CocoSource, Folder, SQUARE, built, gray_png_of_size, is_committed, jpeg, rle, store_at,
    try_build,
};

/// Builds, expects the error, its exit code and words, and that nothing was committed.
async fn check_refused(source: SourceSpec, exit_code: u8, words: &[&str]) {
    let out = Folder::new();
    let error = try_build(source, &out.join("dataset"))
        .await
        .expect_err("refused");
    check_error(&error, exit_code, words);
    assert!(!is_committed(&out.join("dataset")), "{error}");
}

fn check_error(error: &Error, exit_code: u8, words: &[&str]) {
    assert_eq!(error.exit_code(), exit_code, "{error}");
    for word in words {
        assert!(
            error.to_string().contains(word),
            "`{word}` is not in: {error}"
        );
    }
}

/// Builds a COCO source of one good and one bad annotation: the bad one is counted, or fatal when strict.
async fn check_skipped(bad: serde_json::Value, reason: &str, words: &[&str]) {
    let mut source = CocoSource::new(1);
    source.annotate(0, 3, bad);
    let built = built(source.write()).await;
    assert_eq!(built.skipped(reason), 1, "{:?}", built.summary.skipped);
    assert_eq!(built.summary.objects, 1);

    let out = Folder::new();
    let mut request = BuildRequest::new(source.spec(), store_at(&out.join("dataset")));
    request.strict = true;
    let error = build(&request, &|_| {}).await.expect_err("strict");
    check_error(&error, 3, &[words, &["annotation 1001", reason]].concat());
    assert!(!is_committed(&out.join("dataset")));
}

#[tokio::test]
async fn an_annotation_file_cut_in_the_middle_is_damaged_and_names_line_and_column() {
    let source = CocoSource::new(3);
    source.write();
    let path = source.folder.join("instances.json");
    let text = serde_json::to_string_pretty(&source.file).expect("json");
    std::fs::write(path, &text[..text.len() / 2]).expect("write");
    check_refused(source.spec(), 3, &["instances.json", "line ", " column "]).await;
}

#[tokio::test]
async fn an_annotation_file_of_another_kind_says_what_is_missing() {
    let mut source = CocoSource::new(1);
    source
        .file
        .as_object_mut()
        .expect("object")
        .remove("categories");
    check_refused(source.write(), 2, &["instances.json", "categories"]).await;
}

#[tokio::test]
async fn a_mask_of_another_size_than_its_frame_is_left_out() {
    let mut bad = rle([0, 4, 0, 4]);
    bad["size"] = json!([48, 64]);
    check_skipped(bad, "mask_size_mismatch", &["32×24", "64×48"]).await;
}

#[tokio::test]
async fn a_polygon_of_two_points_is_left_out() {
    check_skipped(
        json!([[1.0, 1.0, 5.0, 5.0]]),
        "polygon_too_short",
        &["at least 3 points", "2 points"],
    )
    .await;
}

#[tokio::test]
async fn malformed_segmentations_are_left_out_each_for_its_reason() {
    check_skipped(
        json!([[1.0, 1.0, 5.0, 5.0, 7.0, 7.0, 9.0]]),
        "polygon_invalid",
        &["7 numbers"],
    )
    .await;
    check_skipped(json!([]), "segmentation_missing", &["an empty list"]).await;
    check_skipped(json!("here"), "segmentation_missing", &["here"]).await;
    check_skipped(
        json!({ "size": [24, 32], "counts": [5, 5] }),
        "rle_invalid",
        &["32×24"],
    )
    .await;
    check_skipped(
        json!({ "size": [24, 32], "counts": "~~~~" }),
        "rle_invalid",
        &["32×24"],
    )
    .await;
    check_skipped(
        json!({ "size": [24, 32], "counts": [24 * 32] }),
        "empty_mask",
        &["none"],
    )
    .await;
    check_skipped(
        json!([[90.0, 90.0, 95.0, 90.0, 95.0, 95.0]]),
        "empty_mask",
        &["none"],
    )
    .await;
}

#[tokio::test]
async fn a_bad_part_of_an_annotation_does_not_take_its_good_parts_along() {
    let mut source = CocoSource::new(1);
    source.annotate(0, 3, json!([[1.0, 1.0], SQUARE]));
    let built = built(source.write()).await;
    assert_eq!(
        (built.summary.objects, built.skipped("polygon_too_short")),
        (2, 1)
    );
}

#[tokio::test]
async fn annotations_that_point_nowhere_are_counted() {
    let mut source = CocoSource::new(1);
    source.annotate(77, 3, json!([SQUARE]));
    source.annotate(0, 99, json!([SQUARE]));
    let twice = source.annotations()[0].clone();
    source.annotations().push(twice);
    let built = built(source.write()).await;
    for reason in ["unknown_image", "unknown_category", "duplicate_id"] {
        assert_eq!(built.skipped(reason), 1, "{reason}");
    }
    assert_eq!(built.summary.objects, 1);
}

#[tokio::test]
async fn a_category_with_a_blank_name_costs_its_annotations_and_not_their_images() {
    let mut source = CocoSource::new(1);
    let categories = source.file["categories"].as_array_mut().expect("a list");
    categories.push(json!({ "id": 50, "name": " " }));
    source.annotate(0, 50, json!([SQUARE]));
    let built = built(source.write()).await;
    assert_eq!(
        (
            built.summary.samples,
            built.summary.objects,
            built.skipped("unknown_category"),
            built.skipped("row_invalid"),
        ),
        (1, 1, 1, 0)
    );
}

#[tokio::test]
async fn an_unreadable_jpeg_a_missing_one_and_one_of_another_size_are_left_out() {
    let mut source = CocoSource::new(5);
    let whole = jpeg(1);
    source
        .folder
        .write("images/0001.jpg", &whole[..whole.len() / 2]);
    source.folder.write("images/0002.jpg", b"not a picture");
    std::fs::remove_file(source.folder.join("images/0003.jpg")).expect("remove");
    source.file["images"][4]["width"] = json!(640);
    let built = built(source.write()).await;
    assert_eq!(built.summary.samples, 1);
    assert_eq!(built.skipped("unreadable_image"), 2);
    assert_eq!(built.skipped("missing_image"), 1);
    assert_eq!(built.skipped("image_size_mismatch"), 1);
}

#[tokio::test]
async fn a_video_loses_only_the_frames_that_are_bad() {
    let folder = Folder::new();
    for i in 0..9 {
        folder.write(&format!("JPEGImages/v/{i:05}.jpg"), jpeg(i as u8));
        let mask = crate::support::gray_png(&crate::support::rectangle(255, [0, 4, 0, 4]));
        folder.write(&format!("Annotations/v/{i:05}.png"), mask);
    }
    folder.write("JPEGImages/v/00003.jpg", b"not a picture");
    folder.write("Annotations/v/00005.png", gray_png_of_size(8, 8));
    let built = built(SourceSpec::Davis(DavisArgs {
        root: folder.path().to_owned(),
        split: None,
    }))
    .await;
    let names: Vec<&str> = built.clips[0]
        .frames
        .iter()
        .map(|frame| frame.path.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "00000.jpg",
            "00001.jpg",
            "00002.jpg",
            "00004.jpg",
            "00006.jpg",
            "00007.jpg",
            "00008.jpg"
        ]
    );
    assert_eq!(
        (
            built.skipped("unreadable_image"),
            built.skipped("mask_size_mismatch")
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn a_build_that_no_sample_survives_is_an_error() {
    let mut source = CocoSource::new(2);
    source.annotations().clear();
    check_refused(source.write(), 3, &["at least one sample", "no_object 2"]).await;
}

#[tokio::test]
async fn a_root_without_the_layout_says_what_it_should_look_like_and_what_is_there() {
    let folder = Folder::new();
    folder.write("pictures/a.jpg", jpeg(0));
    let root = folder.path().to_owned();
    let split = || "train".to_owned();
    let sources: [(SourceSpec, &str); 5] = [
        (
            SourceSpec::Ade20k(Ade20kArgs {
                root: root.clone(),
                split: Ade20kSplit::Training,
            }),
            "objectInfo150.txt",
        ),
        (
            SourceSpec::Davis(DavisArgs {
                root: root.clone(),
                split: None,
            }),
            "JPEGImages/480p/VIDEO",
        ),
        (
            SourceSpec::YoutubeVos(YoutubeVosArgs {
                root: root.clone(),
                split: split(),
            }),
            "meta.json",
        ),
        (
            SourceSpec::Mevis(MevisArgs {
                root: root.clone(),
                split: split(),
            }),
            "mask_dict.json",
        ),
        (
            SourceSpec::UcsdPed(UcsdPedArgs {
                root: root.clone(),
                categories: None,
            }),
            "TestNNN_gt",
        ),
    ];
    for (source, layout) in sources {
        check_refused(source, 2, &[layout, "pictures"]).await;
    }
    let mut source = CocoSource::new(1);
    source.file["images"] = json!([]);
    std::fs::remove_dir_all(source.folder.join("images")).expect("remove");
    check_refused(source.write(), 2, &["--images", "instances.json"]).await;
}

#[tokio::test]
async fn an_output_that_already_holds_a_dataset_is_left_alone() {
    let source = CocoSource::new(1);
    let out = Folder::new();
    try_build(source.write(), &out.join("dataset"))
        .await
        .expect("first");
    let before = std::fs::read(out.join("dataset/_manifest.json")).expect("manifest");
    let error = try_build(source.spec(), &out.join("dataset"))
        .await
        .expect_err("second");
    check_error(&error, 2, &["dataset", "already exists"]);
    assert_eq!(
        std::fs::read(out.join("dataset/_manifest.json")).expect("manifest"),
        before
    );
}

#[tokio::test]
async fn a_full_disk_is_an_unavailable_store_and_nothing_is_committed() {
    let source = CocoSource::new(20);
    let out = Folder::new();
    let store = store_at(&out.join("dataset")).with_capacity(4096);
    let error = build(&BuildRequest::new(source.write(), store), &|_| {})
        .await
        .expect_err("full");
    check_error(&error, 4, &["No space left"]);
    assert!(!is_committed(&out.join("dataset")));
}

#[tokio::test]
async fn a_byte_flipped_in_a_shard_is_found_by_verify() {
    let source = CocoSource::new(3);
    let out = Folder::new();
    try_build(source.write(), &out.join("dataset"))
        .await
        .expect("builds");
    let dataset = Dataset::open(&store_at(&out.join("dataset")))
        .await
        .expect("opens");
    let shard = dataset.manifest().shards[0].key.clone();
    let path = out.join("dataset").join(&shard);
    let bytes = std::fs::read(&path).expect("read");
    for position in [10, bytes.len() / 2, bytes.len() - 20] {
        let mut flipped = bytes.clone();
        flipped[position] ^= 0x10;
        std::fs::write(&path, flipped).expect("write");
        let error = dataset.verify().await.expect_err("damaged");
        check_error(&error, 3, &[&shard]);
    }
}

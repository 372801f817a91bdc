//! COCO: the three forms of segmentation, OR-ed polygons, crowds, categories present.

use serde_json::json;

use crate::support::{CocoSource, HEIGHT, SQUARE, WIDTH, areas, built, object, rle};

#[tokio::test]
async fn all_three_forms_of_segmentation_become_the_same_mask() {
    let mut source = CocoSource::new(1);
    source.annotations().clear();
    source.annotate(0, 3, json!([SQUARE]));
    source.annotate(0, 3, rle([4, 12, 4, 12]));
    let runs = [
        vec![4 * HEIGHT + 4, 8],
        [HEIGHT - 8, 8].repeat(7),
        vec![HEIGHT - 12 + (WIDTH - 12) * HEIGHT],
    ]
    .concat();
    source.annotate(0, 3, json!({ "size": [HEIGHT, WIDTH], "counts": runs }));
    let built = built(source.write()).await;
    let clip = built.clip("train/0/0");
    assert_eq!(clip.objects.len(), 3);
    for object in &clip.objects {
        assert_eq!(object.masks, clip.objects[0].masks, "object {}", object.id);
        assert_eq!(areas(object), [64]);
    }
}

#[tokio::test]
async fn overlapping_polygons_of_one_annotation_are_or_ed() {
    let mut source = CocoSource::new(1);
    source.annotations().clear();
    let shifted: Vec<f64> = SQUARE
        .iter()
        .enumerate()
        .map(|(i, v)| if i % 2 == 0 { v + 4.0 } else { *v })
        .collect();
    source.annotate(0, 3, json!([SQUARE, shifted]));
    let built = built(source.write()).await;
    let clip = built.clip("train/0/0");
    let mask = clip.objects[0].masks[0].as_ref().expect("a mask");
    assert_eq!(
        mask.area(),
        12 * 8,
        "8 + 4 columns of 8 px, the overlap once"
    );
    assert!(mask.to_raster().expect("decodes").iter().all(|px| *px <= 1));
}

#[tokio::test]
async fn a_crowd_is_no_object_but_its_category_is_present() {
    let mut source = CocoSource::new(1);
    source.annotations().push(json!({
        "id": 7, "image_id": 0, "category_id": 1, "iscrowd": 1, "segmentation": rle([0, 8, 0, 8]),
    }));
    let built = built(source.write()).await;
    assert_eq!(built.skipped("crowd"), 1);
    let clip = built.clip("train/0/0");
    assert_eq!(clip.objects.len(), 1);
    assert_eq!(clip.present_categories, ["car", "person"]);
}

#[tokio::test]
async fn frames_are_stored_as_they_came() {
    let source = CocoSource::new(2);
    let built = built(source.write()).await;
    let clip = built.clip("train/1/0");
    let file = std::fs::read(source.folder.join("images/0001.jpg")).expect("read");
    assert_eq!(clip.frames[0].bytes, file);
    assert_eq!(clip.frames[0].path, "0001.jpg");
    assert_eq!(
        (clip.width, clip.height, clip.is_video),
        (WIDTH, HEIGHT, false)
    );
    let car = object(clip, "101");
    assert_eq!(
        (car.category.as_deref(), car.descriptions.len()),
        (Some("car"), 1)
    );
}

#[tokio::test]
async fn a_folder_in_file_name_may_be_given_twice_and_sizes_may_be_missing() {
    let mut source = CocoSource::new(1);
    source.file["images"] = json!([{ "id": "a", "file_name": "images/0000.jpg" }]);
    source.annotations()[0]["image_id"] = json!("a");
    let built = built(source.write()).await;
    assert_eq!(built.clip("train/a/0").objects.len(), 1);
}

#[tokio::test]
async fn an_image_without_a_usable_object_is_counted_not_written() {
    let mut source = CocoSource::new(2);
    source.annotations().remove(0);
    let built = built(source.write()).await;
    assert_eq!((built.summary.samples, built.skipped("no_object")), (1, 1));
}

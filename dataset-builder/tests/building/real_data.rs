//! Builds of real samples of COCO, ADE20K and DAVIS, when `LAVIDA_DATA_DIR` says where they lie.

use std::collections::BTreeSet;
use std::path::PathBuf;

use lavida_data::clip::Clip;
use lavida_dataset_builder::SourceSpec;
use lavida_dataset_builder::sources::{
    Ade20kArgs, Ade20kSplit, CocoArgs, CocoPanopticArgs, DavisArgs,
};

use crate::support::{areas, built, object};

/// The folder of real samples; says so when there is none.
fn data_dir(test: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("LAVIDA_DATA_DIR").map(PathBuf::from);
    if dir.is_none() {
        eprintln!("{test}: skipped, LAVIDA_DATA_DIR is not set");
    }
    dir
}

#[tokio::test]
async fn coco_val2017_with_compressed_run_lengths() {
    let Some(dir) = data_dir("coco") else { return };
    let built = built(SourceSpec::Coco(CocoArgs {
        annotations: dir.join("coco_panoptic/panoptic_coco_detection_format.json"),
        images: dir.join("coco_panoptic/input_images"),
        split: "val2017".to_owned(),
        boxes: false,
        crowds: false,
    }))
    .await;
    // 50 segments, 3 of them crowds.
    assert_eq!(
        (
            built.summary.samples,
            built.summary.objects,
            built.skipped("crowd")
        ),
        (2, 47, 3)
    );
    // The file states every segment's area.
    let person = object(built.clip("val2017/142238/0"), "0");
    assert_eq!(
        (person.descriptions[0].as_str(), areas(person)),
        ("person", vec![3528])
    );
}

/// The same two images annotated twice: as run lengths in the detection format, as colours in the panoptic one.
#[tokio::test]
async fn coco_panoptic_agrees_with_the_detection_format_pixel_for_pixel() {
    let Some(dir) = data_dir("coco-panoptic") else {
        return;
    };
    let dir = dir.join("coco_panoptic");
    let panoptic = built(SourceSpec::CocoPanoptic(CocoPanopticArgs {
        annotations: dir.join("panoptic_examples.json"),
        panoptic: dir.join("panoptic_examples"),
        images: dir.join("input_images"),
        split: "val2017".to_owned(),
    }))
    .await;
    let detection = built(SourceSpec::Coco(CocoArgs {
        annotations: dir.join("panoptic_coco_detection_format.json"),
        images: dir.join("input_images"),
        split: "val2017".to_owned(),
        boxes: false,
        crowds: false,
    }))
    .await;
    assert_eq!(panoptic.clips.len(), 2);
    for (a, b) in panoptic.clips.iter().zip(&detection.clips) {
        let masks = |clip: &Clip| -> BTreeSet<String> {
            let masks = clip
                .objects
                .iter()
                .flat_map(|object| object.masks.iter().flatten());
            masks.map(|mask| mask.counts.clone()).collect()
        };
        assert_eq!(a.id, b.id);
        assert_eq!(masks(a), masks(b));
    }
}

#[tokio::test]
async fn ade20k_validation() {
    let Some(dir) = data_dir("ade20k") else {
        return;
    };
    let built = built(SourceSpec::Ade20k(Ade20kArgs {
        root: dir.join("ade20k"),
        split: Ade20kSplit::Validation,
    }))
    .await;
    assert_eq!((built.summary.samples, built.summary.frames), (3, 3));
    assert!(
        built
            .clips
            .iter()
            .all(|clip| clip.objects.len() < clip.present_categories.len())
    );
}

#[tokio::test]
async fn davis_2016_and_2017() {
    let Some(dir) = data_dir("davis") else { return };
    let davis = |name: &str| {
        SourceSpec::Davis(DavisArgs {
            root: dir.join(name),
            split: None,
        })
    };
    let car = built(davis("davis")).await;
    assert_eq!(
        (car.summary.samples, car.summary.frames, car.summary.objects),
        (5, 40, 5)
    );
    assert_eq!(object(&car.clips[0], "1").descriptions, ["car shadow"]);
    let bike = built(davis("davis_palette")).await;
    assert_eq!(
        (
            bike.summary.frames,
            bike.skipped("unannotated_frame"),
            bike.summary.objects
        ),
        (1, 3, 2)
    );
}

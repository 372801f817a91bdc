//! Where the tree of a source has what a case breaks.

use serde_json::Value;

/// What a source's tree is made of; paths are below the folder of all trees.
pub struct Parts {
    pub source: &'static str,
    /// Files that say what the images or videos hold, beside masks.
    pub annotations: &'static [Annotations],
    /// Files that may be missing, and say something where they are there.
    pub optional: &'static [&'static str],
    pub mask: Mask,
}

pub enum Annotations {
    Json(&'static str),
    /// Rows of columns with tabs between them.
    Table(&'static str),
    /// Lines of words or cells, of which a cut one cannot be read.
    Lines(&'static str),
    /// A pickle.
    Pickle(&'static str),
}

impl Annotations {
    pub fn path(&self) -> &'static str {
        match self {
            Self::Json(path) | Self::Table(path) | Self::Lines(path) | Self::Pickle(path) => path,
        }
    }
}

/// How a mask is taken away or cut, and the reason for which that is counted.
pub enum Mask {
    /// A file of its own, the first in this folder, or this one.
    File {
        folder: &'static str,
        missing: &'static str,
        cut: &'static str,
    },
    /// A part of a JSON file.
    In {
        file: &'static str,
        remove: fn(&mut Value),
        missing: &'static str,
    },
}

const fn image_mask(folder: &'static str) -> Mask {
    Mask::File {
        folder,
        missing: "missing_mask",
        cut: "unreadable_mask",
    }
}

/// Videos for training are annotated in some frames only, so a frame without a mask is left out by design.
const fn video_mask(folder: &'static str) -> Mask {
    Mask::File {
        folder,
        missing: "unannotated_frame",
        cut: "unreadable_mask",
    }
}

/// Only a video's own file can be taken away where labels are lines of one file.
const fn video_file(file: &'static str) -> Mask {
    Mask::File {
        folder: file,
        missing: "incomplete_video",
        cut: "incomplete_video",
    }
}

/// The segmentation of the first annotation of a refer set.
const fn referred_mask(file: &'static str) -> Mask {
    Mask::In {
        file,
        remove: |file| {
            let first = file["annotations"][0].as_object_mut().unwrap();
            first.remove("segmentation").unwrap();
        },
        missing: "segmentation_missing",
    }
}

pub const ALL: &[Parts] = &[
    Parts {
        source: "coco",
        annotations: &[Annotations::Json("annotations/instances_train2017.json")],
        optional: &[],
        mask: Mask::In {
            file: "annotations/instances_train2017.json",
            remove: |file| {
                let first = file["annotations"][0].as_object_mut().unwrap();
                first.remove("segmentation").unwrap();
            },
            missing: "segmentation_missing",
        },
    },
    Parts {
        source: "coco-panoptic",
        annotations: &[Annotations::Json("annotations/panoptic_train2017.json")],
        optional: &[],
        mask: image_mask("annotations/panoptic_train2017"),
    },
    Parts {
        source: "ade20k",
        annotations: &[Annotations::Table("ADEChallengeData2016/objectInfo150.txt")],
        optional: &[],
        mask: image_mask("ADEChallengeData2016/annotations/training"),
    },
    Parts {
        source: "cityscapes",
        annotations: &[],
        optional: &[],
        mask: image_mask("cityscapes/gtFine/train/bonn"),
    },
    Parts {
        source: "mapillary",
        annotations: &[Annotations::Json("mapillary-vistas-2.0/config_v2.0.json")],
        optional: &[],
        mask: image_mask("mapillary-vistas-2.0/training/v2.0/labels"),
    },
    Parts {
        source: "davis",
        annotations: &[],
        optional: &["DAVIS/davis_semantics.json", "DAVIS/meta.json"],
        mask: video_mask("DAVIS/Annotations/480p"),
    },
    Parts {
        source: "youtube-vos",
        annotations: &[Annotations::Json("youtube-vos/train/meta.json")],
        optional: &[],
        mask: video_mask("youtube-vos/train/Annotations"),
    },
    Parts {
        source: "mevis",
        annotations: &[
            Annotations::Json("MeViS/train/meta_expressions.json"),
            Annotations::Json("MeViS/train/mask_dict.json"),
        ],
        optional: &[],
        mask: Mask::In {
            file: "MeViS/train/mask_dict.json",
            remove: |file| {
                let masks = file.as_object_mut().unwrap();
                let first = masks.keys().next().unwrap().clone();
                masks.remove(&first);
            },
            missing: "missing_mask",
        },
    },
    Parts {
        source: "ref-youtube-vos",
        annotations: &[Annotations::Json(
            "Ref-YouTube-VOS/meta_expressions/train/meta_expressions.json",
        )],
        optional: &[],
        mask: video_mask("Ref-YouTube-VOS/train/Annotations"),
    },
    Parts {
        source: "ref-davis",
        annotations: &[Annotations::Json(
            "Ref-DAVIS/meta_expressions/train/meta_expressions.json",
        )],
        optional: &[],
        mask: video_mask("Ref-DAVIS/train/Annotations"),
    },
    Parts {
        source: "ucsd-ped",
        annotations: &[],
        optional: &["UCSD_Anomaly_Dataset.v1p2/categories.json"],
        mask: image_mask("UCSD_Anomaly_Dataset.v1p2/UCSDped2/Test/Test001_gt"),
    },
    Parts {
        source: "shanghaitech",
        annotations: &[],
        optional: &[],
        mask: Mask::File {
            folder: "shanghaitech/testing/test_pixel_mask",
            missing: "incomplete_video", // one file has the masks of all frames of a video
            cut: "missing_mask",
        },
    },
    Parts {
        source: "coco-stuff",
        annotations: &[],
        optional: &[],
        mask: image_mask("cocostuff/annotations/train2017"),
    },
    Parts {
        source: "ade20k-full",
        annotations: &[Annotations::Json(
            "ADE20K_2021_17_01/images/ADE/training/urban/street/ADE_train_00000001.json",
        )],
        optional: &[],
        mask: image_mask(
            "ADE20K_2021_17_01/images/ADE/training/urban/street/ADE_train_00000001_seg.png",
        ),
    },
    Parts {
        source: "masked-images",
        annotations: &[],
        optional: &[],
        mask: image_mask("concrete/masks/crack"),
    },
    Parts {
        source: "refclef",
        annotations: &[
            Annotations::Pickle("refer_seg/refclef/refs(unc).p"),
            Annotations::Json("refer_seg/refclef/instances.json"),
        ],
        optional: &[],
        mask: referred_mask("refer_seg/refclef/instances.json"),
    },
    Parts {
        source: "refcoco",
        annotations: &[
            Annotations::Pickle("refer_seg/refcoco/refs(unc).p"),
            Annotations::Json("refer_seg/refcoco/instances.json"),
        ],
        optional: &[],
        mask: referred_mask("refer_seg/refcoco/instances.json"),
    },
    Parts {
        source: "refcoco+",
        annotations: &[
            Annotations::Pickle("refer_seg/refcoco+/refs(unc).p"),
            Annotations::Json("refer_seg/refcoco+/instances.json"),
        ],
        optional: &[],
        mask: referred_mask("refer_seg/refcoco+/instances.json"),
    },
    Parts {
        source: "refcocog",
        annotations: &[
            Annotations::Pickle("refer_seg/refcocog/refs(umd).p"),
            Annotations::Json("refer_seg/refcocog/instances.json"),
        ],
        optional: &[],
        mask: referred_mask("refer_seg/refcocog/instances.json"),
    },
    Parts {
        source: "grefcoco",
        annotations: &[
            Annotations::Json("refer_seg/grefcoco/grefs(unc).json"),
            Annotations::Json("refer_seg/annotations/instances_train2014.json"),
        ],
        optional: &[],
        mask: referred_mask("refer_seg/annotations/instances_train2014.json"),
    },
    Parts {
        source: "labelled-videos",
        annotations: &[Annotations::Lines("mine/labels.csv")],
        optional: &[],
        mask: video_file("mine/videos/yard.mp4"),
    },
    Parts {
        source: "ubnormal",
        annotations: &[Annotations::Lines(
            "UBnormal/Scene1/abnormal_scene_1_scenario_1_annotations/abnormal_scene_1_scenario_1_tracks.txt",
        )],
        optional: &[],
        mask: image_mask(
            "UBnormal/Scene1/abnormal_scene_1_scenario_1_annotations/abnormal_scene_1_scenario_1_0005_gt.png",
        ),
    },
    Parts {
        source: "ucf-crime",
        annotations: &[Annotations::Lines(
            "UCF_Crimes/Temporal_Anomaly_Annotation_for_Testing_Videos.txt",
        )],
        optional: &[],
        mask: video_file("UCF_Crimes/Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4"),
    },
    Parts {
        source: "xd-violence",
        annotations: &[],
        optional: &[],
        mask: video_file("XD-Violence/XD-Violence-test/videos/v=y__#1_label_G-0-0.mp4"),
    },
    Parts {
        source: "avenue",
        annotations: &[],
        optional: &[],
        mask: Mask::File {
            folder: "Avenue/ground_truth_demo/testing_label_mask",
            missing: "incomplete_video", // one file has the masks of all frames of a video
            cut: "missing_mask",
        },
    },
    Parts {
        source: "benchmark-videos",
        annotations: &[Annotations::Lines("mine/anomalies.csv")],
        optional: &[],
        mask: video_file("mine/videos/yard.mp4"),
    },
];

//! Images with their masks: a row is one image.

pub mod ade20k;
pub mod cityscapes;
pub mod coco;
pub mod coco_panoptic;
pub mod mapillary;

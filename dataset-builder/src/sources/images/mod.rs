//! Images with their masks: a row is one image.

pub mod ade20k;
pub mod ade20k_full;
pub mod cityscapes;
pub mod coco;
pub mod coco_panoptic;
pub mod coco_stuff;
pub mod mapillary;
pub mod masked_images;

//! Images whose annotation is one map of class indices (ADE20K, Cityscapes, Mapillary Vistas): every class of an image is
//! one object, all its pixels together.

use std::collections::BTreeSet;
use std::path::Path;

use lavida_data::clip::ObjectTrack;

use crate::read::pictures::{
    check_size, load_index_map_of_any_size, load_picture_of, masks_by_index,
};
use crate::read::rows::{Naming, SourceUnit, image_clip};
use crate::skip::{Reason, Skip};

/// What a class index means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class<'a> {
    /// Unlabelled pixels.
    Nothing,
    /// Recorded as present, never an object.
    Scenery(&'a str),
    /// An object.
    Object(&'a str),
    /// No class of the dataset.
    Unknown,
    /// The mark of a map that numbers its classes in another way, in words: no name of such a map can be trusted.
    Foreign(&'static str),
}

/// One image and its map as a row.
pub fn class_map_unit<'a>(
    naming: &Naming,
    video: &str,
    image: &Path,
    map: &Path,
    class_of: impl Fn(u8) -> Class<'a>,
) -> SourceUnit {
    let mut unit = SourceUnit::default();
    let indices = match load_index_map_of_any_size(map) {
        Ok(indices) => indices,
        Err(skip) => return SourceUnit::skipped(skip),
    };
    let size = (indices.width, indices.height);
    let picture = match load_picture_of(image, Some(size), &mut unit.skips) {
        Ok(picture) => picture,
        Err(skip) => return SourceUnit::skipped(skip),
    };
    if let Err(skip) = check_size(map, size, (picture.width, picture.height)) {
        return SourceUnit::skipped(skip);
    }
    let mut present: BTreeSet<String> = BTreeSet::new();
    let mut objects: Vec<ObjectTrack> = Vec::new();
    for (index, mask) in masks_by_index(&indices) {
        let (name, is_object) = match class_of(index) {
            Class::Nothing => continue,
            Class::Scenery(name) => (name, false),
            Class::Object(name) => (name, true),
            Class::Foreign(instead) => {
                let expected = "class indices as the dataset publishes them";
                let found = format!("{index}: {instead}");
                return SourceUnit::skipped(Skip::new(
                    Reason::UnknownCategory,
                    map.display(),
                    expected,
                    found,
                ));
            }
            Class::Unknown => {
                let expected = "class indices of the dataset";
                unit.skips.push(Skip::new(
                    Reason::UnknownCategory,
                    map.display(),
                    expected,
                    index,
                ));
                continue;
            }
        };
        present.insert(name.to_owned());
        if is_object {
            objects.push(ObjectTrack {
                id: index.to_string(),
                category: Some(name.to_owned()),
                descriptions: vec![name.to_owned()],
                masks: vec![Some(mask)],
                anomalous: None,
            });
        }
    }
    if objects.is_empty() {
        let present: Vec<String> = present.into_iter().collect();
        let found = if present.is_empty() {
            "no class".to_owned()
        } else {
            present.join(", ")
        };
        unit.skips.push(Skip::new(
            Reason::BackgroundOnly,
            image.display(),
            "a class that is not background",
            found,
        ));
    } else {
        unit.clips
            .push(image_clip(naming, video, picture, objects, present));
    }
    unit
}

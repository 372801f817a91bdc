//! `meta.json` of YouTube-VOS, which DAVIS may have too: the category of every object of every video.

use std::collections::BTreeMap;
use std::path::Path;

use lavida_store::{Error, Result};
use serde::Deserialize;

use crate::read::files::{self, InputDigest};
use crate::read::lenient::Maybe;

/// Category by object id, of each video; `None` where the file names none.
pub type Categories = BTreeMap<String, BTreeMap<String, Option<String>>>;

#[derive(Deserialize)]
struct MetaFile {
    videos: BTreeMap<String, Maybe<MetaVideo>>,
}

#[derive(Deserialize)]
struct MetaVideo {
    objects: BTreeMap<String, Maybe<MetaObject>>,
}

#[derive(Deserialize)]
struct MetaObject {
    category: String,
}

const FORM: &str = "`{\"videos\": {video: {\"objects\": {id: {\"category\": name}}}}}`";

/// Reads the file.
///
/// # Errors
///
/// As [`files::read_json`]; [`Error::Invalid`] for a file that names no category at all, as those of MOSE and YouTube-VIS.
pub fn read_categories(path: &Path, digest: &mut InputDigest) -> Result<Categories> {
    let file: MetaFile = files::read_json(path, FORM, digest)?;
    let of_object = |object: Maybe<MetaObject>| match object {
        Maybe::Is(object) => Some(object.category),
        Maybe::Not(_) => None,
    };
    let of_video = |video: Maybe<MetaVideo>| match video {
        Maybe::Is(video) => {
            let objects = video.objects.into_iter();
            objects
                .map(|(id, object)| (id, of_object(object)))
                .collect()
        }
        Maybe::Not(_) => BTreeMap::new(),
    };
    let categories: Categories = file
        .videos
        .into_iter()
        .map(|(name, video)| (name, of_video(video)))
        .collect();
    let mut named = categories.values().flat_map(BTreeMap::values);
    if !categories.is_empty() && !named.any(Option::is_some) {
        let found = format!(
            "{} videos and no category of an object: a set without names (MOSE?) trains nothing",
            categories.len()
        );
        return Err(Error::invalid(path.display(), FORM, found));
    }
    Ok(categories)
}

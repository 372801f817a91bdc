//! `meta.json` of YouTube-VOS, which DAVIS may have too: the category of every object of every video.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `{"videos": {video: {"objects": {id: {"category": name}}}}}`
#[derive(Deserialize)]
pub struct MetaFile {
    videos: BTreeMap<String, MetaVideo>,
}

#[derive(Deserialize)]
struct MetaVideo {
    objects: BTreeMap<String, MetaObject>,
}

#[derive(Deserialize)]
struct MetaObject {
    category: String,
}

impl MetaFile {
    /// What such a file looks like.
    pub const FORM: &str = "`{\"videos\": {video: {\"objects\": {id: {\"category\": name}}}}}`";

    /// Category by video and object id.
    pub fn categories(self) -> BTreeMap<String, BTreeMap<String, String>> {
        let objects = |video: MetaVideo| {
            video
                .objects
                .into_iter()
                .map(|(id, object)| (id, object.category))
                .collect()
        };
        self.videos
            .into_iter()
            .map(|(name, video)| (name, objects(video)))
            .collect()
    }
}

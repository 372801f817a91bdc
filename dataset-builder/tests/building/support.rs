//! Small source datasets on disk, and builds of them.

use std::path::{Path, PathBuf};
use std::process::Output;

use futures::TryStreamExt;
use lavida_data::clip::{Clip, ObjectTrack};
use lavida_data::dataset::Dataset;
use lavida_data::mask::RleMask;
use lavida_dataset_builder::{BuildRequest, BuildSummary, SourceSpec, build};
use lavida_store::{Result, Store};
use serde_json::{Value, json};

pub use crate::trees::pictures::*;
use crate::trees::{coco_instances, write, write_json};

/// A folder that goes away with the test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("tempdir"))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        write(self.path(), name, bytes)
    }

    pub fn write_json(&self, name: &str, value: &Value) -> PathBuf {
        write_json(self.path(), name, value)
    }
}

/// A COCO dataset of `n_images` images with one square car each, to be made worse by a test.
pub struct CocoSource {
    pub folder: Folder,
    pub file: Value,
}

impl CocoSource {
    pub fn new(n_images: usize) -> Self {
        let folder = Folder::new();
        let file = coco_instances(n_images, folder.path(), "images");
        Self { folder, file }
    }

    pub fn annotations(&mut self) -> &mut Vec<Value> {
        self.file["annotations"].as_array_mut().expect("a list")
    }

    pub fn annotate(&mut self, image_id: usize, category_id: i64, segmentation: Value) {
        let id = 1000 + self.annotations().len();
        self.annotations().push(json!({
            "id": id, "image_id": image_id, "category_id": category_id, "iscrowd": 0, "segmentation": segmentation,
        }));
    }

    pub fn write(&self) -> SourceSpec {
        self.folder.write_json("instances.json", &self.file);
        self.spec()
    }

    pub fn spec(&self) -> SourceSpec {
        SourceSpec::Coco(lavida_dataset_builder::sources::CocoArgs {
            annotations: self.folder.join("instances.json"),
            images: self.folder.join("images"),
            split: "train".to_owned(),
            boxes: false,
            crowds: false,
        })
    }
}

/// A finished build and the store it went to.
pub struct Built {
    pub summary: BuildSummary,
    pub store: Store,
    pub clips: Vec<Clip>,
    _out: Folder,
}

impl Built {
    pub fn skipped(&self, reason: &str) -> u64 {
        self.summary.skipped.get(reason).copied().unwrap_or(0)
    }

    pub fn clip(&self, id: &str) -> &Clip {
        let ids: Vec<&String> = self.clips.iter().map(|clip| &clip.id).collect();
        self.clips
            .iter()
            .find(|clip| clip.id == id)
            .unwrap_or_else(|| panic!("no {id} in {ids:?}"))
    }
}

/// Builds into a folder of its own and reads everything back.
pub async fn built(source: SourceSpec) -> Built {
    let out = Folder::new();
    let store = store_at(&out.join("dataset"));
    let mut request = BuildRequest::new(source, store.clone());
    request.max_bad_fraction = Some(1.0); // small input is soon mostly bad
    let summary = build(&request, &|_| {}).await.expect("builds");
    let dataset = Dataset::open(&store).await.expect("opens");
    dataset.verify().await.expect("is whole");
    let clips: Vec<Clip> = dataset.clips().try_collect().await.expect("reads");
    assert_eq!(summary.samples, clips.len() as u64);
    assert_eq!(
        summary.frames,
        clips
            .iter()
            .map(|clip| clip.frames.len() as u64)
            .sum::<u64>()
    );
    assert_eq!(
        summary.objects,
        clips
            .iter()
            .map(|clip| clip.objects.len() as u64)
            .sum::<u64>()
    );
    Built {
        summary,
        store,
        clips,
        _out: out,
    }
}

pub async fn try_build(source: SourceSpec, out: &Path) -> Result<BuildSummary> {
    build(&BuildRequest::new(source, store_at(out)), &|_| {}).await
}

pub fn store_at(path: &Path) -> Store {
    Store::open(path.to_str().expect("utf-8")).expect("a store")
}

/// Whether a folder holds a committed dataset.
pub fn is_committed(out: &Path) -> bool {
    out.join("_manifest.json").exists()
}

pub fn object<'a>(clip: &'a Clip, id: &str) -> &'a ObjectTrack {
    clip.objects
        .iter()
        .find(|object| object.id == id)
        .unwrap_or_else(|| panic!("no object {id} in {}", clip.id))
}

/// Pixels of each frame's mask, 0 where absent.
pub fn areas(object: &ObjectTrack) -> Vec<u64> {
    object
        .masks
        .iter()
        .map(|mask| mask.as_ref().map_or(0, RleMask::area))
        .collect()
}

/// Runs the binary.
pub fn lavida_dataset(args: &[&str]) -> Output {
    std::process::Command::new(env!("CARGO_BIN_EXE_lavida-dataset"))
        .args(args)
        .output()
        .expect("runs")
}

/// Exit code and standard error.
pub fn outcome(output: &Output) -> (i32, String) {
    (
        output.status.code().expect("not killed"),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

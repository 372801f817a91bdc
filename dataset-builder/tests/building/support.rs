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

/// px of every picture here
pub const WIDTH: u32 = 32;
/// px of every picture here
pub const HEIGHT: u32 = 24;

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
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("mkdir");
        std::fs::write(&path, bytes).expect("write");
        path
    }

    pub fn write_json(&self, name: &str, value: &Value) -> PathBuf {
        self.write(name, serde_json::to_vec(value).expect("json"))
    }
}

/// A gray ramp, different for every `shade`.
pub fn jpeg(shade: u8) -> Vec<u8> {
    let pixels: Vec<u8> = (0..WIDTH * HEIGHT * 3)
        .map(|i| shade.wrapping_add((i % 97) as u8))
        .collect();
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, 90)
        .encode(
            &pixels,
            WIDTH as u16,
            HEIGHT as u16,
            jpeg_encoder::ColorType::Rgb,
        )
        .expect("jpeg");
    bytes
}

pub fn tiff(shade: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    tiff::encoder::TiffEncoder::new(&mut bytes)
        .expect("tiff")
        .write_image::<tiff::encoder::colortype::Gray8>(
            WIDTH,
            HEIGHT,
            &vec![shade; (WIDTH * HEIGHT) as usize],
        )
        .expect("tiff");
    bytes.into_inner()
}

/// Indices of a rectangle: `index` inside `x0..x1 × y0..y1`, 0 elsewhere.
pub fn rectangle(index: u8, [x0, x1, y0, y1]: [u32; 4]) -> Vec<u8> {
    let inside = |i: u32| (x0..x1).contains(&(i % WIDTH)) && (y0..y1).contains(&(i / WIDTH));
    (0..WIDTH * HEIGHT)
        .map(|i| if inside(i) { index } else { 0 })
        .collect()
}

fn png_of(indices: &[u8], (width, height): (u32, u32), color: png::ColorType) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    if color == png::ColorType::Indexed {
        encoder.set_palette(
            (0..=255u8)
                .flat_map(|i| [i.wrapping_mul(67), i.wrapping_mul(29), i])
                .collect::<Vec<u8>>(),
        );
    }
    encoder
        .write_header()
        .expect("png")
        .write_image_data(indices)
        .expect("png");
    bytes
}

pub fn palette_png(indices: &[u8]) -> Vec<u8> {
    png_of(indices, (WIDTH, HEIGHT), png::ColorType::Indexed)
}

pub fn gray_png(indices: &[u8]) -> Vec<u8> {
    png_of(indices, (WIDTH, HEIGHT), png::ColorType::Grayscale)
}

/// `color` where the index is not 0, black elsewhere.
pub fn rgb_png(indices: &[u8], color: [u8; 3]) -> Vec<u8> {
    let pixel = |index: &u8| if *index == 0 { [0; 3] } else { color };
    let pixels: Vec<u8> = indices.iter().flat_map(pixel).collect();
    png_of(&pixels, (WIDTH, HEIGHT), png::ColorType::Rgb)
}

pub fn gray_png_of_size(width: u32, height: u32) -> Vec<u8> {
    png_of(
        &vec![1; (width * height) as usize],
        (width, height),
        png::ColorType::Grayscale,
    )
}

/// 255 inside the rectangle.
pub fn bmp(rectangle_px: Option<[u32; 4]>) -> Vec<u8> {
    let indices = rectangle_px.map_or(vec![0; (WIDTH * HEIGHT) as usize], |at| rectangle(255, at));
    let image = image::GrayImage::from_raw(WIDTH, HEIGHT, indices).expect("bmp");
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::DynamicImage::ImageLuma8(image)
        .write_to(&mut bytes, image::ImageFormat::Bmp)
        .expect("bmp");
    bytes.into_inner()
}

/// COCO run lengths of a rectangle.
pub fn rle(rectangle_px: [u32; 4]) -> Value {
    let mask = RleMask::from_raster(&rectangle(1, rectangle_px), HEIGHT, WIDTH);
    json!({ "size": [HEIGHT, WIDTH], "counts": mask.counts })
}

pub const SQUARE: [f64; 8] = [4.0, 4.0, 12.0, 4.0, 12.0, 12.0, 4.0, 12.0];

/// A COCO dataset of `n_images` images with one square car each, to be made worse by a test.
pub struct CocoSource {
    pub folder: Folder,
    pub file: Value,
}

impl CocoSource {
    pub fn new(n_images: usize) -> Self {
        let folder = Folder::new();
        let mut images = Vec::new();
        let mut annotations = Vec::new();
        for i in 0..n_images {
            folder.write(&format!("images/{i:04}.jpg"), jpeg(i as u8));
            images.push(json!({ "id": i, "file_name": format!("{i:04}.jpg"), "width": WIDTH, "height": HEIGHT }));
            annotations.push(json!({
                "id": 100 + i, "image_id": i, "category_id": 3, "iscrowd": 0, "segmentation": [SQUARE],
            }));
        }
        let categories = json!([{ "id": 1, "name": "person" }, { "id": 3, "name": "car" }]);
        let file =
            json!({ "images": images, "annotations": annotations, "categories": categories });
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
    let summary = build(&BuildRequest::new(source, store.clone()), &|_| {})
        .await
        .expect("builds");
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
    out.join("manifest.json").exists()
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

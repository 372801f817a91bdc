//! Datasets: COCO's masks and annotation files, NumPy's masks, shards and their manifest.

use std::io::Cursor;
use std::sync::LazyLock;

use bytes::Bytes;
use lavida_data::clip::Clip;
use lavida_data::dataset::{
    Dataset, DatasetManifest, MANIFEST_KEY, MetadataEntry, RowGroupEntry, ShardEntry, ShardRange,
};
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_data::mask::RleMask;
use lavida_dataset_builder::read::npy::MaskArray;
use lavida_dataset_builder::sources::{CocoArgs, SourceArgs};
use lavida_store::{Error, Store, manifest};

use super::{file, folder, must_blame_the_input};

/// Masks of as many pixels are drawn; larger ones cost what they are allowed to cost.
const DRAWN_PX: u64 = 1 << 16;

/// Height and width (two bytes each, little-endian), then COCO's compressed text, run lengths or polygons: all three are
/// tried on the same bytes. A polygon ends where a coordinate is not a number.
pub fn rle(bytes: &[u8]) {
    let Some((&[h0, h1, w0, w1], rest)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let height = u32::from(u16::from_le_bytes([h0, h1]));
    let width = u32::from(u16::from_le_bytes([w0, w1]));
    if let Ok(text) = str::from_utf8(rest) {
        mask(RleMask::from_coco(text, height, width), height, width);
    }
    let counts: Vec<u32> = rest
        .as_chunks()
        .0
        .iter()
        .map(|n| u32::from_le_bytes(*n))
        .collect();
    mask(RleMask::from_counts(&counts, height, width), height, width);
    let coordinates: Vec<f64> = rest
        .as_chunks()
        .0
        .iter()
        .map(|n| f64::from_le_bytes(*n))
        .collect();
    let polygons: Vec<Vec<f64>> = coordinates
        .split(|value| value.is_nan())
        .map(<[f64]>::to_vec)
        .collect();
    mask(
        RleMask::from_polygons(&polygons, height, width),
        height,
        width,
    );
}

fn mask(read: lavida_store::Result<RleMask>, height: u32, width: u32) {
    let mask = match read {
        Ok(mask) => mask,
        Err(error) => return must_blame_the_input(&error),
    };
    assert_eq!((mask.height, mask.width), (height, width));
    let n_pixels = u64::from(height) * u64::from(width);
    let area = mask.area();
    assert!(area <= n_pixels);
    let inside = mask.bounding_box().expect("a mask that was checked");
    assert_eq!(inside.is_none(), area == 0);
    if let Some(inside) = inside {
        assert!(inside.x + inside.width <= width && inside.y + inside.height <= height);
        assert!(area <= u64::from(inside.width) * u64::from(inside.height));
    }
    assert_eq!(
        RleMask::union(&[&mask, &mask]).expect("one size").area(),
        area
    );
    if n_pixels <= DRAWN_PX {
        let raster = mask.to_raster().expect("a mask that was checked");
        assert_eq!(
            raster.iter().filter(|pixel| **pixel == 1).count() as u64,
            area
        );
        let again = RleMask::from_raster(&raster, height, width);
        assert_eq!(again.to_raster().expect("a mask of a raster"), raster);
        if n_pixels > 0 {
            let larger = mask
                .resize_nearest(height * 2, width * 2)
                .expect("a mask that was checked");
            assert_eq!(larger.area(), 4 * area);
        }
    }
}

/// A COCO instances file, beside pictures `a.bmp` and `b.bmp` of 8 × 6 px.
pub fn coco_json(bytes: &[u8]) {
    static IMAGES: LazyLock<()> = LazyLock::new(|| {
        std::fs::create_dir_all(folder().join("images")).expect("a folder in a folder of our own");
        for name in ["a.bmp", "b.bmp"] {
            file(&format!("images/{name}"), &bmp(8, 6));
        }
    });
    LazyLock::force(&IMAGES);
    let args = CocoArgs {
        annotations: file("instances.json", bytes),
        images: folder().join("images"),
        split: "train".to_owned(),
        boxes: false,
        crowds: false,
    };
    let coco = match args.open(CocoArgs::NAME) {
        Ok(coco) => coco,
        Err(error) => return must_blame_the_input(&error),
    };
    for unit in 0..coco.n_units() {
        match coco.load(unit) {
            Ok(unit) => {
                for clip in &unit.clips {
                    valid(clip, Purpose::Training);
                }
            }
            Err(error) => must_blame_the_input(&error),
        }
    }
}

fn valid(clip: &Clip, purpose: Purpose) {
    clip.validate(purpose)
        .expect("what a source yields, the writer takes");
}

/// An uncompressed picture, all black.
fn bmp(width: u32, height: u32) -> Vec<u8> {
    let row = (width * 3).next_multiple_of(4);
    let n_bytes = 54 + row * height;
    let mut bytes = b"BM".to_vec();
    for word in [n_bytes, 0, 54, 40, width, height, 1 | 24 << 16] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.resize(n_bytes as usize, 0);
    bytes
}

/// A NumPy array of masks of 2 × 3 px.
pub fn npy(bytes: &[u8]) {
    let Ok(mut array) = MaskArray::read(Cursor::new(bytes)) else {
        return;
    };
    for frame_idx in [0, 1, 1000] {
        if let Ok(raster) = array.frame(frame_idx, 2, 3) {
            assert_eq!(raster.len(), 6);
        }
    }
}

static STORE: LazyLock<Store> =
    LazyLock::new(|| Store::open("memory://fuzz").expect("a store in memory"));

fn wait<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime")
    });
    RUNTIME.block_on(work)
}

/// A Parquet file as the only shard of a dataset whose manifest has its hashes: of one row group, which ends where the
/// footer begins. What the manifest says of its rows is what is there.
pub fn shard(bytes: &[u8]) {
    let footer_at = match bytes.len().checked_sub(8) {
        Some(end) => {
            let length = bytes[end..end + 4].try_into().map(u32::from_le_bytes);
            let length = length.expect("four bytes") as usize;
            end.saturating_sub(length).clamp(4, bytes.len())
        }
        None => return,
    };
    let first_try = read_shard(bytes, footer_at, &[1]);
    let Err(Error::Corrupt { found, .. }) = first_try else {
        return;
    };
    // "row groups of [1] rows, found [2]"
    if let Ok(rows) = serde_json::from_str::<Vec<u64>>(&found)
        && rows != [1]
    {
        // An error of the right kind is an answer as good as clips.
        let _ = read_shard(bytes, footer_at, &rows);
    }
}

fn read_shard(bytes: &[u8], footer_at: usize, rows: &[u64]) -> lavida_store::Result<()> {
    let part = |start: usize, end: usize| ShardRange {
        offset: start as u64,
        bytes: (end - start) as u64,
        blake3: hash(&bytes[start..end]),
    };
    // The first has all bytes, others that the footer speaks of have none.
    let row_groups: Vec<RowGroupEntry> = rows
        .iter()
        .enumerate()
        .map(|(i, rows)| {
            let start = if i == 0 { 4 } else { footer_at };
            RowGroupEntry {
                rows: *rows,
                data: part(start, footer_at),
                metadata: part(start, footer_at),
            }
        })
        .collect();
    let samples = rows
        .iter()
        .fold(0u64, |sum, rows| sum.saturating_add(*rows));
    let entry = ShardEntry {
        key: "shard.parquet".to_owned(),
        rows: samples,
        bytes: bytes.len() as u64,
        blake3: hash(bytes),
        footer: part(footer_at, bytes.len()),
        row_groups,
    };
    let manifest = DatasetManifest {
        header: header(),
        samples,
        frames: 0,
        objects: 0,
        bytes: bytes.len() as u64,
        skipped: Default::default(),
        metadata: Some(MetadataEntry {
            key: "shard.parquet".to_owned(),
            data: part(0, bytes.len()),
        }),
        shards: vec![entry],
    };
    wait(async {
        STORE
            .put("shard.parquet", Bytes::copy_from_slice(bytes))
            .await?;
        STORE.put(MANIFEST_KEY, manifest::encode(&manifest)?).await
    })?;
    read_dataset()
}

/// Everything that a dataset is read for.
fn read_dataset() -> lavida_store::Result<()> {
    let read = wait(async {
        let dataset = Dataset::open(&STORE).await?;
        let all = dataset.read_all_metas().await;
        let group = async {
            let metas = dataset.read_metas(0, 0).await?;
            let clips = dataset.read_row_group(0, 0).await?;
            assert_eq!(metas.len(), clips.len());
            Ok::<_, Error>(clips)
        };
        let clips = group.await;
        let verified = dataset.verify().await;
        for error in [all.as_ref().err(), verified.as_ref().err()]
            .into_iter()
            .flatten()
        {
            must_blame_the_input(error);
        }
        clips
    });
    match read {
        Ok(clips) => {
            for mask in clips.iter().flat_map(masks) {
                assert!(mask.area() <= u64::from(mask.height) * u64::from(mask.width));
            }
            for clip in &clips {
                if let Err(error) = clip.validate(Purpose::Training) {
                    must_blame_the_input(&error);
                }
            }
            Ok(())
        }
        Err(error) => {
            must_blame_the_input(&error);
            Err(error)
        }
    }
}

fn masks(clip: &Clip) -> impl Iterator<Item = &RleMask> {
    let objects = clip.objects.iter();
    objects.flat_map(|object| object.masks.iter().flatten())
}

fn header() -> DatasetHeader {
    DatasetHeader {
        dataset: "shapes".to_owned(),
        split: "train".to_owned(),
        purpose: Purpose::Training,
        category_source: CategorySource::Descriptions,
        max_categories: 30,
        positives: Positives::One,
        eval_categories: None,
        protocol: None,
        interval: None,
        true_categories: Default::default(),
        settings: serde_json::Value::Null,
    }
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The body of a dataset's manifest, without its envelope of format, version and hash; and the same bytes as a whole one.
pub fn manifest(bytes: &[u8]) {
    if let Err(error) = manifest::decode::<DatasetManifest>("here", bytes) {
        must_blame_the_input(&error);
    }
    let Ok(body) = serde_json::from_slice::<DatasetManifest>(bytes) else {
        return;
    };
    let document = manifest::encode(&body).expect("what was JSON can be JSON");
    let again = manifest::decode::<DatasetManifest>("here", &document).expect("its own hash");
    assert_eq!(again, body);
    if let Err(error) = body.header.validate() {
        must_blame_the_input(&error);
    }
    wait(STORE.put(MANIFEST_KEY, document)).expect("a store in memory");
    if let Err(error) = wait(Dataset::open(&STORE)) {
        return must_blame_the_input(&error);
    }
    let first = body.shards.first();
    if first.is_some_and(|shard| !shard.row_groups.is_empty()) {
        // No shard is there, so it ends in an error whose kind `read_dataset` looks at.
        let _ = read_dataset();
    }
}

//! Small whole inputs of every kind, as the project's own writers and encoders make them.

use std::io::Cursor;

use bytes::Bytes;
use lavida_control::{
    CoordinatorFrame, CoordinatorId, Engine, FromMember, Generation, Join, MemberFrame, MemberId,
    MemberView, Peer, RunId, Status, ToMember, World, Written, encode,
};
use lavida_data::clip::{Clip, EncodedFrame, ObjectTrack};
use lavida_data::dataset::{Dataset, DatasetManifest};
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives, Purpose};
use lavida_data::mask::RleMask;
use lavida_data::shard::{DatasetWriter, WriterSettings};
use lavida_data::tokenizer::Tokenizers;
use lavida_fuzz::targets::{burnpack_module, samples, video_of, with_sums};
use lavida_model::precision::Precision;
use lavida_model::weights::{TensorFiles, Tensors, export, write_burnpack, write_safetensors};
use lavida_store::Store;

/// Target, name and bytes of a seed.
pub type Seed = (&'static str, &'static str, Vec<u8>);

const TINY: &str = include_str!("../../../configs/tiny.toml");
const GROUNDING: &str = include_str!("../../../configs/tiny-grounding.toml");
const PAPER: &str = include_str!("../../../configs/paper.toml");
const QWEN: &[u8] = include_bytes!("../../../configs/tiny/qwen2_vl/tokenizer.json");
const CLIP: &[u8] = include_bytes!("../../../configs/tiny/clip/tokenizer.json");
const CASES: &[u8] = include_bytes!("../../../tests/golden/fixtures/import/torch/cases.pt");
const NESTED: &[u8] = include_bytes!("../../../tests/golden/fixtures/import/torch/cases_nested.pt");
const LIST: &[u8] = include_bytes!("../../../tests/golden/fixtures/import/torch/list.pt");
const MOVING_SQUARE: &[u8] =
    include_bytes!("../../../crates/lavida-data/tests/fixtures/moving_square.mp4");

/// Every seed that code makes.
pub fn all() -> Vec<Seed> {
    let (shard, manifest) = dataset();
    vec![
        (
            "rle",
            "text",
            sized(
                6,
                8,
                RleMask::from_raster(&square(), 6, 8).counts.as_bytes(),
            ),
        ),
        (
            "rle",
            "counts",
            sized(2, 4, &[1u32, 2, 5].map(u32::to_le_bytes).concat()),
        ),
        ("rle", "polygons", sized(48, 64, &polygons())),
        ("coco_json", "instances.json", COCO.as_bytes().to_vec()),
        ("coco_json", "odd.json", ODD_COCO.as_bytes().to_vec()),
        (
            "frame",
            "gray.png",
            png(png::ColorType::Grayscale, png::BitDepth::Eight, &[7; 24]),
        ),
        (
            "frame",
            "palette.png",
            png(png::ColorType::Indexed, png::BitDepth::Two, &[27; 8]),
        ),
        (
            "frame",
            "rgba16.png",
            png(png::ColorType::Rgba, png::BitDepth::Sixteen, &[9; 192]),
        ),
        ("frame", "baseline.jpg", jpeg(false)),
        ("frame", "progressive.jpg", jpeg(true)),
        ("frame", "gray.tif", tiff()),
        ("frame", "rgb.bmp", bmp()),
        ("mp4", "moving_square.mp4", MOVING_SQUARE.to_vec()),
        ("mp4", "three.mp4", video_of(&unit(&[12, 0xff, 0x80]))),
        ("h264", "filler", unit(&[12, 0xff, 0x80])),
        ("h264", "key", samples()[0].clone()),
        ("h264", "difference", samples()[1].clone()),
        ("h264", "samples", samples().concat()),
        ("shard", "shapes.parquet", shard),
        ("manifest", "shapes.json", manifest),
        (
            "npy",
            "masks.npy",
            npy("(2, 2, 3)", &[0, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0]),
        ),
        (
            "safetensors",
            "floats.safetensors",
            write_safetensors(&tensors(), None).unwrap(),
        ),
        ("torch_zip", "cases.pt", CASES.to_vec()),
        ("torch_zip", "nested.pt", NESTED.to_vec()),
        ("torch_pickle", "cases.pkl", pickle_of(CASES)),
        ("torch_pickle", "nested.pkl", pickle_of(NESTED)),
        ("torch_pickle", "list.pkl", pickle_of(LIST)),
        ("burnpack", "linear.bpk", burnpack()),
        ("tokenizer", "qwen2_vl.json", QWEN.to_vec()),
        ("tokenizer", "clip.json", CLIP.to_vec()),
        ("settings", "tiny.toml", TINY.as_bytes().to_vec()),
        (
            "settings",
            "tiny-grounding.toml",
            GROUNDING.as_bytes().to_vec(),
        ),
        ("settings", "paper.toml", PAPER.as_bytes().to_vec()),
        ("settings", "overrides.toml", OVERRIDES.as_bytes().to_vec()),
        ("envelope", "status", envelope(&status())),
        ("envelope", "join", envelope(&join())),
        ("envelope", "put", envelope(&put())),
        ("envelope", "view", envelope(&view())),
    ]
}

/// That readers take them: a seed that is refused at its first byte fuzzes nothing.
pub fn all_are_whole(seeds: &[Seed]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (target, name, bytes) in seeds {
        std::fs::write(file.path(), bytes).unwrap();
        let read = match *target {
            "frame" => {
                let frame = EncodedFrame {
                    path: (*name).to_owned(),
                    bytes: Bytes::copy_from_slice(bytes),
                };
                assert_eq!(with_sums(bytes), None, "{name}: right sums");
                lavida_data::frame::decode_rgb(&frame).is_ok()
            }
            "mp4" => lavida_data::video::VideoReader::open(file.path()).is_ok(),
            "npy" => lavida_dataset_builder::read::npy::MaskArray::open(file.path()).is_ok(),
            "safetensors" => TensorFiles::open_safetensors(file.path()).is_ok(),
            "torch_zip" => TensorFiles::open_torch(file.path()).is_ok(),
            "burnpack" => TensorFiles::open_burnpack(file.path(), &burnpack_module()).is_ok(),
            "manifest" => {
                let manifest: DatasetManifest = serde_json::from_slice(bytes).unwrap();
                manifest.validate(name).is_ok()
            }
            "tokenizer" => {
                let as_prompt = Tokenizers::load(bytes, CLIP).is_ok();
                as_prompt || Tokenizers::load(QWEN, bytes).is_ok()
            }
            _ => true,
        };
        assert!(read, "{target}: {name}");
    }
}

fn sized(height: u16, width: u16, rest: &[u8]) -> Vec<u8> {
    [&height.to_le_bytes()[..], &width.to_le_bytes(), rest].concat()
}

/// 6 × 8 px with a square of 2 × 3.
fn square() -> Vec<u8> {
    let inside = |at: usize| (2..4).contains(&(at / 8)) && (3..6).contains(&(at % 8));
    (0..48).map(|at| u8::from(inside(at))).collect()
}

fn polygons() -> Vec<u8> {
    let square = [16.0, 12.0, 32.0, 12.0, 32.0, 24.0, 16.0, 24.0];
    let triangle = [1.5, 2.5, 60.0, 3.0, 30.0, 47.0];
    let values = square.into_iter().chain([f64::NAN]).chain(triangle);
    values.flat_map(f64::to_le_bytes).collect()
}

const COCO: &str = r#"{"images": [{"id": 1, "file_name": "a.bmp", "width": 8, "height": 6},
 {"id": 2, "file_name": "b.bmp"}],
"categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog", "supercategory": "animal"}],
"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 4.5, 1, 4]], "iscrowd": 0},
 {"id": 2, "image_id": 1, "category_id": 3, "segmentation": {"size": [6, 8], "counts": [10, 2, 4, 2, 30]}},
 {"id": 3, "image_id": 2, "category_id": 3, "segmentation": {"size": [6, 8], "counts": "U12`0"}, "iscrowd": 1},
 {"id": 4, "image_id": 2, "category_id": 1, "segmentation": [[0, 0, 7, 0, 7, 5], [1, 1, 2, 2, 3, 1]]}]}"#;

const ODD_COCO: &str = r#"{"images": [{"id": "x1", "file_name": "images\\a.bmp", "width": null}],
"categories": [{"id": "c", "name": "größer"}],
"annotations": [{"image_id": "x1", "category_id": "c", "segmentation": {"size": [6, 8], "counts": [0, 48]}, "area": 1e3},
 {"image_id": "x1", "category_id": "c", "bbox": [1, 2, 3, 4]}, {"image_id": 7, "category_id": -1, "segmentation": []}]}"#;

fn png(colour: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
    let width = 6;
    let row = (width * colour.samples() * depth as usize).div_ceil(8);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, (data.len() / row) as u32);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == png::ColorType::Indexed {
        encoder.set_palette(vec![0, 0, 0, 200, 10, 20, 30, 40, 50, 60, 70, 80]);
    }
    let mut writer = encoder.write_header().unwrap();
    writer
        .write_image_data(&data[..data.len() / row * row])
        .unwrap();
    writer.finish().unwrap();
    bytes
}

fn jpeg(progressive: bool) -> Vec<u8> {
    let pixels: Vec<u8> = (0..24 * 16 * 3).map(|i| (i * 7 % 256) as u8).collect();
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 60);
    encoder.set_progressive(progressive);
    encoder
        .encode(&pixels, 24, 16, jpeg_encoder::ColorType::Rgb)
        .unwrap();
    bytes
}

fn tiff() -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    tiff::encoder::TiffEncoder::new(&mut bytes)
        .unwrap()
        .write_image::<tiff::encoder::colortype::Gray8>(6, 4, &[100; 24])
        .unwrap();
    bytes.into_inner()
}

fn bmp() -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let pixels = (0..6 * 4 * 3).collect();
    image::DynamicImage::from(image::RgbImage::from_raw(6, 4, pixels).unwrap())
        .write_to(&mut bytes, image::ImageFormat::Bmp)
        .unwrap();
    bytes.into_inner()
}

/// A NAL unit after its length.
fn unit(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

fn npy(shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}   \n");
    let length = (header.len() as u16).to_le_bytes();
    [
        b"\x93NUMPY\x01\x00".as_slice(),
        &length,
        header.as_bytes(),
        data,
    ]
    .concat()
}

fn tensors() -> Tensors {
    let mut tensors = export(&burnpack_module());
    let carried = tensors.values().next().unwrap().clone();
    tensors.insert("seg_model.no_obj_ptr".to_owned(), carried);
    tensors
}

fn burnpack() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let module = burnpack_module();
    let written = write_burnpack(&module, &Tensors::new(), folder.path(), Precision::F32).unwrap();
    std::fs::read(folder.path().join(&written[0])).unwrap()
}

/// `data.pkl` of a file that torch wrote.
fn pickle_of(file: &[u8]) -> Vec<u8> {
    let archive = rawzip::ZipArchive::from_slice(file).unwrap();
    let record = archive
        .entries()
        .map(Result::unwrap)
        .find(|record| record.file_path().as_bytes().ends_with(b"data.pkl"));
    let entry = archive.get_entry(record.unwrap().wayfinder()).unwrap();
    entry.data().to_vec()
}

/// A shard of two clips, and the body of its manifest.
fn dataset() -> (Vec<u8>, Vec<u8>) {
    let header = DatasetHeader {
        dataset: "shapes".to_owned(),
        split: "train".to_owned(),
        purpose: Purpose::Training,
        category_source: CategorySource::Vocabulary(vec!["disc".into(), "square".into()]),
        max_categories: 30,
        positives: Positives::One,
        eval_categories: None,
        true_categories: Default::default(),
        protocol: None,
        interval: None,
        settings: serde_json::json!({ "stride": 8 }),
    };
    let store = Store::open("memory://seeds").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        store.clear().await.unwrap();
        let settings = WriterSettings::default();
        let mut writer = DatasetWriter::create(&store, header, settings)
            .await
            .unwrap();
        for i in 0..2 {
            writer.push(&clip(i)).await.unwrap();
        }
        let manifest = writer.finish().await.unwrap();
        Dataset::open(&store).await.unwrap().verify().await.unwrap();
        let shard = store.get(&manifest.shards[0].key).await.unwrap();
        (
            shard.to_vec(),
            serde_json::to_vec_pretty(&manifest).unwrap(),
        )
    })
}

fn clip(i: usize) -> Clip {
    let frame = |t: usize| EncodedFrame {
        path: format!("frame{t}.png"),
        bytes: png(
            png::ColorType::Grayscale,
            png::BitDepth::Eight,
            &[(i + t) as u8; 24],
        )
        .into(),
    };
    let raster: Vec<u8> = (0..24)
        .map(|pixel| u8::from(pixel % (i + 2) == 0))
        .collect();
    Clip {
        id: format!("train/{i:04}"),
        dataset: "shapes".to_owned(),
        video: "video".to_owned(),
        is_video: true,
        first_frame: 8 * i as u32,
        fps: (i == 0).then_some(24.0),
        width: 6,
        height: 4,
        frames: (0..2).map(frame).collect(),
        objects: vec![ObjectTrack {
            id: "1".to_owned(),
            category: Some("disc".to_owned()),
            descriptions: vec!["disc".to_owned(), format!("the disc of clip {i}")],
            masks: vec![Some(RleMask::from_raster(&raster, 4, 6)), None],
            anomalous: None,
        }],
        present_categories: vec!["disc".to_owned()],
        frame_labels: None,
    }
}

const OVERRIDES: &str = r#"extends = "tiny.toml"
seed = 45
#--set train.steps=7
#--set optimizer.learning_rate=1e-4
#--set sampler.video_pixels=[100, 200]
#--set train.policy.seg_model=lora
#--set device=cpu
"#;

/// What [`lavida_fuzz::targets::envelope`] takes: whole messages, heads and all.
fn envelope(message: &Message) -> Vec<u8> {
    match message {
        Message::Up(frame) => encode(frame).unwrap(),
        Message::Down(frame) => encode(frame).unwrap(),
    }
}

enum Message {
    Up(MemberFrame),
    Down(CoordinatorFrame),
}

fn up(message: FromMember) -> Message {
    Message::Up(MemberFrame {
        member: MemberId(7),
        message,
    })
}

fn status() -> Message {
    let part = lavida_control::WrittenPart {
        name: "weights".to_owned(),
        key: "checkpoints/3/weights".to_owned(),
        bytes: 1000,
        blake3: [7; 32],
    };
    up(FromMember::Status(Status {
        seq: 300,
        generation: Generation(2),
        step: 70_000,
        written: vec![Written {
            step: 3,
            state: vec![1; 20],
            n_parts: 1,
            parts: vec![part],
        }],
        damaged: Some("a part is cut".to_owned()),
        ..Status::default()
    }))
}

fn join() -> Message {
    up(FromMember::Join(Join {
        run: RunId([3; 32]),
        address: "127.0.0.1:1".to_owned(),
        node: "node-1".to_owned(),
        slot: 1,
        engines: [Engine::Local, Engine::Gloo].into(),
    }))
}

fn put() -> Message {
    up(FromMember::Put {
        generation: Generation(1),
        key: "rank/0".to_owned(),
        value: vec![5; 40],
    })
}

fn view() -> Message {
    let peer = |member: u64| Peer {
        member: MemberId(member),
        address: "127.0.0.1:2".to_owned(),
        node: "node-2".to_owned(),
        slot: 1,
        holds: true,
    };
    Message::Down(CoordinatorFrame {
        coordinator: CoordinatorId(9),
        member: MemberId(7),
        message: ToMember::View(MemberView {
            seq: 4,
            working: true,
            world: Some(World {
                generation: Generation(2),
                resume_from: 1,
                kept: None,
                committed: 1,
                owes_checkpoint: false,
                checkpoint_every: 5,
                engine: Engine::Gloo,
                peers: vec![peer(7), peer(8)],
            }),
            ..MemberView::default()
        }),
    })
}

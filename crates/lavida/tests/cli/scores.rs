//! `eval`, `predict` and `export` of a trained checkpoint: what is printed and what files are there.

use std::{collections::BTreeSet, path::Path};

use lavida_data::{clip::EncodedFrame, frame::decode_rgb};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::{World, names};

const CATEGORIES: &str = "red circle, green square";
/// Frames of `moving_square.mp4`.
const MP4_FRAMES: usize = 24;

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn eval_prints_one_document_with_the_keys_scripts_read() {
    let world = World::new();
    let run = world.trained();
    let args = [
        "eval",
        "--checkpoint",
        run,
        "--data",
        "shards/ucsd-ped",
        "--json",
    ];
    let report = world.run(&args).json();
    for key in [
        "benchmark",
        "frames",
        "videos",
        "frame_auc",
        "frame_ap",
        "video_auc",
        "pixel_auc",
        "settings",
        "per_video",
    ] {
        assert!(keys(&report).contains(&key), "no {key} in {report}");
    }
    assert_eq!(
        (&report["videos"], &report["frames"]),
        (&2.into(), &10.into())
    );
    assert_eq!(report["per_video"].as_array().unwrap().len(), 2);
    for key in ["frame_auc", "frame_ap", "pixel_auc"] {
        let value = report[key].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&value), "{key}: {value}");
    }
    assert_eq!(world.run(&args).json(), report, "scored twice");

    let controlled = [&args[..], &["--swap-control", "--interval", "2"]].concat();
    let controlled = world.run(&controlled).json();
    assert!(controlled["swapped_frame_auc"].is_f64(), "{controlled}");
    assert_eq!(controlled["frames"], 10);
}

#[test]
fn videos_that_no_window_reaches_are_said_and_a_benchmark_of_them_is_refused() {
    let world = World::new();
    let run = world.trained();
    let eval = |n_frames: &str, more: &[&str]| {
        let args = ["eval", "--checkpoint", run, "--data", "shards/ucsd-ped"];
        world.run(
            &[
                &args[..],
                &["--n-frames", n_frames, "--reference-windows"],
                more,
            ]
            .concat(),
        )
    };
    // Its two videos have five frames each.
    let words = [
        "--reference-windows",
        "at least 100 frames",
        "2 of at most 5 frames",
    ];
    eval("100", &[]).refused(2, &words);
    eval("3", &["--interval", "2"]).refused(2, &["at least 6 frames"]);
    let report = eval("2", &["--interval", "2", "--json"]).json();
    assert_eq!(
        (&report["videos"], &report["frames"]),
        (&2.into(), &8.into())
    );
}

fn check_prediction(world: &World, video: &str, n_frames: usize) {
    let run = world.trained();
    let args = [
        "predict",
        "--checkpoint",
        run,
        "--video",
        video,
        "--categories",
        CATEGORIES,
    ];
    let args = [&args[..], &["--out", "scored", "--pictures", "3"]].concat();
    let ran = world.run(&args).succeeded();
    assert_eq!(ran.stdout(), "");
    let out = world.join("scored");
    let scores: Value =
        serde_json::from_slice(&std::fs::read(out.join("scores.json")).unwrap()).unwrap();
    assert_eq!(
        keys(&scores),
        ["video", "fps", "width", "height", "categories", "frames"]
    );
    assert_eq!(
        scores["categories"],
        serde_json::json!(["red circle", "green square"])
    );
    let frames = scores["frames"].as_array().unwrap();
    assert_eq!(frames.len(), n_frames);
    for (i, frame) in frames.iter().enumerate() {
        assert_eq!(frame["frame"], i);
        assert!(frame["score"].is_f64() && frame["time"].is_f64(), "{frame}");
    }
    let files = names(&out);
    let pictures: BTreeSet<&String> = files.iter().filter(|f| f.starts_with("frame-")).collect();
    assert_eq!(pictures.len(), 3, "{files:?}");
    for name in pictures
        .into_iter()
        .map(String::as_str)
        .chain(["scores.png"])
    {
        check_png(&out.join(name));
    }
    assert!(
        std::fs::read_to_string(out.join("scores.svg"))
            .unwrap()
            .starts_with("<svg")
    );
}

#[track_caller]
fn check_png(path: &Path) {
    let picture = decode_rgb(&EncodedFrame {
        path: path.display().to_string(),
        bytes: std::fs::read(path).unwrap().into(),
    });
    let picture = picture.unwrap();
    assert!(
        picture.width > 0 && picture.height > 0,
        "{}",
        path.display()
    );
}

#[test]
fn predict_scores_every_frame_of_an_mp4_in_order_and_draws_pictures() {
    let world = World::new();
    let fixture = "../lavida-data/tests/fixtures/moving_square.mp4";
    let video = Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture);
    check_prediction(&world, video.to_str().unwrap(), MP4_FRAMES);
}

#[test]
fn predict_scores_every_frame_of_a_folder_in_order_and_draws_pictures() {
    let world = World::new();
    check_prediction(&world, "world/ucsd-ped/UCSDped2/Test/Test001", 5);
}

#[test]
fn predict_scores_a_damaged_video_up_to_the_fault_and_says_where_it_is() {
    let world = World::new();
    let run = world.trained();
    let fixture = "../lavida-data/tests/fixtures/full_601.mp4";
    let mut bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture)).unwrap();
    // Zeros in the place of the last picture that is decoded: two of four frames come before it.
    let pictures = bytes.windows(4).position(|name| name == b"mdat").unwrap();
    let size = u32::from_be_bytes(bytes[pictures - 4..pictures].try_into().unwrap()) as usize;
    bytes[pictures - 4 + size - 12..pictures - 4 + size].fill(0);
    std::fs::write(world.join("damaged.mp4"), &bytes).unwrap();
    let args = [
        "predict",
        "--checkpoint",
        run,
        "--video",
        "damaged.mp4",
        "--out",
        "scored",
    ];
    let args = [&args[..], &["--categories", CATEGORIES, "--interval", "2"]].concat();
    world
        .run(&args)
        .refused(3, &["damaged.mp4", "the scores end after"]);
    let document = std::fs::read(world.join("scored/scores.json")).unwrap();
    let document: Value = serde_json::from_slice(&document).unwrap();
    let n_frames = document["frames"].as_array().unwrap().len();
    assert!((1..4).contains(&n_frames), "{n_frames}");
    assert_eq!(document["fault"]["after_frames"], n_frames);
    assert_eq!(document["fault"]["of_frames"], 4);
    let scores = document["frames"].as_array().unwrap().iter();
    assert!(scores.into_iter().all(|frame| frame["score"].is_f64()));
}

#[test]
fn an_export_has_the_checkpoints_names_and_sums_that_match_and_is_never_overwritten() {
    let world = World::new();
    let run = world.trained();
    let args = ["export", "--checkpoint", run, "--out", "exported"];
    world.run(&args).succeeded();
    let out = world.join("exported");
    let files = [
        "SHA256SUMS",
        "clip_tokenizer.json",
        "config.json",
        "model.safetensors",
        "serving.json",
        "settings.toml",
        "tokenizer.json",
    ];
    assert_eq!(names(&out), files);
    let sums = std::fs::read_to_string(out.join("SHA256SUMS")).unwrap();
    assert_eq!(sums.lines().count(), 6);
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        let digest = Sha256::digest(std::fs::read(out.join(name)).unwrap());
        assert_eq!(lavida_store::hex(&digest), sum, "{name}");
    }
    let tensors = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        lavida_model::weights::read_safetensors(&bytes).unwrap()
    };
    let exported = tensors(&out.join("model.safetensors"));
    let weights = world.join("run/checkpoints/0000000002/g0-weights.safetensors");
    let mut trained = tensors(&weights);
    let frozen = world.join("run/frozen");
    trained.extend(tensors(&frozen.join(&names(&frozen)[0])));
    assert_eq!(
        exported.keys().collect::<Vec<_>>(),
        trained.keys().collect::<Vec<_>>()
    );
    for (name, tensor) in &exported {
        assert_eq!(Some(tensor), trained.get(name), "{name}"); // nothing is LoRA here, so nothing is merged
    }
    world.run(&args).refused(2, &["exported", "already exists"]);
}

//! What is no file in the place of one: refused and named, where reading it would wait for ever or take all memory.

use std::{os::unix::fs::symlink, path::Path, process::Command, time::Duration};

use crate::support::{Ran, TINY, World, names};

/// Nothing that is tried here takes so many looks, a minute, unless it waits for ever.
const LOOKS: usize = 3000;
const PAUSE: Duration = Duration::from_millis(20);

/// Puts something there that is no file, in the place of whatever was.
fn lay(path: &Path, kind: &str) {
    let _ = std::fs::remove_file(path); // it may be new
    if kind == "pipe" {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    } else {
        symlink(kind, path).unwrap();
    }
}

/// Runs the program to its end, which comes.
#[track_caller]
fn ends(world: &World, args: &[&str]) -> Ran {
    let mut command = world.lavida(args);
    let output = command.stdin(std::process::Stdio::null());
    let output = output.stdout(std::process::Stdio::piped());
    let mut process = output.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let ended = (0..LOOKS).any(|_| {
        std::thread::sleep(PAUSE);
        process.try_wait().unwrap().is_some()
    });
    if !ended {
        process.kill().unwrap();
        panic!("still running: {}", args.join(" "));
    }
    Ran(process.wait_with_output().unwrap())
}

const KINDS: [(&str, &str); 2] = [("pipe", "a pipe"), ("/dev/zero", "a device")];

#[test]
fn settings_and_tokenizers_that_are_no_files_are_refused_and_named() {
    let world = World::new();
    let train = ["train", "--data", "shards/coco", "--out", "run", "--config"];
    for (kind, words) in KINDS {
        lay(&world.join("mine.toml"), kind);
        ends(&world, &[&train[..], &["mine.toml"]].concat()).refused(2, &["mine.toml", words]);
        lay(&world.join("words.json"), kind);
        let words_of = format!("model.tokenizer={}", world.join("words.json").display());
        let more = [TINY, "--set", &words_of];
        ends(&world, &[&train[..], &more].concat()).refused(2, &["words.json", words]);
    }
    std::fs::write(world.join("base.toml"), "extends = \"mine.toml\"\n").unwrap();
    let based = [&train[..], &["base.toml"]].concat();
    ends(&world, &based).refused(2, &["base.toml: extends", "mine.toml", "a device"]);
    assert!(!world.join("run").exists());
}

#[test]
fn frames_and_videos_that_are_no_files_are_refused_and_named() {
    let world = World::new();
    let run = world.trained();
    let frames = world.join("frames");
    std::fs::create_dir(&frames).unwrap();
    let predict = |video: &str| {
        let args = [
            "predict",
            "--checkpoint",
            run,
            "--categories",
            "red",
            "--out",
            "scored",
        ];
        ends(&world, &[&args[..], &["--video", video]].concat())
    };
    for (kind, words) in KINDS {
        lay(&frames.join("001.png"), kind);
        predict("frames").refused(2, &["001.png", words]);
        lay(&world.join("video.mp4"), kind);
        predict("video.mp4").refused(2, &["video.mp4", words]);
    }
    lay(&frames.join("001.png"), "nowhere.png");
    predict("frames").refused(2, &["001.png"]);
    assert!(!world.join("scored").exists());
}

#[test]
fn a_manifest_or_a_checkpoint_that_is_no_file_is_refused_and_named() {
    let world = World::new();
    let run = world.trained();
    let checkpoint = world.join("run/checkpoints/0000000002");
    let weights = checkpoint.join("g0-weights.safetensors");
    let eval = ["eval", "--checkpoint", run, "--data", "shards/ucsd-ped"];
    for (kind, words) in KINDS {
        lay(&weights, kind);
        ends(&world, &eval).refused(2, &["g0-weights.safetensors", words]);
    }
    for (kind, words) in KINDS {
        lay(&world.join("shards/ucsd-ped/_manifest.json"), kind);
        ends(&world, &eval).refused(2, &["_manifest.json", words]);
    }
}

#[test]
fn an_export_whose_files_are_none_is_no_export() {
    let world = World::new();
    let run = world.trained();
    world
        .run(&["export", "--checkpoint", run, "--out", "exported"])
        .succeeded();
    let import = ["import", "--lavida", "exported", "--out", "imported"];
    for (kind, _) in KINDS {
        lay(&world.join("exported/model.safetensors"), kind);
        let ran = ends(&world, &import);
        assert!(
            matches!(ran.0.status.code(), Some(2..=4)),
            "{}",
            ran.stderr()
        );
        assert!(
            ran.stderr().contains("model.safetensors"),
            "{}",
            ran.stderr()
        );
    }
    assert!(!names(world.path()).contains(&"imported".to_owned()));
}

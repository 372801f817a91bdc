//! Bad input ends with its own message and exit code, and leaves nothing half done.

use std::path::{Path, PathBuf};

use crate::support::{TINY, World, finish, names};

/// A train command on data that is never opened.
fn settings_refused(args: &[&str], words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_lavida"))
        .current_dir(folder.path())
        .args(["train", "--data", "nowhere", "--out", "run"])
        .args(args)
        .output()
        .unwrap();
    crate::support::Ran(output).refused(2, words);
    assert_eq!(crate::support::names(folder.path()), [""; 0]);
}

#[test]
fn a_misspelt_settings_key_is_refused_with_the_nearest_known_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    let text = std::fs::read_to_string(TINY).unwrap();
    std::fs::write(&file, text.replace("keep_ratio", "kep_ratio")).unwrap();
    let file = file.to_str().unwrap();
    settings_refused(
        &["--config", file],
        &[file, "compression.kep_ratio", "`compression.keep_ratio`"],
    );
}

#[test]
fn an_unknown_key_to_set_is_refused() {
    let args = ["--config", TINY, "--set", "train.stepz=3"];
    settings_refused(&args, &["train.stepz", "`train.steps`"]);
}

#[test]
fn a_settings_file_that_is_not_there_is_named() {
    settings_refused(
        &["--config", "nothing.toml"],
        &["nothing.toml", "settings file"],
    );
}

#[test]
fn an_unknown_embedded_settings_name_is_refused_with_those_that_exist() {
    settings_refused(
        &["--config", "embedded:huge"],
        &["embedded:huge", "embedded:tiny"],
    );
}

#[test]
fn data_that_is_not_there_is_named() {
    settings_refused(&["--config", TINY], &["nowhere"]);
}

#[test]
fn a_run_that_would_train_nothing_is_refused_and_nothing_is_written() {
    let world = World::new();
    let planned = world.run(&["check", "--config", TINY, "--json"]).json();
    let modules = planned["modules"].as_array().unwrap().iter();
    let names = modules.map(|module| module["name"].as_str().unwrap());
    let frozen: Vec<String> = names
        .map(|name| format!("train.policy.\"{name}\"=frozen"))
        .collect();
    assert!(!frozen.is_empty());
    let frozen: Vec<&str> = frozen.iter().map(String::as_str).collect();
    finish(world.train("run", &frozen)).refused(2, &["train.policy", "all of them frozen"]);
    let mut led = world.train("run", &frozen);
    led.args(["--listen", "127.0.0.1:0"]);
    finish(led).refused(2, &["train.policy"]);
    assert!(!world.join("run").exists());
}

#[test]
fn an_empty_category_list_is_refused() {
    let world = World::new();
    for list in ["", " , "] {
        let args = [
            "predict",
            "--checkpoint",
            "run",
            "--video",
            "x.mp4",
            "--categories",
            list,
        ];
        let ran = world.run(&[&args[..], &["--out", "scored"]].concat());
        ran.refused(2, &["--categories", "at least one category"]);
        let args = [
            "eval",
            "--checkpoint",
            "run",
            "--data",
            "shards/ucsd-ped",
            "--json",
        ];
        let ran = world.run(&[&args[..], &["--categories", list]].concat());
        ran.refused(2, &["--categories", "at least one category"]);
    }
    assert!(!world.join("scored").exists());
}

#[test]
fn a_checkpoint_that_lacks_a_file_or_holds_a_cut_one_is_damage_and_the_file_is_named() {
    let world = World::new();
    let run = world.trained();
    let weights = world.join("run/checkpoints/0000000002/g0-weights.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    let eval = ["eval", "--checkpoint", run, "--data", "shards/ucsd-ped"];
    let export = ["export", "--checkpoint", run, "--out", "exported"];
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    world
        .run(&eval)
        .refused(3, &["g0-weights.safetensors", "bytes"]);
    std::fs::remove_file(&weights).unwrap();
    world
        .run(&eval)
        .refused(3, &["g0-weights.safetensors", "no file"]);
    world
        .run(&export)
        .refused(3, &["g0-weights.safetensors", "no file"]);
    finish(world.train(run, &[])).refused(3, &["g0-weights.safetensors", "no file"]);
    assert!(!world.join("exported").exists());
}

#[test]
fn a_run_without_a_checkpoint_is_no_checkpoint() {
    let world = World::new();
    let args = [
        "eval",
        "--checkpoint",
        "nowhere",
        "--data",
        "shards/ucsd-ped",
    ];
    world
        .run(&args)
        .refused(2, &["nowhere", "a run or a checkpoint"]);
}

fn shard(world: &World, dataset: &str) -> PathBuf {
    let folder = world.join("shards").join(dataset).join("data");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut shards = files.filter(|path| path.extension().is_some_and(|e| e == "parquet"));
    shards.next().unwrap()
}

#[test]
fn a_byte_flipped_in_a_shard_ends_training_as_damage_and_the_shard_is_named() {
    let world = World::new();
    let shard = shard(&world, "coco");
    let mut bytes = std::fs::read(&shard).unwrap();
    let middle = bytes.len() / 2; // among the pictures
    bytes[middle] ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    let name = shard.file_name().unwrap().to_str().unwrap();
    finish(world.train("run", &[])).refused(3, &[name]);
    assert!(!world.join("run/checkpoints").exists());
}

#[test]
fn an_evaluation_set_is_no_training_data() {
    let world = World::new();
    let args = [
        "train",
        "--config",
        TINY,
        "--out",
        "run",
        "--data",
        "shards/ucsd-ped",
    ];
    world.run(&args).refused(2, &["ucsd-ped", "evaluation"]);
    assert!(!world.join("run").exists());
}

#[test]
fn a_folder_that_holds_a_run_of_other_settings_or_data_is_refused_and_kept() {
    let world = World::new();
    let run = world.trained();
    let settings = std::fs::read(world.join("run/settings.toml")).unwrap();
    let metrics = std::fs::read(world.join("run/metrics.jsonl")).unwrap();
    let other = ["optimizer.learning_rate=0.5"];
    finish(world.train(run, &other)).refused(2, &["optimizer.learning_rate", "found 0.5"]);
    finish(world.train(run, &["seed=9"])).refused(2, &["seed: expected 44", "found 9"]);
    let args = [
        "train",
        "--config",
        TINY,
        "--out",
        run,
        "--data",
        "shards/coco",
    ];
    world.run(&args).refused(2, &["data the run began with"]);
    assert_eq!(
        std::fs::read(world.join("run/settings.toml")).unwrap(),
        settings
    );
    assert_eq!(
        std::fs::read(world.join("run/metrics.jsonl")).unwrap(),
        metrics
    );
}

#[test]
fn what_is_no_video_is_refused() {
    let world = World::new();
    let run = world.trained();
    std::fs::write(world.join("notes.mp4"), "not a video").unwrap();
    std::fs::create_dir(world.join("empty")).unwrap();
    for video in ["notes.mp4", "empty", "nowhere.mp4"] {
        let args = [
            "predict",
            "--checkpoint",
            run,
            "--video",
            video,
            "--categories",
            "car",
        ];
        let ran = world.run(&[&args[..], &["--out", "scored"]].concat());
        ran.refused(2, &[video]);
        assert!(!world.join("scored").exists(), "{video}");
    }
}

#[test]
fn a_copy_of_a_run_has_all_it_needs_and_a_file_of_frozen_weights_that_is_gone_or_changed_is_named()
{
    let world = World::new();
    let run = world.trained();
    let copy = |from: &Path, to: &Path| {
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .args([from, to])
            .status();
        assert!(copied.unwrap().success());
    };
    copy(&world.join(run), &world.join("elsewhere"));
    std::fs::remove_dir_all(world.join(run)).unwrap();
    let verify = ["inspect", "--checkpoint", "elsewhere", "--verify", "--json"];
    assert_eq!(world.run(&verify).json()["verified"], true);

    let frozen = world.join("elsewhere/frozen");
    let frozen = frozen.join(&names(&frozen)[0]);
    let mut bytes = std::fs::read(&frozen).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&frozen, bytes).unwrap();
    let both = ["elsewhere/frozen/", "checkpoints/0000000002/manifest.json"];
    world.run(&verify).refused(3, &both);
    std::fs::remove_file(&frozen).unwrap();
    let export = ["export", "--checkpoint", "elsewhere", "--out", "exported"];
    for args in [&verify[..], &export] {
        world
            .run(args)
            .refused(3, &[&both[..], &["no file"]].concat());
    }
    finish(world.train("elsewhere", &[])).refused(3, &both);
}

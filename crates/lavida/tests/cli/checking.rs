//! `lavida check`: what would stop a run is found, told, and is the exit code; nothing is left behind.

use std::net::TcpListener;

use serde_json::Value;

use crate::{
    checking_join::check_join,
    support::{Ran, TINY, World, finish, names},
};

/// The checks of a document by name: whether each is well, and what is said of it.
pub fn checks(ran: &Ran) -> Vec<(String, Option<bool>, String)> {
    let document: Value = serde_json::from_str(ran.stdout()).unwrap();
    let checks = document["checks"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    checks
        .map(|check| {
            (
                text(&check["name"]),
                check["ok"].as_bool(),
                text(&check["detail"]),
            )
        })
        .collect()
}

#[track_caller]
pub fn check_says(ran: &Ran, name: &str, ok: Option<bool>, words: &[&str]) {
    let all = checks(ran);
    let found = all.iter().find(|(found, ..)| found == name);
    let (_, found_ok, detail) = found.unwrap_or_else(|| panic!("no {name} in {all:?}"));
    assert_eq!(*found_ok, ok, "{name}: {detail}");
    for word in words {
        assert!(detail.contains(word), "no {word:?} in {name}: {detail}");
    }
}

pub fn check(world: &World, more: &[&str]) -> Ran {
    world.run(&[&["check", "--config", TINY, "--json"], more].concat())
}

#[test]
fn a_run_that_can_begin_passes_every_check_and_nothing_is_left() {
    let world = World::new();
    world
        .run(&[
            "cluster",
            "certs",
            "--out",
            "certs",
            "--name",
            "localhost,127.0.0.1",
        ])
        .succeeded();
    let ran = check(
        &world,
        &[
            "--data",
            "shards/coco",
            "--data",
            "shards/mevis",
            "--out",
            "run",
            "--listen",
            "127.0.0.1:0",
            "--certs",
            "certs/localhost",
        ],
    )
    .succeeded();
    let expected = [
        "settings",
        "training",
        "workers",
        "device",
        "memory",
        "vocabularies",
        "data",
        "store",
        "run",
        "certificates",
        "listen",
    ];
    let found: Vec<String> = checks(&ran).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(found, expected);
    check_says(&ran, "data", Some(true), &["in 2 datasets"]);
    check_says(&ran, "store", Some(true), &["refuses a key that is taken"]);
    check_says(
        &ran,
        "certificates",
        Some(true),
        &["localhost, 127.0.0.1", "364 days left"],
    );
    check_says(&ran, "memory", Some(true), &["GiB are needed"]);
    assert!(!world.join("run").exists());

    // The table says the same to a person.
    let ran = world
        .run(&["check", "--config", TINY, "--out", "run"])
        .succeeded();
    for line in ["  ok       store ", "  ok       workers "] {
        assert!(ran.stdout().contains(line), "{}", ran.stdout());
    }
}

#[test]
fn every_failed_check_is_told_and_the_exit_code_is_the_largest_of_theirs() {
    let world = World::new();
    std::fs::write(world.join("file"), "").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let settings = [
        "--set",
        "train.global_batch=12",
        "--set",
        "train.microbatch=4",
    ];

    let ran = check(&world, &[&["--listen", &at][..], &settings].concat());
    assert_eq!(ran.0.status.code(), Some(2), "{}", ran.stderr());
    assert!(
        ran.stderr().contains("1 of 7 checks failed"),
        "{}",
        ran.stderr()
    );
    check_says(&ran, "workers", Some(true), &["1, 3 workers"]);
    check_says(&ran, "listen", Some(false), &[&at]);
    let refused = [&settings[..], &["--set", "cluster.workers=2"]].concat();
    let uneven = world.run(&[&["check", "--config", TINY][..], &refused].concat());
    uneven.refused(2, &["cluster.workers", "0 or one of 1, 3", "found 2"]);

    let ran = check(
        &world,
        &[
            "--out",
            "file/run",
            "--data",
            "shards/nowhere",
            "--listen",
            "0.0.0.0:0",
        ],
    );
    assert_eq!(ran.0.status.code(), Some(2), "{}", ran.stderr());
    check_says(
        &ran,
        "store",
        Some(false),
        &["file/run", "expected a folder"],
    );
    check_says(&ran, "data", Some(false), &["nowhere"]);
    check_says(&ran, "listen", Some(false), &["certificates"]);
    check_says(&ran, "memory", Some(true), &[]);

    // Bad input is 2, a coordinator that is not there 4.
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let more = ["--data", "shards/nowhere"];
    let ran = check_join(&world, &nobody, Some("of this test"), &more);
    assert_eq!(ran.0.status.code(), Some(4), "{}", ran.stderr());
    check_says(&ran, "data", Some(false), &["nowhere"]);
    check_says(&ran, "join", Some(false), &[&nobody]);
}

#[test]
fn a_run_of_other_settings_or_data_in_the_same_place_is_found() {
    let world = World::new();
    let run = world.trained();
    let data = ["--data", "shards/coco", "--data", "shards/mevis"];
    let of_run = [
        "train.global_batch=4",
        "train.microbatch=2",
        "optimizer.warmup_steps=2",
    ];
    let checked = |data: &[&str], more: &[&str]| {
        let set = of_run.iter().chain(more).flat_map(|value| ["--set", value]);
        let args: Vec<&str> = data
            .iter()
            .copied()
            .chain(["--out", run])
            .chain(set)
            .collect();
        check(&world, &args)
    };
    let goes_on = checked(&data, &["train.steps=9"]);
    check_says(
        &goes_on,
        "run",
        Some(true),
        &["goes on from the checkpoint of step 2"],
    );
    let done = checked(&data, &["train.steps=2"]);
    check_says(&done, "run", Some(true), &["nothing to do"]);
    let other = checked(&data, &["optimizer.learning_rate=0.5"]);
    assert_eq!(other.0.status.code(), Some(2), "{}", other.stderr());
    check_says(
        &other,
        "run",
        Some(false),
        &["optimizer.learning_rate", "found 0.5"],
    );
    let other = checked(&data[..2], &[]);
    check_says(&other, "run", Some(false), &["data the run began with"]);
    let without = checked(&[], &["seed=9"]);
    check_says(&without, "run", Some(false), &["seed: expected 44"]);
    std::fs::create_dir(world.join("mine")).unwrap();
    std::fs::write(world.join("mine/settings.toml"), "# mine").unwrap();
    let mine = check(&world, &["--out", "mine"]);
    check_says(
        &mine,
        "run",
        Some(false),
        &["mine/settings.toml", "another file"],
    );
    assert_eq!(names(&world.join("mine")), ["settings.toml"]);
}

#[test]
fn weights_to_start_from_that_are_damaged_or_of_another_model_are_found() {
    let world = World::new();
    let run = world.trained();
    let initial = format!("train.initial={run}");
    let more = |set: &str| check(&world, &["--set", &initial, "--set", set]);
    check_says(
        &more("seed=1"),
        "weights",
        Some(true),
        &["whole, and of this model"],
    );
    let other = "model.language.intermediate_size=96";
    let wider = more(other);
    assert_eq!(wider.0.status.code(), Some(2), "{}", wider.stderr());
    let words = ["model.language.intermediate_size: expected", "found 96"];
    check_says(&wider, "weights", Some(false), &words);
    finish(world.train("other", &[&initial, other])).refused(2, &words);
    assert!(!world.join("other").exists());
    let weights = world.join("run/checkpoints/0000000002/g0-weights.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let damaged = more("seed=1");
    assert_eq!(damaged.0.status.code(), Some(3), "{}", damaged.stderr());
    check_says(
        &damaged,
        "weights",
        Some(false),
        &["g0-weights.safetensors"],
    );
}

#[test]
fn weights_to_start_from_are_opened_as_a_run_opens_them() {
    let world = World::new();
    let run = world.trained();
    let args = ["export", "--checkpoint", run, "--out", "exported"];
    world.run(&args).succeeded();
    let initial = |uri: &str| {
        let setting = format!("train.initial=\"{uri}\"");
        check(&world, &["--out", "next", "--set", &setting])
    };
    let ran = initial("exported").succeeded();
    check_says(&ran, "weights", Some(true), &["exported"]);
    let ran = initial(run).succeeded();
    check_says(&ran, "weights", Some(true), &["checkpoints/0000000002"]);

    let weights = world.join("exported/model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() - 1]).unwrap();
    let ran = initial("exported");
    assert_eq!(ran.0.status.code(), Some(3), "{}", ran.stderr());
    check_says(
        &ran,
        "weights",
        Some(false),
        &["model.safetensors", "SHA-256"],
    );
    let ran = initial("nowhere");
    assert_eq!(ran.0.status.code(), Some(2), "{}", ran.stderr());
    check_says(&ran, "weights", Some(false), &["nowhere", "checkpoint"]);
}

#[test]
fn a_device_of_another_name_fails_every_command_and_those_that_are_here_are_named() {
    let world = World::new();
    for name in ["gpu", "CPU", "rocket:0", "cpu:1"] {
        let setting = format!("device=\"{name}\"");
        let ran = check(&world, &["--set", &setting]);
        assert_eq!(ran.0.status.code(), Some(2), "{}", ran.stderr());
        check_says(
            &ran,
            "device",
            Some(false),
            &[name, "cpu", "lavida devices"],
        );
    }
    let run = world.trained();
    let words = ["device", "gpu", "cpu", "`lavida devices`"];
    let video = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../lavida-data/tests/fixtures/moving_square.mp4"
    );
    let video = ["--video", video, "--categories", "fire"];
    for command in [
        &["eval", "--data", "shards/ucsd-ped"][..],
        &[&["predict", "--out", "scored"][..], &video].concat(),
        &["export", "--out", "exported"],
    ] {
        let with = [command, &["--checkpoint", run, "--set", "device=gpu"]].concat();
        world.run(&with).refused(2, &words);
    }
    for more in [&[][..], &["--listen", "127.0.0.1:0"], &["--local", "2"]] {
        let mut command = world.train("other", &["device=gpu"]);
        command.args(more);
        finish(command).refused(2, &words);
    }
    for out in ["scored", "exported", "other"] {
        assert!(!world.join(out).exists(), "{out}");
    }
}

#[test]
fn a_device_that_this_build_lacks_fails_and_one_that_only_this_machine_lacks_is_unknown() {
    let world = World::new();
    let builds = [
        ("cuda:999", "cuda", cfg!(feature = "cuda")),
        ("wgpu:999", "wgpu", cfg!(feature = "wgpu")),
        ("cubecl-cpu", "cubecl-cpu", cfg!(feature = "cubecl-cpu")),
    ];
    for (name, feature, is_built) in builds {
        let ran = check(&world, &["--set", &format!("device=\"{name}\"")]);
        let (ok, code, said) = match (is_built, name) {
            (false, _) => (Some(false), 2, format!("--features {feature}")),
            (true, "cubecl-cpu") => (Some(true), 0, name.to_owned()),
            (true, _) => (None, 0, "here".to_owned()),
        };
        assert_eq!(ran.0.status.code(), Some(code), "{}", ran.stderr());
        check_says(&ran, "device", ok, &[name, &said]);
        if code == 0 && ok.is_none() {
            let command = world.train("other", &[&format!("device=\"{name}\"")]);
            finish(command).refused(2, &[name, "here"]);
            check_says(&ran, "memory", None, &[]);
        }
    }
}

#[test]
fn devices_are_listed_as_settings_name_them() {
    let world = World::new();
    let document = world.run(&["devices", "--json"]).json();
    let devices = document["devices"].as_array().unwrap();
    assert_eq!(devices[0]["name"], "cpu");
    assert!(devices[0]["free_bytes"].as_u64() > Some(0), "{document:#}");
    for device in devices {
        let name = device["name"].as_str().unwrap();
        if device["usable"] == true {
            let ran = check(&world, &["--set", &format!("device=\"{name}\"")]).succeeded();
            check_says(&ran, "device", Some(true), &[name]);
        } else {
            assert!(device["reason"].is_string(), "{device}");
        }
    }
    let not_built = document["not_built"].as_array().unwrap();
    assert_eq!(
        not_built.is_empty(),
        cfg!(all(
            feature = "cuda",
            feature = "wgpu",
            feature = "cubecl-cpu"
        ))
    );

    let ran = world.run(&["devices"]).succeeded();
    assert!(ran.stdout().contains("\n  cpu "), "{}", ran.stdout());
    for kind in not_built {
        let words = format!("needs --features {}", kind["feature"].as_str().unwrap());
        assert!(ran.stdout().contains(&words), "{}", ran.stdout());
    }
}

#[test]
fn memory_that_is_too_small_fails() {
    let world = World::new();
    let too_large = [
        "--set",
        "train.microbatch=32768",
        "--set",
        "train.global_batch=32768",
    ];
    let ran = check(&world, &too_large);
    assert_eq!(ran.0.status.code(), Some(2), "{}", ran.stderr());
    check_says(&ran, "memory", Some(false), &["GiB free on cpu"]);
    assert_eq!(names(&world.join("shards")).len(), 3);
}

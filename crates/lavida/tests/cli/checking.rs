//! `lavida check`: what would stop a run is found, told, and is the exit code; nothing is left behind.

use std::net::TcpListener;

use serde_json::Value;

#[cfg(unix)]
use crate::process::Process;
use crate::support::{Ran, TINY, World, finish, names};

/// The checks of a document by name: whether each is well, and what is said of it.
fn checks(ran: &Ran) -> Vec<(String, Option<bool>, String)> {
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
fn check_says(ran: &Ran, name: &str, ok: Option<bool>, words: &[&str]) {
    let all = checks(ran);
    let found = all.iter().find(|(found, ..)| found == name);
    let (_, found_ok, detail) = found.unwrap_or_else(|| panic!("no {name} in {all:?}"));
    assert_eq!(*found_ok, ok, "{name}: {detail}");
    for word in words {
        assert!(detail.contains(word), "no {word:?} in {name}: {detail}");
    }
}

fn check(world: &World, more: &[&str]) -> Ran {
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
    uneven.refused(2, &["--set cluster.workers", "0 or one of 1, 3", "found 2"]);

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
    assert_eq!(ran.0.status.code(), Some(4), "{}", ran.stderr());
    check_says(
        &ran,
        "store",
        Some(false),
        &["file/run", "cannot be read or written"],
    );
    check_says(&ran, "data", Some(false), &["nowhere"]);
    check_says(&ran, "listen", Some(false), &["certificates"]);
    check_says(&ran, "memory", Some(true), &[]);
}

/// A check of the way to a coordinator.
fn check_join(world: &World, at: &str, cookie: Option<&str>, more: &[&str]) -> Ran {
    let args = ["check", "--config", TINY, "--json", "--join", at];
    let mut command = world.lavida(&[&args[..], more].concat());
    command.env_remove(COOKIE);
    command.envs(cookie.map(|cookie| (COOKIE, cookie)));
    finish(command)
}

const COOKIE: &str = "LAVIDA_COOKIE";

#[test]
fn a_coordinator_that_is_not_there_or_speaks_otherwise_is_told() {
    let world = World::new();
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let ran = check_join(&world, &nobody, Some("ours"), &[]);
    assert_eq!(ran.0.status.code(), Some(4), "{}", ran.stderr());
    check_says(&ran, "join", Some(false), &[&nobody, "refused"]);

    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = other.local_addr().unwrap().to_string();
    let answers = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = other.accept().unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
    });
    let ran = check_join(&world, &at, Some("ours"), &[]);
    answers.join().unwrap();
    assert_eq!(ran.0.status.code(), Some(4), "{}", ran.stderr());
    check_says(&ran, "join", Some(false), &["does not speak this protocol"]);
}

/// A coordinator of the program, and where it listens.
#[cfg(unix)]
fn coordinator(world: &World, more: &[&str]) -> (Process, String) {
    let mut command = world.train("led", &["cluster.workers=1"]);
    command.args(["--listen", "127.0.0.1:0"]).args(more);
    command.env(COOKIE, "ours");
    let mut process = Process::start(command);
    let rest = process.tells("train: coordinator at ");
    let at = rest.split(';').next().unwrap().to_owned();
    (process, at)
}

#[cfg(unix)]
#[test]
fn a_coordinator_is_joined_in_earnest_so_another_cookie_fails() {
    let world = World::new();
    let (leads, at) = coordinator(&world, &[]);
    let ran = check_join(&world, &at, Some("ours"), &[]).succeeded();
    check_says(&ran, "join", Some(true), &[&at, "loopback"]);

    let ran = check_join(&world, &at, Some("theirs"), &[]);
    assert_eq!(ran.0.status.code(), Some(2), "{}", ran.stderr());
    check_says(&ran, "join", Some(false), &["cookie", &at]);
    let ran = check_join(&world, &at, None, &[]);
    assert_eq!(ran.0.status.code(), Some(2), "{}", ran.stderr());
    check_says(&ran, "join", Some(false), &[COOKIE]);
    // Whoever only asks is no member that was lost.
    assert!(!leads.has_said("lost"), "{}", leads.said());
}

#[cfg(unix)]
#[test]
fn certificates_of_another_authority_fail_before_a_worker_waits_for_ever() {
    let world = World::new();
    for out in ["ours", "theirs"] {
        let args = ["cluster", "certs", "--out", out, "--name", "127.0.0.1"];
        world.run(&args).succeeded();
    }
    let (_leads, at) = coordinator(&world, &["--certs", "ours/127.0.0.1"]);
    let ran = check_join(&world, &at, None, &["--certs", "ours/127.0.0.1"]).succeeded();
    check_says(&ran, "join", Some(true), &[&at, "mutual TLS"]);

    let ran = check_join(&world, &at, None, &["--certs", "theirs/127.0.0.1"]);
    assert_eq!(ran.0.status.code(), Some(2), "{}", ran.stderr());
    check_says(&ran, "certificates", Some(true), &["127.0.0.1"]);
    check_says(&ran, "join", Some(false), &[&at, "another authority"]);

    // The coordinator's authority is trusted, and its cookie is another.
    std::fs::write(world.join("ours/127.0.0.1/cookie"), "theirs").unwrap();
    let ran = check_join(&world, &at, None, &["--certs", "ours/127.0.0.1"]);
    assert_eq!(ran.0.status.code(), Some(2), "{}", ran.stderr());
    check_says(&ran, "join", Some(false), &["cookie", &at]);
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

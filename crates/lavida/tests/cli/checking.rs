//! `lavida check`: what would stop a run is found, told, and is the exit code; nothing is left behind.

use std::net::TcpListener;

use serde_json::Value;

use crate::support::{Ran, TINY, World, names};

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
        "--set",
        "cluster.workers=2",
        "--set",
        "cluster.min_workers=2",
    ];

    let ran = check(&world, &[&["--listen", &at][..], &settings].concat());
    assert_eq!(ran.0.status.code(), Some(2), "{}", ran.stderr());
    assert!(
        ran.stderr().contains("2 of 5 checks failed"),
        "{}",
        ran.stderr()
    );
    check_says(
        &ran,
        "workers",
        Some(false),
        &["one of 1, 3", "found 2 to 2"],
    );
    check_says(&ran, "listen", Some(false), &[&at]);

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
    check_says(&ran, "store", Some(false), &["file/run", "unavailable"]);
    check_says(&ran, "data", Some(false), &["nowhere"]);
    check_says(&ran, "listen", Some(false), &["certificates"]);
    check_says(&ran, "memory", Some(true), &[]);
}

#[test]
fn a_coordinator_that_is_not_there_or_speaks_otherwise_is_told() {
    let world = World::new();
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let ran = check(&world, &["--join", &nobody]);
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
    let ran = check(&world, &["--join", &at]);
    answers.join().unwrap();
    assert_eq!(ran.0.status.code(), Some(4), "{}", ran.stderr());
    check_says(&ran, "join", Some(false), &["does not speak this protocol"]);
}

#[test]
fn a_device_that_this_build_does_not_know_is_unknown_and_fails_nothing() {
    let world = World::new();
    let ran = check(&world, &["--set", "device=\"rocket:0\""]).succeeded();
    check_says(&ran, "device", None, &["rocket:0"]);
    check_says(&ran, "memory", None, &["rocket"]);
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

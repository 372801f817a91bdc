//! `lavida check --join` and what a worker does whom its coordinator refuses.

use std::net::TcpListener;

use crate::{
    checking::check_says,
    process::Process,
    support::{Ran, TINY, World, finish},
};

/// A check of the way to a coordinator.
pub fn check_join(world: &World, at: &str, cookie: Option<&str>, more: &[&str]) -> Ran {
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
fn coordinator(world: &World, more: &[&str]) -> (Process, String) {
    let mut command = world.train("led", &["cluster.workers=1"]);
    command.args(["--listen", "127.0.0.1:0"]).args(more);
    command.env(COOKIE, "ours");
    let mut process = Process::start(command);
    let rest = process.tells("train: coordinator at ");
    let at = rest.split(';').next().unwrap().to_owned();
    (process, at)
}

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
    // A worker of another cookie does not try for ever.
    let mut worker = world.lavida(&["train", "--join", &at]);
    worker.env(COOKIE, "theirs");
    finish(worker).refused(2, &["cookie for the coordinator", &at]);
    // Whoever only asks is no member that was lost.
    assert!(!leads.has_said("lost"), "{}", leads.said());
}

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

    let worker = world.lavida(&["train", "--join", &at, "--certs", "theirs/127.0.0.1"]);
    finish(worker).refused(2, &["certificates", &at, "another authority"]);

    // The coordinator's authority is trusted, and its cookie is another.
    std::fs::write(world.join("ours/127.0.0.1/cookie"), "theirs").unwrap();
    let ran = check_join(&world, &at, None, &["--certs", "ours/127.0.0.1"]);
    assert_eq!(ran.0.status.code(), Some(2), "{}", ran.stderr());
    check_says(&ran, "join", Some(false), &["cookie", &at]);
}

//! What scripts and shells rely on: exit codes, pipes that close, names that are no stores, and files that are the user's.

use std::process::Stdio;

use crate::{
    bucket::{Bucket, Fault},
    process::{Process, run, until},
    support::{Ran, TINY, World, finish, names},
};

const VIDEO: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../lavida-data/tests/fixtures/moving_square.mp4"
);
/// A folder of five frames in a [`World`].
const SHORT_VIDEO: &str = "world/ucsd-ped/UCSDped2/Test/Test001";

#[test]
fn training_that_diverges_has_a_code_of_its_own_and_says_what_may_help() {
    let world = World::new();
    // Everything trains, and every weight moves by the rate at every step, whatever its gradient.
    let settings = [
        "train.steps=100",
        "optimizer.learning_rate=10",
        "optimizer.warmup_steps=0",
        "optimizer.beta1=0",
        "optimizer.beta2=0",
        "optimizer.epsilon=1e-30",
        "optimizer.weight_decay=0",
        "optimizer.clip_norm=0",
        "train.policy.visual=full",
        "train.policy.assist_clf=full",
        "train.policy.\"seg_model.image_encoder\"=full",
    ];
    let ran = finish(world.train("run", &settings));
    assert!(!ran.stderr().contains("internal error"), "{}", ran.stderr());
    let words = [
        "step ",
        "training has diverged",
        "optimizer.learning_rate",
        "optimizer.warmup_steps",
    ];
    ran.refused(7, &words);
}

/// Runs the program with a standard output that nobody reads, or with one that is full.
fn into(world: &World, args: &[&str], to: impl Into<Stdio>) -> Ran {
    let mut command = world.lavida(args);
    let child = command.stdout(to).stderr(Stdio::piped()).spawn().unwrap();
    Ran(child.wait_with_output().unwrap())
}

#[test]
#[cfg(target_os = "linux")]
fn a_closed_pipe_is_quiet_and_a_full_disk_names_standard_output() {
    let world = World::new();
    let run = world.trained();
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let full = || {
        std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    for args in [
        &["inspect", "--data", "shards/coco"][..],
        &["inspect", "--checkpoint", run, "--json"],
        &["check", "--config", "embedded:tiny", "--json"],
        &["--help"],
        &["train", "--help"],
        &["--version"],
    ] {
        let ran = into(&world, args, closed());
        assert_eq!(ran.0.status.code(), Some(0), "{args:?}: {}", ran.stderr());
        assert_eq!(ran.stderr(), "", "{args:?}");
        let ran = into(&world, args, full());
        assert_eq!(ran.0.status.code(), Some(4), "{args:?}: {}", ran.stderr());
        let words = "standard output: cannot be written";
        assert!(ran.stderr().contains(words), "{args:?}: {}", ran.stderr());
        assert!(!ran.stderr().contains("store"), "{}", ran.stderr());
    }
    // Checks that fail keep their code.
    let failing = [
        "check",
        "--config",
        "embedded:tiny",
        "--data",
        "nowhere",
        "--json",
    ];
    assert_eq!(into(&world, &failing, closed()).0.status.code(), Some(2));
    // A run whose words nobody hears ends as any other.
    let mut deaf = world.train("deaf", &["train.steps=1"]);
    deaf.env("LAVIDA_LOG", "debug").stderr(closed());
    assert_eq!(deaf.status().unwrap().code(), Some(0));
    assert!(
        world
            .join("deaf/checkpoints/0000000001/manifest.json")
            .exists()
    );
}

#[test]
fn what_is_no_store_is_not_called_one() {
    let world = World::new();
    let run = world.trained();
    std::fs::write(world.join("file"), "in the way").unwrap();
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let draw = "shards/coco";
    let id = world.run(&["inspect", "--data", draw, "--sample", "?"]);
    let (_, ids) = id.stderr().split_once("such as ").unwrap();
    let id = ids.split([',', '\n']).next().unwrap().trim();
    let predict = [
        "predict",
        "--checkpoint",
        run,
        "--video",
        SHORT_VIDEO,
        "--categories",
        "red",
    ];
    for (args, code, words) in [
        (
            &["train", "--join", "nowhere.invalid:7700"][..],
            4,
            "coordinator at nowhere.invalid:7700: unreachable",
        ),
        (&["train", "--join", "nowhere"], 2, "HOST:PORT"),
        (&["train", "--join", "127.0.0.1:99999"], 2, "HOST:PORT"),
        (
            &[
                "inspect",
                "--data",
                draw,
                "--sample",
                id,
                "--out",
                "file/draw.png",
            ],
            2,
            "file/draw.png: expected a folder, found a file in its place",
        ),
        (
            &[
                "inspect",
                "--data",
                draw,
                "--sample",
                id,
                "--out",
                "/dev/full",
            ],
            4,
            "/dev/full: cannot be written",
        ),
        (
            &["bench", "compression", "--out", "file/bench"],
            2,
            "expected a folder",
        ),
        (
            &["cluster", "certs", "--out", "file/certs", "--name", "a"],
            2,
            "expected a folder",
        ),
        (
            &["export", "--checkpoint", run, "--out", "file"],
            2,
            "file/SHA256SUMS: expected a folder",
        ),
        (&["man", "--out", "file"], 2, "expected a folder"),
    ] {
        let mut command = world.lavida(args);
        command.env("LAVIDA_COOKIE", "of this test");
        let ran = finish(command);
        assert!(
            !ran.stderr().contains("store"),
            "{args:?}: {}",
            ran.stderr()
        );
        ran.refused(code, &[words]);
    }
    for address in ["nowhere.invalid:7700", nobody.as_str()] {
        let mut command = world.lavida(&["check", "--config", "embedded:tiny", "--join", address]);
        command.env("LAVIDA_COOKIE", "of this test");
        let ran = finish(command);
        assert_eq!(ran.0.status.code(), Some(4), "{}", ran.stderr());
        let line = ran
            .stdout()
            .lines()
            .find(|line| line.contains("unreachable"));
        let line = line.unwrap_or_else(|| panic!("{}", ran.stdout()));
        assert!(!line.contains("store"), "{line}");
    }
    // Nor is a folder of this machine.
    let ran = finish(world.train("file/run", &[]));
    assert!(!ran.stderr().contains("store"), "{}", ran.stderr());
    ran.refused(2, &["file/run", "expected a folder"]);
    world
        .run(&[&predict[..], &["--out", "file/scored"]].concat())
        .refused(2, &["file/scored"]);
    world
        .run(&["inspect", "--data", "shards/coco/_manifest.json"])
        .refused(2, &["_manifest.json", "expected a folder"]);
}

#[test]
fn no_folder_is_named_by_a_scheme() {
    let world = World::new();
    let run = world.trained();
    let before = names(world.path());
    for args in [
        &["demo", "--out", "s3://bucket/demo"][..],
        &[
            "inspect",
            "--data",
            "shards/coco",
            "--out",
            "s3://bucket/draw.png",
        ],
        &["bench", "compression", "--out", "gs://bucket/bench"],
        &[
            "cluster",
            "certs",
            "--out",
            "az://bucket/certs",
            "--name",
            "a",
        ],
    ] {
        world
            .run(args)
            .refused(2, &["--out", "a path of this machine"]);
    }
    // These two write to the store that the scheme names; of one in memory nothing is left when the process ends.
    let export = ["export", "--checkpoint", run, "--out", "memory://exported"];
    world.run(&export).succeeded();
    let predict = [
        "predict",
        "--checkpoint",
        run,
        "--video",
        SHORT_VIDEO,
        "--categories",
        "red",
    ];
    world
        .run(&[&predict[..], &["--out", "memory://scored"]].concat())
        .succeeded();
    world
        .run(&[&predict[..], &["--out", "ftp://host/scored"]].concat())
        .refused(2, &["scheme ftp://"]);
    let folder = world.join("by-uri");
    let uri = format!("file://{}", folder.display());
    world
        .run(&[&predict[..], &["--out", &uri]].concat())
        .succeeded();
    assert!(folder.join("scores.json").exists());
    let after = names(world.path());
    let new: Vec<_> = after.iter().filter(|name| !before.contains(name)).collect();
    assert_eq!(new, ["by-uri"]);
}

#[test]
fn pictures_of_an_earlier_video_go_and_the_users_files_stay() {
    let world = World::new();
    let run = world.trained();
    let predict = |video: &str, out: &str, pictures: &str| {
        let args = [
            "predict",
            "--checkpoint",
            run,
            "--video",
            video,
            "--categories",
            "red circle",
        ];
        world.run(&[&args[..], &["--out", out, "--pictures", pictures]].concat())
    };
    let pictures = |out: &str| -> Vec<String> {
        let names = names(&world.join(out)).into_iter();
        names.filter(|name| name.starts_with("frame-")).collect()
    };
    predict(VIDEO, "scored", "12").succeeded();
    let first = pictures("scored");
    assert_eq!(first.len(), 12);
    for name in ["mine.txt", "frame-mine.png", "frame-999999.png"] {
        std::fs::write(world.join("scored").join(name), "mine").unwrap();
    }
    // Changed since, so it is not predict's any more; the short video has no such frame.
    let changed = first.last().unwrap();
    std::fs::write(world.join("scored").join(changed), "mine").unwrap();
    predict(SHORT_VIDEO, "scored", "2").succeeded();
    predict(SHORT_VIDEO, "fresh", "2").succeeded();
    let mut expected = [&pictures("fresh")[..], std::slice::from_ref(changed)].concat();
    expected.extend(["frame-999999.png", "frame-mine.png"].map(str::to_owned));
    expected.sort();
    assert_eq!(pictures("scored"), expected);
    for name in ["mine.txt", "frame-mine.png", "frame-999999.png", changed] {
        assert_eq!(
            std::fs::read(world.join("scored").join(name)).unwrap(),
            b"mine"
        );
    }
    for name in ["scores.json", "scores.svg"] {
        let read = |out: &str| std::fs::read(world.join(out).join(name)).unwrap();
        assert_eq!(read("scored"), read("fresh"), "{name}");
    }
    // A file of the user's under a name that predict needs is kept, and that is said before anything is scored.
    std::fs::create_dir(world.join("taken")).unwrap();
    std::fs::write(world.join("taken/scores.json"), "mine").unwrap();
    predict(SHORT_VIDEO, "taken", "2").refused(2, &["taken/scores.json", "another --out"]);
    assert_eq!(names(&world.join("taken")), ["scores.json"]);
    assert_eq!(
        std::fs::read(world.join("taken/scores.json")).unwrap(),
        b"mine"
    );
}

#[test]
fn the_demo_removes_no_export_that_it_did_not_write() {
    let world = World::new();
    let run = world.trained();
    let out = world.join("demo");
    std::fs::create_dir_all(out.join("export")).unwrap();
    std::fs::write(out.join("export/mine.txt"), "mine").unwrap();
    world
        .run(&["demo", "--out", "demo"])
        .refused(2, &["demo/export", "another --out"]);
    assert_eq!(names(&out), ["export"]);
    assert_eq!(names(&out.join("export")), ["mine.txt"]);
    // Not even a whole one, when it is another command's.
    world
        .run(&["export", "--checkpoint", run, "--out", "other/export"])
        .succeeded();
    let exported = names(&world.join("other/export"));
    world
        .run(&["demo", "--out", "other"])
        .refused(2, &["other/export", "another --out"]);
    assert_eq!(names(&world.join("other/export")), exported);
}

#[test]
fn an_export_writes_over_no_file_of_the_users() {
    let world = World::new();
    let run = world.trained();
    std::fs::create_dir(world.join("exported")).unwrap();
    std::fs::write(world.join("exported/config.json"), "mine").unwrap();
    let export = ["export", "--checkpoint", run, "--out", "exported"];
    world
        .run(&export)
        .refused(2, &["exported/config.json", "already exists"]);
    assert_eq!(names(&world.join("exported")), ["config.json"]);
    std::fs::rename(
        world.join("exported/config.json"),
        world.join("exported/mine.json"),
    )
    .unwrap();
    world.run(&export).succeeded();
    assert!(names(&world.join("exported")).contains(&"mine.json".to_owned()));
}

/// A command that is stopped while it waits for a bucket: so it is at work for sure.
fn check_stopped(world: &World, bucket: &Bucket, args: &[&str], signal: &str) {
    bucket.fails(Fault::Hangs, "hangs");
    let mut command = world.lavida(args);
    command.envs(bucket.env());
    let mut process = Process::start(command);
    until("a request", || (bucket.n_failed() > 0).then_some(()));
    run("kill", &[signal, &process.id().to_string()]).unwrap();
    process.ends_with(6);
    assert!(
        process.has_said("stopped before the end"),
        "{}",
        process.said()
    );
    bucket.mends();
}

#[test]
fn a_command_that_is_stopped_before_its_end_has_the_exit_code_of_that() {
    let world = World::new();
    let run = world.trained();
    let export = ["export", "--checkpoint", run, "--out", "exported"];
    world.run(&export).succeeded();
    let bucket = Bucket::serve(&world.join("store"));
    let before = names(world.path());
    let hangs = bucket.uri("hangs");
    let tiny = ["--config", "embedded:tiny", "--data", &hangs];
    let train = [&["train", "--out", "other"], &tiny[..]].concat();
    let check = [&["check"], &tiny[..]].concat();
    let import = ["import", "--lavida", "exported", "--out", &hangs];
    for signal in ["-INT", "-TERM"] {
        check_stopped(&world, &bucket, &train, signal);
    }
    check_stopped(&world, &bucket, &check, "-TERM");
    check_stopped(&world, &bucket, &import, "-TERM");
    assert_eq!(names(world.path()), before);
    // Training of the first half, evaluation of a whole: `&&` does not go on.
    let mut process = Process::start(world.lavida(&["bench", "compression", "--out", "bench"]));
    until("the bench", || world.join("bench").exists().then_some(()));
    process.terminate();
    process.ends_with(6);
    // What says that what comes there is the bench's.
    assert_eq!(names(&world.join("bench")), [".lavida-bench.json"]);
}

#[test]
fn a_run_does_not_write_over_settings_that_no_run_wrote() {
    let world = World::new();
    let mine = format!("# my own\n{}", std::fs::read_to_string(TINY).unwrap());
    std::fs::create_dir(world.join("mine")).unwrap();
    std::fs::write(world.join("mine/settings.toml"), &mine).unwrap();
    let ran = finish(world.train("mine", &[]));
    ran.refused(2, &["settings.toml", "written over", "another --out"]);
    let kept = std::fs::read_to_string(world.join("mine/settings.toml")).unwrap();
    assert_eq!(kept, mine);
    // A run that was killed before its first record left one that is its own.
    let run = world.trained();
    for left in ["metrics.jsonl", "checkpoints"] {
        let path = world.join(run).join(left);
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.unwrap();
    }
    finish(world.train(run, &["train.steps=2"])).succeeded();
}

#[test]
fn settings_with_which_nothing_trains_are_refused_by_check_and_train() {
    let world = World::new();
    let frozen: Vec<String> = ["visual", "assist_clf", "model", "lm_head", "seg_model"]
        .map(|part| format!("train.policy.{part}=frozen"))
        .to_vec();
    let frozen: Vec<&str> = frozen.iter().map(String::as_str).collect();
    let ran = finish(world.train("run", &frozen));
    ran.refused(2, &["train.policy", "part that trains"]);
    let mut check = vec!["check", "--config", TINY];
    for setting in &frozen {
        check.extend(["--set", setting]);
    }
    let ran = world.run(&check);
    assert_eq!(ran.0.status.code(), Some(2), "{}", ran.stderr());
    assert!(ran.stdout().contains("train.policy"), "{}", ran.stdout());
}

//! What scripts rely on: exit codes, one JSON document on standard output, words on standard error.

use serde_json::Value;

use crate::support::{CocoSource, Folder, is_committed, lavida_dataset, outcome};

fn build_args<'a>(source: &'a CocoSource, out: &'a str, paths: &'a [String; 2]) -> Vec<&'a str> {
    source.write();
    vec![
        "build",
        "coco",
        "--annotations",
        &paths[0],
        "--images",
        &paths[1],
        "--out",
        out,
    ]
}

fn paths(source: &CocoSource) -> [String; 2] {
    ["instances.json", "images"].map(|name| source.folder.join(name).display().to_string())
}

#[test]
fn build_prints_one_json_document_and_its_words_go_to_standard_error() {
    let mut source = CocoSource::new(3);
    source.annotate(0, 3, serde_json::json!([[1, 2, 3, 4]]));
    let (out, paths) = (Folder::new(), paths(&source));
    let uri = out.join("dataset").display().to_string();
    let mut args = build_args(&source, &uri, &paths);
    args.extend(["--json", "--dataset-name", "my-coco"]);
    let output = lavida_dataset(&args);
    let (code, errors) = outcome(&output);
    assert_eq!(code, 0, "{errors}");
    let summary: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    let keys: Vec<&String> = summary.as_object().expect("an object").keys().collect();
    let expected = [
        "dataset", "split", "samples", "frames", "objects", "shards", "bytes", "manifest",
        "skipped",
    ];
    assert_eq!(keys, expected);
    assert_eq!(
        (&summary["dataset"], &summary["samples"]),
        (&"my-coco".into(), &3.into())
    );
    assert_eq!(
        summary["skipped"],
        serde_json::json!({ "polygon_too_short": 1 })
    );
    assert!(errors.contains("my-coco train: 3 samples"), "{errors}");
    assert!(
        errors.contains("annotation 1003: polygon 0: expected at least 3 points, found 2 points"),
        "{errors}"
    );

    let verified = lavida_dataset(&["verify", &uri]);
    assert_eq!(outcome(&verified).0, 0, "{}", outcome(&verified).1);
    let stats = lavida_dataset(&["stats", &uri, "--json"]);
    let stats: Value = serde_json::from_slice(&stats.stdout).expect("one JSON document");
    assert_eq!(
        (&stats["categories"]["car"], &stats["sizes"]["32×24"]),
        (&3.into(), &3.into())
    );
    let picture = out.join("sheet.png").display().to_string();
    let preview = lavida_dataset(&["preview", &uri, "--out", &picture, "--samples", "2"]);
    assert_eq!(outcome(&preview).0, 0, "{}", outcome(&preview).1);
    assert_eq!(&std::fs::read(&picture).expect("a picture")[1..4], b"PNG");
}

#[test]
fn a_dry_run_counts_and_writes_nothing() {
    let source = CocoSource::new(3);
    let (out, paths) = (Folder::new(), paths(&source));
    let uri = out.join("dataset").display().to_string();
    let mut args = build_args(&source, &uri, &paths);
    args.extend(["--dry-run", "--json"]);
    let output = lavida_dataset(&args);
    assert_eq!(outcome(&output).0, 0, "{}", outcome(&output).1);
    let summary: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(
        (&summary["samples"], &summary["manifest"]),
        (&3.into(), &Value::Null)
    );
    assert!(!out.join("dataset").exists());
}

#[test]
fn every_failure_has_the_exit_code_of_its_kind() {
    let source = CocoSource::new(1);
    let (out, paths) = (Folder::new(), paths(&source));
    let uri = out.join("dataset").display().to_string();
    let args = build_args(&source, &uri, &paths);
    let check = |args: &[&str], expected: i32, word: &str| {
        let output = lavida_dataset(args);
        let (code, errors) = outcome(&output);
        assert_eq!(code, expected, "{args:?}: {errors}");
        assert!(errors.contains(word), "`{word}` is not in: {errors}");
        assert!(output.stdout.is_empty(), "{args:?}");
    };
    check(&args[..args.len() - 2], 2, "--out");
    check(&["build", "imagenet", "--root", "."], 2, "imagenet");
    check(&["verify", &uri], 2, "_manifest.json");
    check(&args, 0, "1 samples");
    check(&args, 2, "already exists");

    let file = out.write("a-file", b"in the way").display().to_string();
    let below_a_file = format!("{file}/dataset");
    let mut blocked = args.clone();
    *blocked.last_mut().expect("--out") = &below_a_file;
    check(&blocked, 2, "a-file");

    let shard = std::fs::read_dir(out.join("dataset/data"))
        .expect("list")
        .map(|entry| entry.expect("entry").path())
        .find(|path| path.extension().is_some_and(|ending| ending == "parquet"))
        .expect("a shard");
    let mut bytes = std::fs::read(&shard).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&shard, bytes).expect("write");
    check(
        &["verify", &uri],
        3,
        &shard.file_name().expect("a name").to_string_lossy(),
    );

    std::fs::write(&paths[0], "{\"images\": [").expect("write");
    let other = out.join("other").display().to_string();
    let mut cut = args.clone();
    *cut.last_mut().expect("--out") = &other;
    check(&cut, 3, "line 1 column");
    assert!(!is_committed(&out.join("other")));
}

/// Runs the program and looks for a code and words on standard error.
fn ends_with(args: &[&str], expected: i32, words: &str) {
    let (code, said) = outcome(&lavida_dataset(args));
    assert_eq!(code, expected, "{said}");
    assert!(said.contains(words), "{words}: {said}");
}

#[test]
fn a_dry_run_needs_no_place_and_a_build_does() {
    let source = CocoSource::new(6);
    let paths = paths(&source);
    let with = build_args(&source, "nowhere", &paths);
    let at = with.iter().position(|arg| *arg == "--out").expect("--out");
    let without: Vec<&str> = [&with[..at], &with[at + 2..]].concat();
    ends_with(&without, 2, "--out <URI>");
    let dry = [&without[..], &["--dry-run", "--json"]].concat();
    ends_with(&dry, 0, "dry run, nothing written");
}

#[test]
fn the_parts_of_a_dataset_are_verified_by_tasks_of_their_own() {
    let source = CocoSource::new(6);
    let (out, paths) = (Folder::new(), paths(&source));
    let uri = out.join("dataset").display().to_string();
    ends_with(&build_args(&source, &uri, &paths), 0, "samples");
    let shards = |part: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_lavida-dataset"))
            .args(["verify", &uri, "--shard", part, "--json"])
            .output()
            .expect("runs");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (report["shards"].as_u64(), report["samples"].as_u64())
    };
    assert_eq!(shards("1/2"), (Some(1), Some(6)), "of one shard");
    assert_eq!(shards("2/2"), (Some(0), Some(0)));
    for part in ["0/2", "3/2", "1", "a/b", "1/0"] {
        ends_with(&["verify", &uri, "--shard", part], 2, "such as 2/8");
    }
}

/// `ulimit -f` caps the size of a file as a full disk would; the signal is ignored so that the write itself fails.
#[cfg(unix)]
#[test]
fn a_file_that_cannot_grow_ends_the_build_with_exit_code_4_and_no_dataset() {
    let source = CocoSource::new(60);
    let (out, paths) = (Folder::new(), paths(&source));
    let uri = out.join("dataset").display().to_string();
    let output = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_lavida-dataset"))
        .args(build_args(&source, &uri, &paths))
        .output()
        .expect("runs");
    let (code, errors) = outcome(&output);
    assert_eq!(code, 4, "{errors}");
    assert!(errors.contains("cannot be read or written"), "{errors}");
    assert!(!is_committed(&out.join("dataset")));
    let whole = lavida_dataset(&build_args(&source, &uri, &paths));
    assert_eq!(outcome(&whole).0, 0, "{}", outcome(&whole).1);
}

/// Standard output of `lavida-dataset`, closed by its reader at once or full.
#[cfg(target_os = "linux")]
fn into(args: &[&str], to: std::process::Stdio) -> (i32, String) {
    let child = std::process::Command::new(env!("CARGO_BIN_EXE_lavida-dataset"))
        .args(args)
        .stdout(to)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    outcome(&child.wait_with_output().expect("ends"))
}

#[cfg(target_os = "linux")]
#[test]
fn a_closed_pipe_is_quiet_and_a_full_disk_names_standard_output() {
    let source = CocoSource::new(3);
    let (out, paths) = (Folder::new(), paths(&source));
    let uri = out.join("dataset").display().to_string();
    let build = build_args(&source, &uri, &paths);
    assert_eq!(outcome(&lavida_dataset(&build)).0, 0);
    let full = || {
        std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .expect("opens")
    };
    for args in [
        &["stats", &uri, "--json"][..],
        &["stats", &uri],
        &["verify", &uri],
        &["--help"],
        &["--version"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let (code, said) = into(args, writer.into());
        assert_eq!((code, said.as_str()), (0, ""), "{args:?}");
        let (code, said) = into(args, full().into());
        assert_eq!(code, 4, "{args:?}: {said}");
        assert!(
            said.contains("standard output: cannot be written"),
            "{args:?}: {said}"
        );
        assert!(!said.contains("store"), "{said}");
    }
    // Nobody hears what is said, and the build is whole nevertheless.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let other = out.join("other").display().to_string();
    let mut again = build;
    *again.last_mut().expect("--out") = &other;
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_lavida-dataset"))
        .args(&again)
        .env("LAVIDA_LOG", "trace")
        .stderr(writer)
        .status();
    assert_eq!(status.expect("runs").code(), Some(0));
    assert!(is_committed(&out.join("other")));
}

#[test]
fn a_folder_is_never_named_by_a_scheme_and_a_file_is_no_store() {
    let source = CocoSource::new(1);
    let (out, paths) = (Folder::new(), paths(&source));
    let uri = out.join("dataset").display().to_string();
    assert_eq!(
        outcome(&lavida_dataset(&build_args(&source, &uri, &paths))).0,
        0
    );
    for args in [
        &["preview", &uri, "--out", "s3://bucket/sheet.png"][..],
        &["synth", "--out", "gs://bucket/world"],
    ] {
        let ran = std::process::Command::new(env!("CARGO_BIN_EXE_lavida-dataset"))
            .args(args)
            .current_dir(out.path())
            .output()
            .expect("runs");
        let (code, said) = outcome(&ran);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("a path of this machine"), "{said}");
    }
    let left = std::fs::read_dir(out.path()).expect("list");
    assert_eq!(left.count(), 1, "nothing but the dataset");
    let file = out.write("a-file", b"in the way").display().to_string();
    let sheet = format!("{file}/sheet.png");
    let (code, said) = outcome(&lavida_dataset(&["preview", &uri, "--out", &sheet]));
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("a file in its place") && !said.contains("store"),
        "{said}"
    );
    // A place that takes nothing now may take it later.
    let (code, said) = outcome(&lavida_dataset(&["preview", &uri, "--out", "/dev/full"]));
    assert_eq!(code, 4, "{said}");
    assert!(said.contains("cannot be written"), "{said}");
}

#[test]
fn help_names_the_sources_that_work() {
    let output = lavida_dataset(&["build", "--help"]);
    insta::assert_snapshot!(String::from_utf8_lossy(&output.stdout));
}

#[test]
fn without_a_terminal_progress_is_plain_lines_and_errors_name_the_program() {
    let source = CocoSource::new(3);
    let (out, paths) = (Folder::new(), paths(&source));
    let uri = out.join("dataset").display().to_string();
    let check = |args: &[&str], lines: &[&str]| {
        let output = lavida_dataset(args);
        let (code, errors) = outcome(&output);
        assert_eq!(code, 0, "{errors}");
        assert!(!errors.contains(['\x1b', '\r']), "{errors:?}");
        for line in lines {
            let found = errors.lines().any(|said| said.starts_with(line));
            assert!(found, "no {line:?} in {errors}");
        }
    };
    let lines = [
        "coco: input 1/3  33 %  1 samples",
        "coco: input 3/3  100 %  3 samples",
    ];
    check(&build_args(&source, &uri, &paths), &lines);
    check(&["verify", &uri], &[]);
    let (code, errors) = outcome(&lavida_dataset(&["verify", "ftp://host/x"]));
    assert_eq!(code, 2);
    assert!(
        errors.starts_with("lavida-dataset: ftp://host/x"),
        "{errors}"
    );
}

#[test]
fn a_log_filter_that_is_none_is_refused_as_in_the_other_program() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_lavida-dataset"))
        .args(["verify", "."])
        .env("LAVIDA_LOG", "inof")
        .output()
        .expect("runs");
    let (code, errors) = outcome(&output);
    assert_eq!(code, 2);
    assert!(
        errors.starts_with("lavida-dataset: LAVIDA_LOG") && errors.contains("\"inof\""),
        "{errors}"
    );
}

#[test]
fn completions_man_pages_and_versions_are_as_in_the_other_program() {
    let out = Folder::new();
    let script = lavida_dataset(&["completions", "zsh"]);
    assert!(String::from_utf8_lossy(&script.stdout).contains("annotations"));
    // What bash looks a command up by is what it completes by.
    let script = lavida_dataset(&["completions", "bash"]);
    let script = String::from_utf8_lossy(&script.stdout).into_owned();
    let set = script.lines().filter_map(|line| {
        let name = line.trim().strip_prefix("cmd=\"")?.strip_suffix('"')?;
        (!name.is_empty()).then_some(name)
    });
    let mut n_commands = 0;
    for name in set {
        assert!(script.contains(&format!("\n        {name})\n")), "{name}");
        n_commands += 1;
    }
    assert!(n_commands > 12, "{script}");
    assert_eq!(
        outcome(&lavida_dataset(&["man", "--out", "s3://b/man"])).0,
        2
    );
    let man = out.join("man1").display().to_string();
    assert_eq!(outcome(&lavida_dataset(&["man", "--out", &man])).0, 0);
    assert!(out.join("man1/lavida-dataset-build-coco.1").exists());
    let version = format!("lavida-dataset {}\n", env!("CARGO_PKG_VERSION"));
    let short = lavida_dataset(&["-V"]);
    assert_eq!(String::from_utf8_lossy(&short.stdout), version);
    let long = lavida_dataset(&["--version"]);
    let long = String::from_utf8_lossy(&long.stdout).into_owned();
    assert!(long.starts_with(&format!("{version}commit: ")), "{long}");
    let help = lavida_dataset(&["--help"]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for words in ["Exit codes:", "LAVIDA_LOG", "Examples:"] {
        assert!(help.contains(words), "{help}");
    }
}

#[test]
fn every_command_says_its_version() {
    let of_program = lavida_dataset(&["-V"]);
    assert_eq!(outcome(&of_program).0, 0);
    let number = String::from_utf8_lossy(&of_program.stdout);
    let number = number.split_whitespace().last().expect("a number");
    for command in [
        &["build"][..],
        &["build", "coco"],
        &["verify"],
        &["synth"],
        &["man"],
    ] {
        let ran = lavida_dataset(&[command, &["-V"]].concat());
        assert_eq!(outcome(&ran).0, 0, "{command:?}");
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(said.trim_end().ends_with(number), "{command:?}: {said}");
    }
}

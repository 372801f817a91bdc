//! What a command would write over and did not write itself stays, and is refused before anything is done.

use std::path::Path;

use crate::{
    importing::Towers,
    support::{World, names, run_in},
};

/// Every file below a folder with its bytes.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(&name);
        if path.is_dir() {
            let below = files(&path).into_iter();
            found.extend(below.map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
        } else {
            found.push((name, std::fs::read(&path).unwrap()));
        }
    }
    found
}

/// Runs a command over a file of the user's in its place, and over its own.
#[track_caller]
fn check(args: &[&str], out: &str, taken: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(out).join(taken);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "mine").unwrap();
    let before = files(folder.path());
    run_in(folder.path(), args).refused(2, &[taken]);
    assert_eq!(files(folder.path()), before);
    std::fs::rename(&file, folder.path().join("kept")).unwrap();
    run_in(folder.path(), args).succeeded();
    run_in(folder.path(), args).succeeded(); // over its own
    std::fs::write(&file, "changed since").unwrap();
    run_in(folder.path(), args).refused(2, &[taken]);
    assert_eq!(std::fs::read(&file).unwrap(), b"changed since");
}

#[test]
fn man_pages_replace_man_pages_and_nothing_else() {
    check(&["man", "--out", "man1"], "man1", "lavida-train.1");
}

#[test]
fn a_bench_replaces_its_own_figures_and_nothing_else() {
    let args = ["bench", "compression", "--out", "figures"];
    let small = [
        "--models",
        "tiny",
        "--keep-ratios",
        "1",
        "--visual-tokens",
        "40",
        "--steps",
        "1",
    ];
    check(&[&args[..], &small].concat(), "figures", "compression.json");
}

#[test]
fn an_import_writes_over_no_file_of_the_users() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("first")).unwrap();
    let mine = folder.path().join("first/g0-tokenizer.json");
    std::fs::write(&mine, "mine").unwrap();
    let ran = Towers::default().import(folder.path(), "first", &[]);
    ran.refused(2, &["first/g0-tokenizer.json", "already exists"]);
    assert_eq!(names(&folder.path().join("first")), ["g0-tokenizer.json"]);
    assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
    std::fs::rename(&mine, folder.path().join("first/mine.json")).unwrap();
    Towers::default()
        .import(folder.path(), "first", &[])
        .succeeded();
    assert!(!folder.path().join("first/.lavida-checkpoint").exists());
}

#[test]
fn a_prediction_does_not_go_into_the_folder_that_its_frames_come_from() {
    let world = World::new();
    let run = world.trained();
    let frames = "world/ucsd-ped/UCSDped2/Test/Test001";
    let before = files(&world.join(frames));
    std::os::unix::fs::symlink(world.join(frames), world.join("same")).unwrap();
    let predict = |out: &str| {
        let args = [
            "predict",
            "--checkpoint",
            run,
            "--video",
            frames,
            "--categories",
            "red",
        ];
        world.run(&[&args[..], &["--out", out]].concat())
    };
    for out in [
        frames,
        "world/ucsd-ped/../ucsd-ped/UCSDped2/Test/Test001/",
        "same",
    ] {
        predict(out).refused(2, &["--out", "another folder"]);
        assert_eq!(files(&world.join(frames)), before);
    }
    predict("scored").succeeded();
}

#[test]
fn pages_are_titled_by_the_whole_command_and_sourced_by_the_program() {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), &["man", "--out", "man1"]).succeeded();
    let version = env!("CARGO_PKG_VERSION");
    for page in ["lavida", "lavida-train", "lavida-cluster-certs"] {
        let path = folder.path().join(format!("man1/{page}.1"));
        let text = std::fs::read_to_string(path).unwrap();
        let title = text.lines().find(|line| line.starts_with(".TH")).unwrap();
        assert_eq!(
            title.trim_end(),
            format!(".TH {page} 1  \"lavida {version}\""),
            "{page}"
        );
    }
}

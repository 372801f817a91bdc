//! `lavida score`: anybody's files in, every convention out; and `lavida eval` by the rules of a benchmark.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::support::{World, run_in};

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn figure(document: &Value, variant: usize, name: &str) -> f64 {
    let value = &document["variants"][variant]["figures"][name]["value"];
    value
        .as_f64()
        .unwrap_or_else(|| panic!("no {name}: {value}"))
}

#[test]
fn scores_in_any_form_give_the_same_figures() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(
        folder,
        &[
            ("truth/a.txt", "0\n0\n1\n1\n"),
            ("truth/b.txt", "0\n0\n0\n"),
            ("lines/a.txt", "0.1\n0.4\n0.35\n0.8\n"),
            ("lines/b.txt", "0.2\n0.3\n0.6\n"),
            (
                "all.json",
                r#"{"a": [0.1, 0.4, 0.35, 0.8], "b": [0.2, 0.3, 0.6]}"#,
            ),
            (
                "all.csv",
                "video,frame,score\nb,0,0.2\nb,1,0.3\nb,2,0.6\na,0,0.1\na,1,0.4\na,2,0.35\na,3,0.8\n",
            ),
            ("list.txt", "0.1\n0.4\n0.35\n0.8\n0.2\n0.3\n0.6\n"),
        ],
    );
    let score = |scores: &str| {
        let args = [
            "score",
            "--scores",
            scores,
            "--truth",
            "truth",
            "--smoothing",
            "0",
            "--json",
        ];
        run_in(folder, &args).json()
    };
    let first = score("lines");
    // Of ten pairs of an anomalous and a normal frame eight are won; scikit-learn says the same.
    assert_eq!(figure(&first, 0, "frame_auc"), 0.8);
    assert_eq!(figure(&first, 0, "video_auc"), 0.75);
    assert_eq!(first["normal_videos"], 1);
    let padded = &first["variants"][0]["figures"]["video_auc_padded"];
    let artefact = padded["artefact"].as_str().unwrap();
    assert!(
        artefact.contains("1 of 2 videos have one label"),
        "{artefact}"
    );
    for other in ["all.json", "all.csv", "list.txt"] {
        assert_eq!(score(other)["variants"], first["variants"], "{other}");
    }
    let names: Vec<&Value> = first["conventions"].as_array().unwrap().iter().collect();
    assert!(
        names
            .iter()
            .all(|convention| convention["used_by"].is_string())
    );
}

#[test]
fn the_table_marks_what_the_artificial_frames_make_and_names_who_uses_what() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(
        folder,
        &[
            ("scores.json", r#"{"a": [-3, 2.5], "b": [1, 1]}"#),
            ("truth.json", r#"{"a": [0, 1], "b": [1, 1]}"#),
        ],
    );
    let args = [
        "score",
        "--scores",
        "scores.json",
        "--truth",
        "truth.json",
        "--out",
        "all.json",
    ];
    let ran = run_in(folder, &args).succeeded();
    for words in [
        "* macro AUC, padded: 1 of 2 videos have one label",
        "scores reach from -3.0000 to 2.5000",
        "roc_auc_score",
        "compute_auc_score.py",
        "LAVIDA's reference",
        "each video min-max",
        "smoothed, σ 15 frames",
    ] {
        assert!(
            ran.stdout().contains(words),
            "no {words:?} in\n{}",
            ran.stdout()
        );
    }
    let document: Value =
        serde_json::from_slice(&fs::read(folder.join("all.json")).unwrap()).unwrap();
    assert_eq!(document["variants"].as_array().unwrap().len(), 6);
}

#[test]
fn files_that_do_not_meet_the_truth_are_refused_and_nothing_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(
        folder,
        &[
            ("truth.json", r#"{"a": [0, 1], "b": [0, 0]}"#),
            ("short.json", r#"{"a": [0.5], "b": [0, 0]}"#),
            ("other.json", r#"{"c": [0.5, 0.5]}"#),
            ("nan.csv", "video,score\na,0.5\na,nan\n"),
        ],
    );
    let refused = |scores: &str, words: &[&str]| {
        let args = ["score", "--scores", scores, "--truth", "truth.json"];
        run_in(folder, &args).refused(2, words);
    };
    refused("short.json", &["video a", "2", "--repeat"]);
    refused("other.json", &["c"]);
    refused("nan.csv", &["nan.csv", "video a, frame 1", "finite"]);
    refused("missing.json", &["missing.json", "nothing there"]);
    let args = ["score", "--scores", "truth.json", "--truth", "short.json"];
    run_in(folder, &args).refused(2, &["short.json", "0 or 1", "0.5"]);
}

#[test]
fn boxes_and_tracks_give_the_region_criteria() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(
        folder,
        &[
            ("truth/v.txt", "0\n1\n1\n0\n"),
            ("scores/v.txt", "0.1\n0.9\n0.8\n0.2\n"),
            ("tracks/v.txt", "0,1,10,10,19,19\n0,2,12,10,21,19\n"),
            (
                "found/v.txt",
                "1,10,10,19,19,0.9\n3,40,40,49,49,0.8\n2,12,10,21,19,0.7\n",
            ),
        ],
    );
    let args = ["score", "--scores", "scores", "--truth", "truth", "--json"];
    let more = ["--detections", "found", "--tracks", "tracks"];
    let document = run_in(folder, &[&args[..], &more].concat()).json();
    // Half of the boxes up to the false one at 1/4 of a false detection a frame, all of them from there on.
    assert_eq!(document["regions"]["rbdc"], 0.125 + 0.75);
    assert_eq!(document["regions"]["tbdc"], 1.0);
    run_in(folder, &[&args[..], &more[..2]].concat()).refused(2, &["--tracks"]);
}

fn npy(descr: &str, shape: [usize; 3], bytes: &[u8]) -> Vec<u8> {
    let [t, h, w] = shape;
    let header =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({t}, {h}, {w}), }}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(bytes);
    file
}

#[test]
fn maps_of_pixels_are_held_against_masks() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write(
        folder,
        &[("truth/v.txt", "0\n1\n"), ("scores/v.txt", "0.1\n0.9\n")],
    );
    let map: Vec<u8> = [0.1f32, 0.2, 0.3, 0.25, 0.9, 0.15, 0.2, 0.1]
        .iter()
        .flat_map(|s| s.to_le_bytes())
        .collect();
    for name in ["maps", "masks"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    fs::write(folder.join("maps/v.npy"), npy("<f4", [2, 2, 2], &map)).unwrap();
    fs::write(
        folder.join("masks/v.npy"),
        npy("|u1", [2, 2, 2], &[0, 0, 0, 0, 1, 1, 0, 0]),
    )
    .unwrap();
    let args = [
        "score",
        "--scores",
        "scores",
        "--truth",
        "truth",
        "--json",
        "--pixel-scores",
        "maps",
    ];
    let document = run_in(folder, &[&args[..], &["--pixel-truth", "masks"]].concat()).json();
    // 0.9 outranks all six normal pixels, 0.15 two of them.
    assert_eq!(document["pixels"]["pixel_auc"], 8.0 / 12.0);
    assert_eq!(document["pixels"]["pixel_auc_bound"], 0.0);
    run_in(folder, &args).refused(2, &["--pixel-truth"]);
}

#[test]
fn eval_follows_a_benchmark_in_one_word_and_its_scores_are_what_the_referee_takes() {
    let world = World::new();
    let run = world.trained();
    let args = [
        "eval",
        "--checkpoint",
        run,
        "--data",
        "shards/ucsd-ped",
        "--benchmark",
        "ucsd-ped2",
    ];
    let paper = [&args[..], &["--json", "--n-frames", "2"]].concat();
    let report = world.run(&paper).json();
    assert_eq!(report["benchmark"], "ucsd-ped2");
    let settings = &report["settings"];
    assert_eq!(settings["categories"][2], "wheelchair");
    assert_eq!(settings["reference_metrics"], true);
    assert_eq!(settings["reference_windows"], true);
    assert_eq!(settings["drop_static_patches"], true);
    assert_eq!(
        report["frames"], 8,
        "five frames a video are two windows of two, the fifth is dropped"
    );

    let fair = [
        &args[..],
        &["--protocol", "fair", "--scores", "frames.csv", "--json"],
    ]
    .concat();
    let report = world.run(&fair).json();
    assert_eq!(
        (&report["frames"], &report["settings"]["n_frames"]),
        (&10.into(), &8.into())
    );
    for truth in ["shards/ucsd-ped", "frames.csv"] {
        let args = [
            "score",
            "--scores",
            "frames.csv",
            "--truth",
            truth,
            "--json",
            "--smoothing",
            "0",
        ];
        let refereed = world.run(&args).json();
        assert_eq!(refereed["frames"], 10);
        for name in ["frame_auc", "frame_ap", "video_auc"] {
            let figure = &refereed["variants"][0]["figures"][name]["value"];
            match (figure.as_f64(), report[name].as_f64()) {
                (Some(found), Some(expected)) => {
                    assert!((found - expected).abs() < 1e-12, "{name}")
                }
                (found, expected) => assert_eq!(found, expected, "{name}"),
            }
        }
    }
    let table = world
        .run(&[&args[..], &["--protocol", "fair"]].concat())
        .succeeded();
    for words in [
        "← what is compared",
        "windows of 8 frames, 1 apart",
        "no artificial frames",
        "static patches dropped",
    ] {
        assert!(
            table.stdout().contains(words),
            "no {words:?} in\n{}",
            table.stdout()
        );
    }
    let data = ["eval", "--checkpoint", run, "--data", "shards/ucsd-ped"];
    let other = |name| [&data[..], &["--benchmark", name]].concat();
    world
        .run(&other("avenue"))
        .refused(2, &["a set named avenue", "ucsd-ped"]);
    world.run(&other("ucsd-ped1")).refused(2, &["UCSDped1/"]);
    world
        .run(&other("ped2"))
        .refused(2, &["--benchmark", "ucsd-ped2", "found ped2"]);
}

/// A thousand generated cases; `tests/golden/referee.rs` has a hundred of them with what scikit-learn says, which always run.
#[test]
#[ignore = "needs python3 with numpy, scipy and scikit-learn"]
fn a_thousand_cases_equal_scikit_learn() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/referee.py");
    let mut python = Command::new("python3");
    python
        .arg(script)
        .args(["--lavida", env!("CARGO_BIN_EXE_lavida")]);
    let ran = python.output().unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}

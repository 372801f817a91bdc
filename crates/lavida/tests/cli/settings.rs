//! `lavida settings`, and what the program says to settings that cannot be: listed, written out, refused by their key.

use serde_json::Value;

use crate::support::{Ran, TINY, run_in};

fn settings(args: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), &[&["settings"], args].concat())
}

/// The entry of a key in a document.
fn entry(document: &Value, key: &str) -> Value {
    let all = document["settings"].as_array().unwrap();
    let found = all.iter().find(|entry| entry["key"] == key);
    found.unwrap_or_else(|| panic!("no {key}")).clone()
}

#[test]
fn every_setting_is_listed_with_its_meaning_limits_and_default() {
    let ran = settings(&[]).succeeded();
    let text = ran.stdout();
    for line in [
        "[compression] Visual token compression.",
        "    Neighbours of the density estimate; of fewer tokens all are. Larger smooths",
        "    A whole number from 1 to 65536 (tokens); default 8",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "no {line:?} in\n{text}"
        );
    }
    let too_wide = text.lines().find(|line| line.chars().count() > 80);
    assert_eq!(too_wide, None, "beyond 80 columns");

    let document = settings(&["--json"]).json();
    assert_eq!(document["config"], Value::Null);
    let steps = entry(&document, "train.steps");
    assert_eq!(steps["required"], true);
    assert_eq!(steps["unit"], "steps");
    assert_eq!(steps["meaning"], "Optimizer updates in all.");
    assert_eq!(entry(&document, "cluster.patience_s")["default"], 60);
    assert_eq!(
        entry(&document, "train.recompute")["choices"][1]["name"],
        "blocks"
    );
}

#[test]
fn a_value_says_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let text = "extends = \"embedded:tiny\"\n[train]\nsteps = 3\n";
    std::fs::write(folder.path().join("mine.toml"), text).unwrap();
    let args = ["settings", "--config", "mine.toml"];
    let set = ["--set", "optimizer.beta1=0.5"];
    let ran = run_in(folder.path(), &[&args[..], &set].concat()).succeeded();
    let line = |start: &str| {
        let found = ran.stdout().lines().find(|line| line.starts_with(start));
        found
            .unwrap_or_else(|| panic!("no {start} in\n{}", ran.stdout()))
            .to_owned()
    };
    assert!(line("steps = 3 ").ends_with(" mine.toml:3"));
    assert!(line("beta1 = 0.5 ").ends_with(" --set"));
    assert!(line("beta2 = 0.99 ").contains(" embedded:tiny:"));
    assert!(line("beta2 = 0.99 ").ends_with(", extended by mine.toml"));
    assert!(line("patience_s = 60 ").ends_with(" default"));
    // Where both do not fit on a line, the next one says it.
    let policy = "policy.\"seg_model.image_encoder\" = \"frozen\"\n    from embedded:tiny:";
    assert!(ran.stdout().contains(policy), "{}", ran.stdout());

    let document = run_in(folder.path(), &[&args[..], &set, &["--json"]].concat()).json();
    let steps = entry(&document, "train.steps");
    assert_eq!(steps["value"], 3);
    assert_eq!(steps["source"]["from"], "file");
    assert_eq!(steps["source"]["line"], 3);
    assert_eq!(entry(&document, "optimizer.beta1")["source"]["from"], "set");
}

#[test]
fn a_settings_file_is_written_out_with_comments_and_loads_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tiny", "tiny-grounding", "paper"] {
        let ran = run_in(folder.path(), &["settings", "init", name]).succeeded();
        assert!(ran.stdout().starts_with("# What:"), "{}", ran.stdout());
        std::fs::write(folder.path().join("my.toml"), ran.stdout()).unwrap();
        let list = ["settings", "--json", "--config"];
        let mine = run_in(folder.path(), &[&list[..], &["my.toml"]].concat()).json();
        let shipped = format!("embedded:{name}");
        let shipped = run_in(folder.path(), &[&list[..], &[&shipped]].concat()).json();
        let values = |document: &Value| {
            let all = document["settings"].as_array().unwrap().clone();
            all.into_iter()
                .map(|entry| entry["value"].clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(values(&mine), values(&shipped), "{name}");
    }
    settings(&["init", "huge"]).refused(2, &["huge", "tiny or tiny-grounding or paper"]);
}

#[test]
fn check_and_train_refuse_a_setting_by_its_key_and_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    for (set, words) in [
        (
            "model.vision.patch_size=0",
            ["model.vision.patch_size", "a whole number from 1"],
        ),
        (
            "model.vision.patch_size=1000000000000",
            ["model.vision.patch_size", "1000000000000"],
        ),
        (
            "model.vision.num_heads=3",
            ["model.vision.num_heads", "a multiple of 12"],
        ),
        (
            "model.sam2.window_spec=[4, 3, 4, 2]",
            ["model.sam2.window_spec", "an even window"],
        ),
        (
            "model.sam2.stages=[0, 2, 2, 2]",
            ["model.sam2.stages[0]", "found 0"],
        ),
        (
            "model.language.mrope_section=[2, 3, 4]",
            ["model.language.mrope_section", "half a head"],
        ),
        (
            "model.clip_text.max_position_embeddings=1",
            ["max_position_embeddings", "found 1"],
        ),
        (
            "sampler.video_pixels=[4096, 2048]",
            ["sampler.video_pixels", "found [4096, 2048]"],
        ),
        (
            "optimizer.learning_rate=inf",
            ["optimizer.learning_rate", "found inf"],
        ),
        (
            "optimizer.weight_decay=-1",
            ["optimizer.weight_decay", "found -1"],
        ),
        ("train.losses.dice=nan", ["train.losses.dice", "found nan"]),
        ("train.steps=ten", ["train.steps", "a whole number from 1"]),
    ] {
        let args = ["--config", TINY, "--set", set];
        for command in [
            &["check"][..],
            &["train", "--data", "nowhere", "--out", "run"],
        ] {
            let ran = run_in(folder.path(), &[command, &args].concat());
            ran.refused(2, &words);
        }
    }
    assert_eq!(crate::support::names(folder.path()), [""; 0]);
}

//! Arguments that would be ignored, or that mean nothing, are refused and named.

use crate::support::{World, run_in};

#[test]
fn what_inspect_would_ignore_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |args: &[&str], words: &[&str]| {
        run_in(folder.path(), &[&["inspect"], args].concat()).refused(2, words);
    };
    let checkpoint = ["--checkpoint", "run"];
    for more in [
        &["--sample", "train/a/0"][..],
        &["--sample", "train/a/0", "--seed", "3"],
        &["--sample", "train/a/0", "--config", "embedded:tiny"],
    ] {
        refused(
            &[&checkpoint[..], more].concat(),
            &["--sample", "--checkpoint"],
        );
    }
    for more in [
        &["--out", "x.png"][..],
        &["--seed", "3"],
        &["--epoch", "1"],
        &["--config", "embedded:tiny"],
    ] {
        refused(
            &[&checkpoint[..], more].concat(),
            &[more[0], "--checkpoint"],
        );
        refused(&[&["--data", "shards"], more].concat(), &["--sample"]);
    }
    let step = ["--config", "embedded:tiny", "--step", "1"];
    refused(
        &[&checkpoint[..], &step].concat(),
        &["--config", "--checkpoint"],
    );
    let data = ["--data", "shards"];
    refused(&[&data[..], &step[2..]].concat(), &["--config"]);
    for (more, words) in [
        (&["--seed", "3"][..], ["--seed", "--sample"]),
        (&["--rank", "0"], ["--world-size", "--rank"]),
        (&["--world-size", "2"], ["--world-size", "--rank"]),
    ] {
        refused(&[&data[..], &step, more].concat(), &words);
    }
    refused(
        &["--data", "a", "--data", "b"],
        &["--data", "--step N", "a, b"],
    );
}

#[test]
fn a_category_that_is_asked_for_twice_is_refused() {
    let world = World::new();
    for list in ["a,a", "red circle, person, red circle", " a ,b,a"] {
        let eval = ["eval", "--checkpoint", "run", "--data", "shards/ucsd-ped"];
        let args = [&eval[..], &["--categories", list]].concat();
        world.run(&args).refused(2, &["--categories", "twice"]);
        let predict = [
            "predict",
            "--checkpoint",
            "run",
            "--video",
            "x",
            "--out",
            "y",
        ];
        let args = [&predict[..], &["--categories", list]].concat();
        world.run(&args).refused(2, &["--categories", "twice"]);
    }
}

#[test]
fn certificates_count_for_a_day_at_least_and_a_hundred_years_at_most() {
    let folder = tempfile::tempdir().unwrap();
    for days in ["0", "-1", "36501", "4294967295"] {
        let days = format!("--days={days}");
        let args = ["cluster", "certs", "--out", "certs", "--name", "a", &days];
        run_in(folder.path(), &args).refused(2, &["--days"]);
    }
    assert!(!folder.path().join("certs").exists());
}

#[test]
fn a_default_list_is_shown_as_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run_in(folder.path(), &["bench", "compression", "--help"]).succeeded();
    for shown in ["[default: tiny,medium]", "[default: 1,0.5,0.2,0.1]"] {
        assert!(ran.stdout().contains(shown), "{}", ran.stdout());
    }
}

#[test]
fn sizes_of_another_model_are_named_by_key_wherever_weights_are_opened() {
    let world = World::new();
    let run = world.trained();
    world
        .run(&["export", "--checkpoint", run, "--out", "exported"])
        .succeeded();
    let other = "model.language.intermediate_size=96";
    let words = ["model.language.intermediate_size: expected", "found 96"];
    let data = ["--data", "shards/ucsd-ped"];
    for args in [
        &["import", "--lavida", "exported", "--out", "again"][..],
        &[&["eval", "--checkpoint", "exported"], &data[..]].concat(),
        &[&["eval", "--checkpoint", run], &data[..]].concat(),
        &["export", "--checkpoint", run, "--out", "again"],
    ] {
        world
            .run(&[args, &["--set", other]].concat())
            .refused(2, &words);
    }
    // What no shape tells is another model too, where weights are handed on as they are.
    let heads = "model.language.num_attention_heads=2";
    let import = [
        "import", "--lavida", "exported", "--out", "again", "--set", heads,
    ];
    let ran = world.run(&import);
    assert_eq!(ran.0.status.code(), Some(2), "{}", ran.stderr());
    assert!(!world.join("again").exists());
}

//! Reading settings: layers, words of errors, and what there is to set.

use lavida_checkpoint::contents::Stage;

use super::*;

fn tiny(overrides: &[&str]) -> Result<Settings> {
    let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
    Settings::parse("tiny", embedded("tiny").unwrap(), &overrides)
}

#[track_caller]
fn refused(overrides: &[&str], words: &[&str]) {
    check_error(tiny(overrides).unwrap_err(), words);
}

#[track_caller]
fn check_error(error: Error, words: &[&str]) {
    assert_eq!(error.exit_code(), 2, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{error}: no {word}");
    }
    for serdes in [
        "u64",
        "usize",
        "f64",
        "invalid type",
        "invalid value",
        "missing field",
        "struct",
    ] {
        assert!(!error.to_string().contains(serdes), "{error}: {serdes}");
    }
}

#[test]
fn embedded_settings_are_valid_and_survive_a_round_trip() {
    for (name, text) in EMBEDDED {
        let settings = Settings::parse(name, text, &[]).unwrap();
        let again = Settings::parse(name, &settings.to_toml(), &[]).unwrap();
        assert_eq!(settings, again, "{name}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    refused(&["train.stepz=3"], &["train.stepz", "`train.steps`"]);
    refused(&["sede=3"], &["sede", "`seed`"]);
    refused(&["model.sam2.image_sise=3"], &["`model.sam2.image_size`"]);
    refused(&["learning_rate=3"], &["`optimizer.learning_rate`"]);
    refused(&["trian.steps=3"], &["--set: trian", "`train`"]);
}

#[test]
fn a_value_out_of_range_names_its_key() {
    refused(
        &["compression.keep_ratio=1.5"],
        &[
            "--set: compression.keep_ratio",
            "a number above 0 and at most 1",
            "found 1.5",
        ],
    );
    refused(
        &["train.global_batch=7"],
        &["train.global_batch", "train.microbatch = 8", "7"],
    );
    refused(
        &["train.steps=0"],
        &["train.steps", "a whole number from 1 to", "found 0"],
    );
    refused(&["train.steps"], &["section.key=value"]);
    refused(
        &["cluster.workers=-1"],
        &["a whole number from 0 to 65536", "found -1"],
    );
}

#[test]
fn a_limit_is_said_as_far_as_toml_has_numbers() {
    refused(
        &["seed=18446744073709551615"],
        &[
            "--set: seed",
            "a whole number from 0 to 9223372036854775807",
        ],
    );
}

#[test]
fn settings_that_do_not_hold_are_none_for_serde_either() {
    let text = tiny(&[]).unwrap().to_toml();
    toml::from_str::<Settings>(&text).unwrap();
    for (valid, invalid, words) in [
        ("keep_ratio = 0.5", "keep_ratio = 0.0", "(0, 1]"),
        ("steps = 1000", "steps = 0", "train.steps"),
        ("num_heads = 2", "num_heads = 3", "model."),
    ] {
        assert!(text.contains(valid), "{valid}");
        let error = toml::from_str::<Settings>(&text.replace(valid, invalid)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn workers_that_cannot_share_a_step_are_refused_by_key() {
    let batch = ["train.global_batch=12", "train.microbatch=2"];
    let with = |more: &'static [&'static str]| [&batch[..], more].concat();
    for fits in [
        &["cluster.workers=3"][..],
        &["cluster.workers=6", "cluster.min_workers=4"],
        &["cluster.min_workers=6"],
    ] {
        tiny(&with(fits)).unwrap();
    }
    refused(
        &with(&["cluster.workers=4"]),
        &["cluster.workers", "0 or one of 1, 2, 3, 6", "found 4"],
    );
    refused(
        &with(&["cluster.workers=3", "cluster.min_workers=4"]),
        &[
            "cluster.min_workers",
            "cluster.workers, which is 3",
            "found 4",
        ],
    );
    refused(
        &with(&["cluster.min_workers=7"]),
        &["cluster.min_workers", "at most 6", "found 7"],
    );
}

#[test]
fn a_value_of_another_kind_is_told_in_the_users_words() {
    refused(
        &["train.steps=ten"],
        &["train.steps", "a whole number", "found \"ten\""],
    );
    refused(&["train.steps=1.5"], &["a whole number", "found 1.5"]);
    refused(
        &["train.recompute=some"],
        &["`none` or `blocks`", "found \"some\""],
    );
    refused(
        &["model.sam2.stages=[1, 2]"],
        &["a list of 4", "found [1, 2]"],
    );
    refused(
        &["model.sam2.stages=[1, 2, \"many\", 4]"],
        &[
            "model.sam2.stages[2]",
            "a whole number from 1",
            "found \"many\"",
        ],
    );
    refused(&["train=3"], &["train", "a section, [train]", "found 3"]);
    refused(
        &["train.steps.often=3"],
        &["a section train.steps", "found a value"],
    );
    refused(
        &["compression.drop_static_patches=1"],
        &["true or false", "found 1"],
    );
    refused(
        &["train.policy.visual=never"],
        &[
            "train.policy.visual",
            "`frozen`, `lora` or `full`",
            "found \"never\"",
        ],
    );
    refused(
        &["sampler.weights={ mevis = 0.5 }"],
        &["sampler.weights", "--mix FILE", "an unknown key"],
    );
}

#[test]
fn a_checkpoint_with_shares_in_its_settings_is_read() {
    let settings = Settings::parse("mine", embedded("tiny").unwrap(), &[]).unwrap();
    let toml = settings.to_toml();
    let with_shares = toml.replace("[sampler]", "[sampler.weights]\nmevis = 0.5\n\n[sampler]");
    assert_ne!(with_shares, toml);
    assert!(Settings::parse("mine", &with_shares, &[]).is_err());
    assert_eq!(
        Settings::of_checkpoint("run", &with_shares, &[]).unwrap(),
        settings
    );
}

#[test]
fn a_key_that_must_be_said_is_missed() {
    let text = embedded("tiny").unwrap().replace("steps = 1000", "");
    let error = Settings::parse("mine", &text, &[]).unwrap_err();
    check_error(
        error,
        &["train.steps", "a whole number from 1", "found nothing"],
    );
    let error = Settings::parse("mine", "seed = 1", &[]).unwrap_err();
    check_error(
        error,
        &["mine: model", "a section, [model]", "found nothing"],
    );
}

#[test]
fn an_error_names_file_and_line() {
    let text = embedded("tiny")
        .unwrap()
        .replace("n_neighbors = 4", "n_neighbors = \"four\"");
    let line = 1 + text
        .lines()
        .position(|line| line.starts_with("n_neighbors"))
        .unwrap();
    let error = Settings::parse("mine.toml", &text, &[]).unwrap_err();
    check_error(
        error,
        &[&format!("mine.toml:{line}: compression.n_neighbors")],
    );
    let error = Settings::parse(
        "mine.toml",
        "extends = \"embedded:tiny\"\n[train]\nsteps = 0",
        &[],
    );
    check_error(error.unwrap_err(), &["mine.toml:3: train.steps"]);
}

#[test]
fn a_later_override_wins() {
    let settings = tiny(&["train.steps=7", "train.steps=9", "device=cpu"]).unwrap();
    assert_eq!(settings.train.steps, 9);
    assert_eq!(settings.device, "cpu");
}

#[test]
fn an_override_takes_quoted_keys_plain_texts_and_whole_numbers_in_any_notation() {
    let settings = tiny(&[
        "train.policy.\"seg_model.image_encoder\"=full",
        "train.policy.'seg_model.no_mem_embed' = frozen",
        "train.steps=1e3",
        "checkpoint.every = 2.0",
        "model.sam2.stages=[1e0, 2, 2, 2]",
        "train.initial=s3://bucket/run?a=b",
        "train.losses.dice=2",
    ])
    .unwrap();
    assert_eq!(
        settings.train.policy["seg_model.image_encoder"],
        Policy::Full
    );
    assert_eq!(
        settings.train.policy["seg_model.no_mem_embed"],
        Policy::Frozen
    );
    assert_eq!(settings.train.policy["visual"], Policy::Frozen);
    assert_eq!(settings.train.steps, 1000);
    assert_eq!(settings.checkpoint.every, 2);
    assert_eq!(settings.model.sam2.stages, [1, 2, 2, 2]);
    assert_eq!(
        settings.train.initial.as_deref(),
        Some("s3://bucket/run?a=b")
    );
    assert_eq!(settings.train.losses.dice, 2.0);
    for bad in [
        "=3",
        "train.=3",
        "train steps=3",
        "\"train=3",
        "train.policy.\"a=frozen",
    ] {
        refused(&[bad], &[bad, "section.key=value"]);
    }
}

#[test]
fn a_name_with_dots_that_lacks_its_quotes_is_told_with_them() {
    let quoted = "train.policy.\"seg_model.image_encoder\"";
    refused(
        &["train.policy.seg_model.image_encoder=full"],
        &["--set train.policy.seg_model", "in quotes", quoted],
    );
    refused(
        &["train.policy={ seg_model = { image_encoder = \"full\" } }"],
        &["--set: train.policy.seg_model", "in quotes", quoted],
    );
    let text = "extends = \"embedded:tiny\"\n[train.policy.seg_model]\nimage_encoder = \"full\"";
    let error = Settings::parse("mine", text, &[]).unwrap_err();
    check_error(
        error,
        &["mine:2: train.policy.seg_model", "in quotes", quoted],
    );
}

#[test]
fn names_lie_in_each_other_only_so_deep() {
    const WORDS: &[&str] = &["at most 16 names in each other"];
    let dotted = |n: usize| vec!["a"; n].join(".");
    for n in [17, 79, 100, 100_000] {
        refused(&[&format!("{}=1", dotted(n))], WORDS);
        refused(&[&format!("train={{ {} = 1 }}", dotted(n))], WORDS);
        refused(&[&format!("train={}", "[".repeat(n))], WORDS);
    }
    refused(&[&format!("{}={{ {} = 1 }}", dotted(9), dotted(9))], WORDS);
    let nested = |n: usize| format!("{} 1 {}", "{ a = ".repeat(n), "}".repeat(n));
    refused(&[&format!("a.b={}", nested(16))], WORDS);
    let plain = tiny(&[&format!("train.initial=./{}", ".".repeat(100))]);
    assert!(plain.unwrap().train.initial.unwrap().ends_with("...."));
    for text in [
        format!("{} = 1", dotted(17)),
        format!("[{}]", dotted(17)),
        format!("a = {}", nested(17)),
        format!("{0} = {{ {0} = {{ {0} = {{ {0} = 1 }} }} }}", dotted(79)),
    ] {
        let error = Settings::parse("mine", &text, &[]).unwrap_err();
        check_error(error, WORDS);
    }
}

#[test]
fn a_file_is_read_up_to_a_mebibyte() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    let text = "extends = \"embedded:tiny\"\n";
    std::fs::write(&file, text.to_owned() + &"#".repeat((1 << 20) - text.len())).unwrap();
    Settings::load(&file, &[]).unwrap();
    std::fs::write(&file, text.to_owned() + &"#".repeat(1 << 20)).unwrap();
    let name = file.to_str().unwrap();
    let words = [name, "a readable settings file", "more than 1 MiB"];
    check_error(Settings::load(&file, &[]).unwrap_err(), &words);
}

#[cfg(unix)]
#[test]
fn a_file_without_an_end_is_none_of_settings() {
    let error = Settings::load(Path::new("/dev/zero"), &[]).unwrap_err();
    check_error(error, &["/dev/zero", "a device"]);
}

#[test]
fn a_file_that_cannot_be_extended_is_named_with_who_extends_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    let name = file.to_str().unwrap();
    for (base, found) in [
        ("", "an empty text"),
        ("none.toml", "none.toml"),
        (".", "a folder"),
    ] {
        std::fs::write(&file, format!("extends = {base:?}")).unwrap();
        let words = [&format!("{name}: extends"), "a", found];
        check_error(Settings::load(&file, &[]).unwrap_err(), &words);
    }
}

#[test]
fn an_extending_file_keeps_what_it_does_not_name() {
    let base = tiny(&[]).unwrap();
    let grounding = Settings::parse("g", embedded("tiny-grounding").unwrap(), &[]).unwrap();
    assert_eq!(base.model, grounding.model);
    assert_eq!(grounding.train.stage, Stage::Grounding);
}

#[test]
fn where_a_value_was_said_is_known_through_every_layer() {
    let overrides = ["optimizer.beta1=0.5".to_owned()];
    let text = "extends = \"embedded:tiny-grounding\"\n[train]\nsteps = 3";
    let resolved = Resolved::parse("mine", text, &overrides).unwrap();
    let of = |key: &str| resolved.origins.of(key).map(ToString::to_string);
    assert_eq!(of("train.steps").as_deref(), Some("mine:3"));
    assert_eq!(of("optimizer.beta1").as_deref(), Some("--set"));
    assert_eq!(of("cluster.workers"), None);
    let from = |file: &str, line: &str| {
        let text = embedded(file).unwrap();
        1 + text
            .lines()
            .position(|known| known.starts_with(line))
            .unwrap()
    };
    let line = from("tiny-grounding", "learning_rate");
    let expected = format!("embedded:tiny-grounding:{line}, extended by mine");
    assert_eq!(of("optimizer.learning_rate"), Some(expected));
    let line = from("tiny", "keep_ratio");
    let expected = format!("embedded:tiny:{line}, extended by embedded:tiny-grounding");
    assert_eq!(of("compression.keep_ratio"), Some(expected));
}

#[test]
fn a_text_extends_no_file_and_no_chain_is_a_loop() {
    let error = Settings::parse("mine", "extends = \"other.toml\"", &[]).unwrap_err();
    check_error(
        error,
        &["mine: extends", "embedded:NAME", "found other.toml"],
    );
    let error = Settings::parse("mine", "extends = \"embedded:huge\"", &[]).unwrap_err();
    check_error(
        error,
        &["mine: extends", "embedded:tiny or", "found embedded:huge"],
    );
}

#[test]
fn every_key_has_a_meaning_every_number_a_unit_and_every_choice_its_own() {
    let mut n_keys = 0;
    for key in keys::keys() {
        n_keys += 1;
        assert!(key.meaning.len() > 5, "{} has no meaning", key.path);
        let number = |kind: &keys::ValueKind| {
            matches!(
                kind,
                keys::ValueKind::Whole { .. } | keys::ValueKind::Real { .. }
            )
        };
        let is_number = match &key.kind {
            keys::ValueKind::List { item, .. } => number(item),
            keys::ValueKind::Table(value) => number(value),
            kind => number(kind),
        };
        assert_eq!(is_number, key.unit.is_some(), "unit of {}", key.path);
        if let keys::ValueKind::Choice(choices) = &key.kind {
            assert!(choices.len() > 1, "{}", key.path);
            for choice in choices {
                assert!(!choice.meaning.is_empty(), "{}: {}", key.path, choice.name);
            }
        }
    }
    assert!(n_keys > 80, "{n_keys}");
    for section in keys::sections() {
        assert!(
            section.path.is_empty() || !section.meaning.is_empty(),
            "{}",
            section.path
        );
    }
}

#[test]
fn every_default_is_what_is_used_where_nothing_is_said() {
    let required: Vec<_> = keys::keys().filter(|key| key.is_required).collect();
    let values = tiny(&[]).unwrap().values();
    let mut least = toml::Table::new();
    for key in &required {
        let mut place = &mut least;
        let mut parts: Vec<&str> = key.path.split('.').collect();
        let last = parts.pop().unwrap();
        for part in parts {
            let table = toml::Value::Table(Default::default());
            place = place.entry(part).or_insert(table).as_table_mut().unwrap();
        }
        place.insert(
            last.to_owned(),
            keys::value_of(&values, &key.path).unwrap().clone(),
        );
    }
    let settings = Settings::parse("least", &least.to_string(), &[])
        .unwrap()
        .values();
    for key in keys::keys().filter(|key| !key.is_required) {
        assert_eq!(
            keys::value_of(&settings, &key.path),
            key.default.as_ref(),
            "{}",
            key.path
        );
    }
}

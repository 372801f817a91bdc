//! Chats against the reference's templates, ids and targets; CLIP ids against its word pieces.
//!
//! Texts and targets are checked from a clone. Ids need the published vocabularies, which are not part of this repository:
//! `LAVIDA_DATA_DIR` names a folder that holds `tokenizers/{qwen2_vl,clip}/tokenizer.json`.

use std::path::PathBuf;

use lavida_data::prompt::{Prompt, labels_between};
use lavida_data::tokenizer::Tokenizers;
use serde_json::Value;

use crate::support::{Fixture, assert_same};

fn cases(fixture: &Fixture) -> Vec<Value> {
    let cases = fixture.setting("/chat").as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn texts(case: &Value) -> Vec<String> {
    serde_json::from_value(case["classes"].clone()).unwrap()
}

fn ints(value: &Value) -> Vec<i64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn prompt(case: &Value) -> Prompt {
    let template = |key: &str| case[key].as_u64().unwrap() as usize;
    let is_video = case["kind"] == "video";
    Prompt::new(
        &texts(case),
        is_video,
        template("user_template"),
        template("response_template"),
    )
    .unwrap()
}

/// The published vocabularies, where they are at hand.
fn published() -> Option<Tokenizers> {
    let Some(folder) = std::env::var_os("LAVIDA_DATA_DIR").filter(|folder| !folder.is_empty())
    else {
        println!(
            "skipped: LAVIDA_DATA_DIR is not set, so the published vocabularies are not at hand"
        );
        return None;
    };
    let read = |name: &str| {
        let file = PathBuf::from(&folder)
            .join("tokenizers")
            .join(name)
            .join("tokenizer.json");
        std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    Some(Tokenizers::load(&read("qwen2_vl"), &read("clip")).unwrap())
}

#[test]
fn chats_read_as_the_reference_writes_them() {
    for case in cases(&Fixture::open("prompt")) {
        let n_visual = case["n_visual"].as_u64().unwrap() as usize;
        assert_eq!(prompt(&case).chat(n_visual), case["text"].as_str().unwrap());
    }
}

#[test]
fn targets_of_the_references_ids_equal_its_own() {
    let fixture = Fixture::open("prompt");
    let id = |token: &str| fixture.setting("/special")[token].as_i64().unwrap();
    for case in cases(&fixture) {
        let ids = ints(&case["ids"]);
        // `assistant` and the line break have no entry in the table: they follow the last <|im_start|> of every chat.
        let opened = ids.iter().rposition(|&i| i == id("<|im_start|>")).unwrap();
        let end = [id("<|im_end|>"), *ids.last().unwrap()];
        assert_same(
            "labels",
            &labels_between(&ids, &ids[opened..], &end),
            &ints(&case["labels"]),
        );
    }
}

#[test]
fn the_tiny_vocabulary_keeps_the_layout() {
    let tokenizers = Tokenizers::tiny();
    for case in cases(&Fixture::open("prompt")) {
        let n_visual = case["n_visual"].as_u64().unwrap() as usize;
        let chat = prompt(&case).encode(&tokenizers, n_visual).unwrap();
        assert_eq!(
            tokenizers.decode_prompt(&chat.ids).unwrap(),
            case["text"].as_str().unwrap()
        );
        let n_targets = ints(&case["labels"]).iter().filter(|&&l| l != -100).count();
        let targets: Vec<i64> = chat.labels.iter().copied().filter(|&l| l != -100).collect();
        // Every word of the templates is one token in both vocabularies.
        assert_eq!(targets.len(), n_targets, "{}", case["text"]);
    }
}

#[test]
fn ids_of_the_published_vocabulary_equal_the_reference() {
    let fixture = Fixture::open("prompt");
    let Some(tokenizers) = published() else {
        return;
    };
    let special = tokenizers.special();
    for (token, found) in [
        ("<SEG>", special.seg),
        ("<|image_pad|>", special.image_pad),
        ("<|video_pad|>", special.video_pad),
        ("<|vision_start|>", special.vision_start),
        ("<|vision_end|>", special.vision_end),
        ("<|im_start|>", special.im_start),
        ("<|im_end|>", special.im_end),
        ("<|endoftext|>", special.pad),
    ] {
        assert_eq!(
            Some(found),
            fixture.setting("/special")[token].as_i64(),
            "{token}"
        );
    }
    for case in cases(&fixture) {
        let n_visual = case["n_visual"].as_u64().unwrap() as usize;
        let chat = prompt(&case).encode(&tokenizers, n_visual).unwrap();
        assert_same("ids", &chat.ids, &ints(&case["ids"]));
        assert_same("labels", &chat.labels, &ints(&case["labels"]));
    }
    for case in fixture.setting("/plain").as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        assert_same(
            text,
            &tokenizers.encode_prompt(text).unwrap(),
            &ints(&case["ids"]),
        );
    }
}

#[test]
fn category_ids_of_the_published_vocabulary_equal_the_reference() {
    let fixture = Fixture::open("prep");
    let Some(tokenizers) = published() else {
        return;
    };
    for case in fixture.setting("/clip_tokens").as_array().unwrap() {
        let text = case["text"].as_str().unwrap().to_owned();
        let found = tokenizers
            .encode_categories(std::slice::from_ref(&text), 77)
            .unwrap();
        assert_same(&text, &found.ids[0], &ints(&case["ids"]));
    }
}

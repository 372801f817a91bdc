//! What an import does not take: each fault is named, the exit code is 3 (2 where the command line or the settings are at
//! fault), and nothing is written.

use std::path::{Path, PathBuf};

use burn::tensor::TensorData;
use half::bf16;
use lavida_model::weights::{read_safetensors, write_safetensors};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    importing::{Towers, changed, fixture},
    support::{names, run_in},
};

/// Fails unless the import of `towers` ends with `code` and all `words`, and leaves nothing.
#[track_caller]
fn check(towers: Towers, more: &[&str], code: i32, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    towers
        .import(folder.path(), "first", more)
        .refused(code, words);
    assert_eq!(names(folder.path()), [""; 0], "something was written");
}

/// A copy of the fixture folder that `spoil` changes.
fn copy(into: &Path, name: &str, spoil: impl FnOnce(&Path)) -> PathBuf {
    let (from, folder) = (fixture(name), into.join(name));
    std::fs::create_dir_all(&folder).unwrap();
    for file in names(&from) {
        std::fs::copy(from.join(&file), folder.join(&file)).unwrap();
    }
    spoil(&folder);
    folder
}

fn with_qwen2_vl(qwen2_vl: PathBuf) -> Towers {
    Towers {
        qwen2_vl,
        ..Towers::default()
    }
}

fn with_sam2(sam2: PathBuf) -> Towers {
    Towers {
        sam2,
        ..Towers::default()
    }
}

const SHARD: &str = "model-00002-of-00004.safetensors";
const INDEX: &str = "model.safetensors.index.json";

#[test]
fn a_truncated_safetensors_file() {
    let folder = tempfile::tempdir().unwrap();
    for length in [0, 7, 100, 30_000] {
        let qwen2_vl = copy(folder.path(), "qwen2_vl", |folder| {
            let bytes = std::fs::read(folder.join(SHARD)).unwrap();
            std::fs::write(folder.join(SHARD), &bytes[..length]).unwrap();
        });
        check(
            with_qwen2_vl(qwen2_vl),
            &[],
            3,
            &[SHARD, "a whole safetensors file"],
        );
    }
}

#[test]
fn an_index_that_names_files_that_are_missing_lists_them_all() {
    let folder = tempfile::tempdir().unwrap();
    let qwen2_vl = copy(folder.path(), "qwen2_vl", |folder| {
        std::fs::remove_file(folder.join(SHARD)).unwrap();
        std::fs::remove_file(folder.join(SHARD.replace('2', "3"))).unwrap();
    });
    let other = SHARD.replace('2', "3");
    check(
        with_qwen2_vl(qwen2_vl),
        &[],
        3,
        &[INDEX, SHARD, &other, "2 faults"],
    );
}

#[test]
fn an_index_that_names_a_tensor_its_file_lacks_or_a_file_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let edited = |edit: fn(&mut Value)| {
        copy(folder.path(), "qwen2_vl", |folder| {
            let index = std::fs::read(folder.join(INDEX)).unwrap();
            let mut index: Value = serde_json::from_slice(&index).unwrap();
            edit(&mut index["weight_map"]);
            std::fs::write(folder.join(INDEX), index.to_string()).unwrap();
        })
    };
    let qwen2_vl = edited(|map| map["model.extra.weight"] = SHARD.into());
    check(
        with_qwen2_vl(qwen2_vl),
        &[],
        3,
        &[INDEX, "model.extra.weight", SHARD],
    );
    let qwen2_vl = edited(|map| map["model.norm.weight"] = "../clip/model.safetensors".into());
    check(
        with_qwen2_vl(qwen2_vl),
        &[],
        3,
        &["../clip/model.safetensors", "beside the index"],
    );
    let qwen2_vl = edited(|map| *map = json!([1]));
    check(with_qwen2_vl(qwen2_vl), &[], 3, &[INDEX, "weight_map"]);
}

#[test]
fn a_pt_file_that_is_no_state_dict() {
    check(
        with_sam2(fixture("torch/list.pt")),
        &[],
        3,
        &["list.pt", "a state dict", "a list of 3"],
    );
    check(
        with_sam2(fixture("clip/config.json")),
        &[],
        3,
        &["config.json", "a zip archive"],
    );
}

#[test]
fn a_pickle_that_calls_something_is_refused_by_name_and_not_run() {
    let sam2 = fixture("torch/command.pt");
    let folder = tempfile::tempdir().unwrap();
    let ran = with_sam2(sam2).import(folder.path(), "first", &[]);
    assert!(!ran.stderr().contains("echo"), "{}", ran.stderr());
    ran.refused(
        3,
        &["command.pt", "posix.system", "nothing in a pickle is run"],
    );
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_truncated_pt_file() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(fixture("sam2.pt")).unwrap();
    let sam2 = folder.path().join("cut.pt");
    std::fs::write(&sam2, &bytes[..bytes.len() / 2]).unwrap();
    check(with_sam2(sam2), &[], 3, &["cut.pt", "a zip archive"]);
}

#[test]
fn a_vocabulary_with_more_ids_than_the_embedding_has_rows() {
    let folder = tempfile::tempdir().unwrap();
    let qwen2_vl = copy(folder.path(), "qwen2_vl", |folder| {
        let file = folder.join("tokenizer.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let tokens = json["added_tokens"].as_array_mut().unwrap();
        let mut added = tokens.last().unwrap().clone();
        added["id"] = 510.into();
        added["content"] = "<new>".into();
        tokens.push(added);
        std::fs::write(file, json.to_string()).unwrap();
    });
    let words = ["qwen2_vl/tokenizer.json", "ids below 510", "id 510"];
    check(with_qwen2_vl(qwen2_vl), &[], 3, &words);
    let clip = changed(folder.path(), "clip", |tensors, _| {
        let name = "text_model.embeddings.token_embedding.weight";
        let rows = tensors[name].as_slice::<f32>().unwrap()[..500 * 16].to_vec();
        tensors.insert(name.into(), TensorData::new(rows, [500, 16]));
    });
    let words = ["clip/tokenizer.json", "ids below 500", "id 509"];
    check(
        Towers {
            clip,
            ..Towers::default()
        },
        &[],
        3,
        &words,
    );
}

#[test]
fn a_tokenizer_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let clip = copy(folder.path(), "clip", |folder| {
        std::fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    });
    check(
        Towers {
            clip,
            ..Towers::default()
        },
        &[],
        3,
        &["tokenizer.json"],
    );
}

#[test]
fn values_that_are_no_numbers_are_all_named() {
    let folder = tempfile::tempdir().unwrap();
    let qwen2_vl = changed(folder.path(), "qwen2_vl", |tensors, _| {
        let spoil = |data: &mut TensorData, at: usize, value: f32| {
            let mut values = data.as_slice::<bf16>().unwrap().to_vec();
            values[at] = bf16::from_f32(value);
            *data = TensorData::new(values, data.shape().to_vec());
        };
        spoil(tensors.get_mut("model.norm.weight").unwrap(), 3, f32::NAN);
        spoil(
            tensors.get_mut("lm_head.weight").unwrap(),
            700,
            f32::NEG_INFINITY,
        );
    });
    let words = [
        "2 tensors",
        "model.norm.weight: expected finite values",
        "lm_head.weight: expected finite values",
    ];
    check(with_qwen2_vl(qwen2_vl), &[], 3, &words);
}

#[test]
fn everything_that_does_not_fit_is_listed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let qwen2_vl = changed(folder.path(), "qwen2_vl", |tensors, _| {
        tensors.remove("visual.merger.ln_q.bias").unwrap();
        tensors.insert("model.extra".into(), TensorData::new(vec![0f32; 6], [2, 3]));
        tensors.insert(
            "model.norm.weight".into(),
            TensorData::new(vec![1f32; 31], [31]),
        );
    });
    let clip = changed(folder.path(), "clip", |tensors, _| {
        let name = "text_model.final_layer_norm.bias";
        tensors.insert(name.into(), TensorData::new(vec![0i64; 16], [16]));
    });
    let words = [
        "4 tensors",
        "visual.merger.ln_q.bias: expected [16], found nothing",
        "model.extra: expected nothing, found [2, 3]",
        "model.norm.weight: expected [32], found [31]",
        "assist_clf.text_model.final_layer_norm.bias: expected floats, found I64",
    ];
    check(
        Towers {
            qwen2_vl,
            clip,
            ..Towers::default()
        },
        &[],
        3,
        &words,
    );
}

#[test]
fn a_lavida_without_a_head_that_is_not_tied_lacks_it() {
    let folder = tempfile::tempdir().unwrap();
    let qwen2_vl = changed(folder.path(), "qwen2_vl", |tensors, _| {
        tensors.remove("lm_head.weight").unwrap();
    });
    check(
        with_qwen2_vl(qwen2_vl),
        &[],
        3,
        &["lm_head.weight: expected [511, 32], found nothing"],
    );
}

#[test]
fn sizes_that_differ_from_the_settings_are_listed_with_their_keys() {
    let more = [
        "--set",
        "model.vision.num_heads=4",
        "--set",
        "model.clip_text.num_attention_heads=4",
    ];
    let words = [
        "lavida.toml",
        "2 that differ",
        "model.vision.num_heads: expected 2 (vision_config.num_heads of Qwen2-VL), found 4",
        "model.clip_text.num_attention_heads: expected 2",
    ];
    check(Towers::default(), &more, 2, &words);
}

#[test]
fn embeddings_of_another_size_than_the_vocabulary_are_the_settings_fault() {
    for vocab_size in [
        "model.language.vocab_size=510",
        "model.language.vocab_size=512",
    ] {
        let words = [
            "model.language.vocab_size",
            "511, the entries of the vocabulary",
        ];
        check(Towers::default(), &["--set", vocab_size], 2, &words);
    }
}

#[test]
fn arguments_that_name_nothing() {
    check(
        with_qwen2_vl("nowhere".into()),
        &[],
        2,
        &["--qwen2-vl", "a folder", "nowhere"],
    );
    check(with_sam2(fixture("clip")), &[], 2, &["--sam2", "a file"]);
    check(
        with_qwen2_vl(fixture("torch")),
        &[],
        2,
        &["--qwen2-vl", "config.json"],
    );
    let folder = tempfile::tempdir().unwrap();
    let ran = run_in(folder.path(), &["import", "--out", "first"]);
    ran.refused(2, &["--qwen2-vl", "--sam2", "--clip"]);
    let ran = run_in(
        folder.path(),
        &["import", "--lavida", ".", "--out", "first"],
    );
    ran.refused(2, &["--lavida", "`lavida export` wrote"]);
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_checkpoint_or_a_run_is_never_written_over() {
    let folder = tempfile::tempdir().unwrap();
    Towers::default()
        .import(folder.path(), "first", &[])
        .succeeded();
    let manifest = std::fs::read(folder.path().join("first/manifest.json")).unwrap();
    let again = Towers::default().import(folder.path(), "first", &["--dtype", "bf16"]);
    again.refused(2, &["first", "already exists"]);
    assert_eq!(
        std::fs::read(folder.path().join("first/manifest.json")).unwrap(),
        manifest
    );
}

#[test]
fn a_tensor_that_is_only_carried_and_is_no_number_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    Towers::default().import(folder, "first", &[]).succeeded();
    run_in(
        folder,
        &["export", "--checkpoint", "first", "--out", "exported"],
    )
    .succeeded();
    // Somebody changed a value, and the sums with it.
    let file = folder.join("exported/model.safetensors");
    let mut tensors = read_safetensors(&std::fs::read(&file).unwrap()).unwrap();
    let pointer = TensorData::new(vec![f32::NAN; 16], [1, 16]);
    let earlier = tensors.insert("seg_model.no_obj_ptr".into(), pointer);
    assert_eq!(earlier.unwrap().shape().as_slice(), [1, 16]);
    let bytes = write_safetensors(&tensors, None).unwrap();
    let sum = lavida_store::hex(&Sha256::digest(&bytes));
    std::fs::write(file, bytes).unwrap();
    std::fs::write(
        folder.join("exported/SHA256SUMS"),
        format!("{sum}  model.safetensors\n"),
    )
    .unwrap();
    let import = ["import", "--lavida", "exported", "--out", "back"];
    let words = [
        "1 tensor",
        "seg_model.no_obj_ptr: expected finite values, found NaN",
    ];
    run_in(folder, &import).refused(3, &words);
    assert!(!folder.join("back").exists());
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4\n";
const PAGE: &str = "<!DOCTYPE html>\n<html><body>Access to this model is restricted</body></html>";

#[test]
fn a_file_that_only_stands_for_the_real_one_is_named_with_what_to_do() {
    for (text, words) in [
        (POINTER, "git lfs pull"),
        (PAGE, "download the file itself"),
    ] {
        for file in [SHARD, INDEX, "tokenizer.json", "config.json"] {
            let folder = tempfile::tempdir().unwrap();
            let qwen2_vl = copy(folder.path(), "qwen2_vl", |folder| {
                std::fs::write(folder.join(file), text).unwrap();
            });
            check(with_qwen2_vl(qwen2_vl), &[], 3, &[file, words]);
        }
        let folder = tempfile::tempdir().unwrap();
        let sam2 = folder.path().join("sam2.pt");
        std::fs::write(&sam2, text).unwrap();
        check(with_sam2(sam2), &[], 3, &["sam2.pt", words]);
    }
}

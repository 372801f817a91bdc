//! Small checkpoints that transformers, torch and SAM2 wrote become a LAVIDA, value for value.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use half::bf16;
use lavida_model::weights::{Tensors, read_safetensors, write_safetensors};
use serde_json::{Value, json};

use crate::support::{Ran, World, finish, names, run_in};

/// Made by `tests/golden/make_import_fixtures.py`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden/fixtures/import")
        .join(name)
}

/// Where the published checkpoints of an import are; those of the fixtures unless said otherwise.
pub struct Towers {
    pub qwen2_vl: PathBuf,
    pub sam2: PathBuf,
    pub clip: PathBuf,
}

impl Default for Towers {
    fn default() -> Self {
        Self {
            qwen2_vl: fixture("qwen2_vl"),
            sam2: fixture("sam2.pt"),
            clip: fixture("clip"),
        }
    }
}

impl Towers {
    /// `lavida import` of them into `out` of `folder`.
    pub fn import(&self, folder: &Path, out: &str, more: &[&str]) -> Ran {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let [qwen2_vl, sam2, clip] = [&self.qwen2_vl, &self.sam2, &self.clip].map(|p| text(p));
        let settings = text(&fixture("lavida.toml"));
        let args = [
            "import",
            "--qwen2-vl",
            &qwen2_vl,
            "--sam2",
            &sam2,
            "--clip",
            &clip,
            "--config",
            &settings,
            "--out",
            out,
        ];
        run_in(folder, &[&args[..], more].concat())
    }
}

/// The weights of an imported checkpoint.
pub fn weights(folder: &Path, out: &str) -> Tensors {
    part(folder, out, "g0-weights.safetensors")
}

/// What an imported checkpoint carries.
pub fn carried(folder: &Path, out: &str) -> Tensors {
    part(folder, out, "g0-carried.safetensors")
}

fn part(folder: &Path, out: &str, key: &str) -> Tensors {
    read_safetensors(&std::fs::read(folder.join(out).join(key)).unwrap()).unwrap()
}

/// All tensors of a folder that Hugging Face wrote.
pub fn published(folder: &Path) -> Tensors {
    let files = names(folder);
    let files = files.iter().filter(|name| name.ends_with(".safetensors"));
    let read = |name: &String| read_safetensors(&std::fs::read(folder.join(name)).unwrap());
    files.flat_map(|name| read(name).unwrap()).collect()
}

/// A folder like the fixture `name` whose tensors and config are changed; all in one file.
pub fn changed(into: &Path, name: &str, change: impl FnOnce(&mut Tensors, &mut Value)) -> PathBuf {
    let (from, folder) = (fixture(name), into.join(name));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(from.join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    let mut tensors = published(&from);
    let config = std::fs::read(from.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    change(&mut tensors, &mut config);
    let bytes = write_safetensors(&tensors, None).unwrap();
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn every_value_is_that_of_the_file_that_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let ran = Towers::default()
        .import(folder.path(), "first", &[])
        .succeeded();
    for said in [
        "logit_scale, text_projection, vision_model, visual_projection",
        "74 tensors carried along and never read: seg_model.mask_downsample, seg_model.maskmem_tpos_enc, \
         seg_model.memory_attention, seg_model.memory_encoder, seg_model.no_mem_pos_enc, \
         seg_model.no_obj_embed_spatial, seg_model.no_obj_ptr, seg_model.obj_ptr_proj, seg_model.obj_ptr_tpos_proj",
        "model.embed_tokens.weight: 511 rows of 510 (new rows are the mean of the others)",
        "drawn from the seed: seg_model.multi_scale_projector",
    ] {
        assert!(
            ran.stderr().contains(said),
            "no {said:?} in: {}",
            ran.stderr()
        );
    }
    let mut found = weights(folder.path(), "first");

    let qwen2_vl = published(&fixture("qwen2_vl"));
    assert!(qwen2_vl.len() > 40);
    for (name, expected) in &qwen2_vl {
        let tensor = found.remove(name).unwrap_or_else(|| panic!("no {name}"));
        if !["model.embed_tokens.weight", "lm_head.weight"].contains(&name.as_str()) {
            assert_eq!(&tensor, expected, "{name}"); // bf16 as it was
            continue;
        }
        // <SEG> has a new last row: the mean of the others.
        let (tensor, expected) = (
            tensor.as_slice::<bf16>().unwrap(),
            expected.as_slice::<bf16>().unwrap(),
        );
        let (old, new) = tensor.split_at(510 * 32);
        assert_eq!(old, expected, "{name}");
        for (column, value) in new.iter().enumerate() {
            let rows = old.chunks(32).map(|row| f64::from(row[column].to_f32()));
            let mean = rows.sum::<f64>() / 510.0;
            assert_eq!(
                *value,
                bf16::from_f32(mean as f32),
                "{name}, column {column}"
            );
        }
    }
    let text_tower = published(&fixture("clip")).into_iter();
    let text_tower: Tensors = text_tower
        .filter(|(n, _)| n.starts_with("text_model."))
        .collect();
    assert!(text_tower.len() > 15);
    for (name, expected) in &text_tower {
        assert_eq!(
            found.remove(&format!("assist_clf.{name}")).as_ref(),
            Some(expected),
            "{name}"
        );
    }
    // Sums that torch made of its own file.
    let sums: Value =
        serde_json::from_slice(&std::fs::read(fixture("sam2.json")).unwrap()).unwrap();
    let mut memory = carried(folder.path(), "first");
    assert_eq!(memory.len(), 74);
    for (name, expected) in sums.as_object().unwrap() {
        let parameter = format!("seg_model.{name}");
        let is_memory = [
            "mask_downsample",
            "maskmem_",
            "memory_",
            "no_mem_pos",
            "no_obj",
            "obj_ptr",
        ]
        .iter()
        .any(|memory| name.starts_with(memory));
        let place = if is_memory { &mut memory } else { &mut found };
        let tensor = place
            .remove(&parameter)
            .unwrap_or_else(|| panic!("no {parameter}"));
        let values = tensor
            .as_slice::<f32>()
            .unwrap()
            .iter()
            .map(|v| f64::from(*v));
        let placed = values
            .clone()
            .zip(1..)
            .map(|(v, place)| v * f64::from(place));
        let found = json!({
            "shape": tensor.shape().to_vec(), "sum": values.sum::<f64>(), "placed_sum": placed.sum::<f64>(),
        });
        assert_eq!(&found, expected, "{name}");
    }
    assert!(memory.is_empty(), "{memory:?}");
    // What is left is the projector.
    assert!(found.len() > 20);
    for name in found.keys() {
        assert!(
            name.starts_with("seg_model.multi_scale_projector."),
            "{name}"
        );
    }
}

#[test]
fn the_number_format_may_be_asked_for_and_an_import_repeats_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |out: &str, more: &[&str]| {
        Towers::default()
            .import(folder.path(), out, more)
            .succeeded();
        std::fs::read(folder.path().join(out).join("g0-weights.safetensors")).unwrap()
    };
    let (f32_, again) = (
        bytes("a", &["--dtype", "f32"]),
        bytes("b", &["--dtype", "f32"]),
    );
    assert_eq!(f32_, again);
    let bf16_ = bytes("c", &["--dtype", "bf16"]);
    // What nobody reads stays as it came: in f32.
    let memory = carried(folder.path(), "c");
    assert_eq!(memory, carried(folder.path(), "a"));
    assert!(memory.values().all(|data| data.dtype() == DType::F32));
    let (f32_, bf16_) = (
        read_safetensors(&f32_).unwrap(),
        read_safetensors(&bf16_).unwrap(),
    );
    for (name, tensor) in &bf16_ {
        let exact = f32_[name].clone();
        assert_eq!(
            exact.as_slice::<f32>().unwrap().len(),
            tensor.as_slice::<bf16>().unwrap().len()
        );
        if !name.contains("multi_scale_projector") {
            // Every value of the fixtures is a bf16, but for the mean rows.
            let rounded = tensor.clone().convert::<f32>();
            let differing = rounded
                .as_slice::<f32>()
                .unwrap()
                .iter()
                .zip(exact.as_slice::<f32>().unwrap());
            let n_differing = differing.filter(|(a, b)| a != b).count();
            let allowed = if ["model.embed_tokens.weight", "lm_head.weight"].contains(&&**name) {
                32
            } else {
                0
            };
            assert!(n_differing <= allowed, "{name}: {n_differing}");
        }
    }
}

#[test]
fn the_layout_of_newer_transformers_is_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let qwen2_vl = changed(folder.path(), "qwen2_vl", |tensors, config| {
        *tensors = std::mem::take(tensors)
            .into_iter()
            .map(|(name, data)| {
                let name = match name.split_once('.').unwrap() {
                    ("visual", rest) => format!("model.visual.{rest}"),
                    ("model", rest) => format!("model.language_model.{rest}"),
                    _ => name,
                };
                (name, data)
            })
            .collect();
        let text = config.clone();
        *config = json!({ "model_type": "qwen2_vl", "vision_config": text["vision_config"], "text_config": text });
    });
    let newer = Towers {
        qwen2_vl,
        ..Towers::default()
    };
    newer.import(folder.path(), "newer", &[]).succeeded();
    Towers::default()
        .import(folder.path(), "older", &[])
        .succeeded();
    assert_eq!(
        weights(folder.path(), "newer"),
        weights(folder.path(), "older")
    );
}

#[test]
fn a_tied_head_stays_one_matrix_through_training_and_export() {
    let folder = tempfile::tempdir().unwrap();
    let qwen2_vl = changed(folder.path(), "qwen2_vl", |tensors, config| {
        tensors.remove("lm_head.weight").unwrap();
        config["tie_word_embeddings"] = true.into();
    });
    let tied = Towers {
        qwen2_vl,
        ..Towers::default()
    };
    let ran = tied.import(folder.path(), "tied", &[]).succeeded();
    let key = "model.language.tie_word_embeddings = true";
    assert!(ran.stderr().contains(key), "{}", ran.stderr());
    assert!(!weights(folder.path(), "tied").contains_key("lm_head.weight"));

    let world = World::new();
    tied.import(world.path(), "tied", &[]).succeeded();
    let settings = fixture("lavida.toml");
    let train = |out: &str, more: &[&str]| {
        let args = [
            "train",
            "--config",
            settings.to_str().unwrap(),
            "--data",
            "shards/coco",
        ];
        let set = ["--set", "train.initial=tied", "--out", out];
        finish(world.lavida(&[&args[..], &set, more].concat())).succeeded()
    };
    train("run", &["--set", "model.language.tie_word_embeddings=true"]);
    let args = ["export", "--checkpoint", "run", "--out", "exported"];
    run_in(world.path(), &args).succeeded();
    let exported = published(&world.join("exported"));
    assert!(!exported.contains_key("lm_head.weight"));
    let first = weights(world.path(), "tied");
    let embedding = "model.embed_tokens.weight";
    let before = first[embedding].clone().convert_dtype(DType::F32);
    assert_ne!(exported[embedding], before, "the embedding learns");
    // Settings that want two matrices get two, and a word.
    let ran = train("two", &[]);
    assert!(
        ran.stderr().contains("tie_word_embeddings"),
        "{}",
        ran.stderr()
    );
    let args = ["export", "--checkpoint", "two", "--out", "exported-two"];
    run_in(world.path(), &args).succeeded();
    assert!(published(&world.join("exported-two")).contains_key("lm_head.weight"));
}

#[test]
fn an_embedding_with_more_rows_than_words_is_cut_to_the_words() {
    let folder = tempfile::tempdir().unwrap();
    let qwen2_vl = changed(folder.path(), "qwen2_vl", |tensors, config| {
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            let mut values = tensors[name].as_slice::<bf16>().unwrap().to_vec();
            values.resize(520 * 32, bf16::from_f32(7.0));
            tensors.insert(name.into(), TensorData::new(values, [520, 32]));
        }
        config["vocab_size"] = 520.into();
    });
    let padded = Towers {
        qwen2_vl,
        ..Towers::default()
    };
    padded.import(folder.path(), "cut", &[]).succeeded();
    // The published row of <SEG>'s id stays, as in the reference.
    let weights = weights(folder.path(), "cut");
    let rows = weights["lm_head.weight"].as_slice::<bf16>().unwrap();
    assert_eq!(rows.len(), 511 * 32);
    assert!(rows[510 * 32..].iter().all(|v| v.to_f32() == 7.0));
}

#[test]
fn an_import_is_inspected_and_trained_from_as_any_checkpoint() {
    let world = World::new();
    Towers::default()
        .import(world.path(), "first", &[])
        .succeeded();
    let inspected = world
        .run(&["inspect", "--checkpoint", "first", "--json"])
        .json();
    assert_eq!(inspected["state"]["step"], 0);
    assert_eq!(
        inspected["settings"]["model"]["language"]["vocab_size"],
        511
    );
    let settings = fixture("lavida.toml");
    // Vocabularies are looked up beside the settings file; the checkpoint's own are the same ones with <SEG>.
    let args = [
        "train",
        "--config",
        settings.to_str().unwrap(),
        "--data",
        "shards/coco",
        "--out",
        "run",
        "--set",
        "train.initial=first",
        "--set",
        "optimizer.warmup_steps=0",
    ];
    finish(world.lavida(&args)).succeeded();
    // Going on finds what is carried in the run's own checkpoint.
    finish(world.lavida(&[&args[..], &["--set", "train.steps=3"]].concat())).succeeded();
    let inspected = world
        .run(&["inspect", "--checkpoint", "run", "--json"])
        .json();
    assert_eq!(inspected["state"]["step"], 3);
    let read =
        |folder: &str| std::fs::read(world.join(folder).join("g0-carried.safetensors")).unwrap();
    for step in ["2", "3"] {
        assert!(read(&format!("run/checkpoints/000000000{step}")) == read("first"));
    }
    let eval = [
        "eval",
        "--checkpoint",
        "first",
        "--data",
        "shards/ucsd-ped",
        "--json",
    ];
    assert_eq!(world.run(&eval).json()["frames"], 10);
}

#[test]
fn names_that_a_wrapper_of_the_model_left_are_read_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let wrapped = |prefix: &'static str| {
        move |tensors: &mut Tensors, _: &mut Value| {
            let named = std::mem::take(tensors).into_iter();
            *tensors = named
                .map(|(name, data)| (format!("{prefix}{name}"), data))
                .collect();
        }
    };
    let towers = Towers {
        qwen2_vl: changed(folder.path(), "qwen2_vl", wrapped("module._orig_mod.")),
        clip: changed(folder.path(), "clip", wrapped("base_model.model.")),
        ..Towers::default()
    };
    towers.import(folder.path(), "wrapped", &[]).succeeded();
    Towers::default()
        .import(folder.path(), "plain", &[])
        .succeeded();
    assert_eq!(
        weights(folder.path(), "wrapped"),
        weights(folder.path(), "plain")
    );
}

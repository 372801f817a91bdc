//! Sizes in the published checkpoints' `config.json` against the settings: what no tensor's shape would tell (heads,
//! epsilons, rotary sections, activations) as well as what one would.
//!
//! transformers leaves out what equals its own default when it saves, so each key stands here with that default.
//! Source: `Qwen2VLConfig`, `Qwen2VLVisionConfig`, `CLIPTextConfig` of transformers 4.49.

use lavida_data::{Error, Result};
use lavida_train::settings::Settings;
use serde_json::{Value, json};

/// One value that file and settings must agree about.
struct Size {
    /// Where it is in the file: the first of these that is there.
    paths: &'static [&'static str],
    /// What it is where the file has none of them.
    default: Value,
    /// Key in the settings; none for what LAVIDA has no setting for.
    key: Option<&'static str>,
    ours: Value,
}

/// Compares both files with the settings.
///
/// # Errors
///
/// [`Error::Invalid`] listing every key with what the checkpoint has and what the settings say.
pub fn check(name: &str, settings: &Settings, qwen2_vl: &Value, clip: &Value) -> Result<()> {
    let mut lines = Vec::new();
    for (model, config, sizes) in [
        ("Qwen2-VL", qwen2_vl, of_qwen2_vl(settings)),
        ("CLIP", clip, of_clip(settings)),
    ] {
        for size in sizes {
            let theirs = size
                .paths
                .iter()
                .find_map(|path| at(config, path))
                .unwrap_or(&size.default);
            if !agree(theirs, &size.ours) {
                let path = size.paths[0];
                lines.push(match size.key {
                    Some(key) => format!(
                        "\n  {key}: expected {theirs} ({path} of {model}), found {}",
                        size.ours
                    ),
                    None => format!(
                        "\n  {path} of {model}: expected {}, found {theirs}",
                        size.ours
                    ),
                });
            }
        }
    }
    if let Some(kind) = other_rope(qwen2_vl) {
        lines.push(format!(
            "\n  rope_scaling of Qwen2-VL: expected \"mrope\" alone, found \"{kind}\": positions are scaled, which LAVIDA does not do"
        ));
    }
    if lines.is_empty() {
        Ok(())
    } else {
        Err(Error::invalid(
            name,
            "the sizes of the checkpoints",
            format!("{} that differ{}", lines.len(), lines.concat()),
        ))
    }
}

/// How positions are scaled, where that is not by M-RoPE alone: yarn, linear and others change every angle.
fn other_rope(qwen2_vl: &Value) -> Option<&str> {
    let kinds = ["rope_scaling", "rope_parameters"].iter().flat_map(|key| {
        let below = format!("text_config.{key}");
        [at(qwen2_vl, key), at(qwen2_vl, &below)]
    });
    let kinds = kinds.flatten().flat_map(|table| {
        ["rope_type", "type"].map(|name| table.get(name).and_then(Value::as_str))
    });
    kinds
        .flatten()
        .find(|kind| !["mrope", "default"].contains(kind))
}

/// Whether the output layer is the embedding.
pub fn is_tied(qwen2_vl: &Value) -> bool {
    let paths = ["tie_word_embeddings", "text_config.tie_word_embeddings"];
    paths
        .iter()
        .find_map(|path| at(qwen2_vl, path)?.as_bool())
        .unwrap_or(false)
}

fn of_qwen2_vl(settings: &Settings) -> Vec<Size> {
    let (l, v) = (&settings.model.language, &settings.model.vision);
    macro_rules! text {
        ($field:literal) => {
            &[concat!("text_config.", $field), $field]
        };
    }
    let size = |paths, default: Value, key, ours: Value| Size {
        paths,
        default,
        key,
        ours,
    };
    vec![
        size(&["model_type"], json!("qwen2_vl"), None, json!("qwen2_vl")),
        size(text!("hidden_act"), json!("silu"), None, json!("silu")),
        size(
            text!("use_sliding_window"),
            json!(false),
            None,
            json!(false),
        ),
        size(
            text!("hidden_size"),
            json!(8192),
            Some("model.language.hidden_size"),
            json!(l.hidden_size),
        ),
        size(
            text!("intermediate_size"),
            json!(29568),
            Some("model.language.intermediate_size"),
            json!(l.intermediate_size),
        ),
        size(
            text!("num_hidden_layers"),
            json!(80),
            Some("model.language.num_hidden_layers"),
            json!(l.num_hidden_layers),
        ),
        size(
            text!("num_attention_heads"),
            json!(64),
            Some("model.language.num_attention_heads"),
            json!(l.num_attention_heads),
        ),
        size(
            text!("num_key_value_heads"),
            json!(8),
            Some("model.language.num_key_value_heads"),
            json!(l.num_key_value_heads),
        ),
        size(
            text!("rms_norm_eps"),
            json!(1e-5),
            Some("model.language.rms_norm_eps"),
            json!(l.rms_norm_eps),
        ),
        size(
            &[
                "text_config.rope_theta",
                "rope_theta",
                "text_config.rope_parameters.rope_theta",
            ],
            json!(1e6),
            Some("model.language.rope_theta"),
            json!(l.rope_theta),
        ),
        size(
            &[
                "text_config.rope_scaling.mrope_section",
                "rope_scaling.mrope_section",
                "text_config.rope_parameters.mrope_section",
            ],
            Value::Null,
            Some("model.language.mrope_section"),
            json!(l.mrope_section),
        ),
        size(
            &["vision_config.hidden_act"],
            json!("quick_gelu"),
            None,
            json!("quick_gelu"),
        ),
        size(
            &["vision_config.depth"],
            json!(32),
            Some("model.vision.depth"),
            json!(v.depth),
        ),
        size(
            &["vision_config.embed_dim"],
            json!(1280),
            Some("model.vision.embed_dim"),
            json!(v.embed_dim),
        ),
        size(
            &["vision_config.num_heads"],
            json!(16),
            Some("model.vision.num_heads"),
            json!(v.num_heads),
        ),
        size(
            &["vision_config.mlp_ratio"],
            json!(4),
            Some("model.vision.mlp_ratio"),
            json!(v.mlp_ratio),
        ),
        size(
            &["vision_config.patch_size"],
            json!(14),
            Some("model.vision.patch_size"),
            json!(v.patch_size),
        ),
        size(
            &["vision_config.temporal_patch_size"],
            json!(2),
            Some("model.vision.temporal_patch_size"),
            json!(v.temporal_patch_size),
        ),
        size(
            &["vision_config.spatial_merge_size"],
            json!(2),
            Some("model.vision.spatial_merge_size"),
            json!(v.spatial_merge_size),
        ),
    ]
}

fn of_clip(settings: &Settings) -> Vec<Size> {
    let c = &settings.model.clip_text;
    macro_rules! text {
        ($field:literal) => {
            &[concat!("text_config.", $field), $field]
        };
    }
    let size = |paths, default: Value, key, ours: Value| Size {
        paths,
        default,
        key,
        ours,
    };
    vec![
        size(
            text!("hidden_act"),
            json!("quick_gelu"),
            None,
            json!("quick_gelu"),
        ),
        size(text!("layer_norm_eps"), json!(1e-5), None, json!(1e-5)),
        size(
            text!("hidden_size"),
            json!(512),
            Some("model.clip_text.hidden_size"),
            json!(c.hidden_size),
        ),
        size(
            text!("intermediate_size"),
            json!(2048),
            Some("model.clip_text.intermediate_size"),
            json!(c.intermediate_size),
        ),
        size(
            text!("num_hidden_layers"),
            json!(12),
            Some("model.clip_text.num_hidden_layers"),
            json!(c.num_hidden_layers),
        ),
        size(
            text!("num_attention_heads"),
            json!(8),
            Some("model.clip_text.num_attention_heads"),
            json!(c.num_attention_heads),
        ),
        size(
            text!("vocab_size"),
            json!(49408),
            Some("model.clip_text.vocab_size"),
            json!(c.vocab_size),
        ),
        size(
            text!("max_position_embeddings"),
            json!(77),
            Some("model.clip_text.max_position_embeddings"),
            json!(c.max_position_embeddings),
        ),
    ]
}

/// The value at a dotted path.
fn at<'a>(config: &'a Value, path: &str) -> Option<&'a Value> {
    let found = path
        .split('.')
        .try_fold(config, |value, key| value.get(key))?;
    (!found.is_null()).then_some(found)
}

/// Numbers agree where they are equal as numbers: 4 and 4.0 are.
fn agree(theirs: &Value, ours: &Value) -> bool {
    match (theirs.as_f64(), ours.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * b.abs(),
        _ => theirs == ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paper() -> Settings {
        crate::config::load(super::super::PAPER, &[])
            .unwrap()
            .settings
    }

    /// The sizes that Qwen2-VL-7B-Instruct publishes, in the layout of either age.
    fn qwen2_vl(text_below: bool) -> Value {
        let text = json!({
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "hidden_act": "silu",
            "rope_scaling": { "type": "mrope", "mrope_section": [16, 24, 24] }, "vocab_size": 152064,
            "tie_word_embeddings": false,
        });
        let mut config = json!({
            "model_type": "qwen2_vl",
            "vision_config": { "depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "patch_size": 14 },
        });
        if text_below {
            config["text_config"] = text
        } else {
            for (key, value) in text.as_object().unwrap() {
                config[key] = value.clone();
            }
        }
        config
    }

    #[test]
    fn the_papers_sizes_are_those_of_the_published_checkpoints() {
        for text_below in [true, false] {
            check("paper", &paper(), &qwen2_vl(text_below), &json!({})).unwrap();
        }
    }

    #[test]
    fn every_size_that_differs_is_listed_with_both_values() {
        let mut config = qwen2_vl(false);
        config["num_key_value_heads"] = json!(8);
        config["model_type"] = json!("qwen2_5_vl");
        let clip = json!({ "text_config": { "hidden_act": "gelu", "hidden_size": 768 } });
        let error = check("mine.toml", &paper(), &config, &clip).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(
            error.to_string(),
            "mine.toml: expected the sizes of the checkpoints, found 4 that differ\n  \
             model_type of Qwen2-VL: expected \"qwen2_vl\", found \"qwen2_5_vl\"\n  \
             model.language.num_key_value_heads: expected 8 (text_config.num_key_value_heads of Qwen2-VL), found 4\n  \
             text_config.hidden_act of CLIP: expected \"quick_gelu\", found \"gelu\"\n  \
             model.clip_text.hidden_size: expected 768 (text_config.hidden_size of CLIP), found 512"
        );
    }

    #[test]
    fn positions_that_are_scaled_and_windows_that_slide_are_refused_by_name() {
        for (key, value, word) in [
            (
                "rope_scaling",
                json!({ "type": "yarn", "factor": 4.0, "mrope_section": [16, 24, 24] }),
                "\"yarn\"",
            ),
            (
                "rope_parameters",
                json!({ "rope_type": "linear" }),
                "\"linear\"",
            ),
            ("use_sliding_window", json!(true), "use_sliding_window"),
        ] {
            for text_below in [true, false] {
                let mut config = qwen2_vl(text_below);
                let text = if text_below {
                    &mut config["text_config"]
                } else {
                    &mut config
                };
                text[key] = value.clone();
                let error = check("paper", &paper(), &config, &json!({})).unwrap_err();
                assert!(error.to_string().contains(word), "{error}");
            }
        }
    }

    #[test]
    fn a_tied_head_is_known_in_either_layout() {
        assert!(is_tied(&json!({ "tie_word_embeddings": true })));
        assert!(is_tied(
            &json!({ "text_config": { "tie_word_embeddings": true } })
        ));
        assert!(!is_tied(&json!({})));
    }
}

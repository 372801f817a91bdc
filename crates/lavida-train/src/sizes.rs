//! Whether two settings describe one model: what is compared before weights that come with settings are loaded by others, so
//! that the keys are named and not hundreds of tensors.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::Device;
use lavida_data::{Error, Result};
use lavida_model::{lavida::Lavida, qwen2_vl::SpecialTokens, weights};

use crate::settings::Settings;

/// The rows of the embedding, of which an import adds and leaves out some.
const VOCABULARY: &str = "model.language.vocab_size:";
/// Names of files, which say nothing of the model.
const TOKENIZERS: [&str; 2] = ["model.tokenizer", "model.clip_tokenizer"];
/// Whether the head is the embedding: a run may start with a copy of it, and the other way round.
const TIED: &str = "model.language.tie_word_embeddings:";

/// Refuses settings whose model has other shapes than the model that comes with `own`, `what` in messages. No value is drawn,
/// so both may be of any size.
///
/// # Errors
///
/// [`Error::Invalid`] with every key under `model` that differs.
pub fn check_sizes(what: &str, own: &Settings, asked: &Settings) -> Result<()> {
    let differing = differing_sizes(own, asked);
    if differing.is_empty() || shapes(own) == shapes(asked) {
        return Ok(());
    }
    Err(other_sizes(what, &differing))
}

/// As [`check_sizes`] for a run that starts with the weights that come with `own`: whether the head is the embedding may differ,
/// since a run begins with a copy where it wants two matrices, and takes the one where it wants one.
///
/// # Errors
///
/// As [`check_sizes`].
pub fn check_initial_sizes(what: &str, own: &Settings, asked: &Settings) -> Result<()> {
    let mut differing = differing_sizes(own, asked);
    let n_differing = differing.len();
    differing.retain(|line| !line.starts_with(TIED));
    // The matrix of the head tells them apart by shapes, too.
    let is_tied_otherwise = differing.len() < n_differing;
    if differing.is_empty() || (!is_tied_otherwise && shapes(own) == shapes(asked)) {
        return Ok(());
    }
    Err(other_sizes(what, &differing))
}

/// Refuses settings of another model than the one that comes with `own`, also where no shape tells (heads, epsilons). Rows of
/// the embedding are not compared: an import adds and leaves out some; nor whether the head is the embedding.
///
/// # Errors
///
/// As [`check_sizes`].
pub fn check_same_model(what: &str, own: &Settings, asked: &Settings) -> Result<()> {
    let mut differing = differing_sizes(own, asked);
    differing.retain(|line| !line.starts_with(VOCABULARY) && !line.starts_with(TIED));
    if differing.is_empty() {
        return Ok(());
    }
    Err(other_sizes(what, &differing))
}

fn other_sizes(what: &str, differing: &[String]) -> Error {
    let lines: String = differing.iter().map(|line| format!("\n  {line}")).collect();
    let found = format!("{} that differ{lines}", differing.len());
    Error::invalid(what, "the sizes of its model", found)
}

/// A line for each key under `model` that has another value.
fn differing_sizes(own: &Settings, asked: &Settings) -> Vec<String> {
    let values = |settings: &Settings| {
        let mut values = BTreeMap::new();
        if let Some(model) = settings.values().remove("model") {
            flatten("model", model, &mut values);
        }
        values
    };
    let (own, asked) = (values(own), values(asked));
    let keys: BTreeSet<&String> = own.keys().chain(asked.keys()).collect();
    let text = |value: Option<&toml::Value>| value.map_or("unset".to_owned(), ToString::to_string);
    let keys = keys
        .into_iter()
        .filter(|key| !TOKENIZERS.contains(&key.as_str()));
    keys.map(|key| (key, own.get(key), asked.get(key)))
        .filter(|(_, own, asked)| own != asked)
        .map(|(key, own, asked)| format!("{key}: expected {}, found {}", text(own), text(asked)))
        .collect()
}

fn flatten(key: &str, value: toml::Value, into: &mut BTreeMap<String, toml::Value>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                flatten(&format!("{key}.{name}"), value, into);
            }
        }
        value => {
            into.insert(key.to_owned(), value);
        }
    }
}

/// Name and shape of every parameter.
fn shapes(settings: &Settings) -> Vec<(String, Vec<usize>)> {
    let special = SpecialTokens {
        seg: 0,
        image_pad: 0,
        video_pad: 0,
        pad: 0,
    };
    let model = Lavida::uninitialised(&settings.model.config(), special, &Device::flex());
    let parameters = weights::parameters(&model).into_iter();
    parameters.map(|p| (p.name, p.shape)).collect()
}

//! From the checkpoints that LAVIDA starts from to the weights of one.
//!
//! Qwen2-VL, SAM2 and CLIP come in files of their own names; a LAVIDA that was exported has all under ours. Every tensor
//! of the model is looked for, every tensor of the files is accounted for, and all that does not fit is listed before
//! anything is written. Then the weights go out one by one, so that no more than one is in memory, and after them, in a
//! file of their own, the tensors that are only carried.
//! Reference: `train_acc.py` (what is loaded, `<SEG>`, `resize_token_embeddings`).

mod planned;

use std::collections::BTreeMap;

use burn::tensor::{DType, FloatDType};

use super::files::{float_dtype, kept};
use super::{ParameterInfo, TensorFiles, WeightError, WeightMismatch, export_where, parameters};
use crate::draw::draw_where;
use crate::lavida::{Lavida, is_unused};
use crate::precision::Precision;
pub use planned::PlannedFile;
use planned::{Origin, Planned};

/// What no published checkpoint holds: the projector, drawn from the seed.
const DRAWN: &str = "seg_model.multi_scale_projector.";
/// Rows per word of the prompt's vocabulary.
const WORD_TABLES: [&str; 2] = [EMBEDDING, HEAD];
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Where weights come from.
#[derive(Debug)]
pub enum Sources {
    /// The three published checkpoints.
    Towers {
        /// Qwen2-VL as Hugging Face writes it.
        qwen2_vl: TensorFiles,
        /// Its output layer is its embedding (`tie_word_embeddings`).
        is_tied: bool,
        /// SAM2's state dict.
        sam2: TensorFiles,
        /// CLIP as Hugging Face writes it.
        clip: TensorFiles,
    },
    /// A LAVIDA under the reference's names.
    Lavida(TensorFiles),
}

/// What becomes of each tensor, before anything is read.
#[derive(Debug)]
pub struct ImportPlan<'a> {
    /// The new `weights.safetensors`.
    pub weights: PlannedFile<'a>,
    /// The new `carried.safetensors`: what LAVIDA never reads and the reference's classes have. None where the files
    /// have nothing of it.
    pub carried: Option<PlannedFile<'a>>,
    /// Tensors of the files that LAVIDA has no use for, by file.
    pub unused: BTreeMap<String, Vec<String>>,
    /// Parameters that no file holds, drawn from the seed.
    pub drawn: Vec<String>,
    /// Tables whose number of rows changes, with the numbers before and after.
    pub resized: Vec<(String, usize, usize)>,
}

/// What a tensor of a file is to LAVIDA.
enum Meaning {
    Parameter(String),
    Carried(String),
    Unused,
}

impl Sources {
    /// Rows of the prompt vocabulary's embedding in the files, under whatever name it has there.
    pub fn n_words(&self) -> Option<usize> {
        self.rows_of(EMBEDDING)
    }

    /// Rows of the category vocabulary's embedding in the files.
    pub fn n_category_words(&self) -> Option<usize> {
        self.rows_of("assist_clf.text_model.embeddings.token_embedding.weight")
    }

    fn rows_of(&self, parameter: &str) -> Option<usize> {
        let (files, name) = self
            .meanings()
            .into_iter()
            .find_map(|(files, name, meaning)| {
                matches!(&meaning, Meaning::Parameter(p) if p == parameter).then_some((files, name))
            })?;
        files.shape(name)?.first().copied()
    }

    fn meanings(&self) -> Vec<(&TensorFiles, &str, Meaning)> {
        let of = |files, meaning: fn(&str) -> Meaning| -> Vec<(&TensorFiles, &str, Meaning)> {
            let files: &TensorFiles = files;
            files
                .names()
                .map(|name| (files, name, meaning(without_wrappers(name))))
                .collect()
        };
        match self {
            Self::Lavida(files) => of(files, of_lavida),
            Self::Towers {
                qwen2_vl,
                sam2,
                clip,
                ..
            } => {
                let mut all = of(qwen2_vl, of_qwen2_vl);
                all.extend(of(sam2, of_sam2));
                all.extend(of(clip, of_clip));
                all
            }
        }
    }
}

/// What training tools put before the names of a model that they wrap: DistributedDataParallel, `torch.compile`, PEFT.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "base_model.model."];

/// A tensor's name without what wrappers of the model put before it.
pub fn without_wrappers(name: &str) -> &str {
    let mut bare = name;
    while let Some(rest) = WRAPPERS.iter().find_map(|prefix| bare.strip_prefix(prefix)) {
        bare = rest;
    }
    bare
}

/// transformers puts both parts below `model.` since 4.52.
fn of_qwen2_vl(name: &str) -> Meaning {
    if name.ends_with(".rotary_emb.inv_freq") {
        return Meaning::Unused; // computed
    }
    let renamed = [
        ("model.visual.", "visual."),
        ("model.language_model.", "model."),
    ]
    .iter()
    .find_map(|(theirs, ours)| Some(format!("{ours}{}", name.strip_prefix(theirs)?)));
    Meaning::Parameter(renamed.unwrap_or_else(|| name.to_owned()))
}

fn of_clip(name: &str) -> Meaning {
    let unused = [
        "vision_model.",
        "visual_projection.",
        "text_projection.",
        "logit_scale",
        "text_model.embeddings.position_ids",
    ];
    if unused.iter().any(|prefix| name.starts_with(prefix)) {
        Meaning::Unused
    } else {
        Meaning::Parameter(format!("assist_clf.{name}"))
    }
}

fn of_sam2(name: &str) -> Meaning {
    of_lavida(&format!("seg_model.{name}"))
}

fn of_lavida(name: &str) -> Meaning {
    if is_unused(name) {
        Meaning::Carried(name.to_owned())
    } else {
        Meaning::Parameter(name.to_owned())
    }
}

impl<'a> ImportPlan<'a> {
    /// Finds a source for every parameter of `model` (none of whose values need be drawn). Weights get `precision`, or
    /// without one keep theirs: bf16 where they are stored so, else f32. What is only carried stays as it is stored.
    /// `seed` draws what no published checkpoint has.
    ///
    /// # Errors
    ///
    /// [`WeightError::Mismatch`] with every tensor that is missing, left over, of another shape or no floats, by the
    /// names of the new checkpoint.
    pub fn new(
        sources: &'a Sources,
        model: &Lavida,
        precision: Option<Precision>,
        seed: u64,
    ) -> Result<Self, WeightError> {
        let mut unused: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut found: BTreeMap<String, (&TensorFiles, &str)> = BTreeMap::new();
        let (mut faults, mut carried) = (Vec::new(), Vec::new());
        let mut mismatch = WeightMismatch::default();
        for (files, name, meaning) in sources.meanings() {
            match meaning {
                Meaning::Unused => {
                    let names = unused.entry(files.name().to_owned()).or_default();
                    names.push(name.to_owned());
                }
                Meaning::Carried(known) => match stored(files, name) {
                    Ok((dtype, shape)) => carried.push(Planned {
                        name: known,
                        dtype,
                        shape,
                        from: Origin::stored(files, name),
                    }),
                    Err(found) => mismatch.wrong_dtype.push((known, found)),
                },
                Meaning::Parameter(parameter) => {
                    if let Some((other, first)) = found.insert(parameter, (files, name)) {
                        let what = format!("{}: {name}", files.name());
                        let found = format!("{first} of {} too", other.name());
                        faults.push(WeightError::file(what, "one tensor for a parameter", found));
                    }
                }
            }
        }
        WeightError::all(faults)?;
        // What a tied head may have of its own is not read, as in transformers.
        if let Sources::Towers { is_tied: true, .. } = sources
            && let Some((files, theirs)) = found.remove(HEAD)
        {
            let names = unused.entry(files.name().to_owned()).or_default();
            names.push(theirs.to_owned());
        }
        let may_draw = matches!(sources, Sources::Towers { .. });
        let mut tensors = Vec::new();
        let (mut drawn, mut resized) = (Vec::new(), Vec::new());
        for ParameterInfo { name, shape, .. } in parameters(model) {
            let Some((files, theirs)) = found.remove(&name) else {
                if may_draw && name.starts_with(DRAWN) {
                    drawn.push(name)
                } else {
                    mismatch.missing.push((name, shape))
                }
                continue;
            };
            let (dtype, found) = match stored(files, theirs) {
                Ok(stored) => stored,
                Err(found) => {
                    mismatch.wrong_dtype.push((name, found));
                    continue;
                }
            };
            let mut n_rows = None;
            if found != shape {
                let is_table = may_draw && WORD_TABLES.contains(&name.as_str());
                match (is_table, found.as_slice(), shape.as_slice()) {
                    (true, [rows, width], [wanted, d]) if width == d && *rows > 0 => {
                        resized.push((name.clone(), *rows, *wanted));
                        n_rows = Some(*wanted);
                    }
                    _ => {
                        mismatch.misshapen.push((name, shape, found));
                        continue;
                    }
                }
            }
            tensors.push(Planned {
                name,
                dtype: kept(dtype, precision),
                shape,
                from: Origin::Stored {
                    files,
                    name: theirs.to_owned(),
                    n_rows,
                },
            });
        }
        mismatch.left_over = found
            .into_iter()
            .map(|(parameter, (files, theirs))| {
                (parameter, files.shape(theirs).unwrap_or_default().to_vec())
            })
            .collect();
        if !mismatch.is_empty() {
            return Err(WeightError::Mismatch(mismatch));
        }
        draw_where(model, &model.device(), seed, |name| {
            name.starts_with(DRAWN) && may_draw
        });
        let dtype = FloatDType::from(precision.unwrap_or_default()).into();
        let values = export_where(model, |name| drawn.iter().any(|d| d == name));
        tensors.extend(values.into_iter().map(|(name, data)| Planned {
            name,
            dtype,
            shape: data.shape().to_vec(),
            from: Origin::Drawn(data),
        }));
        let carried = if carried.is_empty() {
            None
        } else {
            Some(PlannedFile::new(carried)?)
        };
        Ok(Self {
            weights: PlannedFile::new(tensors)?,
            carried,
            unused,
            drawn,
            resized,
        })
    }

    /// Reads every tensor once and looks for values that are no numbers; `on_bytes` is told of the bytes of each, which make
    /// [`Self::n_bytes`] in the end.
    ///
    /// # Errors
    ///
    /// [`WeightError::Mismatch`] naming every tensor with NaN or an infinity.
    pub fn check_values(&self, mut on_bytes: impl FnMut(u64)) -> Result<(), WeightError> {
        let mut mismatch = WeightMismatch::default();
        for file in self.files() {
            mismatch.not_finite.extend(file.not_finite(&mut on_bytes)?);
        }
        if mismatch.is_empty() {
            Ok(())
        } else {
            Err(WeightError::Mismatch(mismatch))
        }
    }

    /// Bytes of the tensors of all files, headers left out.
    pub fn n_bytes(&self) -> u64 {
        self.files().map(PlannedFile::n_tensor_bytes).sum()
    }

    fn files(&self) -> impl Iterator<Item = &PlannedFile<'a>> {
        std::iter::once(&self.weights).chain(&self.carried)
    }
}

/// Number format and shape of a tensor of floats, or the format that is none.
fn stored(files: &TensorFiles, name: &str) -> Result<(DType, Vec<usize>), String> {
    let entry = files.entry(name).expect("named by the files themselves");
    match float_dtype(entry.dtype) {
        Some(dtype) => Ok((dtype, entry.shape.clone())),
        None => Err(format!("{:?}", entry.dtype)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_layouts_mean_the_same() {
        let meaning = |name: &str| match of_qwen2_vl(name) {
            Meaning::Parameter(name) => name,
            Meaning::Carried(_) | Meaning::Unused => panic!("{name}"),
        };
        for (old, new) in [
            (
                "visual.blocks.0.attn.qkv.weight",
                "model.visual.blocks.0.attn.qkv.weight",
            ),
            (
                "model.layers.0.mlp.up_proj.weight",
                "model.language_model.layers.0.mlp.up_proj.weight",
            ),
            ("model.norm.weight", "model.language_model.norm.weight"),
            ("lm_head.weight", "lm_head.weight"),
        ] {
            assert_eq!(meaning(old), old);
            assert_eq!(meaning(new), old);
            let wrapped = format!("module._orig_mod.base_model.model.{new}");
            assert_eq!(meaning(without_wrappers(&wrapped)), old);
        }
    }
}

//! From the checkpoints that LAVIDA starts from to the weights of one.
//!
//! Qwen2-VL, SAM2 and CLIP come in files of their own names; a LAVIDA that was exported has all under ours. Every tensor
//! of the model is looked for, every tensor of the files is accounted for, and all that does not fit is listed before
//! anything is written. Then the weights go out one by one, so that no more than one is in memory.
//! Reference: `train_acc.py` (what is loaded, `<SEG>`, `resize_token_embeddings`).

use std::collections::BTreeMap;

use ::safetensors::Dtype;
use burn::tensor::TensorData;

use super::files::{is_float, kept};
use super::safetensors::FilePlan;
use super::{
    ParameterInfo, TensorFiles, WeightError, WeightMismatch, export_where, is_finite,
    parameters,
};
use crate::draw::draw_where;
use crate::lavida::{Lavida, UNUSED_TENSORS};
use crate::precision::Precision;

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
    tensors: Vec<Planned<'a>>,
    file: FileStart,
    /// Tensors of the files that LAVIDA has no use for, by file.
    pub unused: BTreeMap<String, Vec<String>>,
    /// Parameters that no file holds, drawn from the seed.
    pub drawn: Vec<String>,
    /// Tables whose number of rows changes, with the numbers before and after.
    pub resized: Vec<(String, usize, usize)>,
}

#[derive(Debug)]
struct FileStart {
    header: Vec<u8>,
    n_bytes: u64,
}

/// One tensor of the new checkpoint.
#[derive(Debug)]
struct Planned<'a> {
    name: String,
    precision: Precision,
    from: Origin<'a>,
}

#[derive(Debug)]
enum Origin<'a> {
    Stored {
        files: &'a TensorFiles,
        name: String,
        /// Rows it gets, where that is another number than it has.
        n_rows: Option<usize>,
    },
    Drawn(TensorData),
}

/// What a tensor of a file is to LAVIDA.
enum Meaning {
    Parameter(String),
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
                .map(|name| (files, name, meaning(name)))
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
    match unused.iter().any(|prefix| name.starts_with(prefix)) {
        true => Meaning::Unused,
        false => Meaning::Parameter(format!("assist_clf.{name}")),
    }
}

fn of_sam2(name: &str) -> Meaning {
    of_lavida(&format!("seg_model.{name}"))
}

fn of_lavida(name: &str) -> Meaning {
    match UNUSED_TENSORS.iter().any(|prefix| name.starts_with(prefix)) {
        true => Meaning::Unused,
        false => Meaning::Parameter(name.to_owned()),
    }
}

impl<'a> ImportPlan<'a> {
    /// Finds a source for every parameter of `model` (none of whose values need be drawn). Values get `precision`, or
    /// without one keep theirs: bf16 where they are stored so, else f32. `seed` draws what no published checkpoint has.
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
        let mut faults = Vec::new();
        for (files, name, meaning) in sources.meanings() {
            match meaning {
                Meaning::Unused => {
                    let names = unused.entry(files.name().to_owned()).or_default();
                    names.push(name.to_owned());
                }
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
        if let Sources::Towers { is_tied: true, .. } = sources
            && let Some(embedding) = found.get(EMBEDDING).copied()
        {
            found.insert(HEAD.to_owned(), embedding); // what a tied head may have of its own is not read, as in transformers
        }
        let may_draw = matches!(sources, Sources::Towers { .. });
        let mut mismatch = WeightMismatch::default();
        let (mut tensors, mut shapes) = (Vec::new(), Vec::new());
        let (mut drawn, mut resized) = (Vec::new(), Vec::new());
        for ParameterInfo { name, shape, .. } in parameters(model) {
            let Some((files, theirs)) = found.remove(&name) else {
                match may_draw && name.starts_with(DRAWN) {
                    true => drawn.push(name),
                    false => mismatch.missing.push((name, shape)),
                }
                continue;
            };
            let entry = files.entry(theirs).expect("named by the files themselves");
            let mut n_rows = None;
            if entry.shape != shape {
                let is_table = may_draw && WORD_TABLES.contains(&name.as_str());
                match (is_table, entry.shape.as_slice(), shape.as_slice()) {
                    (true, [rows, width], [wanted, d]) if width == d && *rows > 0 => {
                        resized.push((name.clone(), *rows, *wanted));
                        n_rows = Some(*wanted);
                    }
                    _ => {
                        mismatch.misshapen.push((name, shape, entry.shape.clone()));
                        continue;
                    }
                }
            }
            if !is_float(entry.dtype) {
                mismatch
                    .wrong_dtype
                    .push((name, format!("{:?}", entry.dtype)));
                continue;
            }
            let precision = kept(entry.dtype, precision);
            shapes.push((name.clone(), file_dtype(precision), shape));
            tensors.push(Planned {
                name,
                precision,
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
        let precision = precision.unwrap_or(Precision::F32);
        let values = export_where(model, |name| drawn.iter().any(|d| d == name));
        for (name, data) in values {
            shapes.push((name.clone(), file_dtype(precision), data.shape().to_vec()));
            tensors.push(Planned {
                name,
                precision,
                from: Origin::Drawn(data),
            });
        }
        let plan = FilePlan::new(shapes)?;
        let order: BTreeMap<&str, usize> = plan
            .starts
            .iter()
            .enumerate()
            .map(|(at, (name, _))| (name.as_str(), at))
            .collect();
        tensors.sort_by_key(|planned| order[planned.name.as_str()]);
        Ok(Self {
            tensors,
            file: FileStart {
                header: plan.header,
                n_bytes: plan.n_bytes,
            },
            unused,
            drawn,
            resized,
        })
    }

    /// Reads every tensor once and looks for values that are no numbers.
    ///
    /// # Errors
    ///
    /// [`WeightError::Mismatch`] naming every tensor with NaN or an infinity.
    pub fn check_values(&self) -> Result<(), WeightError> {
        let mut mismatch = WeightMismatch::default();
        for planned in &self.tensors {
            if !is_finite(&planned.read()?) {
                mismatch.not_finite.push(planned.name.clone());
            }
        }
        match mismatch.is_empty() {
            true => Ok(()),
            false => Err(WeightError::Mismatch(mismatch)),
        }
    }

    /// Size of the file that [`Self::chunks`] makes.
    pub fn n_bytes(&self) -> u64 {
        self.file.n_bytes
    }

    /// The new `weights.safetensors` from its first byte to its last: the header, then a tensor at a time.
    pub fn chunks(&self) -> impl Iterator<Item = Result<Vec<u8>, WeightError>> {
        let header = std::iter::once_with(|| Ok(self.file.header.clone()));
        let tensors = self.tensors.iter().map(|planned| {
            let (bytes, _, _) = planned.read()?.into_parts();
            Ok(bytes.to_vec())
        });
        header.chain(tensors)
    }
}

impl Planned<'_> {
    fn read(&self) -> Result<TensorData, WeightError> {
        match &self.from {
            Origin::Drawn(data) => {
                let dtype = burn::tensor::FloatDType::from(self.precision).into();
                Ok(data.clone().convert_dtype(dtype))
            }
            Origin::Stored {
                files,
                name,
                n_rows,
            } => {
                let data = files.read(name, Some(self.precision))?;
                Ok(match n_rows {
                    Some(n_rows) => resized(data, *n_rows),
                    None => data,
                })
            }
        }
    }
}

/// A table with another number of rows: the first ones, or all and as many times their mean.
///
/// transformers draws new rows around the mean with a billionth of the rows' covariance; here they are the mean, so that
/// an import needs no chance.
fn resized(table: TensorData, n_rows: usize) -> TensorData {
    let [rows, width] = table.shape().dims();
    let dtype = table.dtype();
    let (bytes, _, _) = table.into_parts();
    let row_bytes = width * dtype.size();
    let mut resized = bytes[..n_rows.min(rows) * row_bytes].to_vec();
    if n_rows > rows {
        let values = TensorData::from_bytes(bytes, [rows, width], dtype).convert::<f32>();
        let values = values.as_slice::<f32>().expect("converted to f32");
        let mut mean = vec![0f64; width];
        for row in values.chunks_exact(width.max(1)) {
            for (sum, value) in mean.iter_mut().zip(row) {
                *sum += f64::from(*value);
            }
        }
        let mean: Vec<f32> = mean.iter().map(|sum| (sum / rows as f64) as f32).collect();
        let row = TensorData::new(mean, [1, width]).convert_dtype(dtype);
        for _ in rows..n_rows {
            resized.extend_from_slice(row.as_bytes());
        }
    }
    TensorData::from_bytes_vec(resized, [n_rows, width], dtype)
}

fn file_dtype(precision: Precision) -> Dtype {
    match precision {
        Precision::F32 => Dtype::F32,
        Precision::Bf16 => Dtype::BF16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::DType;

    #[test]
    fn a_table_is_cut_to_its_first_rows_or_grown_by_their_mean() {
        let table = || TensorData::new(vec![1.0f32, 10.0, 3.0, 30.0], [2, 2]);
        assert_eq!(
            resized(table(), 1),
            TensorData::new(vec![1.0f32, 10.0], [1, 2])
        );
        let grown = resized(table(), 4);
        let expected = vec![1.0f32, 10.0, 3.0, 30.0, 2.0, 20.0, 2.0, 20.0];
        assert_eq!(grown, TensorData::new(expected, [4, 2]));
        let half = resized(table().convert_dtype(DType::BF16), 3);
        assert_eq!(half.dtype(), DType::BF16);
        assert_eq!(half.shape().as_slice(), [3, 2]);
    }

    #[test]
    fn names_of_both_layouts_mean_the_same() {
        let meaning = |name: &str| match of_qwen2_vl(name) {
            Meaning::Parameter(name) => name,
            Meaning::Unused => panic!("{name}"),
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
        }
    }
}

//! Settings of a run: a TOML file, then `--set key=value`, checked in one place.
//!
//! A file may build on another with `extends = "other.toml"` (beside it); its own keys win, table by
//! table. Every unknown key is refused with the nearest known one. A [`Settings`] that exists is valid.

use std::path::Path;

use lavida_data::{
    Error, Result,
    catalog::{Caching, DEFAULT_MEMORY_BYTES},
    disk_cache::{DEFAULT_DISK_BYTES, DiskCache},
    order::DEFAULT_SHUFFLE_WINDOW,
};
use lavida_model::compression::CompressionConfig;
use lavida_model::config::{
    ClipTextConfig, LanguageConfig, LavidaConfig, ProjectorConfig, Sam2Config, VisionConfig,
};
use lavida_model::{precision::Precision, recompute::Recompute};
use serde::{Deserialize, Serialize};

use crate::{losses::LossWeights, schedule::Decay};

/// Everything a run is determined by, besides its data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Root of every random choice.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// `cpu` (Flex), or `cuda:0`, `wgpu` in builds that have them.
    #[serde(default = "default_device")]
    pub device: String,
    /// Sizes of the model's parts and its vocabularies.
    pub model: ModelSettings,
    /// Visual token compression.
    #[serde(default)]
    pub compression: CompressionSettings,
    /// What is shown of a clip and what is asked about it.
    #[serde(default)]
    pub sampler: SamplerSettings,
    /// The loop.
    pub train: TrainSettings,
    /// AdamW and its schedule.
    #[serde(default)]
    pub optimizer: OptimizerSettings,
    /// When state is committed.
    #[serde(default)]
    pub checkpoint: CheckpointSettings,
    /// How several workers are led.
    #[serde(default)]
    pub cluster: ClusterSettings,
    /// Where training data is kept that was fetched.
    #[serde(default)]
    pub cache: CacheSettings,
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// Qwen2-VL's `tokenizer.json`: a path beside the settings file, or `embedded:tiny`.
    pub tokenizer: String,
    /// CLIP's `tokenizer.json`: a path beside the settings file, or `embedded:tiny`.
    pub clip_tokenizer: String,
    /// Qwen2-VL's vision tower.
    pub vision: VisionConfig,
    /// Qwen2-VL's language model.
    pub language: LanguageConfig,
    /// CLIP's text tower.
    pub clip_text: ClipTextConfig,
    /// SAM2.
    pub sam2: Sam2Config,
    /// The multi-scale semantic projector.
    pub projector: ProjectorConfig,
    /// SAM2's no-memory embedding on images too; the reference adds it to video only.
    #[serde(default)]
    pub image_no_mem_embed: bool,
}

/// `[compression]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompressionSettings {
    /// Share of visual tokens kept, in (0, 1]; 1 switches compression off. Lower is leaner and coarser.
    pub keep_ratio: f64,
    /// `reachability` (the reference's local reachability density) or `knn` (the paper's Eq. 3).
    pub density: lavida_model::compression::Density,
    /// Neighbours of the density estimate.
    pub n_neighbors: usize,
    /// At inference, drop patches that look like the first frame's (reference only).
    pub drop_static_patches: bool,
}

/// `[sampler]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplerSettings {
    /// max(K_E), categories a prompt names at most; by default each dataset's own (30, Mapillary 20, Cityscapes 6).
    pub max_categories: Option<usize>,
    /// p of Eq. 2, share of clips shown as anomalous.
    pub anomaly_ratio: f64,
    /// Which texts of other samples may not be a distractor.
    pub exclusion: Exclusion,
    /// Frames drawn from a clip.
    pub n_frames: usize,
    /// Bounds of a video frame's area in the MLLM's view, in px.
    pub video_pixels: [usize; 2],
    /// Bounds of an image's area in the MLLM's view, in px.
    pub image_pixels: [usize; 2],
    /// Bounds of a video frame's area in the MLLM's view at evaluation, in px.
    pub evaluation_pixels: [usize; 2],
    /// Names asked for at most in one clip of the grounding stage.
    pub max_names: usize,
    /// Mixing weights by dataset name. A dataset without one keeps the share that its samples have of all samples of the
    /// run; the others divide the rest in proportion to their weights. One for a source of `lavida-dataset` that is not
    /// in the run does nothing; one for a name that is neither is refused. Without weights all go by their samples.
    pub weights: std::collections::BTreeMap<String, f64>,
    /// Samples within which the order is shuffled once row groups are; datasets have their share of it. Larger mixes
    /// better and holds more: half of it in memory. A dataset that fits into its share is permuted whole.
    pub shuffle_window: usize,
}

/// When a text of another sample counts as naming something of this clip, and is no distractor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exclusion {
    /// When it equals a text of the clip (the reference).
    #[default]
    Equal,
    /// Also when all its words stand in one text of the clip: no `circle` beside a `red circle`.
    Words,
}

/// What is being learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The paper's training on pseudo-anomalies.
    #[default]
    Anomaly,
    /// A small stand-in for pretrained towers: words learn to attend to what they name.
    Grounding,
}

/// How a part of the model trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// No gradient.
    Frozen,
    /// Low-rank adapters on `q_proj` and `v_proj`, the rest frozen.
    Lora,
    /// Every weight.
    Full,
}

/// `[train]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSettings {
    /// What is being learned.
    #[serde(default)]
    pub stage: Stage,
    /// Optimizer updates in all.
    pub steps: u64,
    /// Clips per update, over all workers.
    pub global_batch: usize,
    /// Clips per forward pass; `global_batch` is reached by accumulation. More is faster and needs more memory.
    pub microbatch: usize,
    /// Microbatches of a step computed at once, each on a thread of its own; 0: one for each core on a CPU, one on a GPU.
    /// Nothing but time and memory depends on it: activations are held once for each.
    #[serde(default)]
    pub side_by_side: usize,
    /// What backward computes again instead of keeping it: `none`, or `blocks` (the language model's layers, the
    /// Q-Former, SAM2's mask decoder). Not a bit of the result depends on it. `blocks` keeps of each block only what
    /// goes in, and costs one more forward of these blocks: a fifth of a step's time where everything trains, two
    /// fifths with LoRA (docs/benchmarks.md).
    #[serde(default)]
    pub recompute: Recompute,
    /// Number format of the weights that forward reads: `f32`, or `bf16`, which halves weights and activations and
    /// rounds to three digits; what trains is kept in f32 beside it, so a run that trains everything saves little. Made
    /// for GPUs; a CPU emulates it and takes a fifth longer.
    #[serde(default)]
    pub precision: Precision,
    /// Whose weights the run starts from (URI of a run, of one checkpoint or of an export); from random weights without.
    #[serde(default)]
    pub initial: Option<String>,
    /// Masks of frames whose object score is not positive are set to -1024 in training too, as the reference does.
    #[serde(default)]
    pub gate_masks_in_training: bool,
    /// Policy by module prefix; the longest prefix wins, `full` where none matches.
    #[serde(default)]
    pub policy: std::collections::BTreeMap<String, Policy>,
    /// Rank of the LoRA adapters.
    #[serde(default = "default_lora_rank")]
    pub lora_rank: usize,
    /// LoRA's α; adapters are scaled by α / rank.
    #[serde(default = "default_lora_alpha")]
    pub lora_alpha: f64,
    /// Weights of the loss terms.
    #[serde(default)]
    pub losses: LossWeights,
}

/// `[optimizer]`: AdamW.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerSettings {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Decay matrices only (no biases, norms or embeddings of rank one); the reference decays everything.
    pub decay_matrices_only: bool,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Shape after the warm-up.
    pub decay: Decay,
    /// Largest global norm of the gradient; 0 switches clipping off.
    pub clip_norm: f64,
}

/// `[checkpoint]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSettings {
    /// Steps between checkpoints; the last step always has one.
    pub every: u64,
    /// So many of the newest committed checkpoints are kept.
    pub keep_last: usize,
    /// So is that of every step that is a multiple of this; 0 for none.
    pub keep_every: u64,
}

/// `[cluster]`: how a run on several workers is led. Nothing here changes what is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSettings {
    /// Workers that are wanted; 0 for as many as come.
    pub workers: usize,
    /// With fewer no step is made.
    pub min_workers: usize,
    /// How long the first step waits for all wanted workers once there are enough, seconds.
    pub patience_s: u64,
    /// A run that learns and commits nothing for so long starts again from its last checkpoint, seconds.
    pub stall_s: u64,
    /// Starts again, without a checkpoint between them, after which the run gives up.
    pub max_restarts: u32,
    /// Workers share the optimizer's state: each of `n` keeps a part of it and hands the others the values it updates.
    /// Saves 8 bytes a trained value (12 in bf16) but for an n-th of them, and moves as many bytes a step; but half of
    /// these only when backward is over, where sums of whole gradients overlap it, and a checkpoint gathers the moments.
    pub shard_optimizer: bool,
}

/// `[cache]`: where training data is kept that was fetched. Nothing here changes what is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSettings {
    /// Folder of each machine, shared by its workers, for what was fetched from a bucket; it outlives the run. Without
    /// one every worker process fetches for itself. Data in a folder is read where it is.
    pub dir: Option<String>,
    /// Most bytes of it; what was read longest ago goes first.
    pub disk_bytes: u64,
    /// Most bytes of encoded clips that a process holds in memory. What does not fit of half a shuffle window is read
    /// again when it is needed.
    pub memory_bytes: u64,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            dir: None,
            disk_bytes: DEFAULT_DISK_BYTES,
            memory_bytes: DEFAULT_MEMORY_BYTES,
        }
    }
}

impl CacheSettings {
    /// The cache; its folder is made.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there can be no such folder.
    pub fn open(&self) -> Result<Caching> {
        let disk = self
            .dir
            .as_ref()
            .map(|dir| DiskCache::open(dir, self.disk_bytes));
        Ok(Caching {
            memory_bytes: self.memory_bytes,
            disk: disk.transpose()?,
        })
    }
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            workers: 0,
            min_workers: 1,
            patience_s: 60,
            stall_s: 1800,
            max_restarts: 10,
            shard_optimizer: false,
        }
    }
}

fn default_seed() -> u64 {
    44
}
fn default_device() -> String {
    "cpu".into()
}
fn default_lora_rank() -> usize {
    8
}
fn default_lora_alpha() -> f64 {
    16.0
}

impl Default for CompressionSettings {
    fn default() -> Self {
        let config = CompressionConfig::default();
        Self {
            keep_ratio: config.keep_ratio,
            density: config.density,
            n_neighbors: config.n_neighbors,
            drop_static_patches: false,
        }
    }
}

impl Default for SamplerSettings {
    fn default() -> Self {
        Self {
            max_categories: None,
            anomaly_ratio: 0.5,
            exclusion: Exclusion::Equal,
            n_frames: 8,
            video_pixels: [200_704, 401_408],
            image_pixels: [25_088, 802_816],
            evaluation_pixels: [1_003_520, 1_204_224],
            max_names: 24,
            weights: Default::default(),
            shuffle_window: DEFAULT_SHUFFLE_WINDOW,
        }
    }
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self {
            learning_rate: 1e-5,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            decay_matrices_only: false,
            warmup_steps: 100,
            decay: Decay::Linear,
            clip_norm: 1.0,
        }
    }
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self {
            every: 500,
            keep_last: 3,
            keep_every: 0,
        }
    }
}

impl ModelSettings {
    /// Sizes alone, as the model wants them.
    pub fn config(&self) -> LavidaConfig {
        LavidaConfig {
            vision: self.vision.clone(),
            language: self.language.clone(),
            clip_text: self.clip_text.clone(),
            sam2: self.sam2.clone(),
            projector: self.projector.clone(),
            image_no_mem_embed: self.image_no_mem_embed,
        }
    }
}

impl CompressionSettings {
    /// The operation's own configuration.
    pub fn config(&self) -> CompressionConfig {
        CompressionConfig {
            keep_ratio: self.keep_ratio,
            density: self.density,
            n_neighbors: self.n_neighbors,
        }
    }
}

impl Settings {
    /// Reads `path`, follows `extends`, applies `overrides` (`section.key=value`) in order and checks the result.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let table = read_table(path, 0)?;
        Self::from_table(&path.display().to_string(), table, overrides)
    }

    /// The same for text that is not a file (embedded defaults); `extends` is looked up by `resolve`.
    pub fn parse(
        name: &str,
        text: &str,
        resolve: &dyn Fn(&str) -> Option<&'static str>,
        overrides: &[String],
    ) -> Result<Self> {
        let table = extended(name, parse_table(name, text)?, &|base| {
            let text = resolve(base)
                .ok_or_else(|| Error::invalid(name, "a known file in extends", base))?;
            parse_table(base, text)
        })?;
        Self::from_table(name, table, overrides)
    }

    fn from_table(name: &str, mut table: toml::Table, overrides: &[String]) -> Result<Self> {
        for text in overrides {
            set(&mut table, text)?;
        }
        let settings: Self = serde_path_to_error::deserialize(table)
            .map_err(|e| explain(name, &e.path().to_string(), e.inner().message()))?;
        settings.check(name)?;
        Ok(settings)
    }

    /// The settings as TOML, for `settings.toml` of the run and for checkpoints.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("settings hold only tables, numbers and texts")
    }

    /// Microbatches summed into one update by a single worker.
    pub fn accumulation(&self) -> usize {
        self.train.global_batch / self.train.microbatch
    }

    fn check(&self, name: &str) -> Result<()> {
        let key = |key: &str, ok: bool, expected: &str, found: &dyn std::fmt::Display| {
            if ok {
                Ok(())
            } else {
                Err(Error::invalid(format!("{name}: {key}"), expected, found))
            }
        };
        let (t, s, o) = (&self.train, &self.sampler, &self.optimizer);
        let keep = self.compression.keep_ratio;
        key(
            "compression.keep_ratio",
            keep > 0.0 && keep <= 1.0,
            "a share in (0, 1]",
            &keep,
        )?;
        key(
            "compression.n_neighbors",
            self.compression.n_neighbors > 0,
            "at least 1",
            &self.compression.n_neighbors,
        )?;
        key(
            "sampler.anomaly_ratio",
            (0.0..=1.0).contains(&s.anomaly_ratio),
            "a share in [0, 1]",
            &s.anomaly_ratio,
        )?;
        let max_categories = s.max_categories.unwrap_or(2);
        key(
            "sampler.max_categories",
            max_categories >= 2,
            "at least 2 (one true category and one distractor)",
            &max_categories,
        )?;
        key(
            "sampler.n_frames",
            s.n_frames > 0,
            "at least 1",
            &s.n_frames,
        )?;
        for (name, [low, high]) in [
            ("video", s.video_pixels),
            ("image", s.image_pixels),
            ("evaluation", s.evaluation_pixels),
        ] {
            key(
                &format!("sampler.{name}_pixels"),
                0 < low && low <= high,
                "[smallest, largest] area in px",
                &format!("[{low}, {high}]"),
            )?;
        }
        key(
            "sampler.shuffle_window",
            s.shuffle_window > 0,
            "at least 1",
            &s.shuffle_window,
        )?;
        key("train.steps", t.steps > 0, "at least 1", &t.steps)?;
        key(
            "train.microbatch",
            t.microbatch > 0,
            "at least 1",
            &t.microbatch,
        )?;
        key(
            "train.global_batch",
            t.global_batch > 0 && t.global_batch.is_multiple_of(t.microbatch),
            &format!("a multiple of train.microbatch = {}", t.microbatch),
            &t.global_batch,
        )?;
        key(
            "train.lora_rank",
            t.lora_rank > 0,
            "at least 1",
            &t.lora_rank,
        )?;
        key(
            "optimizer.learning_rate",
            o.learning_rate > 0.0,
            "above 0",
            &o.learning_rate,
        )?;
        key(
            "optimizer.clip_norm",
            o.clip_norm >= 0.0,
            "0 (off) or above",
            &o.clip_norm,
        )?;
        for (name, beta) in [("beta1", o.beta1), ("beta2", o.beta2)] {
            key(
                &format!("optimizer.{name}"),
                (0.0..1.0).contains(&beta),
                "in [0, 1)",
                &beta,
            )?;
        }
        key(
            "cluster.min_workers",
            self.cluster.min_workers > 0,
            "at least 1",
            &self.cluster.min_workers,
        )?;
        key(
            "checkpoint.every",
            self.checkpoint.every > 0,
            "at least 1",
            &self.checkpoint.every,
        )?;
        key(
            "checkpoint.keep_last",
            self.checkpoint.keep_last > 0,
            "at least 1",
            &self.checkpoint.keep_last,
        )
    }
}

/// `extends` chains longer than this are taken for a loop.
const MAX_EXTENDS: usize = 8;

fn read_table(path: &Path, depth: usize) -> Result<toml::Table> {
    let name = path.display().to_string();
    if depth > MAX_EXTENDS {
        return Err(Error::invalid(
            name,
            "an extends chain without a loop",
            "a chain of more than 8 files",
        ));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::invalid(&name, "a readable settings file", e))?;
    extended(&name, parse_table(&name, &text)?, &|base| {
        read_table(&path.with_file_name(base), depth + 1)
    })
}

fn parse_table(name: &str, text: &str) -> Result<toml::Table> {
    text.parse()
        .map_err(|e: toml::de::Error| Error::invalid(name, "TOML", e.to_string().trim_end()))
}

fn extended(
    name: &str,
    mut table: toml::Table,
    base: &dyn Fn(&str) -> Result<toml::Table>,
) -> Result<toml::Table> {
    match table.remove("extends") {
        None => Ok(table),
        Some(toml::Value::String(file)) => {
            let mut merged = base(&file)?;
            merge(&mut merged, table);
            Ok(merged)
        }
        Some(other) => Err(Error::invalid(
            format!("{name}: extends"),
            "a file name",
            other,
        )),
    }
}

fn merge(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(value)) => merge(inner, value),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Applies one `section.key=value`. The value is TOML where it parses as such, else text.
fn set(table: &mut toml::Table, text: &str) -> Result<()> {
    let bad = || Error::invalid(format!("--set {text}"), "section.key=value", text);
    let (path, value) = text.split_once('=').ok_or_else(bad)?;
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let mut keys: Vec<&str> = path.split('.').map(str::trim).collect();
    let last = keys.pop().filter(|k| !k.is_empty()).ok_or_else(bad)?;
    let mut place = table;
    for key in keys {
        place = place
            .entry(key)
            .or_insert_with(|| toml::Value::Table(Default::default()))
            .as_table_mut()
            .ok_or_else(bad)?;
    }
    place.insert(last.to_owned(), value);
    Ok(())
}

/// Turns serde's message into one that names the key and, for an unknown one, the nearest known.
fn explain(name: &str, path: &str, message: &str) -> Error {
    let message = message.trim();
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let unknown = quoted.next().unwrap_or_default();
        let nearest = quoted.min_by_key(|known| strsim::damerau_levenshtein(unknown, known));
        let section = path.strip_suffix(unknown).unwrap_or(path);
        let section = section.trim_end_matches('.');
        let dotted = |key: &str| match section {
            "" => key.to_owned(),
            section => format!("{section}.{key}"),
        };
        return Error::invalid(
            format!("{name}: {}", dotted(unknown)),
            match nearest {
                Some(known) => format!("a known key (did you mean `{}`?)", dotted(known)),
                None => "no key here".into(),
            },
            "an unknown key",
        );
    }
    let (found, expected) = message
        .split_once(", expected ")
        .unwrap_or((message, "a valid value"));
    Error::invalid(format!("{name}: {path}"), expected, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = include_str!("../../../configs/tiny.toml");
    const GROUNDING: &str = include_str!("../../../configs/tiny-grounding.toml");
    const PAPER: &str = include_str!("../../../configs/paper.toml");

    fn resolve(name: &str) -> Option<&'static str> {
        (name == "tiny.toml").then_some(TINY)
    }

    fn tiny(overrides: &[&str]) -> Result<Settings> {
        let overrides: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
        Settings::parse("tiny.toml", TINY, &resolve, &overrides)
    }

    #[track_caller]
    fn refused(overrides: &[&str], words: &[&str]) {
        let error = tiny(overrides).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{error}: no {word}");
        }
    }

    #[test]
    fn shipped_settings_are_valid_and_survive_a_round_trip() {
        for (name, text) in [
            ("tiny.toml", TINY),
            ("tiny-grounding.toml", GROUNDING),
            ("paper.toml", PAPER),
        ] {
            let settings = Settings::parse(name, text, &resolve, &[]).unwrap();
            let again = Settings::parse(name, &settings.to_toml(), &resolve, &[]).unwrap();
            assert_eq!(settings, again, "{name}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        refused(&["train.stepz=3"], &["train.stepz", "`train.steps`"]);
        refused(&["sede=3"], &["sede", "`seed`"]);
        refused(&["model.sam2.image_sise=3"], &["`model.sam2.image_size`"]);
    }

    #[test]
    fn a_value_out_of_range_names_its_key() {
        refused(
            &["compression.keep_ratio=1.5"],
            &["compression.keep_ratio", "1.5"],
        );
        refused(&["train.global_batch=7"], &["train.global_batch", "7"]);
        refused(&["train.steps=ten"], &["train.steps", "ten"]);
        refused(&["train.steps"], &["section.key=value"]);
    }

    #[test]
    fn a_later_override_wins() {
        let settings = tiny(&["train.steps=7", "train.steps=9", "device=cpu"]).unwrap();
        assert_eq!(settings.train.steps, 9);
        assert_eq!(settings.device, "cpu");
    }

    #[test]
    fn an_extending_file_keeps_what_it_does_not_name() {
        let base = tiny(&[]).unwrap();
        let grounding = Settings::parse("g", GROUNDING, &resolve, &[]).unwrap();
        assert_eq!(base.model, grounding.model);
        assert_eq!(grounding.train.stage, Stage::Grounding);
    }
}

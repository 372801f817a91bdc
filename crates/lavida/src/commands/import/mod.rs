//! `lavida import`: the published weights, or an export, become a checkpoint to start from.
//!
//! Everything is checked before the first byte is written: sizes, vocabularies, names, shapes, number formats, values.

mod sizes;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use lavida_checkpoint::{
    CheckpointWriter,
    contents::{CARRIED, CLIP_TOKENIZER, SETTINGS, TOKENIZER, TrainState, WEIGHTS},
};
use lavida_data::{
    Error, Result,
    tokenizer::{MAX_TOKENIZER_BYTES, Tokenizers},
};
use lavida_dataflow::device;
use lavida_model::{
    precision::Precision,
    weights::{
        TensorFiles, WeightError,
        import::{ImportPlan, PlannedFile, Sources, without_wrappers},
        placeholder,
    },
};
use lavida_score::{exported::weight_error, scorer::uninitialised};
use lavida_store::Store;
use lavida_terminal::{
    progress::{Progress, Unit},
    screen,
    units::counted,
};
use lavida_train::{settings::Settings, sizes::check_same_model};
use serde_json::Value;

use crate::{arguments::Dtype, config, help, scoring::open_export};

/// The file that Hugging Face keeps sizes in.
const HF_CONFIG: &str = "config.json";
/// Settings that an import has where none are named.
const PAPER: &str = "embedded:paper";

#[derive(Debug, Args)]
#[command(
    after_help = help::import(),
    override_usage = "lavida import --qwen2-vl <DIR> --sam2 <FILE> --clip <DIR> --out <URI> [OPTIONS]\n       \
                      lavida import --lavida <DIR> --out <URI> [OPTIONS]"
)]
pub struct ImportArgs {
    /// Qwen2-VL as Hugging Face writes it: config.json, tokenizer.json, safetensors (one file, or several with an index)
    #[arg(
        long = "qwen2-vl",
        value_name = "DIR",
        required_unless_present = "lavida",
        conflicts_with = "lavida"
    )]
    pub qwen2_vl: Option<PathBuf>,
    /// SAM2.1 as its authors write it: a torch.save file with the weights under `model`. Nothing in it is run
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "lavida",
        conflicts_with = "lavida"
    )]
    pub sam2: Option<PathBuf>,
    /// CLIP as Hugging Face writes it: config.json, tokenizer.json, safetensors. Its text tower is used
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "lavida",
        conflicts_with = "lavida"
    )]
    pub clip: Option<PathBuf>,
    /// A folder that `lavida export` wrote, instead of the three
    #[arg(long, value_name = "DIR")]
    pub lavida: Option<PathBuf>,
    /// Where the checkpoint goes: for train.initial, eval, predict, inspect and export
    #[arg(long, value_name = "URI")]
    pub out: String,
    /// Settings file, whose sizes the checkpoints must have [default: embedded:paper, or those of the export]
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// Number format of the weights [default: as in the files, bf16 as bf16 and every other as f32]
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// Override a setting, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

pub async fn run(args: ImportArgs) -> anyhow::Result<()> {
    let precision = args.dtype.map(Precision::from);
    let folders = folders(&args)?;
    let (mut settings, tokenizers, sources) = match &folders {
        Folders::Lavida(folder) => of_export(folder, &args)?,
        Folders::Towers {
            qwen2_vl,
            sam2,
            clip,
        } => {
            let name = args.config.as_deref().unwrap_or(PAPER);
            let settings = config::load(name, &args.set)?.settings;
            let opened = open_towers(qwen2_vl, sam2, clip, &settings, name)?;
            (settings, opened.0, opened.1)
        }
    };
    if let Sources::Towers { is_tied: true, .. } = &sources
        && !settings.model.language.tie_word_embeddings
    {
        settings.model.language.tie_word_embeddings = true;
        screen::line(
            "import: Qwen2-VL's head is its embedding, so it stays one matrix: settings to train with say so too \
             (model.language.tie_word_embeddings = true)",
        );
    }
    if precision == Some(Precision::Bf16) {
        settings.train.precision = Precision::Bf16; // what is asked to be rounded is computed with as it is
    }
    check_vocabularies(&settings, &tokenizers, &sources, &folders)?;
    let writer = CheckpointWriter::create(&args.out, first_state(&settings)).await?;
    let removed = writer.removed();
    if removed.n_files > 0 {
        let uri = &args.out;
        screen::line(&format!(
            "{uri}: of an interrupted command: {removed} removed"
        ));
    }
    let device = device::named("cpu")?;
    let model = uninitialised(&settings, &tokenizers, &device);
    let plan = ImportPlan::new(&sources, &model, precision, settings.seed).map_err(weight_error)?;
    let carried = plan.carried.as_ref().map_or(0, PlannedFile::n_bytes);
    Store::open(&args.out)?.check_room(plan.weights.n_bytes() + carried)?;
    screen::line("import: reading every value once before anything is written");
    let progress = Progress::new("import: checking", Unit::Bytes, plan.n_bytes());
    plan.check_values(|n| progress.add(n))
        .map_err(weight_error)?;
    drop(progress);
    tell(&plan);
    let uri = write(writer, &plan, &settings, &tokenizers).await?;
    screen::line(&format!(
        "import: weights of {} bytes in {uri}; train from it with --set train.initial={uri}",
        plan.weights.n_bytes()
    ));
    Ok(())
}

/// Where an import reads from.
enum Folders {
    Towers {
        qwen2_vl: PathBuf,
        sam2: PathBuf,
        clip: PathBuf,
    },
    Lavida(PathBuf),
}

/// The paths of the command line; that they exist is all that is looked at.
fn folders(args: &ImportArgs) -> Result<Folders> {
    let exists = |option: &str, path: &Path, is_folder: bool| {
        let (found, expected) = if is_folder {
            (path.is_dir(), "a folder")
        } else {
            (path.is_file(), "a file")
        };
        if found {
            Ok(path.to_owned())
        } else {
            Err(Error::invalid(option, expected, path.display()))
        }
    };
    match (&args.lavida, &args.qwen2_vl, &args.sam2, &args.clip) {
        (Some(folder), ..) => Ok(Folders::Lavida(exists("--lavida", folder, true)?)),
        (None, Some(qwen2_vl), Some(sam2), Some(clip)) => Ok(Folders::Towers {
            qwen2_vl: exists("--qwen2-vl", qwen2_vl, true)?,
            sam2: exists("--sam2", sam2, false)?,
            clip: exists("--clip", clip, true)?,
        }),
        _ => Err(Error::Internal(
            "clap asks for --lavida or all three".into(),
        )),
    }
}

fn of_export(folder: &Path, args: &ImportArgs) -> Result<(Settings, Tokenizers, Sources)> {
    let uri = folder.display().to_string();
    let exported = open_export(&uri)?.ok_or_else(|| {
        let found = "no SHA256SUMS";
        Error::invalid("--lavida", "a folder that `lavida export` wrote", found)
    })?;
    let settings = match &args.config {
        Some(name) => config::load(name, &args.set)?.settings,
        None => config::of_checkpoint(&uri, &exported.settings_toml()?, &args.set)?,
    };
    let own = config::of_checkpoint(&uri, &exported.settings_toml()?, &[])?;
    check_same_model(&uri, &own, &settings)?;
    let tokenizers = exported.tokenizers().map_err(damaged)?;
    let model = uninitialised(&settings, &tokenizers, &device::named("cpu")?);
    let sources = Sources::Lavida(exported.weights(&model)?);
    Ok((settings, tokenizers, sources))
}

fn open_towers(
    qwen2_vl: &Path,
    sam2: &Path,
    clip: &Path,
    settings: &Settings,
    settings_name: &str,
) -> Result<(Tokenizers, Sources)> {
    let qwen2_vl_config = read_config("--qwen2-vl", qwen2_vl)?;
    let clip_config = read_config("--clip", clip)?;
    sizes::check(settings_name, settings, &qwen2_vl_config, &clip_config)?;
    if settings.model.language.tie_word_embeddings && !sizes::is_tied(&qwen2_vl_config) {
        let expected = "false, as config.json of Qwen2-VL says: its head is a matrix of its own";
        return Err(Error::invalid(
            "model.language.tie_word_embeddings",
            expected,
            true,
        ));
    }
    let tokenizers = Tokenizers::load(
        &read("--qwen2-vl", qwen2_vl, TOKENIZER)?,
        &read("--clip", clip, TOKENIZER)?,
    )
    .map_err(damaged)?;
    let opened = (
        TensorFiles::open_folder(qwen2_vl),
        TensorFiles::open_torch(sam2),
        TensorFiles::open_folder(clip),
    );
    let (qwen2_vl, sam2, clip) = match opened {
        (Ok(qwen2_vl), Ok(sam2), Ok(clip)) => {
            check_version(&sam2)?;
            (qwen2_vl, sam2, clip)
        }
        (qwen2_vl, sam2, clip) => {
            let faults = [qwen2_vl.err(), sam2.err(), clip.err()];
            let mut faults: Vec<WeightError> = faults.into_iter().flatten().collect();
            let first = match faults.len() {
                1 => faults.remove(0),
                _ => WeightError::Several(faults),
            };
            return Err(weight_error(first));
        }
    };
    let sources = Sources::Towers {
        qwen2_vl,
        is_tied: sizes::is_tied(&qwen2_vl_config),
        sam2,
        clip,
    };
    Ok((tokenizers, sources))
}

/// SAM 2.0 has every tensor that LAVIDA reads, in the same shapes, and other values: only what it lacks of 2.1's memory tells.
fn check_version(sam2: &TensorFiles) -> Result<()> {
    let has = |beginning: &str| {
        let mut names = sam2.names();
        names.any(|name| without_wrappers(name).starts_with(beginning))
    };
    if has("memory_encoder.") && !has("no_obj_embed_spatial") {
        return Err(Error::invalid(
            "--sam2",
            "SAM 2.1 (sam2.1_hiera_small.pt and its like)",
            format!(
                "{}, which is SAM 2.0: it has no no_obj_embed_spatial",
                sam2.name()
            ),
        ));
    }
    Ok(())
}

/// A file that the folder must have; without it, it is no folder of that kind.
fn read(option: &str, folder: &Path, name: &str) -> Result<Vec<u8>> {
    let path = folder.join(name);
    let bytes = lavida_files::read(&path, MAX_TOKENIZER_BYTES).map_err(|error| {
        let expected = format!("a folder with a readable {name}");
        Error::invalid(option, expected, format!("{}: {error}", path.display()))
    })?;
    match placeholder(&bytes) {
        None => Ok(bytes),
        Some(found) => Err(Error::corrupt(path.display(), "the file itself", found)),
    }
}

fn read_config(option: &str, folder: &Path) -> Result<Value> {
    let bytes = read(option, folder, HF_CONFIG)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::corrupt(folder.join(HF_CONFIG).display(), "JSON", error))
}

/// What a person cannot mend on the command line: a file that is not what its name says.
fn damaged(error: Error) -> Error {
    match error {
        Error::Invalid {
            what,
            expected,
            found,
        } => Error::Corrupt {
            what,
            expected,
            found,
        },
        other => other,
    }
}

/// Every id of a vocabulary must have a row, in the files and in the new model; more rows than either has are a mistake.
fn check_vocabularies(
    settings: &Settings,
    tokenizers: &Tokenizers,
    sources: &Sources,
    folders: &Folders,
) -> Result<()> {
    let ids = tokenizers.n_ids();
    let (words, categories) = match folders {
        Folders::Towers { qwen2_vl, clip, .. } => (qwen2_vl.join(TOKENIZER), clip.join(TOKENIZER)),
        Folders::Lavida(folder) => (folder.join(TOKENIZER), folder.join(CLIP_TOKENIZER)),
    };
    let tables = [
        (words, ids.prompt_file, sources.n_words()),
        (categories, ids.category, sources.n_category_words()),
    ];
    for (file, n_ids, n_rows) in tables {
        if let Some(n_rows) = n_rows
            && n_ids > n_rows
        {
            let expected = format!("ids below {n_rows}, the rows of the embedding");
            let found = format!("id {}", n_ids - 1);
            return Err(Error::corrupt(file.display(), expected, found));
        }
    }
    let vocab_size = settings.model.language.vocab_size;
    let most = sources
        .n_words()
        .map_or(ids.prompt, |rows| rows.max(ids.prompt));
    if !(ids.prompt..=most).contains(&vocab_size) {
        let expected = if most == ids.prompt {
            format!("{most}, the entries of the vocabulary with <SEG>")
        } else {
            format!(
                "{} (the entries of the vocabulary with <SEG>) to {most} (the rows of the embedding)",
                ids.prompt
            )
        };
        return Err(Error::invalid(
            "model.language.vocab_size",
            expected,
            vocab_size,
        ));
    }
    Ok(())
}

fn first_state(settings: &Settings) -> TrainState {
    TrainState {
        stage: settings.train.stage,
        step: 0,
        position: 0,
        seed: settings.seed,
        data: String::new(), // none yet
        world_size: 1,
        generation: 0,
    }
}

/// Says what was left out, changed and made up.
fn tell(plan: &ImportPlan<'_>) {
    for (file, names) in &plan.unused {
        screen::line(&format!(
            "import: {} of {file} not used: {}",
            counted(names.len(), "tensor"),
            beginnings(names, 1)
        ));
    }
    if let Some(carried) = &plan.carried {
        let names: Vec<String> = carried.names().map(str::to_owned).collect();
        screen::line(&format!(
            "import: {} carried along and never read: {}",
            counted(names.len(), "tensor"),
            beginnings(&names, 2)
        ));
    }
    for (table, before, after) in &plan.resized {
        let how = if after > before {
            "new rows are the mean of the others"
        } else {
            "the first ones"
        };
        screen::line(&format!(
            "import: {table}: {after} rows of {before} ({how})"
        ));
    }
    if !plan.drawn.is_empty() {
        let names = &plan.drawn;
        screen::line(&format!(
            "import: {} drawn from the seed: {}",
            counted(names.len(), "tensor"),
            beginnings(names, 2)
        ));
    }
}

/// Distinct beginnings of names, of so many parts.
fn beginnings(names: &[String], n_parts: usize) -> String {
    let beginning = |name: &String| name.split('.').take(n_parts).collect::<Vec<_>>().join(".");
    let mut beginnings: Vec<String> = names.iter().map(beginning).collect();
    beginnings.sort();
    beginnings.dedup();
    beginnings.join(", ")
}

async fn write(
    mut writer: CheckpointWriter,
    plan: &ImportPlan<'_>,
    settings: &Settings,
    tokenizers: &Tokenizers,
) -> Result<String> {
    let carried = plan.carried.as_ref();
    let n_bytes = plan.weights.n_bytes() + carried.map_or(0, PlannedFile::n_bytes);
    let progress = Progress::new("import: writing", Unit::Bytes, n_bytes);
    writer
        .stream(WEIGHTS, pieces(&plan.weights, &progress))
        .await?;
    if let Some(carried) = carried {
        writer.stream(CARRIED, pieces(carried, &progress)).await?;
    }
    drop(progress);
    writer.put(SETTINGS, settings.to_toml()).await?;
    writer.put(TOKENIZER, tokenizers.prompt_json()?).await?;
    writer
        .put(CLIP_TOKENIZER, tokenizers.category_json()?)
        .await?;
    writer.commit().await
}

fn pieces(file: &PlannedFile<'_>, progress: &Progress) -> impl Iterator<Item = Result<Bytes>> {
    file.chunks().map(move |piece| {
        let piece = piece.map_err(weight_error)?;
        progress.add(piece.len() as u64); // asked for when the one before is on its way
        Ok(Bytes::from(piece))
    })
}

//! The command line. Names, options and exit codes are a contract with scripts (`docs/ARCHITECTURE.md`).

#[cfg(test)]
mod documented;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use lavida_store::local_path;
use lavida_terminal::generate::{CompletionsArgs, ManArgs};

use crate::help;

/// Zero-shot video anomaly detection: train LAVIDA on segmentation data, score videos by what you name.
#[derive(Debug, Parser)]
#[command(
    name = "lavida",
    version,
    long_version = help::long_version(),
    about,
    propagate_version = true,
    max_term_width = 100,
    after_long_help = help::of_program()
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show everything at work on a small rendered world: data, training, zero-shot scores, report
    Demo(Demo),
    /// Train on shards; the same command again goes on from the last checkpoint
    #[command(after_help = help::train())]
    Train(Train),
    /// Score a built evaluation set: frame AUC, AP, pixel AUC
    #[command(after_help = help::eval())]
    Eval(Eval),
    /// Score one video for categories you name: scores.json, plot, overlay pictures
    #[command(after_help = help::predict())]
    Predict(Predict),
    /// Make a checkpoint to start from: of the published Qwen2-VL, SAM2.1 and CLIP, or of an export
    ///
    /// Everything is checked before anything is written: sizes, vocabularies, names, shapes, number formats, NaN. What
    /// does not fit is listed by name, with exit code 3. The projector, which no published checkpoint has, is drawn from
    /// the seed. Files are memory-mapped and copied tensor by tensor, so a model larger than the memory can be imported.
    Import(Import),
    /// Write a checkpoint's weights for serving, under the reference's parameter names
    ///
    /// LoRA adapters are merged. Beside the weights: serving.json (inputs, preprocessing, prompt, outputs), config.json,
    /// settings.toml, both tokenizers, and SHA256SUMS, written last. The folder is as good as the checkpoint: every
    /// --checkpoint and train.initial take it, it scores the same to the bit, and `lavida import --lavida` makes a
    /// checkpoint of it again.
    #[command(after_help = help::export())]
    Export(Export),
    /// Say what is inside a dataset, a checkpoint or an export; replay one draw of the sampler as a picture
    Inspect(Inspect),
    /// Check before training: sizes, what trains, memory, and what would stop the run
    ///
    /// Every check is made, also after one that failed; the exit code is the largest of the failed ones' (2 settings and
    /// input, 3 damaged data, 4 store or coordinator unreachable). What cannot be seen from here is `unknown` and fails nothing.
    #[command(after_help = help::check())]
    Check(Check),
    /// List everything that can be set, or write a settings file to start from
    ///
    /// Each setting with its value, meaning, unit, limits and default, and where the value comes from: the default, a line
    /// of a file (which may be one that the file extends), or --set.
    Settings(SettingsArgs),
    /// List the devices of this build and this machine, as settings name them
    Devices(Devices),
    /// Measure on this machine: time and memory, as a table and a plot
    Bench(Bench),
    /// Prepare the machines of a cluster
    Cluster(Cluster),
    /// Print the script that has a shell complete this program's commands and options
    Completions(CompletionsArgs),
    /// Write man pages, one a command
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub struct Demo {
    /// Folder for the world, shards, runs, export and report
    #[arg(long, value_name = "DIR", default_value = "lavida-demo", value_parser = local_path)]
    pub out: PathBuf,
    /// Root of every random choice
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// Settings for either stage, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Train {
    /// Settings file, or embedded:tiny, embedded:tiny-grounding, embedded:paper; `lavida settings init NAME` writes these out
    #[arg(long, value_name = "FILE", required_unless_present = "join")]
    pub config: Option<String>,
    /// Training shards; may be repeated to mix datasets
    #[arg(long, value_name = "URI", required_unless_present = "join")]
    pub data: Vec<String>,
    /// Where the run lives: metrics.jsonl, TensorBoard events, checkpoints/, settings.toml
    #[arg(long, value_name = "URI", required_unless_present = "join")]
    pub out: Option<String>,
    /// Override a setting, as `section.key=value`; may be repeated. `lavida settings` lists all. A name with dots stands in
    /// quotes: 'train.policy."seg_model.image_encoder"=frozen'
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Train with so many workers on this machine; the same run as with one, up to the rounding of sums
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least(1))]
    pub local: usize,
    /// Coordinate workers that join at this address, and train nothing here
    #[arg(long, value_name = "IP:PORT", conflicts_with = "local")]
    pub listen: Option<String>,
    /// Train as a worker of the run whose coordinator listens there; everything else comes from it
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["config", "data", "out", "set", "local", "listen"])]
    pub join: Option<String>,
    /// This machine's folder of `lavida cluster certs`, or under a scheduler the folder of all; needed off loopback
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// Whose variables say that this command was started on several nodes at once: there task 0 leads and trains, the others
    /// join it
    #[arg(long, value_enum, default_value_t = ClusterChoice::Auto, conflicts_with_all = ["join", "listen"])]
    pub cluster: ClusterChoice,
    /// Serve Prometheus metrics at http://IP:PORT/metrics, port 0 for any; workers that are started here follow at PORT+1, …
    #[arg(long, value_name = "IP:PORT")]
    pub metrics: Option<SocketAddr>,
}

/// Schedulers that start one command on several nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ClusterChoice {
    /// Slurm in a step of several tasks, Kubernetes in a pod that has an index and JOBSET_NAME; else none
    Auto,
    /// A task of a Slurm step (srun)
    Slurm,
    /// A pod of an Indexed Job or a JobSet
    Kubernetes,
    /// Train alone whatever the environment says
    None,
}

#[derive(Debug, Args)]
pub struct Eval {
    /// A run (its newest checkpoint), one checkpoint, or an export
    #[arg(long, value_name = "URI")]
    pub checkpoint: String,
    /// A built evaluation set
    #[arg(long, value_name = "URI")]
    pub data: String,
    /// Categories to ask for instead of the benchmark's own, separated by commas
    #[arg(long, value_name = "LIST")]
    pub categories: Option<String>,
    /// Frames looked at together; the training's number by default
    #[arg(long, value_name = "N")]
    pub n_frames: Option<usize>,
    /// Score every Nth frame and let it stand for those up to the next
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub interval: usize,
    /// Also score with each video's true category swapped for an absent one (needs a set that knows them)
    #[arg(long)]
    pub swap_control: bool,
    /// The reference's artificial end points in every ranking
    #[arg(long)]
    pub reference_metrics: bool,
    /// The reference's windows: tails and short videos are not scored
    #[arg(long)]
    pub reference_windows: bool,
    /// Override a setting, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print one JSON document on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Predict {
    /// A run (its newest checkpoint), one checkpoint, or an export
    #[arg(long, value_name = "URI")]
    pub checkpoint: String,
    /// An H.264 mp4 file or a folder of frames
    #[arg(long, value_name = "PATH")]
    pub video: PathBuf,
    /// What to look for, separated by commas
    #[arg(long, value_name = "LIST")]
    pub categories: String,
    /// Folder or bucket for scores.json, scores.svg and pictures; those that predict wrote there before are replaced
    #[arg(long, value_name = "URI")]
    pub out: String,
    /// Score every Nth frame and let it stand for those up to the next
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub interval: usize,
    /// Overlay pictures to write, of the highest scores
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub pictures: usize,
    /// Override a setting, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = help::import(),
    override_usage = "lavida import --qwen2-vl <DIR> --sam2 <FILE> --clip <DIR> --out <URI> [OPTIONS]\n       \
                      lavida import --lavida <DIR> --out <URI> [OPTIONS]"
)]
pub struct Import {
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

#[derive(Debug, Args)]
pub struct Export {
    /// A run (its newest checkpoint), one checkpoint, or an export
    #[arg(long, value_name = "URI")]
    pub checkpoint: String,
    /// Format of the weights
    #[arg(long, value_enum, default_value_t = Format::Safetensors)]
    pub format: Format,
    /// Number format of the weights
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Largest safetensors file (KB, MB, GB, KiB, MiB, GiB); a larger model is split, with an index as transformers writes it
    #[arg(long, value_name = "SIZE", default_value = "5GB")]
    pub max_shard_size: String,
    /// Folder or bucket to write; for a bucket the export is made in this machine's temporary folder (TMPDIR) first
    #[arg(long, value_name = "URI")]
    pub out: String,
    /// Override a setting, as `section.key=value` (device=cpu where the run's device is not here); may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Number formats of weights.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Dtype {
    /// 4 bytes a value, exact
    F32,
    /// 2 bytes a value, three digits
    Bf16,
}

impl From<Dtype> for lavida_model::precision::Precision {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
        }
    }
}

/// Formats of exported weights.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Format {
    /// Safetensors under the reference's names, for PyTorch and for this program
    Safetensors,
    /// Burn's own format (model.bpk), for serving from Rust
    Burnpack,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["checkpoint", "data"])))]
pub struct Inspect {
    /// A run (its newest checkpoint), one checkpoint, or an export
    #[arg(long, value_name = "URI")]
    pub checkpoint: Option<String>,
    /// A built dataset
    #[arg(long, value_name = "URI")]
    pub data: Option<String>,
    /// Replay the draw of this sample as a picture
    #[arg(long, value_name = "ID", requires = "data")]
    pub sample: Option<String>,
    /// Root seed of the draw
    #[arg(long, default_value_t = 44, requires = "sample")]
    pub seed: u64,
    /// Pass over the data of the draw
    #[arg(
        long,
        default_value_t = 0,
        requires = "sample",
        conflicts_with = "step"
    )]
    pub epoch: u64,
    /// Step of the draw, instead of its epoch: takes global batch, seed and mixing from --config
    #[arg(long, value_name = "N", requires = "config")]
    pub step: Option<u64>,
    /// Settings of the sampler
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// Override a setting, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// Picture file to write
    #[arg(long, value_name = "FILE", default_value = "draw.png", value_parser = local_path)]
    pub out: PathBuf,
    /// Print one JSON document on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Check {
    /// Settings file
    #[arg(long, value_name = "FILE")]
    pub config: String,
    /// Training shards to open as a run would
    #[arg(long, value_name = "URI")]
    pub data: Vec<String>,
    /// Store of the run: writes, reads and deletes a key there, and has a taken one refused
    #[arg(long, value_name = "URI")]
    pub out: Option<String>,
    /// Address that a coordinator would listen at on this machine
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Address of a coordinator that a worker would join from this machine
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Option<String>,
    /// A machine's folder of `lavida cluster certs`: key, authority, names, days left, who may read it
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// Override a setting, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print one JSON document on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct SettingsArgs {
    #[command(subcommand)]
    pub command: Option<SettingsCommand>,
    /// Settings file, or embedded:NAME, whose values to list; without it the defaults are
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// Override a setting, as `section.key=value`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub set: Vec<String>,
    /// Print one JSON document on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Devices {
    /// Print one JSON document on standard output
    #[arg(long)]
    pub json: bool,
}

/// What else to do with settings.
#[derive(Debug, Subcommand)]
pub enum SettingsCommand {
    /// Write a settings file of this program, with its comments, to standard output
    Init(SettingsInit),
}

#[derive(Debug, Args)]
pub struct SettingsInit {
    /// tiny, tiny-grounding or paper
    pub name: String,
}

#[derive(Debug, Args)]
pub struct Cluster {
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// What to prepare.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Write an authority and a folder of certificates for each machine, for connections off loopback
    ///
    /// DIR/authority (ca.pem, ca-key.pem, cookie) stays where it is: whoever has ca-key.pem can let anybody in. Each other
    /// folder (ca.pem, node.pem, node-key.pem, cookie) goes to its machine. The command again, with further names, uses
    /// the authority that is there. Nothing is overwritten.
    Certs(ClusterCerts),
}

#[derive(Debug, Args)]
pub struct ClusterCerts {
    /// Folder for the authority and one folder for each machine
    #[arg(long, value_name = "DIR", value_parser = local_path)]
    pub out: PathBuf,
    /// Host name or address under which others reach a machine, or several separated by commas; once for each machine
    #[arg(long, value_name = "HOST", required = true)]
    pub name: Vec<String>,
    /// Days from now for which the certificates count
    #[arg(long, value_name = "N", default_value_t = 365)]
    pub days: u32,
}

#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    pub what: BenchWhat,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum BenchWhat {
    /// Step time and peak memory of the language model against the keep ratio (the shape of the paper's Fig. 7b)
    ///
    /// A step is compression, forward, loss and all gradients of the language model on one made-up clip, on the CPU. Each
    /// point runs in a process of its own; its peak is that process's most resident memory.
    Compression(BenchCompression),
    /// One point, for `bench compression`
    #[command(hide = true)]
    CompressionPoint(BenchCompressionPoint),
}

#[derive(Debug, Args)]
pub struct BenchCompression {
    /// Folder for compression.md, compression.json and compression.svg
    #[arg(long, value_name = "DIR", value_parser = local_path)]
    pub out: PathBuf,
    /// Models to measure, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [BenchModel::Tiny, BenchModel::Medium])]
    pub models: Vec<BenchModel>,
    /// Keep ratios to measure, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [1.0, 0.5, 0.2, 0.1])]
    pub keep_ratios: Vec<f64>,
    /// Visual tokens of the clip before compression; the default is a training clip of the paper
    #[arg(long, value_name = "N", default_value_t = 1564, value_parser = at_least(1))]
    pub visual_tokens: usize,
    /// Words of the prompt and its answer, at least 3
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least(3))]
    pub text_tokens: usize,
    /// Steps to measure after the first; their median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = at_least(1))]
    pub steps: usize,
    /// Print one JSON document on standard output
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct BenchCompressionPoint {
    #[arg(long, value_enum)]
    pub model: BenchModel,
    #[arg(long)]
    pub keep_ratio: f64,
    #[arg(long, value_parser = at_least(1))]
    pub visual_tokens: usize,
    #[arg(long, value_parser = at_least(3))]
    pub text_tokens: usize,
    #[arg(long, value_parser = at_least(1))]
    pub steps: usize,
}

/// Language models to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BenchModel {
    /// That of tiny.toml: width 64, 2 layers
    Tiny,
    /// Width 768, 8 layers
    Medium,
}

impl BenchModel {
    /// As the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Medium => "medium",
        }
    }
}

impl std::fmt::Display for BenchModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Reads a whole number of at least `least`.
fn at_least(least: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse::<usize>() {
        Ok(number) if number >= least => Ok(number),
        _ => Err(format!("expected a whole number of at least {least}")),
    }
}

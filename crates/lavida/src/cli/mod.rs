//! The command line. Names, options and exit codes are a contract with scripts (`docs/ARCHITECTURE.md`).

#[cfg(test)]
mod documented;

use clap::{Parser, Subcommand};

use crate::{
    command_line::{CompletionsArgs, ManArgs},
    commands::{
        bench::BenchArgs, check::CheckArgs, cluster::ClusterArgs, demo::DemoArgs,
        devices::DevicesArgs, eval::EvalArgs, export::ExportArgs, import::ImportArgs,
        inspect::InspectArgs, predict::PredictArgs, score::ScoreArgs, serve::ServeArgs,
        settings::SettingsArgs, train::TrainArgs,
    },
    help,
};

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
    Demo(DemoArgs),
    /// Train on shards; the same command again goes on from the last checkpoint
    #[command(after_help = help::train())]
    Train(TrainArgs),
    /// Score a built evaluation set: frame AUC, AP, pixel AUC
    #[command(after_help = help::eval())]
    Eval(EvalArgs),
    /// Score one video for categories you name: scores.json, plot, overlay pictures
    #[command(after_help = help::predict())]
    Predict(PredictArgs),
    /// Hold anybody's scores against a truth under every published convention
    ///
    /// Micro and macro AUC, average precision and PR trapezoid, with and without the two artificial frames that some scripts
    /// add, each video min-max or not, smoothed or not; F1; intervals by a bootstrap over videos; pixel AUC; RBDC and TBDC. Each
    /// convention is named with who uses it, and what the artificial frames make is marked.
    #[command(after_help = help::score())]
    Score(ScoreArgs),
    /// Make a checkpoint to start from: of the published Qwen2-VL, SAM2.1 and CLIP, or of an export
    ///
    /// Everything is checked before anything is written: sizes, vocabularies, names, shapes, number formats, NaN. What
    /// does not fit is listed by name, with exit code 3. The projector, which no published checkpoint has, is drawn from
    /// the seed. Files are memory-mapped and copied tensor by tensor, so a model larger than the memory can be imported.
    Import(ImportArgs),
    /// Write a checkpoint's weights for serving, under the reference's parameter names
    ///
    /// LoRA adapters are merged. Beside the weights: serving.json (inputs, preprocessing, prompt, outputs), config.json,
    /// settings.toml, both tokenizers, and SHA256SUMS, written last. The folder is as good as the checkpoint: every
    /// --checkpoint and train.initial take it, it scores the same to the bit, and `lavida import --lavida` makes a
    /// checkpoint of it again.
    #[command(after_help = help::export())]
    Export(ExportArgs),
    /// Serve a model over HTTP: scores of uploaded videos, the Open Inference Protocol, a page to try it
    ///
    /// POST /v1/score takes a video and answers while it arrives; /v2 is the Open Inference Protocol over REST, so clients
    /// written for Triton or KServe work unchanged. Scores are those of `lavida predict`, bit for bit. docs/serving.md has
    /// the requests, the answers and the limits.
    #[command(after_help = help::serve())]
    Serve(ServeArgs),
    /// Say what is inside a dataset, a checkpoint or an export; replay one draw of the sampler as a picture
    Inspect(InspectArgs),
    /// Check before training: sizes, what trains, memory, and what would stop the run
    ///
    /// Every check is made, also after one that failed; the exit code is the largest of the failed ones' (2 settings and
    /// input, 3 damaged data, 4 store or coordinator unreachable). What cannot be seen from here is `unknown` and fails nothing.
    #[command(after_help = help::check())]
    Check(CheckArgs),
    /// List everything that can be set, or write a settings file to start from
    ///
    /// Each setting with its value, meaning, unit, limits and default, and where the value comes from: the default, a line
    /// of a file (which may be one that the file extends), or --set.
    Settings(SettingsArgs),
    /// List the devices of this build and this machine, as settings name them
    Devices(DevicesArgs),
    /// Measure on this machine: time and memory, as a table and a plot
    Bench(BenchArgs),
    /// Prepare the machines of a cluster
    Cluster(ClusterArgs),
    /// Print the script that has a shell complete this program's commands and options
    Completions(CompletionsArgs),
    /// Write man pages, one a command
    Man(ManArgs),
}

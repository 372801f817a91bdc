//! `lavida demo`: data, training, zero-shot scores, export and a report, on a world rendered here.
//!
//! Each part is what the other commands do, called in order. Parts that a previous run of the same folder finished are
//! taken as they are, so an interrupted demo goes on where it stopped.

mod flow;
mod own;
mod page;
mod report;

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use lavida_checkpoint::contents::SETTINGS;
use lavida_data::{
    Error, Result, catalog::DataSource, dataset::Dataset, manifest::DatasetManifest,
};
use lavida_dataflow::{
    clock::{Clock, SystemClock},
    device,
    run::RunOutcome,
};
use lavida_dataset_builder::{
    BuildRequest, SourceSpec, build,
    progress::BuildView,
    sources::{Ade20kArgs, Ade20kSplit, CocoArgs, MevisArgs, UcsdPedArgs, YoutubeVosArgs},
    synth::{self, SynthSummary, WorldSettings},
};
use lavida_score::{
    benchmark::Benchmark,
    evaluation::{Control, Evaluation, EvaluationEvent, EvaluationPlan, evaluate},
    exported::{ExportedFile, SUMS},
};
use lavida_store::{Store, local_path};
use lavida_terminal::{
    progress::{Progress, Unit},
    screen,
};
use lavida_train::{settings::Settings, step::StepRecord};

use crate::{
    config,
    export::Staged,
    launch::{local::train, mixture::open_catalog},
    output::write_file,
    scoring::{open_model, show},
    stop::stopped_after,
};
use own::{EXPORT, OwnFiles, REPORT};
use page::Timing;

/// Frames of an evaluation window.
const EVALUATION_FRAMES: usize = 4;
/// Shares of the datasets: videos give two frames a sample, images one.
const MIXTURE: [(&str, f64); 4] = [
    ("coco", 0.2),
    ("ade20k", 0.1),
    ("mevis", 0.35),
    ("youtube-vos", 0.35),
];
/// Videos shown in the report.
const VIDEOS_SHOWN: usize = 6;

/// What the parts leave for the report.
pub struct DemoRun {
    pub seed: u64,
    pub out: PathBuf,
    pub world: SynthSummary,
    pub manifests: Vec<DatasetManifest>,
    pub grounding: config::Loaded,
    pub anomaly: config::Loaded,
    pub steps: [Vec<StepRecord>; 2],
    pub evaluation: Evaluation,
    pub exported: Vec<ExportedFile>,
    pub timings: Vec<Timing>,
}

/// Tells a person which part is under way and keeps the times.
struct Parts {
    clock: SystemClock,
    began: Duration,
    timings: Vec<Timing>,
    n: usize,
}

const N_PARTS: usize = 7;

/// What is said before the first part. How long: docs/benchmarks.md, on two cores.
fn overview(out: &Path) -> String {
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "demo: {N_PARTS} parts: world, shards, grounding, training, scores, export, report\n\
         demo: about 5 to 9 minutes on two cores (this machine has {n_cores});\n\
         demo: interrupted, the same command goes on\n\
         demo: everything goes to {}",
        out.display()
    )
}

impl Parts {
    fn begin(&mut self, what: &str) {
        self.n += 1;
        screen::line(&format!("demo {}/{N_PARTS}: {what}", self.n));
        self.began = self.clock.monotonic();
    }

    fn end(&mut self, part: &str, note: String) {
        let seconds = (self.clock.monotonic() - self.began).as_secs_f64();
        screen::line(&format!("demo: {part}: {note} ({seconds:.0} s)"));
        self.timings.push(Timing {
            part: part.to_owned(),
            seconds,
            note,
        });
    }
}

#[derive(Debug, Args)]
pub struct DemoArgs {
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

pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let mut parts = Parts {
        clock: SystemClock::default(),
        began: Duration::ZERO,
        timings: Vec::new(),
        n: 0,
    };
    let out = &args.out;
    let mut own = OwnFiles::open(out)?;
    own.check()?;
    let run = out.join("run");
    let seed = format!("seed={}", args.seed);
    let overrides = |more: &[String]| -> Vec<String> {
        let first = std::iter::once(seed.clone());
        first.chain(args.set.iter().chain(more).cloned()).collect()
    };
    let grounding = config::load("embedded:tiny-grounding", &overrides(&[]))?;
    let from = format!("train.initial={}", out.join("grounding").display());
    let anomaly = config::load("embedded:tiny", &overrides(&[from]))?;
    device::named(&anomaly.settings.device)?; // before half a minute of work

    for (loaded, folder) in [(&grounding, out.join("grounding")), (&anomaly, run.clone())] {
        check_steps(&folder, &loaded.settings)?;
    }
    screen::line(&overview(out));
    parts.begin("render a small world");
    let world = rendered(out, args.seed)?;
    let n_frames: usize = world.sets.values().map(|set| set.frames).sum();
    parts.end("world", format!("{n_frames} frames"));

    parts.begin("build shards");
    let manifests = built(out).await?;
    let n_samples: u64 = manifests.iter().map(|m| m.samples).sum();
    parts.end(
        "shards",
        format!("{n_samples} samples in {} datasets", manifests.len()),
    );

    let data: Vec<DataSource> = manifests
        .iter()
        .filter_map(|m| {
            let (name, weight) = MIXTURE.iter().find(|(name, _)| *name == m.header.dataset)?;
            let uri = shards(out, name).display().to_string();
            Some(DataSource::new(uri).weighing(*weight))
        })
        .collect();
    for (what, label, loaded, folder) in [
        (
            "grounding: words learn to look at what they name (stands in for pretrained towers)",
            "grounding",
            &grounding,
            out.join("grounding"),
        ),
        (
            "the paper's training on pseudo-anomalies",
            "training",
            &anomaly,
            run.clone(),
        ),
    ] {
        parts.begin(what);
        let outcome = train(loaded, &data, &text(&folder)?, label).await?;
        let note = match outcome {
            RunOutcome::AlreadyDone { step } => format!("{step} steps, done before"),
            RunOutcome::Ran(outcome) if outcome.stopped => {
                return Err(stopped_after(outcome.step).into());
            }
            RunOutcome::Ran(outcome) => format!("{} steps", outcome.step),
        };
        parts.end(label, note);
    }

    parts.begin("score videos whose anomalies were never trained on");
    let benchmark = Benchmark::open(&text(&shards(out, "ucsd-ped"))?, None).await?;
    let model = open_model(&text(&run)?, &[]).await?;
    let plan = EvaluationPlan {
        protocol: benchmark.protocol(),
        n_frames: EVALUATION_FRAMES,
        control: Control::SwappedCategories,
        holds_pixels: true,
    };
    let progress = Progress::new("scoring", Unit::Each("frame"), 0);
    let shown = |event: EvaluationEvent<'_>| show(&progress, event);
    let evaluation = evaluate(&model, &benchmark, &plan, &shown).await?;
    drop(progress);
    let auc = evaluation.report.frame_auc.unwrap_or(f64::NAN);
    parts.end("scoring", format!("zero-shot frame AUC {auc:.3}"));

    parts.begin("export");
    own.remove_export()?;
    let staged = Staged::of_trained(&model, &Store::open(&text(&out.join(EXPORT))?)?).await?;
    let (sums, of) = (staged.sums.clone(), format!("{EXPORT}/{SUMS}"));
    own.begin(&of, sums.as_bytes())?;
    let exported = staged.publish().await?;
    own.end(&of, sums.as_bytes())?;
    parts.end("export", format!("{} files", exported.len()));

    parts.begin("write the report");
    let steps = [records(&out.join("grounding"))?, records(&run)?];
    let demo = DemoRun {
        seed: args.seed,
        out: out.clone(),
        world,
        manifests,
        grounding,
        anomaly,
        steps,
        evaluation,
        exported,
        timings: parts.timings,
    };
    let catalog = open_catalog(&data, &demo.anomaly.settings).await?;
    let page = report::page(&demo, &catalog, &benchmark, &model, VIDEOS_SHOWN).await?;
    let folder = out.join("report");
    let made = std::fs::create_dir_all(&folder);
    made.map_err(|error| Error::unwritable(folder.display(), error))?;
    let json = serde_json::to_vec_pretty(&demo.evaluation.report)?;
    for (name, bytes) in REPORT.into_iter().zip([page.as_bytes(), &json]) {
        own.write(name, bytes)?;
    }
    screen::line(&format!("demo: {}", out.join(REPORT[0]).display()));
    Ok(())
}

/// Refuses another number of steps than a stage that is there began with. A run may change it as it goes on, and one that
/// is past it has nothing to do; the demo's page would show the figures of the earlier command under the settings of this
/// one. All other settings that matter are compared by the run itself.
fn check_steps(run: &Path, settings: &Settings) -> Result<()> {
    let path = run.join(SETTINGS);
    let toml = match lavida_files::read_text(&path, lavida_files::SMALL_BYTES) {
        Ok(toml) => toml,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::unreadable(path.display(), error)),
    };
    let began = config::of_checkpoint(&run.display().to_string(), &toml, &[])?;
    let (began, now) = (began.train.steps, settings.train.steps);
    if began == now {
        return Ok(());
    }
    let expected = format!("{began}, as the demo there began (or another --out)");
    let what = format!("{}: train.steps", run.display());
    Err(Error::invalid(what, expected, now))
}

/// The world of this seed; one that is there already must be of the same seed.
fn rendered(out: &Path, seed: u64) -> anyhow::Result<SynthSummary> {
    let place = out.join("world");
    let described = place.join("demo.json");
    if described.exists() {
        let bytes = lavida_files::read(&described, lavida_files::SMALL_BYTES)
            .map_err(|e| Error::unreadable(described.display(), e))?;
        let world: SynthSummary = serde_json::from_slice(&bytes)
            .map_err(|e| Error::corrupt(described.display(), "the summary of a world", e))?;
        if world.seed != seed {
            let expected = format!("the world of --seed {seed}, or another --out");
            let found = format!("the world of seed {}", world.seed);
            return Err(Error::invalid(place.display(), expected, found).into());
        }
        return Ok(world);
    }
    let progress = Progress::new("world", Unit::Each("frame"), 0);
    let world = synth::render(
        &place,
        seed,
        &WorldSettings::default(),
        |n_frames, total| {
            progress.set_total(total as u64);
            progress.set(n_frames as u64);
        },
    )?;
    drop(progress);
    write_file(&described, &serde_json::to_vec_pretty(&world)?)?;
    Ok(world)
}

/// The world's datasets as `lavida-dataset build` makes them.
async fn built(out: &Path) -> anyhow::Result<Vec<DatasetManifest>> {
    let world = out.join("world");
    let coco = world.join("coco");
    let sources = [
        SourceSpec::Coco(CocoArgs {
            annotations: coco.join("annotations/instances_train.json"),
            images: coco.join("images"),
            split: "train".into(),
            boxes: false,
            crowds: false,
        }),
        SourceSpec::Ade20k(Ade20kArgs {
            root: world.join("ade20k"),
            split: Ade20kSplit::Training,
        }),
        SourceSpec::Mevis(MevisArgs {
            root: world.join("mevis"),
            split: "train".into(),
        }),
        SourceSpec::YoutubeVos(YoutubeVosArgs {
            root: world.join("youtube-vos"),
            split: "train".into(),
        }),
        SourceSpec::UcsdPed(UcsdPedArgs {
            root: world.join("ucsd-ped"),
            categories: None,
        }),
    ];
    let mut manifests = Vec::new();
    for source in sources {
        let store = Store::open(&text(&shards(out, source.name()))?)?;
        let view = BuildView::default();
        let request = BuildRequest::new(source, store.clone());
        match build(&request, &|event| view.show(event)).await {
            Ok(_) | Err(Error::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        manifests.push(Dataset::open(&store).await?.manifest().clone());
    }
    Ok(manifests)
}

fn shards(out: &Path, dataset: &str) -> PathBuf {
    out.join("shards").join(dataset)
}

fn text(path: &Path) -> anyhow::Result<String> {
    Ok(path.to_str().context("a path in UTF-8")?.to_owned())
}

/// A row of a step has under 1 KiB, a stage of the demo hundreds of rows.
const MAX_METRICS_BYTES: u64 = 1 << 30;

fn records(run: &Path) -> anyhow::Result<Vec<StepRecord>> {
    let path = run.join("metrics.jsonl");
    let rows = lavida_files::read_text(&path, MAX_METRICS_BYTES)
        .map_err(|e| Error::unreadable(path.display(), e))?;
    let rows = rows.lines().map(serde_json::from_str::<StepRecord>);
    rows.collect::<Result<_, _>>()
        .with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_began_with_another_number_of_steps_is_named_and_refused() {
        let folder = tempfile::tempdir().unwrap();
        let of = |steps: u64| {
            let overrides = [format!("train.steps={steps}")];
            config::load("embedded:tiny", &overrides).unwrap().settings
        };
        check_steps(folder.path(), &of(5)).unwrap(); // nothing began there
        std::fs::write(folder.path().join(SETTINGS), of(5).to_toml()).unwrap();
        check_steps(folder.path(), &of(5)).unwrap();
        let error = check_steps(folder.path(), &of(6)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(
            text.contains("train.steps") && text.contains("found 6"),
            "{text}"
        );
    }
}

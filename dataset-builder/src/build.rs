//! The build itself: units are read and checked in parallel, rows are written in order, the manifest is committed last.
//!
//! At most `jobs` units (images or videos) are in memory beside the row group being written. The order of rows does not
//! depend on how many jobs read them, so the same input gives the same shards and the same manifest.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use lavida_data::clip::Clip;
use lavida_data::dataset::Dataset;
use lavida_data::errors_file::encode_errors;
use lavida_data::manifest::{CategorySource, DatasetHeader, ERRORS_KEY, MANIFEST_KEY, Purpose};
use lavida_data::shard::{DatasetWriter, Resumed, WriterSettings, remove_unfinished};
use lavida_store::{Error, Removed, Result, Store};
use serde::Serialize;

use crate::card::{Counts, card, put_card};
use crate::read::rows::SourceUnit;
use crate::skip::{Reason, Skip, SkipLog};
use crate::sources::{Source, SourceSpec};

/// The share of images or videos with a fault from which on a build fails that was not told of another.
pub const MAX_BAD_FRACTION: f64 = 0.01;

/// So many images or videos with a fault are no share: of each kind the first are shown, so nothing is lost quietly.
const FEW: u64 = SkipLog::N_SHOWN;

/// What to build, where to, and how.
#[derive(Clone)]
pub struct BuildRequest {
    /// Which source dataset, and where it lies.
    pub source: SourceSpec,
    /// Where the dataset will be; must not hold one yet.
    pub out: Store,
    /// The dataset's name; the source's when `None`.
    pub dataset_name: Option<String>,
    /// Stop at the first fault instead of counting it.
    pub strict: bool,
    /// Read and check everything, write nothing.
    pub dry_run: bool,
    /// Keep the shards that an interrupted build of the same input has finished.
    pub resume: bool,
    /// Most images or videos, of all, in which a fault may leave something out; `None` for [`MAX_BAD_FRACTION`], which a few are
    /// always within.
    pub max_bad_fraction: Option<f64>,
    /// Units read at the same time.
    pub jobs: usize,
    /// How rows are grouped into row groups and shards.
    pub writer: WriterSettings,
}

impl BuildRequest {
    /// A build with nothing special: named like its source, lenient, from the start, one job a processor.
    pub fn new(source: SourceSpec, out: Store) -> Self {
        Self {
            source,
            out,
            dataset_name: None,
            strict: false,
            dry_run: false,
            resume: false,
            max_bad_fraction: None,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            writer: WriterSettings::default(),
        }
    }
}

/// What happens during a build, for whoever shows it.
#[derive(Clone, Copy, Debug)]
pub enum BuildEvent<'a> {
    /// What builds that were killed had left half written there is gone.
    Removed(Removed),
    /// The source has been opened.
    Opened {
        /// Name of the dataset.
        dataset: &'a str,
        /// Images or videos to read.
        n_units: usize,
    },
    /// What people should know of the source as a whole.
    Notice(&'a str),
    /// A unit has been written (or found to yield nothing).
    Unit(BuildProgress),
    /// One of the first faults of its reason.
    Fault(&'a Skip),
}

/// How far a build is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BuildProgress {
    /// Images or videos read.
    pub n_units: usize,
    /// Rows so far.
    pub n_samples: u64,
    /// Frames so far.
    pub n_frames: u64,
    /// Encoded bytes of those frames.
    pub n_bytes: u64,
}

/// What a build made; `--json` prints it as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildSummary {
    /// Name of the dataset.
    pub dataset: String,
    /// Part of the dataset.
    pub split: String,
    /// Rows.
    pub samples: u64,
    /// Frames of all rows; a frame in two overlapping windows counts twice.
    pub frames: u64,
    /// Objects of all rows.
    pub objects: u64,
    /// Shards; the expected number in a dry run.
    pub shards: u64,
    /// Bytes of all shards; of the frames alone in a dry run.
    pub bytes: u64,
    /// URI of the committed manifest; `None` in a dry run.
    pub manifest: Option<String>,
    /// What was left out, by reason.
    pub skipped: BTreeMap<String, u64>,
}

/// Builds a dataset: the manifest is committed last, so what stops before that leaves no dataset.
///
/// # Errors
///
/// [`Error::Exists`] when `out` holds a dataset, [`Error::Invalid`] when the source does not have its layout or a resumed
/// build was of other input, [`Error::Corrupt`] when an annotation file is damaged, no sample is left or (strict) something
/// is wrong, [`Error::Unavailable`] when the store cannot take the shards.
pub async fn build(
    request: &BuildRequest,
    on_event: &(dyn Fn(BuildEvent<'_>) + Sync),
) -> Result<BuildSummary> {
    Dataset::check_none_at(&request.out).await?;
    if !request.dry_run {
        let removed = remove_unfinished(&request.out).await?;
        if removed.n_files > 0 {
            on_event(BuildEvent::Removed(removed));
        }
    }
    let source = open(request).await?;
    let header = stamped(&*source);
    header.validate()?;
    let n_units = source.n_units();
    on_event(BuildEvent::Opened {
        dataset: &header.dataset,
        n_units,
    });

    let mut build = Build {
        log: SkipLog::new(request.strict),
        output: Output::open(request, header).await?,
        progress: BuildProgress::default(),
        n_objects: 0,
        n_bad: 0,
        n_alone: 0,
        on_event,
    };
    for skip in source.planned_skips() {
        build.note(skip)?;
        build.n_bad += u64::from(skip.reason.is_fault());
    }
    let resumed = build.output.resumed().cloned().unwrap_or_default();
    let first_unit = usize::try_from(resumed.cursor)
        .unwrap_or(usize::MAX)
        .min(n_units);
    build.progress.n_units = first_unit;
    build.progress.n_samples = resumed.n_clips;
    for notice in source.notices() {
        on_event(BuildEvent::Notice(notice));
    }
    let mut units = futures::stream::iter(first_unit..n_units)
        .map(|unit_idx| {
            let source = source.clone();
            async move { (unit_idx, Pieces::of(source, unit_idx).await) }
        })
        .buffered(request.jobs.max(1));
    let mut written_until = resumed.last_id;
    while let Some((unit_idx, mut pieces)) = units.next().await {
        let mut is_bad = false;
        while let Some(piece) = pieces.next().await {
            let unit = piece?;
            is_bad |= unit.skips.iter().any(|skip| skip.reason.is_fault());
            let n_written = match &written_until {
                None => None,
                Some(last) => match unit.clips.iter().position(|clip| clip.id == *last) {
                    Some(last_idx) => {
                        written_until = None;
                        Some(last_idx + 1)
                    }
                    // An earlier piece of the unit in which the build was interrupted.
                    None => Some(unit.clips.len()),
                },
            };
            build.take(unit_idx, unit, n_written).await?;
        }
        if let Some(last) = written_until.take() {
            let expected = format!("the input of the interrupted build, with row {last}");
            let found = "other rows at its place";
            return Err(Error::invalid("--resume", expected, found));
        }
        build.n_bad += u64::from(is_bad);
        build.unit_done();
    }
    build.finish(request, source.planned_skips(), n_units).await
}

async fn open(request: &BuildRequest) -> Result<Arc<dyn Source>> {
    let spec = request.source.clone();
    let dataset = request
        .dataset_name
        .clone()
        .unwrap_or_else(|| spec.name().to_owned());
    let opened = tokio::task::spawn_blocking(move || spec.open(&dataset)).await;
    opened
        .map_err(|error| Error::Internal(error.to_string()))?
        .map(Arc::from)
}

/// The source's header with what tells one input, and one way to cut it into rows, from another: `--resume` compares it.
fn stamped(source: &dyn Source) -> DatasetHeader {
    let mut header = source.header();
    if let Some(settings) = header.settings.as_object_mut() {
        settings.insert("input".to_owned(), source.input_digest().into());
        settings.insert("window".to_owned(), crate::read::windows::WINDOW.into());
        settings.insert("builder".to_owned(), env!("CARGO_PKG_VERSION").into());
    }
    header
}

/// The pieces of one unit, read by a thread that stays a piece ahead.
struct Pieces {
    first: Option<Result<SourceUnit>>,
    rest: tokio::sync::mpsc::Receiver<Result<SourceUnit>>,
}

impl Pieces {
    /// Begins to read a unit; its first piece is there.
    async fn of(source: Arc<dyn Source>, unit_idx: usize) -> Self {
        let (send, mut rest) = tokio::sync::mpsc::channel(1);
        let on_panic = send.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let ended = source.stream(unit_idx, &mut |piece| send.blocking_send(Ok(piece)).is_ok());
            if let Err(error) = ended {
                // Nobody waits for it once the build has ended.
                let _ = send.blocking_send(Err(error));
            }
        });
        tokio::spawn(async move {
            if let Err(error) = reading.await {
                let _ = on_panic.send(Err(Error::Internal(error.to_string()))).await;
            }
        });
        Self {
            first: rest.recv().await,
            rest,
        }
    }

    async fn next(&mut self) -> Option<Result<SourceUnit>> {
        match self.first.take() {
            Some(first) => Some(first),
            None => self.rest.recv().await,
        }
    }
}

/// A build on its way.
struct Build<'a> {
    log: SkipLog,
    output: Output,
    progress: BuildProgress,
    n_objects: u64,
    /// Images or videos in which something is wrong, and faults that belong to none.
    n_bad: u64,
    /// Rows that show every category of the dataset.
    n_alone: u64,
    on_event: &'a (dyn Fn(BuildEvent<'_>) + Sync),
}

impl Build<'_> {
    /// Counts something left out and shows it when it is one of the first.
    fn note(&mut self, skip: &Skip) -> Result<()> {
        if self.log.record(skip)? {
            (self.on_event)(BuildEvent::Fault(skip));
        }
        Ok(())
    }

    /// Writes a unit. `n_written` of its rows are in the shards of a resumed build already, and with them its skips.
    async fn take(
        &mut self,
        unit_idx: usize,
        unit: SourceUnit,
        n_written: Option<usize>,
    ) -> Result<()> {
        for skip in &unit.skips {
            self.note(skip)?;
            if n_written.is_none() {
                self.output.skip(skip.reason);
            }
        }
        for clip in unit.clips.iter().skip(n_written.unwrap_or(0)) {
            match self.output.push(clip, unit_idx as u64).await {
                Ok(()) => {
                    self.n_alone += u64::from(shows_all(clip, &self.output.header));
                    self.progress.n_samples += 1;
                    self.progress.n_frames += clip.frames.len() as u64;
                    self.progress.n_bytes += clip
                        .frames
                        .iter()
                        .map(|frame| frame.bytes.len() as u64)
                        .sum::<u64>();
                    self.n_objects += clip.objects.len() as u64;
                }
                // A frame that the shards' own check cannot read costs its row and not the build.
                Err(
                    Error::Invalid {
                        what,
                        expected,
                        found,
                    }
                    | Error::Corrupt {
                        what,
                        expected,
                        found,
                    },
                ) => {
                    let skip = Skip::new(Reason::RowInvalid, what, expected, found);
                    self.note(&skip)?;
                    self.output.skip(skip.reason);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn unit_done(&mut self) {
        self.progress.n_units += 1;
        (self.on_event)(BuildEvent::Unit(self.progress));
    }

    /// That not too much is wrong with the input.
    fn check_faults(&self, request: &BuildRequest, n_units: usize) -> Result<()> {
        let most = request.max_bad_fraction.unwrap_or(MAX_BAD_FRACTION);
        let is_few = request.max_bad_fraction.is_none() && self.n_bad <= FEW;
        // Faults that belong to no image are more than all of them at most.
        let n_bad = self.n_bad.min(n_units as u64);
        if is_few || n_bad as f64 <= most * n_units as f64 {
            return Ok(());
        }
        let counts = counted(&self.log);
        Err(Error::corrupt(
            &self.output.header.dataset,
            format!(
                "faults in at most {} of {n_units} images or videos",
                percent(most)
            ),
            format!(
                "{} with faults ({counts}); a larger --max-bad-fraction takes what is left, with --resume without reading it again",
                self.n_bad
            ),
        ))
    }

    async fn finish(
        mut self,
        request: &BuildRequest,
        planned_skips: &[Skip],
        n_units: usize,
    ) -> Result<BuildSummary> {
        if self.progress.n_samples == 0 {
            return Err(no_sample(&self.output.header.dataset, n_units, &self.log));
        }
        self.check_faults(request, n_units)?;
        if self.n_alone > 0 {
            (self.on_event)(BuildEvent::Notice(&format!(
                "{} of {} samples show every category of the dataset: alone they train nothing, as no other category can be named \
                 beside theirs; another dataset of the run brings some",
                self.n_alone, self.progress.n_samples
            )));
        }
        for skip in planned_skips {
            self.output.skip(skip.reason);
        }
        let Output {
            header,
            out,
            writer,
            writer_settings,
            ..
        } = self.output;
        let Some((writer, _)) = writer else {
            return Ok(BuildSummary {
                dataset: header.dataset,
                split: header.split,
                samples: self.progress.n_samples,
                frames: self.progress.n_frames,
                objects: self.n_objects,
                shards: self.progress.n_bytes.div_ceil(writer_settings.shard_bytes),
                bytes: self.progress.n_bytes,
                manifest: None,
                skipped: self.log.into_counts(),
            });
        };
        out.put(ERRORS_KEY, encode_errors(self.log.listed())?)
            .await?;
        let counts = Counts {
            samples: writer.n_clips(),
            frames: writer.n_frames(),
            objects: writer.n_objects(),
            skipped: writer.skipped(),
        };
        let text = card(&header, request.source.name(), &counts);
        let manifest = Box::pin(writer.finish()).await?;
        // After the manifest: a build that lost the race to commit leaves the winner's card.
        put_card(&out, text).await?;
        Ok(BuildSummary {
            dataset: header.dataset,
            split: header.split,
            samples: manifest.samples,
            frames: manifest.frames,
            objects: manifest.objects,
            shards: manifest.shards.len() as u64,
            bytes: manifest.bytes,
            manifest: Some(out.full(MANIFEST_KEY)),
            skipped: manifest.skipped,
        })
    }
}

fn percent(fraction: f64) -> String {
    format!("{:.4}", fraction * 100.0)
        .trim_end_matches('0')
        .trim_end_matches('.')
        .to_owned()
        + " %"
}

fn counted(log: &SkipLog) -> String {
    let counts = log
        .counts()
        .iter()
        .map(|(reason, n)| format!("{reason} {n}"));
    counts.collect::<Vec<_>>().join(", ")
}

fn no_sample(dataset: &str, n_units: usize, log: &SkipLog) -> Error {
    let found = match counted(log) {
        counts if counts.is_empty() => format!("{n_units} images or videos, none of use"),
        counts => format!("{n_units} images or videos, none of use ({counts})"),
    };
    Error::corrupt(dataset, "at least one sample", found)
}

/// Whether a clip shows every category that its dataset has.
fn shows_all(clip: &Clip, header: &DatasetHeader) -> bool {
    let CategorySource::Vocabulary(names) = &header.category_source else {
        return false;
    };
    header.purpose == Purpose::Training
        && names
            .iter()
            .all(|name| clip.present_categories.contains(name))
}

/// Where rows go: a writer, opened with the first row so that a build without one leaves nothing behind; or nowhere.
struct Output {
    out: Store,
    header: DatasetHeader,
    writer_settings: WriterSettings,
    dry_run: bool,
    writer: Option<(Box<DatasetWriter>, Resumed)>,
    /// Counts met before the writer is open.
    early_skips: BTreeMap<&'static str, u64>,
}

impl Output {
    async fn open(request: &BuildRequest, header: DatasetHeader) -> Result<Self> {
        let writer = if request.resume && !request.dry_run {
            let resume = DatasetWriter::resume(&request.out, header.clone(), request.writer);
            let (writer, resumed) = Box::pin(resume).await?;
            Some((Box::new(writer), resumed))
        } else {
            None
        };
        Ok(Self {
            out: request.out.clone(),
            header,
            writer_settings: request.writer,
            dry_run: request.dry_run,
            writer,
            early_skips: BTreeMap::new(),
        })
    }

    fn resumed(&self) -> Option<&Resumed> {
        self.writer.as_ref().map(|(_, resumed)| resumed)
    }

    fn skip(&mut self, reason: Reason) {
        match &mut self.writer {
            Some((writer, _)) => writer.skip(reason.name(), 1),
            None => *self.early_skips.entry(reason.name()).or_default() += 1,
        }
    }

    async fn push(&mut self, clip: &Clip, unit_idx: u64) -> Result<()> {
        if self.dry_run {
            return clip.validate(self.header.purpose);
        }
        if self.writer.is_none() {
            let writer =
                DatasetWriter::create(&self.out, self.header.clone(), self.writer_settings);
            self.writer = Some((Box::new(Box::pin(writer).await?), Resumed::default()));
        }
        let Some((writer, _)) = &mut self.writer else {
            return Err(Error::Internal(
                "a writer was opened the line before".to_owned(),
            ));
        };
        for (reason, n) in std::mem::take(&mut self.early_skips) {
            writer.skip(reason, n);
        }
        // The cursor is the unit, not the row: the rows of one video are only known once it is read again.
        Box::pin(writer.push_at(clip, unit_idx)).await
    }
}

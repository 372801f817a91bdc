//! What `eval`, `predict`, `export` and `demo` share: a model opened with its progress shown, and categories as they are
//! written.

use std::collections::BTreeSet;

use lavida_data::{Error, Result};
use lavida_dataflow::device;
use lavida_score::{
    evaluation::EvaluationEvent,
    exported::Exported,
    model::{ModelSource, OpenedModel, ScoringModel},
};
use lavida_terminal::progress::{Busy, Progress, Unit};
use lavida_train::sizes::check_sizes;

/// The export at `uri`, its files held against their sums; none where there is none.
///
/// # Errors
///
/// As [`Exported::open`].
pub fn open_export(uri: &str) -> Result<Option<Exported>> {
    let mut shown = None;
    Exported::open(uri, |n_done, n_bytes| {
        let begin = || Progress::brief(&format!("checking {uri}"), Unit::Bytes, n_bytes);
        shown.get_or_insert_with(begin).set(n_done);
    })
}

/// Opens the model of a run, a checkpoint or an export, on the device that its settings name.
///
/// # Errors
///
/// As [`open_weights`] and [`OpenedModel::load`]; [`Error::Invalid`] for a device that is not here.
pub async fn open_model(uri: &str, overrides: &[String]) -> Result<ScoringModel> {
    let opened = open_weights(uri, overrides).await?;
    let _reading = Busy::new(&format!("reading the model of {uri}"));
    let device = device::named(&opened.about.settings.device)?;
    opened.load(&device).await
}

/// Opens the model of a run, a checkpoint or an export without reading its weights.
///
/// # Errors
///
/// What [`ModelSource::settings`] and [`ModelSource::open`] fail with.
pub async fn open_weights(uri: &str, overrides: &[String]) -> Result<OpenedModel> {
    let exported = open_export(uri)?;
    let source = match exported {
        Some(exported) => ModelSource::Export(exported),
        None => ModelSource::Checkpoint(lavida_checkpoint::open(uri).await?),
    };
    let settings = source.settings(uri, overrides).await?;
    if !overrides.is_empty() {
        check_sizes(uri, &source.settings(uri, &[]).await?, &settings)?;
    }
    source.open(settings).await
}

/// Shows how far an evaluation is.
pub fn show(progress: &Progress, event: EvaluationEvent<'_>) {
    match event {
        EvaluationEvent::Begun { n_frames } => progress.set_total(n_frames as u64),
        EvaluationEvent::Video {
            index,
            n_videos,
            name,
        } => progress.say(format!("video {}/{n_videos} {name}", index + 1)),
        EvaluationEvent::Frame => progress.add(1),
        EvaluationEvent::VideoDone { n_frames_done } => progress.set(n_frames_done as u64),
    }
}

/// `a, b` → categories, refusing an empty list and one that names a category twice: the prompt would ask for it twice.
///
/// # Errors
///
/// [`Error::Invalid`] for either.
pub fn categories(list: &str) -> Result<Vec<String>> {
    let categories: Vec<String> = list
        .split(',')
        .map(|c| c.trim().to_owned())
        .filter(|c| !c.is_empty())
        .collect();
    if categories.is_empty() {
        return Err(Error::invalid(
            "--categories",
            "at least one category, separated by commas",
            format!("{list:?}"),
        ));
    }
    let mut seen = BTreeSet::new();
    if let Some(doubled) = categories.iter().find(|category| !seen.insert(*category)) {
        let found = format!("{doubled:?} twice");
        return Err(Error::invalid("--categories", "each category once", found));
    }
    Ok(categories)
}

//! What a run says about itself: `metrics.jsonl`, TensorBoard events, a progress bar or lines, Prometheus.
//!
//! A local run appends to its files step by step. In an object store, which cannot append, the files
//! are written whole before every checkpoint, the last of which is at the end. Resuming drops the rows after the step that
//! is resumed from, so that each step has one row.

pub mod endpoint;
pub mod events;
pub mod figures;
pub mod progress;

use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use lavida_store::{Error, Result, Store};
use lavida_train::step::StepRecord;

use crate::clock::Clock;

pub(crate) const METRICS: &str = "metrics.jsonl";

/// Files of a log as they were when a checkpoint was taken, for a store that cannot append; none for one that can.
#[derive(Clone, Debug, Default)]
pub struct LogFiles(Vec<(Store, String, Bytes)>);

impl LogFiles {
    /// Brings them to the store.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when it does not take them.
    pub async fn put(&self) -> Result<()> {
        for (store, key, bytes) in &self.0 {
            store.put(key, bytes.clone()).await?;
        }
        Ok(())
    }
}

/// Writes the records of a run.
pub struct MetricsLog {
    clock: Arc<dyn Clock>,
    store: Store,
    events_key: String,
    metrics: Vec<u8>,
    events: Vec<u8>,
    local: Option<(File, File)>,
}

impl MetricsLog {
    /// Opens the logs of `run`, keeping the rows up to and including `resumed_step`. What they lack of those is taken from
    /// `records`: whoever wrote the log may have died before the last ones were there.
    pub async fn open(
        run: &Store,
        resumed_step: u64,
        records: &[StepRecord],
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let earlier = run.try_get(METRICS).await?.unwrap_or_default();
        let (mut metrics, last) = keep_until(&run.full(METRICS), &earlier, resumed_step)?;
        let lacks = |record: &&StepRecord| (last + 1..=resumed_step).contains(&record.step);
        for record in records.iter().filter(lacks) {
            metrics.extend(row(record)?);
        }
        let events_key = format!("events.out.tfevents.{resumed_step:010}.lavida");
        let log = Self {
            events: events::header(clock.wall().as_secs_f64()),
            store: run.clone(),
            events_key,
            metrics,
            local: None,
            clock,
        };
        let is_log = |key: &str| key == METRICS || key == log.events_key;
        run.remove_unfinished(is_log).await?; // of a process that was killed here
        log.files().put().await?;
        let local = match run.local_path() {
            None => None,
            Some(folder) => Some((
                append_to(&folder.join(METRICS))?,
                append_to(&folder.join(&log.events_key))?,
            )),
        };
        Ok(Self { local, ..log })
    }

    /// Logs one step.
    pub fn record(&mut self, record: &StepRecord) -> Result<()> {
        let row = row(record)?;
        let scalars = record
            .losses
            .named()
            .map(|(name, value)| (name, f64::from(value)));
        let rest = [
            ("lr", record.lr),
            ("grad_norm", record.grad_norm),
            ("seconds", record.seconds),
        ];
        let phases = record.times.named();
        let phases = phases.map(|(phase, seconds)| (format!("{phase}_seconds"), seconds));
        let phases = phases.iter().map(|(tag, value)| (tag.as_str(), *value));
        let save = record.checkpoint_save_seconds;
        let save = save.map(|seconds| ("checkpoint_save_seconds", seconds));
        let rest = rest.into_iter().chain(save);
        let wall = self.clock.wall().as_secs_f64();
        let event = events::scalars(wall, record.step, scalars.chain(rest).chain(phases));
        if let Some((metrics, events)) = &mut self.local {
            let written = metrics
                .write_all(&row)
                .and_then(|()| events.write_all(&event));
            written.map_err(|e| Error::unwritable(self.store.full(METRICS), e))?;
        } else {
            self.metrics.extend(row);
            self.events.extend(event);
        }
        Ok(())
    }

    /// What was logged so far.
    pub fn files(&self) -> LogFiles {
        if self.local.is_some() {
            return LogFiles::default();
        }
        let file = |key: &str, bytes: &[u8]| {
            let bytes = Bytes::copy_from_slice(bytes);
            (self.store.clone(), key.to_owned(), bytes)
        };
        let metrics = file(METRICS, &self.metrics);
        LogFiles(vec![metrics, file(&self.events_key, &self.events)])
    }
}

fn append_to(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|e| Error::unwritable(path.display(), e))
}

fn row(record: &StepRecord) -> Result<Vec<u8>> {
    let mut row = serde_json::to_vec(record)
        .map_err(|e| Error::Internal(format!("a step record does not serialise: {e}")))?;
    row.push(b'\n');
    Ok(row)
}

/// The rows of `step` and before, and the step of the last of them. A last row cut by a crash is dropped: its step is after every checkpoint.
fn keep_until(what: &str, rows: &[u8], step: u64) -> Result<(Vec<u8>, u64)> {
    let mut kept = Vec::new();
    let mut last = 0;
    let whole_rows = rows.split_inclusive(|b| *b == b'\n');
    for (i, row) in whole_rows.filter(|row| row.ends_with(b"\n")).enumerate() {
        let record: StepRecord = serde_json::from_slice(row)
            .map_err(|e| Error::corrupt(format!("{what} row {}", i + 1), "a step record", e))?;
        if record.step <= step {
            kept.extend_from_slice(row);
            last = record.step;
        }
    }
    Ok((kept, last))
}

//! Everything that a run needs, opened.

use std::sync::Arc;

use anyhow::Context;
use lavida_checkpoint::Pretrained;
use lavida_data::{Result, tokenizer::Tokenizers};
use lavida_dataflow::{
    clock::SystemClock, device::memory::Admission, run::Run, telemetry::figures::Figures,
};
use lavida_store::Store;
use lavida_train::settings::Settings;

use super::mixture::open_catalog;
use crate::{config::Loaded, scoring::open_export};

/// Opens data, vocabularies, initial weights and the store of a run; `label` names it in progress lines.
pub async fn prepare(
    loaded: &Loaded,
    data: &[String],
    out: &str,
    label: &str,
) -> anyhow::Result<Run> {
    let settings = loaded.settings.clone();
    let catalog = Arc::new(open_catalog(data, &settings).await?);
    let tokenizers = Arc::new(settings.tokenizers(&loaded.folder)?);
    let initial = match &settings.train.initial {
        Some(uri) => {
            let initial = initial(uri, &settings, &tokenizers).await;
            Some(initial.context("train.initial")?)
        }
        None => None,
    };
    Ok(Run {
        settings,
        tokenizers,
        catalog,
        initial,
        store: Store::open(out)?,
        label: label.to_owned(),
        clock: Arc::new(SystemClock::default()),
        figures: Figures::default(),
        quiet: false,
        admission: Admission::default(),
    })
}

/// What a fresh run starts from: a run, a checkpoint or an export.
pub async fn initial(
    uri: &str,
    settings: &Settings,
    tokenizers: &Tokenizers,
) -> Result<Arc<dyn Pretrained>> {
    Ok(match open_export(uri)? {
        Some(exported) => Arc::new(exported.pretrained(settings, tokenizers)?),
        None => Arc::new(lavida_checkpoint::open(uri).await?),
    })
}

//! Everything that a run needs, opened.

use std::sync::Arc;

use anyhow::Context;
use lavida_checkpoint::Pretrained;
use lavida_data::{Result, catalog::DataSource, tokenizer::Tokenizers};
use lavida_dataflow::{
    clock::SystemClock, device::memory::Admission, run::Run, telemetry::figures::Figures,
};
use lavida_store::Store;
use lavida_train::{settings::Settings, sizes::check_initial_sizes};

use super::mixture::open_catalog;
use crate::{
    config::{self, Loaded},
    scoring::open_export,
};

/// Opens data, vocabularies, initial weights and the store of a run; `label` names it in progress lines.
pub async fn prepare(
    loaded: &Loaded,
    data: &[DataSource],
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

/// What a fresh run starts from: a run, a checkpoint or an export, of the model that the run has.
pub async fn initial(
    uri: &str,
    settings: &Settings,
    tokenizers: &Tokenizers,
) -> Result<Arc<dyn Pretrained>> {
    let own = |toml: &str| {
        let own = config::of_checkpoint(uri, toml, &[])?;
        check_initial_sizes(uri, &own, settings)
    };
    Ok(match open_export(uri)? {
        Some(exported) => {
            own(&exported.settings_toml()?)?;
            Arc::new(exported.pretrained(settings, tokenizers)?)
        }
        None => {
            let checkpoint = lavida_checkpoint::open(uri).await?;
            own(&checkpoint.settings_toml().await?)?;
            Arc::new(checkpoint)
        }
    })
}

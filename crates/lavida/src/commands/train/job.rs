//! What a run is, in words that go from the coordinator to its workers.

use std::path::PathBuf;

use lavida_control::RunId;
use lavida_data::{Error, Result};
use lavida_dataflow::{device::DeviceName, run::Run};
use lavida_store::Store;
use serde::{Deserialize, Serialize};

use super::prepare;
use crate::{
    config::{self, Loaded},
    screen,
};

/// A run that every worker can prepare for itself. What it names has to be reachable from each machine under the same
/// name: stores, and the tokenizers beside the settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Settings as resolved, in TOML.
    settings: String,
    /// Where relative paths in them start from.
    folder: PathBuf,
    data: Vec<String>,
    /// Hash of what the data was when the run was started.
    data_hash: String,
    pub out: String,
}

impl Job {
    /// Opens the data and says what the run is.
    pub async fn of(loaded: &Loaded, data: &[String], out: &str) -> anyhow::Result<Self> {
        DeviceName::parse(&loaded.settings.device)?; // workers have it, this machine need not
        let catalog = super::open_catalog(data, &loaded.settings).await?;
        let mixture = super::described(&catalog, &loaded.settings);
        screen::line(&format!("train: mixes {mixture}"));
        let absolute = |uri: &String| Ok(Store::open(uri)?.uri().to_owned());
        let folder = if loaded.folder.as_os_str().is_empty() && loaded.is_embedded {
            PathBuf::new()
        } else {
            std::fs::canonicalize(loaded.folder.join("."))
                .map_err(|e| Error::invalid(loaded.folder.display(), "the settings' folder", e))?
        };
        Ok(Self {
            settings: loaded.settings.to_toml(),
            folder,
            data: data.iter().map(absolute).collect::<Result<_>>()?,
            data_hash: hash(catalog.hash()),
            out: Store::open(out)?.uri().to_owned(),
        })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and paths that came from texts")
    }

    /// The job of a coordinator, and which run that is.
    pub fn read(bytes: &[u8]) -> Result<(Self, RunId)> {
        let job = serde_json::from_slice(bytes)
            .map_err(|e| Error::invalid("the coordinator's job", "one of this version", e))?;
        Ok((job, RunId::of(bytes)))
    }

    /// Opens everything that the run needs on this machine.
    pub async fn prepare(&self) -> anyhow::Result<Run> {
        let loaded = Loaded {
            settings: config::of_job(&self.settings)?,
            folder: self.folder.clone(),
            is_embedded: self.folder.as_os_str().is_empty(),
        };
        let run = prepare(&loaded, &self.data, &self.out, "train").await?;
        let found = hash(run.catalog.hash());
        if found != self.data_hash {
            let expected = format!("the coordinator's data (hash {})", self.data_hash);
            let found = format!("other data (hash {found})");
            return Err(Error::invalid(self.data.join(", "), expected, found).into());
        }
        Ok(run)
    }
}

fn hash(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

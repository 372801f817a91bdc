//! What a run is, in words that go from the coordinator to its workers.

use std::path::PathBuf;

use lavida_control::RunId;
use lavida_data::{Error, Result, catalog::DataSource};
use lavida_dataflow::{
    device::DeviceName,
    run::{Run, check_goes_on},
};
use lavida_store::{Store, hex};
use lavida_terminal::screen;
use serde::{Deserialize, Serialize};

use super::{
    mixture::{described, open_catalog},
    prepare::prepare,
};
use crate::config::{self, Loaded};

/// A run that every worker can prepare for itself. What it names has to be reachable from each machine under the same
/// name: stores, and the tokenizers beside the settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The build that leads the run: two builds do not train together.
    build: String,
    /// Hash of the coordinator's program, by which another file of the same build is told.
    program: String,
    /// Settings as resolved, in TOML.
    settings: String,
    /// Where relative paths in them start from.
    folder: PathBuf,
    data: Vec<DataSource>,
    /// Hash of what the data was when the run was started.
    data_hash: String,
    pub out: String,
}

impl Job {
    /// Opens the data, compares it and the settings with the run's newest checkpoint, and says what the run is.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where the run began with others: nothing of it is touched.
    pub async fn of(loaded: &Loaded, data: &[DataSource], out: &str) -> anyhow::Result<Self> {
        DeviceName::parse(&loaded.settings.device)?; // workers have it, this machine need not
        let catalog = open_catalog(data, &loaded.settings).await?;
        check_goes_on(&Store::open(out)?, &loaded.settings, &catalog).await?;
        let mixture = described(&catalog);
        screen::line(&format!("train: mixes {mixture}"));
        let absolute = |source: &DataSource| {
            let uri = Store::open(&source.uri)?.uri().to_owned();
            Ok(DataSource {
                uri,
                ..source.clone()
            })
        };
        let folder = if loaded.folder.as_os_str().is_empty() && loaded.is_embedded {
            PathBuf::new()
        } else {
            std::fs::canonicalize(loaded.folder.join("."))
                .map_err(|e| Error::invalid(loaded.folder.display(), "the settings' folder", e))?
        };
        Ok(Self {
            build: build(),
            program: program()?,
            settings: loaded.settings.to_toml(),
            folder,
            data: data.iter().map(absolute).collect::<Result<_>>()?,
            data_hash: hex(&catalog.hash()),
            out: Store::open(out)?.uri().to_owned(),
        })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and paths that came from texts")
    }

    /// The job of a coordinator, and which run that is.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when this is another build than the coordinator's.
    pub fn read(bytes: &[u8]) -> Result<(Self, RunId)> {
        let unreadable = |e| Error::invalid("the coordinator's job", "one of this version", e);
        // First the build: that of another may have other keys.
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(unreadable)?;
        let (theirs, ours) = (value["build"].as_str().unwrap_or("an earlier one"), build());
        if theirs != ours {
            let expected = format!("build {theirs}, as the coordinator");
            return Err(Error::invalid(
                "this worker",
                expected,
                format!("build {ours}"),
            ));
        }
        let job: Self = serde_json::from_value(value).map_err(unreadable)?;
        if job.program != program()? {
            screen::line(&format!(
                "train: this program is another file than the coordinator's, of the same build {ours}: \
                 other features, or changes that are not committed"
            ));
        }
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
        let found = hex(&run.catalog.hash());
        if found != self.data_hash {
            let expected = format!("the coordinator's data (hash {})", self.data_hash);
            let found = format!("other data (hash {found})");
            let uris: Vec<&str> = self.data.iter().map(|source| source.uri.as_str()).collect();
            return Err(Error::invalid(uris.join(", "), expected, found).into());
        }
        Ok(run)
    }
}

/// What this program was built from: its version and its commit.
pub fn build() -> String {
    let (version, commit) = (env!("CARGO_PKG_VERSION"), env!("LAVIDA_BUILD_COMMIT"));
    format!("{version} ({commit})")
}

/// Hash of this program's file.
fn program() -> Result<String> {
    let unreadable = |e: std::io::Error| Error::unreadable("this program's file", e);
    let path = std::env::current_exe().map_err(unreadable)?;
    let mut hasher = blake3::Hasher::new();
    let file = lavida_files::open(&path).map_err(unreadable)?;
    hasher.update_reader(file).map_err(unreadable)?;
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_of_another_build_is_refused_whatever_else_it_says() {
        for (job, words) in [
            (
                r#"{"build": "9.9 (else)", "unheard_of": 1}"#,
                "expected build 9.9 (else), as the coordinator",
            ),
            (r#"{"settings": ""}"#, "expected build an earlier one"),
        ] {
            let error = Job::read(job.as_bytes()).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let text = error.to_string();
            assert!(text.contains(words) && text.contains(&build()), "{text}");
        }
    }
}

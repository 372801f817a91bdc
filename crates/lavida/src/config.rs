//! Settings files, and those that are part of the program.

use std::path::{Path, PathBuf};

use lavida_data::{Error, Result};
use lavida_train::settings::{EMBEDDED_PREFIX, Resolved, Settings, embedded};

/// Settings and the folder that relative paths in them start from.
pub struct Loaded {
    pub settings: Settings,
    pub folder: PathBuf,
    /// Whether they are part of the program, and there is no folder.
    pub is_embedded: bool,
}

/// Loads `name`, a path or `embedded:NAME`, with overrides.
pub fn load(name: &str, overrides: &[String]) -> Result<Loaded> {
    let settings = resolve(name, overrides)?.settings;
    let is_embedded = name.starts_with(EMBEDDED_PREFIX);
    let folder = if is_embedded {
        None
    } else {
        Path::new(name).parent()
    };
    Ok(Loaded {
        settings,
        folder: folder.map(Path::to_owned).unwrap_or_default(),
        is_embedded,
    })
}

/// Settings of `name`, a path or `embedded:NAME`, with overrides, and where each value was said.
pub fn resolve(name: &str, overrides: &[String]) -> Result<Resolved> {
    match name.strip_prefix(EMBEDDED_PREFIX) {
        None => Resolved::load(Path::new(name), overrides),
        Some(known) => {
            let text = embedded(known).map_err(|all| Error::invalid("--config", all, name))?;
            Resolved::parse(name, text, overrides)
        }
    }
}

/// Settings that a checkpoint carries, with overrides.
pub fn of_checkpoint(uri: &str, toml: &str, overrides: &[String]) -> Result<Settings> {
    Settings::of_checkpoint(uri, toml, overrides)
}

/// Settings that a coordinator tells its workers.
pub fn of_job(toml: &str) -> Result<Settings> {
    Settings::parse("the coordinator's settings", toml, &[])
}

//! Settings files, and those that are part of the program.

use std::path::{Path, PathBuf};

use lavida_data::Result;
use lavida_train::settings::Settings;

/// Files that `embedded:NAME` (without `.toml`) and `extends` among them refer to.
const EMBEDDED: [(&str, &str); 3] = [
    ("tiny.toml", include_str!("../../../configs/tiny.toml")),
    (
        "tiny-grounding.toml",
        include_str!("../../../configs/tiny-grounding.toml"),
    ),
    ("paper.toml", include_str!("../../../configs/paper.toml")),
];

/// Settings and the folder that relative paths in them start from.
pub struct Loaded {
    pub settings: Settings,
    pub folder: PathBuf,
    /// Whether they are part of the program, and there is no folder.
    pub is_embedded: bool,
}

/// Loads `name`, a path or `embedded:NAME`, with overrides.
pub fn load(name: &str, overrides: &[String]) -> Result<Loaded> {
    if let Some(embedded) = name.strip_prefix("embedded:") {
        let file = format!("{embedded}.toml");
        let text = resolve(&file).ok_or_else(|| {
            let known =
                EMBEDDED.map(|(file, _)| format!("embedded:{}", file.trim_end_matches(".toml")));
            lavida_data::Error::invalid("--config", known.join(" or "), name)
        })?;
        return Ok(Loaded {
            settings: Settings::parse(name, text, &resolve, overrides)?,
            folder: PathBuf::new(),
            is_embedded: true,
        });
    }
    let path = Path::new(name);
    Ok(Loaded {
        settings: Settings::load(path, overrides)?,
        folder: path.parent().map(Path::to_owned).unwrap_or_default(),
        is_embedded: false,
    })
}

/// Settings that a checkpoint carries, with overrides.
pub fn of_checkpoint(uri: &str, toml: &str, overrides: &[String]) -> Result<Settings> {
    Settings::parse(&format!("settings of {uri}"), toml, &resolve, overrides)
}

/// Settings that a coordinator tells its workers.
pub fn of_job(toml: &str) -> Result<Settings> {
    Settings::parse("the coordinator's settings", toml, &resolve, &[])
}

fn resolve(file: &str) -> Option<&'static str> {
    let found = EMBEDDED.iter().find(|(name, _)| *name == file);
    found.map(|(_, text)| *text)
}

//! Where values of settings were said: file and line, or the command line.

use std::{collections::BTreeMap, fmt};

use toml::Value;

use super::source::dotted;

/// Where a value was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a settings file.
    File {
        /// The file, as it was named.
        file: String,
        /// Its line, from 1.
        line: usize,
        /// The file that extends it, unless it is the one that was asked for.
        extended_by: Option<String>,
    },
    /// On the command line.
    Set,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set => f.write_str("--set"),
            Self::File {
                file,
                line,
                extended_by,
            } => {
                write!(f, "{file}:{line}")?;
                match extended_by {
                    Some(by) => write!(f, ", extended by {by}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Where values were said, by dotted key; a key that is not in it has its default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where the value of a key was said.
    pub fn of(&self, key: &str) -> Option<&Origin> {
        self.0.get(key)
    }

    /// Forgets a key and everything below it.
    pub(super) fn forget(&mut self, key: &str) {
        let below = format!("{key}.");
        self.0
            .retain(|known, _| known != key && !known.starts_with(&below));
    }

    /// Notes that a table was made on the command line.
    pub(super) fn note_set(&mut self, key: &str) {
        self.0.insert(key.to_owned(), Origin::Set);
    }

    /// Notes where a value, and everything in it, was said.
    pub(super) fn note(&mut self, key: &str, value: &Value, origin: &dyn Fn(&str) -> Origin) {
        self.0.insert(key.to_owned(), origin(key));
        for (name, value) in value.as_table().into_iter().flatten() {
            self.note(&dotted(key, name), value, origin);
        }
    }
}

//! From a file, the files it extends and `--set` to one table of values that knows where each was said.

use std::{collections::BTreeMap, fmt, path::Path};

use lavida_data::{Error, Result};
use toml::{Table, Value, de::DeTable};

use super::{EMBEDDED_PREFIX, embedded};

/// `extends` chains longer than this are taken for a loop.
const MAX_EXTENDS: usize = 8;

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
    fn forget(&mut self, key: &str) {
        let below = format!("{key}.");
        self.0
            .retain(|known, _| known != key && !known.starts_with(&below));
    }

    /// Notes where a value, and everything in it, was said.
    fn note(&mut self, key: &str, value: &Value, origin: &dyn Fn(&str) -> Origin) {
        self.0.insert(key.to_owned(), origin(key));
        for (name, value) in value.as_table().into_iter().flatten() {
            self.note(&dotted(key, name), value, origin);
        }
    }
}

/// Values as they were said, not yet settings.
pub(super) struct Source {
    /// The file that was asked for.
    pub name: String,
    pub table: Table,
    pub origins: Origins,
}

impl Source {
    /// A file and those it extends.
    pub fn file(path: &Path) -> Result<Self> {
        read(path, None, 0)
    }

    /// A text that is no file; it extends embedded files only.
    pub fn text(name: &str, text: &str) -> Result<Self> {
        let at = Place {
            name,
            folder: None,
            extended_by: None,
            depth: 0,
        };
        layers(&at, text)
    }

    /// Applies one `section.key=value`: the key as in TOML, the value too where it is any, else a plain text.
    pub fn set(&mut self, text: &str) -> Result<()> {
        let what = format!("--set {text}");
        let expected = "section.key=value, with a key of other characters than letters, digits, _ and - in quotes";
        let refuse = || Error::invalid(&what, expected, text);
        let (path, value) = key_and_value(text).ok_or_else(refuse)?;
        let mut place = &mut self.table;
        let mut key = String::new();
        let (last, sections) = path.split_last().ok_or_else(refuse)?;
        for section in sections {
            key = dotted(&key, section);
            place = place
                .entry(section.as_str())
                .or_insert_with(|| Value::Table(Table::new()))
                .as_table_mut()
                .ok_or_else(|| Error::invalid(&what, format!("a section {key}"), "a value"))?;
        }
        key = dotted(&key, last);
        self.origins.forget(&key);
        self.origins.note(&key, &value, &|_| Origin::Set);
        place.insert(last.clone(), value);
        Ok(())
    }

    /// A key with where its value was said, or with the file that should say it.
    pub fn place(&self, key: &str) -> String {
        let mut known = key;
        loop {
            if let Some(origin) = self.origins.of(known) {
                return format!("{origin}: {key}");
            }
            match known.rfind(['.', '[']) {
                Some(end) => known = &known[..end],
                None => return format!("{}: {key}", self.name),
            }
        }
    }

    /// An error about a key with where its value was said.
    pub fn placed(&self, error: Error) -> Error {
        match error {
            Error::Invalid {
                what,
                expected,
                found,
            } => Error::invalid(self.place(&what), expected, found),
            other => other,
        }
    }
}

/// `key.name`, with the name in quotes where TOML wants them.
pub fn dotted(key: &str, name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let name = if !name.is_empty() && name.chars().all(is_bare) {
        name.to_owned()
    } else {
        Value::String(name.to_owned()).to_string()
    };
    match key {
        "" => name,
        key => format!("{key}.{name}"),
    }
}

/// Where a text stands.
struct Place<'a> {
    name: &'a str,
    /// Where files that it extends are looked up; embedded texts have none.
    folder: Option<&'a Path>,
    extended_by: Option<&'a str>,
    depth: usize,
}

fn read(path: &Path, extended_by: Option<&str>, depth: usize) -> Result<Source> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::invalid(&name, "a readable settings file", e))?;
    let at = Place {
        name: &name,
        folder: Some(path.parent().unwrap_or(Path::new(""))),
        extended_by,
        depth,
    };
    layers(&at, &text)
}

/// The values of a text over those that it extends.
fn layers(at: &Place, text: &str) -> Result<Source> {
    if at.depth > MAX_EXTENDS {
        let found = format!("a chain of more than {MAX_EXTENDS} files");
        return Err(Error::invalid(
            at.name,
            "an extends chain without a loop",
            found,
        ));
    }
    let mut table: Table = text
        .parse()
        .map_err(|e: toml::de::Error| Error::invalid(at.name, "TOML", e.to_string().trim_end()))?;
    let mut lines = BTreeMap::new();
    if let Ok(spanned) = DeTable::parse(text) {
        note_lines(spanned.get_ref(), "", text, &mut lines);
    }
    let mut source = match table.remove("extends") {
        None => Source {
            name: String::new(),
            table: Table::new(),
            origins: Origins::default(),
        },
        Some(Value::String(base)) => extended(at, &base)?,
        Some(other) => {
            let what = format!("{}: extends", at.name);
            return Err(Error::invalid(what, "a file, or embedded:NAME", other));
        }
    };
    let origin = |key: &str| Origin::File {
        file: at.name.to_owned(),
        line: lines.get(key).copied().unwrap_or(1),
        extended_by: at.extended_by.map(str::to_owned),
    };
    merge(&mut source.table, table, "", &mut source.origins, &origin);
    source.name = at.name.to_owned();
    Ok(source)
}

fn extended(at: &Place, base: &str) -> Result<Source> {
    let refuse = |expected: String| Error::invalid(format!("{}: extends", at.name), expected, base);
    if let Some(name) = base.strip_prefix(EMBEDDED_PREFIX) {
        let base = Place {
            name: base,
            folder: None,
            extended_by: Some(at.name),
            depth: at.depth + 1,
        };
        return layers(&base, embedded(name).map_err(refuse)?);
    }
    let folder = at
        .folder
        .ok_or_else(|| refuse("embedded:NAME: there is no folder to look for a file".into()))?;
    read(&folder.join(base), Some(at.name), at.depth + 1)
}

/// Puts values over others, table by table.
fn merge(
    base: &mut Table,
    over: Table,
    prefix: &str,
    origins: &mut Origins,
    origin: &dyn Fn(&str) -> Origin,
) {
    for (name, value) in over {
        let key = dotted(prefix, &name);
        match (base.get_mut(&name), value) {
            (Some(Value::Table(inner)), Value::Table(value)) => {
                merge(inner, value, &key, origins, origin);
            }
            (_, value) => {
                origins.forget(&key);
                origins.note(&key, &value, origin);
                base.insert(name, value);
            }
        }
    }
}

/// The line of every key of a text.
fn note_lines(table: &DeTable, prefix: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (name, value) in table.iter() {
        let key = dotted(prefix, name.get_ref());
        let before = &text[..name.span().start];
        if let Some(inner) = value.get_ref().as_table() {
            note_lines(inner, &key, text, lines);
        }
        lines.insert(key, 1 + before.matches('\n').count());
    }
}

/// Splits `section."a.key"=value` at its first `=` outside of quotes.
fn key_and_value(text: &str) -> Option<(Vec<String>, Value)> {
    let mut quote = None;
    let is_split = |c: char| {
        match (quote, c) {
            (None, '=') => return true,
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        false
    };
    let (key, value) = text.split_at(text.find(is_split)?);
    let value = &value[1..];

    let mut path = Vec::new();
    let mut at = Value::Table(format!("{key} = 0").parse().ok()?);
    while let Value::Table(table) = at {
        let mut entries = table.into_iter();
        let (name, inner) = entries.next()?;
        if entries.next().is_some() {
            return None;
        }
        path.push(name);
        at = inner;
    }

    let parsed = format!("value = {value}").parse::<Table>().ok();
    let parsed = parsed.filter(|table| table.len() == 1);
    let plain = || Value::String(value.trim().to_owned());
    let value = parsed.and_then(|mut table| table.remove("value"));
    Some((path, value.unwrap_or_else(plain)))
}

//! From a file, the files it extends and `--set` to one table of values that knows where each was said.

use std::{collections::BTreeMap, path::Path};

use lavida_data::{Error, Result};
use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use super::{EMBEDDED_PREFIX, Origin, Origins, assignment::Assignment, embedded, keys};

/// `extends` chains longer than this are taken for a loop.
const MAX_EXTENDS: usize = 8;

/// A longer file is none of settings, and some have no end (`/dev/zero`).
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Names in names in names; those of settings are three deep, and whoever follows them recurses.
pub(super) const MAX_DEPTH: usize = 16;

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

    /// Applies one `section.key=value`.
    pub fn set(&mut self, text: &str) -> Result<()> {
        let Assignment { path, value } = Assignment::parse(text)?;
        let what = || format!("--set {}", keys::shortened(text));
        let mut place = &mut self.table;
        let mut key = String::new();
        let (last, sections) = path.split_last().expect("a key has a name");
        for section in sections {
            key = dotted(&key, section);
            if !place.contains_key(section) {
                self.origins.note_set(&key);
                place.insert(section.clone(), Value::Table(Table::new()));
            }
            place = place[section]
                .as_table_mut()
                .ok_or_else(|| Error::invalid(what(), format!("a section {key}"), "a value"))?;
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
    let text = text_of(path).map_err(|found| match extended_by {
        None => Error::invalid(&name, "a readable settings file", found),
        Some(by) => Error::invalid(
            format!("{by}: extends"),
            "a readable settings file",
            format!("{name}: {found}"),
        ),
    })?;
    let at = Place {
        name: &name,
        folder: Some(path.parent().unwrap_or(Path::new(""))),
        extended_by,
        depth,
    };
    layers(&at, &text)
}

/// The text of a settings file, or why it is none.
fn text_of(path: &Path) -> Result<String, String> {
    lavida_files::read_text(path, MAX_FILE_BYTES).map_err(|error| error.to_string())
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
    let no_toml = |e: toml::de::Error| Error::invalid(at.name, "TOML", e.to_string().trim_end());
    let spanned = DeTable::parse(text).map_err(no_toml)?;
    let names = depth(spanned.get_ref());
    if names > MAX_DEPTH {
        let expected = format!("at most {MAX_DEPTH} names in each other");
        return Err(Error::invalid(at.name, expected, names));
    }
    let mut table: Table = text.parse().map_err(no_toml)?;
    let mut lines = BTreeMap::new();
    note_lines(spanned.get_ref(), "", text, &mut lines);
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
    if base.is_empty() {
        let what = format!("{}: extends", at.name);
        return Err(Error::invalid(
            what,
            "a file, or embedded:NAME",
            "an empty text",
        ));
    }
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

/// How many names lie in each other at most. Not by recursion: a text may go deeper than a stack.
pub(super) fn depth(table: &DeTable) -> usize {
    let mut deepest = 0;
    let mut open: Vec<(&DeValue, usize)> = Vec::new();
    open.extend(table.iter().map(|(_, value)| (value.get_ref(), 1)));
    while let Some((value, depth)) = open.pop() {
        deepest = deepest.max(depth);
        match value {
            DeValue::Table(table) => {
                open.extend(table.iter().map(|(_, value)| (value.get_ref(), depth + 1)));
            }
            DeValue::Array(values) => {
                open.extend(values.iter().map(|value| (value.get_ref(), depth + 1)));
            }
            _ => {}
        }
    }
    deepest
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

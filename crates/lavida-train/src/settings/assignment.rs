//! `section.key=value`, as `--set` takes it.

use lavida_data::{Error, Result};
use toml::{Table, Value, de::DeTable};

use super::{
    keys,
    source::{MAX_DEPTH, depth},
};

/// One setting of the command line.
pub(super) struct Assignment {
    /// Names of the sections, then that of the key.
    pub path: Vec<String>,
    /// What it is set to.
    pub value: Value,
}

impl Assignment {
    /// Reads `section."a.key"=value`: the key as in TOML, the value too where it is any, else a plain text.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for another form, for a name with dots that is not in quotes, and for tables that lie too deep
    /// in each other.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |expected: &str| {
            let text = keys::shortened(text);
            Error::invalid(format!("--set {text}"), expected, text)
        };
        let malformed = || {
            refuse(
                "section.key=value, with a key of other characters than letters, digits, _ and - in quotes",
            )
        };
        let too_deep = || refuse(&format!("at most {MAX_DEPTH} names in each other"));

        let split = outside_quotes(text).find(|(_, c)| *c == '=');
        let (at, _) = split.ok_or_else(malformed)?;
        let (key, value) = (&text[..at], &text[at + 1..]);
        // Said before a reader follows the text as deep as it goes.
        if is_deep(key) || (value.trim_start().starts_with(['{', '[']) && is_deep(value)) {
            return Err(too_deep());
        }
        let path = path_of(key).ok_or_else(malformed)?;
        if let Some(quoted) = keys::quoted_entry(&path) {
            let expected = format!("a name with dots in quotes, as in --set '{quoted}=…'");
            return Err(refuse(&expected));
        }
        let (value, value_depth) = value_of(value);
        if path.len() + value_depth > MAX_DEPTH {
            return Err(too_deep());
        }
        Ok(Self { path, value })
    }
}

/// The characters outside of quotes, with where they stand.
fn outside_quotes(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut quote = None;
    text.char_indices().filter(move |(_, c)| match quote {
        Some(open) if open == *c => {
            quote = None;
            false
        }
        Some(_) => false,
        None if matches!(c, '"' | '\'') => {
            quote = Some(*c);
            false
        }
        None => true,
    })
}

/// Whether a key has more parts, or brackets lie deeper in each other, than settings do.
fn is_deep(text: &str) -> bool {
    let (mut n_dots, mut n_open) = (0, 0usize);
    for (_, c) in outside_quotes(text) {
        match c {
            '.' => n_dots += 1,
            '=' | ',' => n_dots = 0,
            '{' | '[' => (n_dots, n_open) = (0, n_open + 1),
            '}' | ']' => (n_dots, n_open) = (0, n_open.saturating_sub(1)),
            _ => {}
        }
        if n_dots >= MAX_DEPTH || n_open > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// The parts of a dotted key, as TOML reads them.
fn path_of(key: &str) -> Option<Vec<String>> {
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
    Some(path)
}

/// A value, and how many names lie in each other in it.
fn value_of(text: &str) -> (Value, usize) {
    let line = format!("value = {text}");
    let parsed = line.parse::<Table>().ok();
    let parsed = parsed.filter(|table| table.len() == 1);
    match parsed.and_then(|mut table| table.remove("value")) {
        Some(value) => {
            let names = DeTable::parse(&line).map_or(0, |table| depth(table.get_ref()) - 1);
            (value, names)
        }
        None => (Value::String(text.trim().to_owned()), 0),
    }
}

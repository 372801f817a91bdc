//! `lavida settings`: everything that can be set, with value, meaning, unit, limits, default, and where a value was said.

use lavida_data::Error;
use lavida_train::settings::{
    Origin, Resolved, embedded,
    keys::{self, Key, SettingsSection, ValueKind},
};
use serde_json::{Value as Json, json};
use toml::{Table, Value};

use crate::{cli, config};

/// Columns where standard output is no terminal.
const PLAIN_WIDTH: usize = 80;
/// Lines longer than this are hard to read, however wide the terminal is.
const WIDEST: usize = 120;
/// Fewer columns are taken for these.
const NARROWEST: usize = 40;
const INDENT: &str = "    ";

pub fn run(args: &cli::SettingsArgs) -> anyhow::Result<()> {
    if let Some(cli::SettingsCommand::Init(init)) = &args.command {
        let text = embedded(&init.name).map_err(|_| unknown(&init.name))?;
        return crate::print_document(text.trim_end());
    }
    let resolved = match &args.config {
        Some(name) => Some(config::resolve(name, &args.set)?),
        None => None,
    };
    let listing = Listing::new(resolved);
    if args.json {
        let mut document = listing.document();
        document["config"] = json!(args.config);
        crate::print_document(&serde_json::to_string_pretty(&document)?)
    } else {
        crate::print_document(&listing.text(width()))
    }
}

fn unknown(name: &str) -> Error {
    let known = lavida_train::settings::EMBEDDED.map(|(name, _)| name);
    Error::invalid("lavida settings init", known.join(" or "), name)
}

/// Columns of the terminal that reads the list.
fn width() -> usize {
    let terminal = terminal_size::terminal_size_of(std::io::stdout());
    terminal.map_or(PLAIN_WIDTH, |(width, _)| {
        usize::from(width.0).clamp(NARROWEST, WIDEST)
    })
}

/// What there is to set, and what is set of it.
struct Listing {
    resolved: Option<Resolved>,
    values: Table,
}

impl Listing {
    fn new(resolved: Option<Resolved>) -> Self {
        let values = resolved.as_ref().map(|r| r.settings.values());
        Self {
            resolved,
            values: values.unwrap_or_default(),
        }
    }

    /// The value in force: of the settings, or without any the default.
    fn value<'a>(&'a self, key: &'a Key) -> Option<&'a Value> {
        match self.resolved {
            Some(_) => keys::value_of(&self.values, &key.path),
            None => key.default.as_ref(),
        }
    }

    fn origin(&self, key: &str) -> Option<&Origin> {
        self.resolved.as_ref()?.origins.of(key)
    }

    /// Where a value comes from, in words.
    fn source(&self, key: &Key) -> String {
        match (self.origin(&key.path), &self.resolved) {
            (Some(origin), _) => origin.to_string(),
            (None, None) if key.is_required => "to be said".to_owned(),
            (None, _) => "default".to_owned(),
        }
    }

    fn text(&self, width: usize) -> String {
        let filled = keys::sections().iter().filter(|s| !s.keys.is_empty());
        let sections: Vec<String> = filled.map(|s| self.section(s, width)).collect();
        sections.join("\n\n")
    }

    fn section(&self, section: &SettingsSection, width: usize) -> String {
        let head = match section.path.as_str() {
            "" => Vec::new(),
            path => wrapped(&format!("[{path}] {}", section.meaning), "", width),
        };
        let keys = section.keys.iter().map(|key| self.key(key, width));
        let mut blocks = vec![head.join("\n")];
        blocks.extend(keys);
        blocks.retain(|block| !block.is_empty());
        blocks.join("\n\n")
    }

    fn key(&self, key: &Key, width: usize) -> String {
        let name = key.path.rsplit('.').next().unwrap_or_default();
        let mut lines = match (self.value(key), &key.kind) {
            // Entries are said one by one, each somewhere.
            (Some(Value::Table(entries)), ValueKind::Table(_)) if !entries.is_empty() => {
                let entries = entries.iter().flat_map(|(entry, value)| {
                    let entry = keys::dotted("", entry);
                    let path = format!("{}.{entry}", key.path);
                    let source = self
                        .origin(&path)
                        .map_or("default".into(), Origin::to_string);
                    row(&format!("{name}.{entry} = {value}"), &source, width)
                });
                entries.collect()
            }
            (Some(value), _) => row(&format!("{name} = {value}"), &self.source(key), width),
            (None, _) if key.is_required => row(name, &self.source(key), width),
            (None, _) => row(&format!("{name} (not set)"), &self.source(key), width),
        };
        lines.extend(wrapped(&key.meaning, INDENT, width));
        if let ValueKind::Choice(choices) = &key.kind {
            for choice in choices {
                let text = format!("`{}`: {}", choice.name, choice.meaning);
                lines.extend(wrapped(&text, INDENT, width));
            }
        }
        lines.extend(wrapped(&range_of(key), INDENT, width));
        lines.join("\n")
    }

    fn document(&self) -> Json {
        let settings = keys::keys().map(|key| {
            let mut entry = json!({
                "key": key.path,
                "value": self.value(key),
                "default": key.default,
                "required": key.is_required,
                "unit": key.unit,
                "expected": key.kind.to_string(),
                "meaning": key.meaning,
                "source": self.json_source(key),
            });
            if let ValueKind::Choice(choices) = &key.kind {
                let choices = choices.iter();
                entry["choices"] = choices
                    .map(|choice| json!({"name": choice.name, "meaning": choice.meaning}))
                    .collect();
            }
            entry
        });
        json!({ "settings": settings.collect::<Vec<_>>() })
    }

    fn json_source(&self, key: &Key) -> Json {
        match self.origin(&key.path) {
            Some(Origin::Set) => json!({"from": "set"}),
            Some(Origin::File {
                file,
                line,
                extended_by,
            }) => json!({"from": "file", "file": file, "line": line, "extended_by": extended_by}),
            None if key.is_required && self.resolved.is_none() => Json::Null,
            None => json!({"from": "default"}),
        }
    }
}

/// What a value may be, its unit, and its default.
fn range_of(key: &Key) -> String {
    let mut text = match &key.kind {
        ValueKind::Choice(_) => "One of these".to_owned(),
        kind => {
            let words = kind.to_string();
            let (first, rest) = words.split_at(1);
            first.to_uppercase() + rest
        }
    };
    if let Some(unit) = &key.unit {
        text += &format!(" ({unit})");
    }
    match (&key.default, key.is_required) {
        (Some(default), _) => text + &format!("; default {default}"),
        (None, true) => text + "; no default, a file says it",
        (None, false) => text + "; not set by default",
    }
}

/// A value on the left and where it comes from on the right; below each other where they do not fit.
fn row(value: &str, source: &str, width: usize) -> Vec<String> {
    let n_free = width.checked_sub(value.chars().count() + source.chars().count());
    match n_free.filter(|n| *n >= 2) {
        Some(n_free) => vec![format!("{value}{}{source}", " ".repeat(n_free))],
        None => {
            let mut lines = wrapped(value, "", width);
            lines.extend(wrapped(&format!("from {source}"), INDENT, width));
            lines
        }
    }
}

/// Lines of at most `width` columns, each after `indent`; a word that is longer has a line of its own.
fn wrapped(text: &str, indent: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let n_word = word.chars().count();
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + n_word <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{indent}{word}")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing() -> Listing {
        let set = [r#"train.policy."seg_model.no_mem_embed"=frozen"#.to_owned()];
        Listing::new(Some(
            config::resolve("embedded:tiny-grounding", &set).unwrap(),
        ))
    }

    #[test]
    fn every_key_is_listed_within_any_width() {
        for listing in [Listing::new(None), listing()] {
            for width in [40, 80, 120] {
                let text = listing.text(width);
                for key in keys::keys() {
                    let name = key.path.rsplit('.').next().unwrap();
                    assert!(
                        text.lines().any(|line| line.starts_with(name)),
                        "{name}\n{text}"
                    );
                }
                // A name of its own is never broken.
                let too_long = text
                    .lines()
                    .find(|line| line.chars().count() > width && line.trim().contains(' '));
                assert_eq!(too_long, None, "{width}");
            }
        }
    }
}

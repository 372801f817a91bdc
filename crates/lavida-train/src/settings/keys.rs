//! What there is to set: keys with meaning, unit, limits and default, as the settings' own types have them.
//!
//! The types carry it all: doc comments say the meaning, `range` and `unit` attributes the rest, and serde's the
//! defaults. This module reads it from their schema, so nothing is written twice; what is refused, what errors expect
//! and what `lavida settings` lists are the same.

use std::{fmt, sync::LazyLock};

use lavida_data::{Error, Result};
use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use toml::{Table, Value};

use super::Settings;
pub use super::source::dotted;

/// The largest whole number up to which a float has every whole number.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Longest value that an error repeats, in characters.
const LONGEST_FOUND: usize = 80;

/// A value that can be set.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Section and name with dots, as `--set` takes it.
    pub path: String,
    /// What it does.
    pub meaning: String,
    /// What a value is.
    pub kind: ValueKind,
    /// What a number counts or measures.
    pub unit: Option<String>,
    /// What it is unless something else is said; none where it is unset by default, or must be said.
    pub default: Option<Value>,
    /// Whether a file must say it.
    pub is_required: bool,
}

/// A table of a settings file.
#[derive(Clone, Debug, PartialEq)]
pub struct SettingsSection {
    /// Its name with dots; empty for what stands above every table.
    pub path: String,
    /// What it is about.
    pub meaning: String,
    /// The values in it, without those of sections below.
    pub keys: Vec<Key>,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum ValueKind {
    /// `true` or `false`.
    Flag,
    /// Any text.
    Text,
    /// One of a few words.
    Choice(Vec<Choice>),
    /// A whole number.
    Whole {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// A number.
    Real {
        /// Smallest.
        min: Limit,
        /// Largest.
        max: Limit,
    },
    /// Several values of one kind.
    List {
        /// What each is.
        item: Box<ValueKind>,
        /// How many; any number without.
        n: Option<usize>,
    },
    /// Names with a value each.
    Table(Box<ValueKind>),
}

/// An end of a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// The number.
    pub at: f64,
    /// Whether the number itself is out of range.
    pub is_excluded: bool,
}

/// A word that a setting can be.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The word.
    pub name: String,
    /// What it means.
    pub meaning: String,
}

/// All sections in the order of their types.
pub fn sections() -> &'static [SettingsSection] {
    static SECTIONS: LazyLock<Vec<SettingsSection>> = LazyLock::new(|| {
        let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
        let schema = settings.into_generator().into_root_schema_for::<Settings>();
        let mut sections = Vec::new();
        collect(&schema.to_value(), "", &mut sections);
        sections
    });
    &SECTIONS
}

/// All keys in the order of their types.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    sections().iter().flat_map(|section| &section.keys)
}

fn collect(schema: &Json, path: &str, sections: &mut Vec<SettingsSection>) {
    let mut section = SettingsSection {
        path: path.to_owned(),
        meaning: meaning(schema),
        keys: Vec::new(),
    };
    let at = sections.len();
    sections.push(section.clone());
    let required: Vec<&Json> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = dotted(path, name);
        if schema["properties"].is_object() {
            collect(schema, &path, sections);
            continue;
        }
        section.keys.push(Key {
            kind: kind(schema).unwrap_or_else(|| panic!("{path}: limits are missing in {schema}")),
            path,
            meaning: meaning(schema),
            unit: schema["unit"].as_str().map(str::to_owned),
            default: Value::try_from(&schema["default"]).ok(),
            is_required: required.iter().any(|known| *known == name),
        });
    }
    sections[at] = section;
}

/// A doc comment as one line.
fn meaning(schema: &Json) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn kind(schema: &Json) -> Option<ValueKind> {
    let choices = ["oneOf", "enum"].map(|list| schema[list].as_array());
    if let Some(all) = choices.into_iter().flatten().next() {
        return Some(ValueKind::Choice(all.iter().flat_map(choices_of).collect()));
    }
    let types = match &schema["type"] {
        Json::Array(types) => types.iter().find(|name| *name != "null"),
        name => Some(name),
    };
    Some(match types?.as_str()? {
        "boolean" => ValueKind::Flag,
        "string" => ValueKind::Text,
        "integer" => ValueKind::Whole {
            min: schema["minimum"].as_i64()?,
            max: schema["maximum"].as_i64()?,
        },
        "number" => {
            let limit = |name: &str, excluded: &str| {
                let at = |name: &str| schema[name].as_f64();
                let (at, is_excluded) = match at(excluded) {
                    Some(limit) => (limit, true),
                    None => (at(name)?, false),
                };
                Some(Limit { at, is_excluded })
            };
            ValueKind::Real {
                min: limit("minimum", "exclusiveMinimum")?,
                max: limit("maximum", "exclusiveMaximum")?,
            }
        }
        "array" => ValueKind::List {
            item: Box::new(kind(&schema["items"])?),
            n: schema["minItems"].as_u64().map(|n| n as usize),
        },
        _ => ValueKind::Table(Box::new(kind(&schema["additionalProperties"])?)),
    })
}

/// The words of an entry of `oneOf`, or the entry of `enum` that is a word itself.
fn choices_of(entry: &Json) -> Vec<Choice> {
    let several = entry["enum"].as_array().into_iter().flatten();
    let names = several.chain([&entry["const"], entry]);
    names
        .filter_map(Json::as_str)
        .map(|name| Choice {
            name: name.to_owned(),
            meaning: meaning(entry),
        })
        .collect()
}

/// What a value of a key should have been; none where there is no such key.
pub(super) fn expected(key: &str) -> Option<String> {
    let is_section = |section: &&SettingsSection| !section.path.is_empty() && section.path == key;
    if sections().iter().any(|section| is_section(&section)) {
        return Some(format!("a section, [{key}]"));
    }
    keys().find_map(|known| {
        let below = key.strip_prefix(&known.path)?;
        match (&known.kind, below) {
            (kind, "") => Some(kind.to_string()),
            (ValueKind::List { item, .. }, below) if below.starts_with('[') => {
                Some(item.to_string())
            }
            (ValueKind::Table(value), below) if below.starts_with('.') => Some(value.to_string()),
            _ => None,
        }
    })
}

/// The known key nearest to an unknown one: of the same name in another section, or of a similar one in its own.
pub(super) fn nearest(section: &str, name: &str) -> Option<String> {
    let all = || {
        let sections = sections().iter().map(|section| section.path.as_str());
        keys().map(|key| key.path.as_str()).chain(sections)
    };
    let split = |path: &'static str| path.rsplit_once('.').unwrap_or(("", path));
    let elsewhere = all().find(|path| !path.is_empty() && split(path).1 == name);
    let similar = || {
        all()
            .filter(|path| !path.is_empty() && split(path).0 == section)
            .min_by_key(|path| strsim::damerau_levenshtein(name, split(path).1))
    };
    elsewhere.or_else(similar).map(str::to_owned)
}

/// Checks every value alone.
pub(super) fn check(values: &Table) -> Result<()> {
    for key in keys() {
        if let Some(value) = value_of(values, &key.path) {
            check_value(&key.path, &key.kind, value)?;
        }
    }
    Ok(())
}

/// The value of a key that has no quoted part.
pub fn value_of<'a>(values: &'a Table, key: &str) -> Option<&'a Value> {
    let (first, rest) = key.split_once('.').unwrap_or((key, ""));
    match (values.get(first)?, rest) {
        (value, "") => Some(value),
        (value, rest) => value_of(value.as_table()?, rest),
    }
}

fn check_value(key: &str, kind: &ValueKind, value: &Value) -> Result<()> {
    let holds = match (kind, value) {
        (ValueKind::List { item, n }, Value::Array(values)) => {
            for (i, value) in values.iter().enumerate() {
                check_value(&format!("{key}[{i}]"), item, value)?;
            }
            n.is_none_or(|n| n == values.len())
        }
        (ValueKind::Table(kind), Value::Table(values)) => {
            for (name, value) in values {
                check_value(&dotted(key, name), kind, value)?;
            }
            true
        }
        (ValueKind::Whole { min, max }, Value::Integer(value)) => (min..=max).contains(&value),
        (ValueKind::Real { .. }, Value::Integer(value)) => kind.takes(*value as f64),
        (ValueKind::Real { .. }, Value::Float(value)) => kind.takes(*value),
        (ValueKind::Flag, value) => value.is_bool(),
        (ValueKind::Text, value) => value.is_str(),
        (ValueKind::Choice(choices), Value::String(word)) => {
            choices.iter().any(|c| c.name == *word)
        }
        _ => false,
    };
    if holds {
        Ok(())
    } else {
        Err(Error::invalid(key, kind, found(Some(value))))
    }
}

/// Writes `1e3` as `1000` where a whole number belongs.
pub(super) fn make_whole(values: &mut Table) {
    fn visit(value: &mut Value, kind: &ValueKind) {
        match (kind, value) {
            (ValueKind::Whole { .. }, value) => {
                if let Value::Float(number) = *value
                    && number.fract() == 0.0
                    && number.abs() < EXACT
                {
                    *value = Value::Integer(number as i64);
                }
            }
            (ValueKind::List { item, .. }, Value::Array(values)) => {
                values.iter_mut().for_each(|value| visit(value, item));
            }
            (ValueKind::Table(kind), Value::Table(values)) => {
                values.iter_mut().for_each(|(_, value)| visit(value, kind));
            }
            _ => {}
        }
    }
    fn place<'a>(values: &'a mut Table, key: &str) -> Option<&'a mut Value> {
        let (first, rest) = key.split_once('.').unwrap_or((key, ""));
        match (values.get_mut(first)?, rest) {
            (value, "") => Some(value),
            (value, rest) => place(value.as_table_mut()?, rest),
        }
    }
    for key in keys() {
        if let Some(value) = place(values, &key.path) {
            visit(value, &key.kind);
        }
    }
}

/// A value as an error repeats it.
pub(super) fn found(value: Option<&Value>) -> String {
    let text = match value {
        None => return "nothing: no file says it".to_owned(),
        Some(Value::Table(table)) => match table.len() {
            0 => return "an empty table".to_owned(),
            _ => Value::Table(table.clone()).to_string(),
        },
        Some(value) => value.to_string(),
    };
    match text.char_indices().nth(LONGEST_FOUND) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text,
    }
}

impl ValueKind {
    /// Whether a number is in range; NaN is in none.
    fn takes(&self, value: f64) -> bool {
        match self {
            Self::Real { min, max } => {
                let above = value > min.at || (value == min.at && !min.is_excluded);
                let below = value < max.at || (value == max.at && !max.is_excluded);
                above && below
            }
            _ => false,
        }
    }
}

impl fmt::Display for ValueKind {
    /// In the words of whoever writes settings: `a whole number from 1 to 64`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("true or false"),
            Self::Text => f.write_str("a text"),
            Self::Choice(choices) => {
                let (last, others) = match choices.as_slice() {
                    [others @ .., last] => (last, others),
                    [] => return f.write_str("nothing"),
                };
                let others: Vec<String> = others.iter().map(|c| format!("`{}`", c.name)).collect();
                if others.is_empty() {
                    write!(f, "`{}`", last.name)
                } else {
                    write!(f, "{} or `{}`", others.join(", "), last.name)
                }
            }
            Self::Whole { min, max: i64::MAX } => write!(f, "a whole number of at least {min}"),
            Self::Whole { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Real { min, max } => {
                let from = if min.is_excluded { "above" } else { "from" };
                let to = match (min.is_excluded, max.is_excluded) {
                    (_, true) => "to below",
                    (false, false) => "to",
                    (true, false) => "and at most",
                };
                let (min, max) = (number(min.at), number(max.at));
                write!(f, "a number {from} {min} {to} {max}")
            }
            Self::List { item, n: Some(n) } => write!(f, "a list of {n}, each {item}"),
            Self::List { item, n: None } => write!(f, "a list, each {item}"),
            Self::Table(value) => write!(f, "names, each with {value}"),
        }
    }
}

/// A number without a long row of zeros.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        1e-3..1e7 => format!("{value}"),
        _ => format!("{value:e}"),
    }
}

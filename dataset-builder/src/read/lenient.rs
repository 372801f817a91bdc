//! Values of annotation files as people's tools write them: one odd value costs its row and never the file.
//!
//! Ids are numbers, numbers with `.0` or text; a width of -1 is none; `iscrowd` may be null; JSON may begin with a byte-order
//! mark, hold `NaN` (Python's `json` writes it) or be in Latin-1.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Visitor};

/// An id as annotation files write it: a number, sometimes with `.0`, sometimes text. `"5"` and `5.0` are 5.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Id {
    /// A whole number.
    Number(i64),
    /// Any other text.
    Text(String),
}

impl Id {
    /// From text, which may be a number.
    pub fn of_text(text: &str) -> Self {
        match text.parse::<i64>() {
            // `007` is a name and not seven.
            Ok(number) if number.to_string() == text => Self::Number(number),
            _ => Self::Text(text.to_owned()),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;
        impl Visitor<'_> for IdVisitor {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id: a whole number or text")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Id, E> {
                Ok(Id::Number(number))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Id, E> {
                i64::try_from(number).map(Id::Number).map_err(E::custom)
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Id, E> {
                if number.fract() == 0.0 && number.abs() < 9e15 {
                    Ok(Id::Number(number as i64))
                } else {
                    Err(E::custom(format!("{number} is no id")))
                }
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id, E> {
                Ok(Id::of_text(text))
            }
        }
        deserializer.deserialize_any(IdVisitor)
    }
}

/// A row of the form that was expected, or what stands in its place.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(untagged)]
pub enum Maybe<T> {
    /// Of the form.
    Is(T),
    /// Of another.
    Not(serde_json::Value),
}

/// A size in px: whole numbers above 0, `64.0` included; anything else (null, 0, -1, text) says nothing.
///
/// # Errors
///
/// None of its own.
pub fn size_px<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let whole = value.as_f64().filter(|px| px.fract() == 0.0 && *px >= 1.0);
    Ok(whole
        .filter(|px| *px <= f64::from(u32::MAX))
        .map(|px| px as u32))
}

/// A flag: 1, 1.0, true and "1" are set; null and what is not there are not.
///
/// # Errors
///
/// None of its own.
pub fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(match value {
        serde_json::Value::Bool(set) => set,
        serde_json::Value::Number(number) => number.as_f64() != Some(0.0),
        serde_json::Value::String(text) => !matches!(text.as_str(), "" | "0" | "false"),
        _ => false,
    })
}

/// A number of a list: null, which `NaN` becomes, is not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coordinate(pub f64);

impl<'de> Deserialize<'de> for Coordinate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Option::<f64>::deserialize(deserializer)?;
        Ok(Self(number.unwrap_or(f64::NAN)))
    }
}

/// A whole number written as `5` or `5.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole(pub u32);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) {
            Ok(Self(number as u32))
        } else {
            Err(serde::de::Error::custom(format!(
                "{number} is no whole number from 0"
            )))
        }
    }
}

/// Without a byte-order mark.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// JSON with `null` for the `NaN` and `Infinity` that stand outside of text.
pub fn without_nan(json: &[u8]) -> Cow<'_, [u8]> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut replaced: Vec<u8> = Vec::new();
    let (mut taken, mut at, mut in_text) = (0, 0, false);
    while at < json.len() {
        match json[at] {
            b'\\' if in_text => at += 1,
            b'"' => in_text = !in_text,
            b'N' | b'I' | b'-' if !in_text => {
                if let Some(word) = WORDS.iter().find(|word| json[at..].starts_with(word)) {
                    replaced.extend_from_slice(&json[taken..at]);
                    replaced.extend_from_slice(b"null");
                    at += word.len();
                    taken = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if taken == 0 {
        return Cow::Borrowed(json);
    }
    replaced.extend_from_slice(&json[taken..]);
    Cow::Owned(replaced)
}

/// Text in UTF-8, or else in Latin-1, in which every byte is a character.
pub fn latin1_text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(bytes.iter().map(|byte| char::from(*byte)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_one_whether_number_decimal_or_text() {
        let ids: Vec<Id> = serde_json::from_str(r#"[5, 5.0, "5", "007", "a"]"#).expect("ids");
        let five = Id::Number(5);
        let text = |text: &str| Id::Text(text.to_owned());
        assert_eq!(
            ids,
            [five.clone(), five.clone(), five, text("007"), text("a")]
        );
        assert!(serde_json::from_str::<Id>("5.5").is_err());
        assert!(serde_json::from_str::<Id>("null").is_err());
    }

    #[test]
    fn nan_becomes_null_outside_of_text_only() {
        let given = br#"{"NaN": "a \" NaN", "x": [NaN, -Infinity, -1, Infinity]}"#;
        let expected = br#"{"NaN": "a \" NaN", "x": [null, null, -1, null]}"#;
        assert_eq!(&without_nan(given)[..], expected);
        assert!(matches!(without_nan(b"[-1]"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_size_that_says_nothing_is_none() {
        #[derive(serde::Deserialize)]
        struct Row {
            #[serde(default, deserialize_with = "size_px")]
            width: Option<u32>,
        }
        let width = |json: &str| serde_json::from_str::<Row>(json).expect("a row").width;
        assert_eq!(width(r#"{"width": 64.0}"#), Some(64));
        for nothing in [
            r#"{"width": -1}"#,
            r#"{"width": 0}"#,
            r#"{"width": null}"#,
            r#"{}"#,
            r#"{"width": "x"}"#,
        ] {
            assert_eq!(width(nothing), None, "{nothing}");
        }
    }
}

//! Manifests: small JSON documents whose presence makes the files they name count.
//!
//! Every one begins with its format and version, so that a newer file met by an older program is
//! an error that names both, never a half-understood read, and ends with the hash of what is
//! between, so that a flipped byte in it is damage and not another number:
//! `{"format": "lavida/dataset", "version": 1, …body, "blake3": "…"}`.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result, Store};

/// The body of a manifest: what kind it is and which version of it this program writes and reads.
/// Give the type `#[serde(deny_unknown_fields)]`; the envelope's own keys are taken off first.
pub trait Versioned: Serialize + DeserializeOwned {
    /// For example `lavida/dataset`.
    const FORMAT: &'static str;
    /// Rises with every change that an older reader would misread.
    const VERSION: u64;
}

const HASH_KEY: &str = "blake3";

/// Over the body's compact JSON in its own order, so that layout does not count.
fn hash(body: &Map<String, Value>) -> String {
    let text = serde_json::to_vec(body).expect("JSON values serialise");
    blake3::hash(&text).to_hex().to_string()
}

/// The document as it is stored, indented for people.
pub fn encode<T: Versioned>(body: &T) -> Result<Bytes> {
    let internal = |error| Error::Internal(format!("{} does not serialise: {error}", T::FORMAT));
    let mut document = Map::new();
    document.insert("format".to_string(), T::FORMAT.into());
    document.insert("version".to_string(), T::VERSION.into());
    match serde_json::to_value(body).map_err(internal)? {
        Value::Object(fields) => {
            let hash = hash(&fields);
            document.extend(fields);
            document.insert(HASH_KEY.to_string(), hash.into());
        }
        _ => {
            return Err(Error::Internal(format!(
                "the body of {} is not a struct",
                T::FORMAT
            )));
        }
    }
    let mut bytes = serde_json::to_vec_pretty(&document).map_err(internal)?;
    bytes.push(b'\n');
    Ok(bytes.into())
}

/// Reads a stored document; `what` names it in errors.
///
/// # Errors
///
/// [`Error::Corrupt`] when it is not JSON or lacks a field, [`Error::Invalid`] when it is another
/// format or a version this program does not know.
pub fn decode<T: Versioned>(what: &str, bytes: &[u8]) -> Result<T> {
    let expected = format!("{} version {}", T::FORMAT, T::VERSION);
    let mut document: Map<String, Value> = serde_json::from_slice(bytes)
        .map_err(|error| Error::corrupt(what, format!("the JSON of {expected}"), error))?;
    let format = document.shift_remove("format").unwrap_or(Value::Null);
    let version = document.shift_remove("version").unwrap_or(Value::Null);
    if format != T::FORMAT || version != T::VERSION {
        let name = format.as_str().unwrap_or("no format").to_string();
        return Err(Error::invalid(
            what,
            expected,
            format!("{name} version {version}"),
        ));
    }
    let stated = document.shift_remove(HASH_KEY).unwrap_or(Value::Null);
    let found = hash(&document);
    if stated != found {
        let expected = format!("{expected} with BLAKE3 {stated}");
        return Err(Error::corrupt(what, expected, format!("BLAKE3 {found}")));
    }
    serde_json::from_value(Value::Object(document))
        .map_err(|error| Error::corrupt(what, expected, error))
}

/// Reads the manifest at `key`, or `None` when nothing was committed there.
pub async fn read<T: Versioned>(store: &Store, key: &str) -> Result<Option<T>> {
    match store.try_get(key).await? {
        Some(bytes) => decode(&store.full(key), &bytes).map(Some),
        None => Ok(None),
    }
}

/// Commits the manifest: put-if-absent, so the first writer of a key wins.
///
/// # Errors
///
/// [`Error::Exists`] when the key is taken.
pub async fn commit<T: Versioned>(store: &Store, key: &str, body: &T) -> Result<()> {
    store.create(key, encode(body)?).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        steps: u32,
    }

    impl Versioned for Body {
        const FORMAT: &'static str = "lavida/test";
        const VERSION: u64 = 2;
    }

    fn check_refused(text: &str, exit_code: u8, words: &[&str]) {
        let error = decode::<Body>("here", text.as_bytes()).unwrap_err();
        assert_eq!(error.exit_code(), exit_code, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let bytes = encode(&Body { steps: 7 }).unwrap();
        assert_eq!(decode::<Body>("here", &bytes).unwrap(), Body { steps: 7 });
    }

    #[test]
    fn another_version_is_refused_with_both_named() {
        check_refused(
            r#"{"format": "lavida/test", "version": 3, "epochs": 1}"#,
            2,
            &["here", "version 2", "version 3"],
        );
        check_refused(
            r#"{"format": "lavida/other", "version": 2}"#,
            2,
            &["lavida/test", "lavida/other"],
        );
        check_refused(r#"{"steps": 7}"#, 2, &["no format"]);
    }

    #[test]
    fn a_cut_or_changed_document_is_damaged() {
        check_refused(r#"{"format": "lavida/te"#, 3, &["here"]);
        check_refused(r#"{"format": "lavida/test", "version": 2}"#, 3, &["null"]);
        let whole = String::from_utf8(encode(&Body { steps: 7 }).unwrap().into()).unwrap();
        check_refused(&whole.replace('7', "8"), 3, &["here", "BLAKE3"]);
        check_refused(&whole.replace("steps", "stepz"), 3, &["BLAKE3"]);
    }

    #[test]
    fn a_body_of_other_fields_is_damaged() {
        #[derive(Serialize, Deserialize)]
        struct Other {
            epochs: u32,
        }
        impl Versioned for Other {
            const FORMAT: &'static str = Body::FORMAT;
            const VERSION: u64 = Body::VERSION;
        }
        let bytes = encode(&Other { epochs: 1 }).unwrap();
        check_refused(std::str::from_utf8(&bytes).unwrap(), 3, &["epochs"]);
    }
}

//! Values in JSON: a list, a list by video, or what `lavida predict` writes.

use std::path::Path;

use lavida_data::{Error, Result};
use serde_json::{Map, Value};

use super::{FrameValues, Role, VideoValues, name_of, video_name};

/// Keys of an object that holds nothing but one list.
const KEYS_OF_ONE: [&str; 3] = ["scores", "labels", "values"];

pub(super) fn read(path: &Path, text: &str, role: Role) -> Result<FrameValues> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Error::invalid(path.display(), "whole JSON", error))?;
    let one = |values| {
        FrameValues::OneList(VideoValues {
            name: name_of(path),
            values,
        })
    };
    match value {
        Value::Array(list) => Ok(one(numbers(path, &name_of(path), &list)?)),
        Value::Object(object) if object.get("frames").is_some_and(Value::is_array) => {
            predicted(path, &object, role)
        }
        Value::Object(object) => {
            let mut videos = Vec::with_capacity(object.len());
            for (name, list) in &object {
                let Value::Array(list) = list else {
                    let what = format!("{}: {name}", path.display());
                    let expected = "a list of one number a frame, by the name of the video";
                    return Err(Error::invalid(what, expected, list));
                };
                videos.push(VideoValues {
                    name: name.clone(),
                    values: numbers(path, name, list)?,
                });
            }
            match &mut videos[..] {
                [only] if KEYS_OF_ONE.contains(&only.name.as_str()) => {
                    Ok(one(std::mem::take(&mut only.values)))
                }
                _ => Ok(FrameValues::Videos(videos)),
            }
        }
        other => {
            let expected = "a list of numbers, or such lists by the names of videos";
            Err(Error::invalid(path.display(), expected, other))
        }
    }
}

fn numbers(path: &Path, name: &str, list: &[Value]) -> Result<Vec<f64>> {
    let number = |(frame, value): (usize, &Value)| match value {
        Value::Bool(label) => Ok(f64::from(u8::from(*label))),
        Value::Number(number) => Ok(number.as_f64().unwrap_or(f64::NAN)),
        other => {
            let what = format!("{}: video {name}, frame {frame}", path.display());
            Err(Error::invalid(what, "a number", other))
        }
    };
    list.iter().enumerate().map(number).collect()
}

/// `{"video": …, "frames": [{"frame": 0, "score": …}, …]}`
fn predicted(path: &Path, object: &Map<String, Value>, role: Role) -> Result<FrameValues> {
    let key = match role {
        Role::Scores => "score",
        Role::Labels => "label",
    };
    let name = object.get("video").and_then(Value::as_str);
    let name = name.map_or_else(|| name_of(path), |name| video_name(name).to_owned());
    let frames = object.get("frames").and_then(Value::as_array);
    let mut values = Vec::new();
    for (frame, entry) in frames.into_iter().flatten().enumerate() {
        let what = || format!("{}: frames[{frame}]", path.display());
        let number = entry.get("frame").and_then(Value::as_u64);
        if number.is_some_and(|number| number != frame as u64) {
            let expected = format!("frame {frame}, one entry a frame");
            return Err(Error::invalid(what(), expected, entry));
        }
        let value = entry.get(key).cloned().unwrap_or(Value::Null);
        let refused = || Error::invalid(what(), format!("a number as `{key}`"), entry);
        values.push(match value {
            Value::Bool(label) => f64::from(u8::from(label)),
            value => value.as_f64().ok_or_else(refused)?,
        });
    }
    Ok(FrameValues::Videos(vec![VideoValues { name, values }]))
}

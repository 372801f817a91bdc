//! Tensors of the Open Inference Protocol, in JSON and in its binary extension.
//!
//! Binary: the JSON document is as long as `Inference-Header-Content-Length` says, and the tensors follow it in order, each of
//! `binary_data_size` bytes, row by row, little-endian; an element of `BYTES` is its length in four bytes and then itself.
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md>

use bytes::{Buf, Bytes};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::problem::{OrProblem, Problem};

/// A request as the protocol has it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct InferRequest {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub parameters: Map<String, Value>,
    pub inputs: Vec<InputTensor>,
    #[serde(default)]
    pub outputs: Vec<RequestedOutput>,
}

/// A tensor that comes in; its values follow the document where it has no `data`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct InputTensor {
    pub name: String,
    pub shape: Vec<i64>,
    pub datatype: String,
    #[serde(default)]
    pub parameters: Map<String, Value>,
    #[serde(default)]
    pub data: Option<Value>,
}

/// A tensor that is asked for.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RequestedOutput {
    pub name: String,
    #[serde(default)]
    pub parameters: Map<String, Value>,
}

/// A tensor that goes out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct OutputTensor {
    pub name: &'static str,
    pub shape: Vec<usize>,
    pub datatype: &'static str,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Vec<f32>>,
}

/// The values of an input.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    Bytes(Vec<Bytes>),
    /// Texts of a JSON document, which are no bytes of a file.
    Texts(Vec<String>),
    Uint8(Bytes),
}

/// Takes each input's values, from the document or from what follows it.
pub(crate) fn values(inputs: &[InputTensor], mut binary: Bytes) -> OrProblem<Vec<Values>> {
    let mut all = Vec::with_capacity(inputs.len());
    for input in inputs {
        let n_bytes = match input.parameters.get("binary_data_size") {
            None => None,
            Some(size) => Some(
                size.as_u64()
                    .and_then(|n| usize::try_from(n).ok())
                    .ok_or_else(|| {
                        Problem::bad_request(
                            of(input, "binary_data_size"),
                            "a number of bytes",
                            size,
                        )
                    })?,
            ),
        };
        let values = match (n_bytes, &input.data) {
            (Some(n_bytes), None) => {
                if n_bytes > binary.len() {
                    let left = format!("{} left", binary.len());
                    return Err(Problem::bad_request(
                        of(input, "binary data"),
                        format!("{n_bytes} bytes"),
                        left,
                    ));
                }
                of_bytes(input, binary.split_to(n_bytes))?
            }
            (None, Some(data)) => of_json(input, data)?,
            (Some(_), Some(_)) => {
                let found = "both";
                return Err(Problem::bad_request(of(input, "values"), EITHER, found));
            }
            (None, None) => {
                return Err(Problem::bad_request(of(input, "values"), EITHER, "neither"));
            }
        };
        all.push(values);
    }
    if !binary.is_empty() {
        let found = format!("{} more", binary.len());
        return Err(Problem::bad_request(
            "binary data",
            "that of the inputs",
            found,
        ));
    }
    Ok(all)
}

const EITHER: &str = "`data` or `binary_data_size`";

fn of(input: &InputTensor, what: &str) -> String {
    format!("input {}: {what}", input.name)
}

/// Elements that a shape stands for.
fn n_elements(input: &InputTensor) -> OrProblem<usize> {
    let n = input.shape.iter().try_fold(1usize, |n, axis| {
        usize::try_from(*axis)
            .ok()
            .and_then(|axis| n.checked_mul(axis))
    });
    n.ok_or_else(|| {
        let found = format!("{:?}", input.shape);
        Problem::bad_request(of(input, "shape"), "axes of 0 and more", found)
    })
}

fn check_count(input: &InputTensor, n: usize) -> OrProblem<()> {
    let expected = n_elements(input)?;
    if n == expected {
        return Ok(());
    }
    let expected = format!("{expected} elements, as its shape {:?} says", input.shape);
    Err(Problem::bad_request(of(input, "values"), expected, n))
}

fn of_bytes(input: &InputTensor, mut bytes: Bytes) -> OrProblem<Values> {
    match input.datatype.as_str() {
        "UINT8" => {
            check_count(input, bytes.len())?;
            Ok(Values::Uint8(bytes))
        }
        "BYTES" => {
            let mut elements = Vec::new();
            while !bytes.is_empty() {
                let cut = |bytes: &Bytes| {
                    let expected = "elements, each with its length in four bytes before it";
                    let found = format!("{} bytes at the end", bytes.len());
                    Problem::bad_request(of(input, "values"), expected, found)
                };
                let n = bytes.try_get_u32_le().map_err(|_| cut(&bytes))? as usize;
                if n > bytes.len() {
                    return Err(cut(&bytes));
                }
                elements.push(bytes.split_to(n));
            }
            check_count(input, elements.len())?;
            Ok(Values::Bytes(elements))
        }
        other => Err(other_type(input, other)),
    }
}

fn of_json(input: &InputTensor, data: &Value) -> OrProblem<Values> {
    let mut leaves = Vec::new();
    flatten(data, &mut leaves);
    check_count(input, leaves.len())?;
    match input.datatype.as_str() {
        "UINT8" => {
            let byte = |leaf: &&Value| {
                let byte = leaf.as_u64().and_then(|n| u8::try_from(n).ok());
                let expected = "whole numbers from 0 to 255";
                byte.ok_or_else(|| Problem::bad_request(of(input, "values"), expected, leaf))
            };
            let bytes: Vec<u8> = leaves.iter().map(byte).collect::<OrProblem<_>>()?;
            Ok(Values::Uint8(bytes.into()))
        }
        "BYTES" => {
            let text = |leaf: &&Value| {
                let text = leaf.as_str().map(str::to_owned);
                text.ok_or_else(|| Problem::bad_request(of(input, "values"), "texts", leaf))
            };
            Ok(Values::Texts(
                leaves.iter().map(text).collect::<OrProblem<_>>()?,
            ))
        }
        other => Err(other_type(input, other)),
    }
}

fn other_type(input: &InputTensor, found: &str) -> Problem {
    Problem::bad_request(of(input, "datatype"), "UINT8 or BYTES", found)
}

/// Values row by row, whether they come nested or not.
fn flatten<'a>(value: &'a Value, leaves: &mut Vec<&'a Value>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| flatten(value, leaves)),
        leaf => leaves.push(leaf),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn input(value: Value) -> InputTensor {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn values_are_the_same_in_json_and_in_binary() {
        let binary = [
            input(
                json!({"name": "frames", "shape": [1, 1, 2, 3], "datatype": "UINT8", "parameters": {"binary_data_size": 6}}),
            ),
            input(
                json!({"name": "categories", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": 11}}),
            ),
        ];
        let follows = b"\x00\x01\x02\x03\x04\xff\x01\x00\x00\x00a\x02\x00\x00\x00bc";
        let found = values(&binary, Bytes::from_static(follows)).unwrap();
        let bytes = Bytes::from_static(&[0, 1, 2, 3, 4, 255]);
        assert_eq!(
            found,
            [
                Values::Uint8(bytes.clone()),
                Values::Bytes(vec![Bytes::from_static(b"a"), Bytes::from_static(b"bc")]),
            ]
        );
        let nested = [
            input(
                json!({"name": "frames", "shape": [1, 1, 2, 3], "datatype": "UINT8", "data": [[[[0, 1, 2], [3, 4, 255]]]]}),
            ),
            input(
                json!({"name": "categories", "shape": [2], "datatype": "BYTES", "data": ["a", "bc"]}),
            ),
        ];
        let found = values(&nested, Bytes::new()).unwrap();
        assert_eq!(
            found,
            [
                Values::Uint8(bytes),
                Values::Texts(vec!["a".into(), "bc".into()])
            ]
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_in_words() {
        let check = |value: Value, follows: &'static [u8], words: &str| {
            let problem = values(&[input(value)], Bytes::from_static(follows)).unwrap_err();
            assert!(problem.detail.contains(words), "{}", problem.detail);
        };
        let binary = |datatype: &str, shape: Value, n: Value| json!({"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": n}});
        check(
            binary("UINT8", json!([4]), json!(4)),
            b"abc",
            "expected 4 bytes, found 3 left",
        );
        check(
            binary("UINT8", json!([4]), json!(3)),
            b"abc",
            "expected 4 elements",
        );
        check(binary("UINT8", json!([3]), json!(3)), b"abcd", "1 more");
        check(
            binary("UINT8", json!([-1]), json!(3)),
            b"abc",
            "axes of 0 and more",
        );
        check(
            binary("UINT8", json!([i64::MAX, i64::MAX]), json!(0)),
            b"",
            "axes of 0 and more",
        );
        check(
            binary("UINT8", json!([3]), json!(-3)),
            b"abc",
            "a number of bytes",
        );
        check(binary("BYTES", json!([1]), json!(3)), b"abc", "four bytes");
        check(
            binary("BYTES", json!([1]), json!(6)),
            b"\x09\0\0\0ab",
            "four bytes",
        );
        check(
            binary("FP32", json!([1]), json!(4)),
            b"abcd",
            "UINT8 or BYTES",
        );
        check(
            json!({"name": "x", "shape": [1], "datatype": "UINT8", "data": [256]}),
            b"",
            "255",
        );
        check(
            json!({"name": "x", "shape": [1], "datatype": "BYTES", "data": [1]}),
            b"",
            "texts",
        );
        check(
            json!({"name": "x", "shape": [1], "datatype": "UINT8"}),
            b"",
            "neither",
        );
    }
}

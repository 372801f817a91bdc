//! A `torch.save` file: a zip archive with a pickle that describes tensors, and their numbers beside it.
//!
//! The numbers stay where they are; a tensor's are read when it is asked for. Only the zip layout is read, which
//! `torch.save` writes since PyTorch 1.6, with little-endian numbers and entries that are stored uncompressed.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;
use rawzip::{CompressionMethod, ZipArchive};

use super::WeightError;
use super::files::{Place, TensorEntry, size_of};
use super::pickle::{self, Pickle, Refused, Stored, Value};

/// Keys under which files hold their state dict: SAM2's, and Lightning's and others'.
const TOP_KEYS: [&str; 2] = ["model", "state_dict"];

/// How often an expanded tensor may repeat what a file holds, so that a small file stays a small model.
const MAX_REPEATED: usize = 16;

/// Files are taken to be at least this large for it, in bytes.
const MIN_READ_BYTES: usize = 1 << 16;

/// The tensors of the state dict in `map`, which is the file `name`.
pub(super) fn entries(
    name: &str,
    map: &Arc<Mmap>,
) -> Result<BTreeMap<String, TensorEntry>, WeightError> {
    let archive = Archive::open(name, map)?;
    let pickle = pickle::read(archive.bytes("data.pkl")?)
        .map_err(|Refused { expected, found }| WeightError::file(name, expected, found))?;
    let mut tensors = BTreeMap::new();
    let mut faults = Vec::new();
    for (tensor_name, value) in state_dict(name, &pickle)? {
        let what = || format!("{name}: {}", pickle::shortened(tensor_name));
        let Value::Tensor(stored) = value else {
            faults.push(WeightError::file(
                what(),
                "a tensor",
                pickle::describe(value),
            ));
            continue;
        };
        match archive.place(stored) {
            Ok(place) => {
                let entry = TensorEntry {
                    dtype: stored.storage.dtype,
                    shape: stored.shape.clone(),
                    place,
                };
                tensors.insert(tensor_name.to_owned(), entry);
            }
            Err(Refused { expected, found }) => {
                faults.push(WeightError::file(what(), expected, found));
            }
        }
    }
    WeightError::all(faults)?;
    Ok(tensors)
}

/// Names and values of the state dict: the whole pickle, or what it holds under a known key.
fn state_dict<'a>(
    name: &str,
    pickle: &'a Pickle,
) -> Result<BTreeMap<&'a str, &'a Value>, WeightError> {
    let no_dict = |found: String| {
        let expected = "a state dict (names to tensors, plain or under `model` or `state_dict`)";
        WeightError::file(name, expected, found)
    };
    // As in Python, the last value of a key counts.
    let named = |value: &'a Value| -> Result<BTreeMap<&'a str, &'a Value>, WeightError> {
        let Value::Dict(entries) = value else {
            return Err(no_dict(pickle::describe(value)));
        };
        let entry = |(key, value): &(usize, usize)| match &pickle.values[*key] {
            Value::Text(key) => Ok((&**key, &pickle.values[*value])),
            other => Err(no_dict(format!(
                "a key that is {}",
                pickle::describe(other)
            ))),
        };
        entries.iter().map(entry).collect()
    };
    let top = named(&pickle.values[pickle.top])?;
    let nested = TOP_KEYS
        .iter()
        .filter_map(|key| top.get(key))
        .find(|value| matches!(value, Value::Dict(_)));
    let entries = match nested {
        Some(value) => named(value)?,
        None => top,
    };
    if !entries.values().any(|v| matches!(v, Value::Tensor(_))) {
        return Err(no_dict("no tensor in it".to_owned()));
    }
    Ok(entries)
}

/// Where each entry of the archive lies in the file.
struct Archive<'a> {
    name: &'a str,
    map: &'a Arc<Mmap>,
    ranges: HashMap<String, Range<usize>>,
}

impl<'a> Archive<'a> {
    /// Finds every entry and checks it against its sum.
    fn open(name: &'a str, map: &'a Arc<Mmap>) -> Result<Self, WeightError> {
        let zip_error = |error: &dyn Display| {
            let expected = "a zip archive, as torch.save writes since PyTorch 1.6";
            WeightError::file(name, expected, error)
        };
        let archive =
            ZipArchive::from_slice(map.as_ref().as_ref()).map_err(|error| zip_error(&error))?;
        let mut ranges = HashMap::new();
        for record in archive.entries() {
            let record = record.map_err(|error| zip_error(&error))?;
            let path = String::from_utf8_lossy(record.file_path().as_bytes()).into_owned();
            if record.compression_method() != CompressionMethod::STORE {
                return Err(WeightError::file(
                    format!("{name}: {path}"),
                    "an entry that is not compressed",
                    "a compressed one",
                ));
            }
            let entry = archive
                .get_entry(record.wayfinder())
                .map_err(|error| zip_error(&error))?;
            io::copy(&mut entry.verifying_reader(entry.data()), &mut io::sink()).map_err(
                |error| WeightError::file(format!("{name}: {path}"), "undamaged data", error),
            )?;
            let (start, end) = entry.compressed_data_range();
            // The first folder is named after the file.
            let inner = path.split_once('/').map_or(path.as_str(), |(_, rest)| rest);
            ranges.insert(inner.to_owned(), start as usize..end as usize);
        }
        let archive = Self { name, map, ranges };
        if let Some(order) = archive.ranges.get("byteorder")
            && &map[order.clone()] != b"little"
        {
            let found = String::from_utf8_lossy(&map[order.clone()]).into_owned();
            return Err(WeightError::file(name, "byte order little", found));
        }
        Ok(archive)
    }

    fn bytes(&self, entry: &str) -> Result<&'a [u8], WeightError> {
        let range = self.ranges.get(entry).ok_or_else(|| {
            let found = format!("an archive without {entry}");
            WeightError::file(self.name, "a file that torch.save wrote", found)
        })?;
        Ok(&self.map[range.clone()])
    }

    fn place(&self, stored: &Stored) -> Result<Place, Refused> {
        let Stored {
            storage,
            offset,
            shape,
            strides,
        } = stored;
        let refused = |expected: String, found: String| Refused { expected, found };
        let entry = format!("data/{}", storage.key);
        let range = self
            .ranges
            .get(&entry)
            .ok_or_else(|| refused(format!("its storage {entry}"), "none".into()))?;
        let size = size_of(storage.dtype);
        if range.len() / size < storage.n_values {
            return Err(refused(
                format!("{} values in {entry}", storage.n_values),
                format!("{} bytes", range.len()),
            ));
        }
        if shape.len() != strides.len() {
            return Err(refused(
                format!("{} strides", shape.len()),
                strides.len().to_string(),
            ));
        }
        // One past the last value that is read; none where an axis is empty.
        let mut end = Some(*offset);
        if !shape.contains(&0) {
            let last = shape
                .iter()
                .zip(strides)
                .try_fold(*offset, |at, (n, stride)| {
                    at.checked_add((n - 1).checked_mul(*stride)?)
                });
            end = last.and_then(|last| last.checked_add(1));
        }
        let n_values = shape
            .iter()
            .try_fold(1usize, |n, axis| n.checked_mul(*axis));
        // An expanded axis repeats values (stride 0); read, each has a place of its own.
        let most = (self.map.len().max(MIN_READ_BYTES) * MAX_REPEATED) as u64;
        match (end, n_values.and_then(|n| n.checked_mul(size))) {
            (_, Some(n_bytes)) if n_bytes as u64 > most => Err(refused(
                format!("a tensor of at most {most} bytes, {MAX_REPEATED} times its file"),
                format!("shape {shape:?} with strides {strides:?}: {n_bytes} bytes"),
            )),
            (Some(end), Some(_)) if end <= storage.n_values => Ok(Place::Mapped {
                map: self.map.clone(),
                start: range.start + offset * size,
                strides: Some(strides.clone()),
            }),
            _ => Err(refused(
                format!("values within the {} of {entry}", storage.n_values),
                format!("shape {shape:?} with strides {strides:?} from {offset}"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use ::safetensors::Dtype;
    use serde_json::Value as Json;

    use super::{Archive, state_dict};
    use crate::weights::files::map;
    use crate::weights::pickle::{self, Storage, Stored, Value};
    use crate::weights::{TensorFiles, WeightError};

    /// What `tests/golden/make_import_fixtures.py` wrote with torch.
    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/golden/fixtures/import/torch")
            .join(name)
    }

    #[track_caller]
    fn check_cases(file: &str) {
        let files = TensorFiles::open_torch(&fixture(file)).unwrap();
        let cases = std::fs::read_to_string(fixture("cases.json")).unwrap();
        let cases: Json = serde_json::from_str(&cases).unwrap();
        let cases = cases.as_object().unwrap();
        assert_eq!(files.names().count(), cases.len());
        for (name, case) in cases {
            let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).unwrap();
            assert_eq!(files.shape(name), Some(&*shape), "{name}");
            if name == "ints" {
                let error = files.read_stored(name).unwrap_err();
                assert!(
                    error.to_string().ends_with("expected floats, found I64"),
                    "{error}"
                );
                continue;
            }
            let values: Vec<f32> = serde_json::from_value(case["values"].clone()).unwrap();
            let read = files.read_stored(name).unwrap().convert::<f32>();
            assert_eq!(read.as_slice::<f32>().unwrap(), values, "{name}");
        }
    }

    #[test]
    fn tensors_come_out_as_torch_has_them_however_they_lie_in_their_storage() {
        check_cases("cases.pt");
    }

    #[test]
    fn newer_pickles_and_nested_state_dicts_are_read_too() {
        check_cases("cases_nested.pt");
    }

    #[track_caller]
    fn refused(path: &Path, words: &[&str]) {
        let error = TensorFiles::open_torch(path).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "no {word:?} in: {error}");
        }
    }

    #[test]
    fn what_is_no_state_dict_is_refused() {
        refused(
            &fixture("list.pt"),
            &["list.pt", "a state dict", "a list of 3"],
        );
    }

    #[test]
    fn a_call_of_anything_is_refused_by_name_and_not_run() {
        refused(&fixture("command.pt"), &["command.pt", "posix.system"]);
    }

    #[test]
    fn a_cut_or_changed_file_is_refused() {
        let whole = std::fs::read(fixture("cases.pt")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pt");
        for length in [0, 10, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            refused(&path, &["x.pt", "a zip archive"]);
        }
        // One bit in the numbers: f32 1.0 of the first storage.
        let mut changed = whole.clone();
        let one = whole
            .windows(8)
            .position(|w| w == [0, 0, 0, 0, 0, 0, 0x80, 0x3f]);
        changed[one.unwrap() + 7] ^= 1;
        std::fs::write(&path, changed).unwrap();
        refused(&path, &["x.pt", "data/", "undamaged data"]);
    }

    #[test]
    fn a_view_beyond_its_storage_is_refused() {
        // The shape (4, 6) of the first tensor becomes (4, 99); sums are mended, so that only the view is wrong.
        let whole = std::fs::read(fixture("cases.pt")).unwrap();
        let shape = whole
            .windows(5)
            .position(|w| w == [b'K', 4, b'K', 6, 0x86])
            .unwrap();
        let mut changed = whole.clone();
        changed[shape + 3] = 99;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pt");
        std::fs::write(&path, mend(changed, &whole)).unwrap();
        let error = TensorFiles::open_torch(&path).unwrap_err();
        let WeightError::File { what, found, .. } = &error else {
            panic!("{error}");
        };
        assert!(what.ends_with("x.pt: plain"), "{error}");
        assert!(found.contains("[4, 99]"), "{error}");
    }

    #[test]
    fn a_small_file_that_would_be_a_large_tensor_is_refused() {
        let map = map(&fixture("cases.pt")).unwrap();
        let archive = Archive::open("x.pt", &map).unwrap();
        let expanded = |n_values: usize| Stored {
            storage: Storage {
                key: "0".into(),
                dtype: Dtype::F32,
                n_values: 1,
            },
            offset: 0,
            shape: vec![n_values],
            strides: vec![0],
        };
        archive.place(&expanded(1000)).unwrap();
        let refused = archive.place(&expanded(1 << 30)).unwrap_err();
        assert!(refused.expected.contains("16 times"), "{refused:?}");
    }

    #[test]
    fn the_last_value_of_a_key_counts() {
        let key = b"X\x01\0\0\0a".as_slice();
        let tensor =
            b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n\
            X\x01\0\0\x000NK\x01tQK\0))tR";
        let dict = [b"}(", key, b"K\x01", key, tensor, b"u."].concat();
        let pickle = pickle::read(&dict).unwrap();
        let entries = state_dict("x.pt", &pickle).unwrap();
        assert!(matches!(entries["a"], Value::Tensor(_)), "{entries:?}");
        assert_eq!(entries.len(), 1);
    }

    /// Writes the new sum of `data.pkl` over its old one.
    fn mend(mut changed: Vec<u8>, whole: &[u8]) -> Vec<u8> {
        let sums = [whole, &changed].map(|bytes| {
            let archive = rawzip::ZipArchive::from_slice(bytes).unwrap();
            let record = archive
                .entries()
                .map(Result::unwrap)
                .find(|record| record.file_path().as_bytes().ends_with(b"data.pkl"));
            let entry = archive.get_entry(record.unwrap().wayfinder()).unwrap();
            rawzip::crc32(entry.data()).to_le_bytes()
        });
        while let Some(at) = changed.windows(4).position(|w| w == sums[0]) {
            changed[at..at + 4].copy_from_slice(&sums[1]);
        }
        changed
    }
}

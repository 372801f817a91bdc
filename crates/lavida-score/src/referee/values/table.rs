//! Values in text: one number a line, or a table with or without a head, whose columns are separated by commas, semicolons,
//! tabs or blanks.

use std::path::Path;

use lavida_data::{Error, Result};

use super::{FrameValues, Role, VideoValues, name_of};

const VIDEO: [&str; 4] = ["video", "name", "video_name", "file"];
const FRAME: [&str; 4] = ["frame", "frame_idx", "frame_id", "index"];
const SCORES: [&str; 8] = [
    "score",
    "scores",
    "anomaly_score",
    "prediction",
    "pred",
    "logit",
    "object_logit",
    "value",
];
const LABELS: [&str; 6] = [
    "label",
    "labels",
    "gt",
    "ground_truth",
    "anomalous",
    "value",
];

/// Which column is what, from 0.
#[derive(Clone, Copy)]
struct Columns {
    video: Option<usize>,
    frame: Option<usize>,
    value: usize,
}

pub(super) fn read(path: &Path, text: &str, role: Role) -> Result<FrameValues> {
    let Some(first) = text.lines().find(|line| !line.trim().is_empty()) else {
        return Ok(FrameValues::Videos(Vec::new()));
    };
    let separators = [b'\t', b';', b',', b' '];
    let separator = separators
        .into_iter()
        .find(|s| first.trim().as_bytes().contains(s));
    // Columns of numbers that are printed to one width have several blanks between them.
    let collapsed = (separator == Some(b' ')).then(|| {
        let lines = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.collect::<Vec<_>>().join("\n")
    });
    let text = collapsed.as_deref().unwrap_or(text);
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .delimiter(separator.unwrap_or(b','))
        .from_reader(text.as_bytes());
    let mut columns: Option<Columns> = None;
    // In the order in which they occur, with what each line says of the frame.
    type Lines = Vec<(Option<u64>, f64)>;
    let mut videos: Vec<(String, Lines)> = Vec::new();
    let mut record = csv::StringRecord::new();
    loop {
        let more = reader.read_record(&mut record);
        let more = more.map_err(|error| Error::invalid(path.display(), "a table", error))?;
        if !more {
            break;
        }
        let line = record.position().map_or(0, csv::Position::line);
        let what = || format!("{}: line {line}", path.display());
        let columns = match columns {
            Some(columns) => columns,
            None if record.iter().next_back().and_then(number).is_none()
                && record.iter().any(is_word) =>
            {
                columns = Some(named(path, &record, role)?);
                continue;
            }
            None => *columns.insert(unnamed(&record).ok_or_else(|| {
                let expected = "a value; frame, value; video, value; or video, frame, value";
                Error::invalid(what(), expected, shown(&record))
            })?),
        };
        let field = |at: usize| record.get(at).filter(|field| !field.is_empty());
        let missing = |expected: &str| Error::invalid(what(), expected, shown(&record));
        let value = field(columns.value)
            .and_then(number)
            .ok_or_else(|| missing("a number"))?;
        let frame = columns.frame.map(|at| {
            let whole = |frame: f64| (frame >= 0.0 && frame.fract() == 0.0).then_some(frame as u64);
            let frame = field(at).and_then(number).and_then(whole);
            frame.ok_or_else(|| missing("the number of a frame"))
        });
        let name = match columns.video {
            None => "",
            Some(at) => field(at).ok_or_else(|| missing("the name of a video"))?,
        };
        let place = (frame.transpose()?, value);
        match videos.last_mut() {
            Some((last, values)) if last == name => values.push(place),
            _ => match videos.iter_mut().find(|(known, _)| known == name) {
                Some((_, values)) => values.push(place),
                None => videos.push((name.to_owned(), vec![place])),
            },
        }
    }
    let is_named = columns.is_some_and(|columns| columns.video.is_some());
    let mut read = Vec::with_capacity(videos.len());
    for (name, values) in videos {
        let name = if is_named { name } else { name_of(path) };
        let values = in_order(path, &name, values)?;
        read.push(VideoValues { name, values });
    }
    match read.pop() {
        Some(only) if !is_named => Ok(FrameValues::OneList(only)),
        last => {
            read.extend(last);
            Ok(FrameValues::Videos(read))
        }
    }
}

/// A number; labels may be words.
fn number(field: &str) -> Option<f64> {
    match field.to_ascii_lowercase().as_str() {
        "true" => Some(1.0),
        "false" => Some(0.0),
        _ => field.parse().ok(),
    }
}

fn is_word(field: &str) -> bool {
    number(field).is_none() && field.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn shown(record: &csv::StringRecord) -> String {
    record.iter().collect::<Vec<_>>().join(", ")
}

/// The columns by the names in the table's head.
fn named(path: &Path, head: &csv::StringRecord, role: Role) -> Result<Columns> {
    let column = |names: &[&str]| {
        let mut fields = head.iter();
        fields.position(|field| names.contains(&field.to_ascii_lowercase().as_str()))
    };
    let names: &[&str] = match role {
        Role::Scores => &SCORES,
        Role::Labels => &LABELS,
    };
    let is_only = (head.len() == 1).then_some(0);
    let value = column(names).or(is_only).ok_or_else(|| {
        let expected = format!("one of the columns {}", names.join(", "));
        Error::invalid(path.display(), expected, shown(head))
    })?;
    Ok(Columns {
        video: column(&VIDEO),
        frame: column(&FRAME),
        value,
    })
}

/// The columns of a table without a head.
fn unnamed(record: &csv::StringRecord) -> Option<Columns> {
    let is_number = |at: usize| record.get(at).is_some_and(|field| number(field).is_some());
    let (video, frame, value) = match record.len() {
        1 => (None, None, 0),
        2 if is_number(0) => (None, Some(0), 1),
        2 => (Some(0), None, 1),
        3 if !is_number(0) => (Some(0), Some(1), 2),
        _ => return None,
    };
    Some(Columns {
        video,
        frame,
        value,
    })
}

/// Values by the numbers of their frames, from 0 or from 1, each once.
fn in_order(path: &Path, name: &str, values: Vec<(Option<u64>, f64)>) -> Result<Vec<f64>> {
    if values.iter().any(|(frame, _)| frame.is_none()) {
        return Ok(values.into_iter().map(|(_, value)| value).collect());
    }
    let mut values = values;
    values.sort_by_key(|(frame, _)| *frame);
    let first = values
        .first()
        .and_then(|(frame, _)| *frame)
        .unwrap_or(0)
        .min(1);
    for (expected, (frame, _)) in (first..).zip(&values) {
        let found = frame.unwrap_or_default();
        if found != expected {
            let what = format!("{}: video {name}", path.display());
            let expected = format!("frame {expected}, each frame once");
            return Err(Error::invalid(what, expected, format!("frame {found}")));
        }
    }
    Ok(values.into_iter().map(|(_, value)| value).collect())
}

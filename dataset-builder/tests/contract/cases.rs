//! The cases. Each is given a source with a sound tree.

use std::collections::BTreeSet;
use std::path::Path;

use lavida_data::dataset::Dataset;
use lavida_dataset_builder::{BuildRequest, build};
use lavida_store::Store;
use serde_json::Value;

use crate::page;
use crate::parts::{Annotations, Mask};
use crate::subject::{Built, Ended, Subject, is_committed, wait};

/// With `--strict`, so a tree that is not sound fails here.
pub fn every_command_runs(source: &Subject) {
    for (i, words) in source.commands.iter().enumerate() {
        let ended = source.run(words, &format!("out-{i}"), &["--strict"]);
        assert_eq!(ended.code, 0, "{}: {}", words.join(" "), ended.said);
        let built = Built::read(&ended.out);
        let header = &built.dataset.manifest().header;
        assert_eq!(header.dataset, source.name);
        assert_eq!(header.purpose, source.purpose());
        assert!(built.clips.len() > 1, "{:?}", built.ids());
        assert!(
            built.clips.iter().any(|clip| {
                let is_labelled = clip.frame_labels.iter().flatten().any(|label| *label);
                is_labelled || !clip.objects.is_empty()
            }),
            "{:?}",
            built.ids()
        );
    }
}

pub fn cut_annotations(source: &Subject) {
    for annotations in source.parts.annotations {
        let file = source.join(annotations.path());
        let whole = std::fs::read(&file).unwrap();
        let middle = whole.len() / 2;
        let row = whole[..middle].iter().rposition(|byte| *byte == b'\n');
        let cuts = match annotations {
            Annotations::Json(_) | Annotations::Pickle(_) => vec![(middle, 3)],
            // In the middle of a row: a list of fewer rows is a list.
            Annotations::Lines(_) => vec![(row.unwrap() + 2, 3)],
            // In the middle of a row, which is none then, and after one, when a picture has a class that is missing.
            Annotations::Table(_) => vec![(row.unwrap() + 2, 2), (row.unwrap() + 1, 3)],
        };
        for (end, exit_code) in cuts {
            std::fs::write(&file, &whole[..end]).unwrap();
            for more in [&[][..], &["--strict"]] {
                let ended = source.run(source.command(), "out", more);
                check_refused(&ended, exit_code, &file);
            }
        }
        std::fs::write(&file, whole).unwrap();
    }
    source.build("whole-again", &[]);
}

/// A device, a pipe, a folder or a link to nothing in the place of an annotation file: refused at once, where reading it
/// would take all memory or wait for ever. What is optional is missing only when there is nothing of its name.
#[cfg(unix)]
pub fn special_annotations(source: &Subject) {
    let always = source.parts.annotations.iter().map(Annotations::path);
    for path in always.chain(source.parts.optional.iter().copied()) {
        let file = source.join(path);
        let kept = std::fs::read(&file).ok();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        for (kind, words) in [
            ("/dev/zero", "a device"),
            ("nowhere", "a link to nowhere"),
            ("pipe", "a pipe"),
            ("folder", "folder"),
        ] {
            let _ = std::fs::remove_file(&file); // an optional one is not there
            match kind {
                "pipe" => {
                    let made = std::process::Command::new("mkfifo").arg(&file).status();
                    assert!(made.unwrap().success());
                }
                "folder" => std::fs::create_dir(&file).unwrap(),
                target => std::os::unix::fs::symlink(target, &file).unwrap(),
            }
            let ended = source.run(source.command(), "out", &[]);
            check_refused(&ended, 2, &file);
            assert!(ended.said.contains(words), "{}", ended.said);
        }
        std::fs::remove_dir(&file).unwrap();
        if let Some(kept) = kept {
            std::fs::write(&file, kept).unwrap();
        }
    }
    source.build("sound-again", &[]);
}

/// Left out and counted: no row says that nothing is segmented there.
pub fn missing_mask(source: &Subject) {
    let whole = source.build("whole", &[]);
    let (reason, file) = match source.parts.mask {
        Mask::File {
            folder, missing, ..
        } => {
            let file = source.first_file(folder);
            std::fs::remove_file(&file).unwrap();
            (missing, file)
        }
        Mask::In {
            file,
            remove,
            missing,
        } => {
            let file = source.join(file);
            let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            remove(&mut json);
            std::fs::write(&file, serde_json::to_vec(&json).unwrap()).unwrap();
            (missing, file)
        }
    };
    check_left_out(source, &whole, reason, &file);
}

/// Where masks are part of an annotation file, that is cut as a whole ([`cut_annotations`]).
pub fn cut_mask(source: &Subject) {
    let Mask::File { folder, cut, .. } = source.parts.mask else {
        return;
    };
    let whole = source.build("whole", &[]);
    let file = source.first_file(folder);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    check_left_out(source, &whole, cut, &file);
}

pub fn unreadable_image(source: &Subject) {
    let whole = source.build("whole", &[]);
    let clip = &whole.clips[0];
    let file = source.file_of_frame(clip, clip.frames.len() / 2);
    std::fs::write(&file, b"not a picture").unwrap();
    check_left_out(source, &whole, "unreadable_image", &file);
}

/// A broken tree builds without what is broken, counts it, and ends a strict build where the page says so.
fn check_left_out(source: &Subject, whole: &Built, reason: &str, file: &Path) {
    let built = source.build("lenient", &[]);
    let skipped = &built.dataset.manifest().skipped;
    assert!(
        built.skipped(reason) > whole.skipped(reason),
        "{reason} is not counted: {skipped:?}"
    );
    assert_ne!(built.size(), whole.size(), "nothing is left out");
    assert!(built.size().0 <= whole.size().0 && built.size().1 <= whole.size().1);
    let strict = source.run(source.command(), "strict", &["--strict"]);
    if page::reasons()[reason] {
        check_refused(&strict, 3, file);
        assert!(strict.said.contains(reason), "{}", strict.said);
    } else {
        assert_eq!(strict.code, 0, "{}", strict.said);
    }
}

fn check_refused(ended: &Ended, exit_code: i32, file: &Path) {
    assert_eq!(ended.code, exit_code, "{}", ended.said);
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(
        ended.said.contains(name),
        "{name} is not in: {}",
        ended.said
    );
    assert!(!is_committed(&ended.out));
}

/// A store that runs full in the middle, then one with room: what was whole stays, and the rest is as it would have been.
pub fn resumed_build(source: &Subject) {
    let request = |out: &str, capacity: Option<u64>| {
        let store = Store::open(source.join(out).to_str().unwrap()).unwrap();
        let store = capacity.map_or(store.clone(), |bytes| store.with_capacity(bytes));
        let mut request = BuildRequest::new(source.spec(), store);
        request.writer.row_group_rows = 1;
        request.writer.shard_bytes = 1; // every row is a shard
        request
    };
    let finished = |out: &str| -> Vec<String> {
        let entries = std::fs::read_dir(source.join(out).join("data")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names = names.filter(|name| name.ends_with(".parquet"));
        names.map(|name| format!("data/{name}")).collect()
    };
    wait(build(&request("whole", None), &|_| {})).unwrap();
    let whole = manifest(source, "whole");
    assert!(whole.shards.len() > 1, "{} shards", whole.shards.len());
    // Room for all shards but the last, and for what is recorded of each.
    const RECORD_BYTES: u64 = 850;
    let last = whole.shards.last().unwrap().bytes;
    let capacity = whole.bytes - last / 2 + RECORD_BYTES * (whole.shards.len() as u64 - 1);
    let error = wait(build(&request("broken", Some(capacity)), &|_| {})).unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    assert!(!is_committed(&source.join("broken")));
    let before = finished("broken");
    assert!(!before.is_empty(), "nothing was finished");

    let mut again = request("broken", None);
    again.resume = true;
    wait(build(&again, &|_| {})).unwrap();
    let resumed = manifest(source, "broken");
    assert_eq!(resumed.hash(), whole.hash());
    assert_eq!(resumed.skipped, whole.skipped);
    // A shard's name says which try wrote it.
    let kept: BTreeSet<&str> = resumed
        .shards
        .iter()
        .map(|shard| shard.key.as_str())
        .collect();
    for name in &before {
        assert!(
            kept.contains(name.as_str()),
            "{name} was written again: {kept:?}"
        );
    }
}

fn manifest(source: &Subject, out: &str) -> lavida_data::manifest::DatasetManifest {
    let store = Store::open(source.join(out).to_str().unwrap()).unwrap();
    let dataset = wait(Dataset::open(&store)).unwrap();
    wait(dataset.verify()).unwrap();
    dataset.manifest().clone()
}

/// Whatever the number of jobs, wherever the tree lies, and from release to release.
pub fn stable_ids(source: &Subject) {
    let built = source.build("one", &["--jobs", "1"]);
    let elsewhere = Subject::new(source.name);
    assert_eq!(elsewhere.build("four", &["--jobs", "4"]).ids(), built.ids());
    let split = &built.dataset.manifest().header.split;
    for clip in &built.clips {
        let id = format!("{split}/{}/{}", clip.video, clip.first_frame);
        assert_eq!(clip.id, id);
    }
    let different: BTreeSet<&str> = built.ids().into_iter().collect();
    assert_eq!(different.len(), built.clips.len());
    insta::assert_snapshot!(format!("ids_of_{}", source.name), built.ids().join("\n"));
}

//! Videos: Ref-DAVIS as its text files, and somebody's own with tables of labels.

use std::path::Path;

use super::pictures::{jpeg, palette_png, rectangle};
use super::write;

/// A video of 24 frames.
pub const VIDEO: &[u8] =
    include_bytes!("../../../crates/lavida-data/tests/fixtures/moving_square.mp4");

/// Frames of a video as pictures.
pub fn frames(root: &Path, folder: &str, n_frames: u8, shade: u8) {
    for i in 0..n_frames {
        write(root, &format!("{folder}/{i:05}.jpg"), jpeg(shade + i));
    }
}

/// A bear and a car, and the sentences of both annotators; those of the second are in Latin-1. Hand-written.
pub fn ref_davis_texts(root: &Path) {
    for (shade, video) in [(0, "bear"), (40, "classic-car")] {
        for i in 0..9u8 {
            let frame = format!("DAVIS/JPEGImages/480p/{video}/{i:05}.jpg");
            write(root, &frame, jpeg(shade + i));
            let mask = format!("DAVIS/Annotations_unsupervised/480p/{video}/{i:05}.png");
            write(root, &mask, palette_png(&rectangle(1, [0, 4, 0, 4])));
        }
    }
    write(
        root,
        "DAVIS/ImageSets/2017/train.txt",
        "bear\nclassic-car\n",
    );
    let texts = |name: &str, text: &[u8]| {
        write(
            root,
            &format!("davis_text_annotations/Davis17_annot{name}.txt"),
            text,
        )
    };
    texts(
        "1",
        "bear 1 \"a brown bear\"\nclasic-car 1 \"an old car\"\n".as_bytes(),
    );
    texts(
        "1_full_video",
        b"bear 1 \"a bear that walks\"\nclasic-car 1 \"a car that turns\"\n",
    );
    texts(
        "2",
        b"bear 1 \"a bear in the zoo\"\nclasic-car 1 \"a car before a caf\xe9\"\n",
    );
    texts(
        "2_full_video",
        b"bear 1 \"the bear\"\nclasic-car 1 \"the car\"\n",
    );
}

/// A street and a yard, one as frames and one as a video, and what they show.
pub fn own_videos(root: &Path) {
    frames(root, "videos/street", 19, 0);
    write(root, "videos/yard.mp4", VIDEO);
    let shown =
        "video,category,start,end\nstreet,bicycle,0,9\nstreet,dog,,\nyard.mp4,square,10,20\n";
    write(root, "labels.csv", shown);
    write(
        root,
        "anomalies.csv",
        "video;start;end;category\nstreet;3;5;bicycle\nyard.mp4;10;19;intruder\n",
    );
}

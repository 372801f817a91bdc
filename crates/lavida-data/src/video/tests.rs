//! The reader on real and on made-up files.

use std::path::PathBuf;

use super::test_mp4::{Mp4, moving_square};
use super::*;
use crate::Error;

const SIZE: (usize, usize) = (64, 48);

/// Left edge of the bright square in a decoded frame.
fn square_left(image: &RgbFrame) -> usize {
    let row = image.height as usize / 2;
    let is_bright = |x: &usize| image.pixels[(row * image.width as usize + x) * 3] > 150;
    (0..image.width as usize).find(is_bright).unwrap()
}

fn write(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn open_error(path: &Path) -> Error {
    VideoReader::open(path).unwrap_err()
}

fn first_error(path: &Path) -> Error {
    VideoReader::open(path)
        .and_then(|video| video.collect::<Result<Vec<_>>>())
        .unwrap_err()
}

fn check(error: Error, exit_code: u8, words: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.exit_code(), exit_code, "{text}");
    for word in words {
        assert!(text.contains(word), "{text:?} says {word:?}");
    }
}

fn png(width: u32, height: u32, value: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().unwrap();
    let pixels = vec![value; (width * height) as usize];
    writer.write_image_data(&pixels).unwrap();
    drop(writer);
    bytes
}

#[test]
fn an_mp4_gives_every_frame_in_order_with_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(
        &dir,
        "square.mp4",
        &Mp4::new(SIZE, moving_square(SIZE, 12)).bytes(),
    );
    let video = VideoReader::open(&path).unwrap();
    let info = video.info();
    assert_eq!(
        (info.width, info.height, info.n_frames_expected),
        (64, 48, 12)
    );
    assert!((info.fps.unwrap() - 10.0).abs() < 1e-9);
    for (index, frame) in video.map(Result::unwrap).enumerate() {
        assert_eq!(frame.index, index);
        assert!((frame.time - index as f64 / 10.0).abs() < 1e-9);
        let expected = 4 + 3 * index;
        assert!(
            square_left(&frame.image).abs_diff(expected) <= 1,
            "frame {index}"
        );
    }
}

/// `LAVIDA_UPDATE_FIXTURES=1` writes the file anew; tests of other crates read it.
#[test]
fn the_committed_mp4_gives_its_24_frames() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/moving_square.mp4");
    if std::env::var_os("LAVIDA_UPDATE_FIXTURES").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let size = (96, 64);
        std::fs::write(&path, Mp4::new(size, moving_square(size, 24)).bytes()).unwrap();
    }
    let frames: Vec<VideoFrame> = VideoReader::open(&path)
        .unwrap()
        .collect::<Result<_>>()
        .unwrap();
    let lefts: Vec<usize> = frames
        .iter()
        .map(|frame| square_left(&frame.image))
        .collect();
    assert_eq!(lefts.len(), 24);
    assert!(lefts.windows(2).all(|pair| pair[0] < pair[1]), "{lefts:?}");
}

#[test]
fn presentation_times_sort_the_frames() {
    // Decoding order 0 2 1 by composition offsets, as B-frames have: times still come out rising.
    let mut mp4 = Mp4::new(SIZE, moving_square(SIZE, 3));
    mp4.composition_offsets = Some(vec![100, 200, 0]);
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "offsets.mp4", &mp4.bytes());
    let times: Vec<f64> = VideoReader::open(&path)
        .unwrap()
        .map(|frame| frame.unwrap().time)
        .collect();
    assert_eq!(times, [0.0, 0.1, 0.2]);
}

#[test]
fn a_directory_of_frames_is_read_in_natural_order() {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in [
        ("f10.png", 10),
        ("f9.png", 9),
        ("f1.PNG", 1),
        (".hidden", 0),
        ("notes.txt", 0),
    ] {
        write(&dir, name, &png(6, 4, value));
    }
    let video = VideoReader::open(dir.path()).unwrap();
    assert_eq!(
        video.info(),
        VideoInfo {
            width: 6,
            height: 4,
            fps: None,
            n_frames_expected: 3
        }
    );
    let frames: Vec<VideoFrame> = video.collect::<Result<_>>().unwrap();
    let values: Vec<u8> = frames.iter().map(|frame| frame.image.pixels[0]).collect();
    assert_eq!(values, [1, 9, 10]);
    let times: Vec<f64> = frames.iter().map(|frame| frame.time).collect();
    assert_eq!(times, [0.0, 0.04, 0.08]);
}

#[test]
fn what_is_not_a_video_is_named() {
    let dir = tempfile::tempdir().unwrap();
    check(
        open_error(&dir.path().join("absent.mp4")),
        2,
        &["absent.mp4", "nothing there"],
    );
    check(
        open_error(&write(&dir, "note.mp4", b"just some text, no video")),
        2,
        &["note.mp4", "an mp4"],
    );
    check(
        open_error(&write(&dir, "empty.mp4", b"")),
        2,
        &["empty.mp4", "an empty file"],
    );
    let avi = write(&dir, "clip.avi", b"RIFF\x10\0\0\0AVI LIST\0\0\0\0");
    check(open_error(&avi), 2, &["clip.avi", "an AVI file"]);
    let webm = write(&dir, "clip.webm", b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\0");
    check(open_error(&webm), 2, &["clip.webm", "Matroska"]);
    check(
        open_error(&write(&dir, "frame.png", &png(4, 4, 1))),
        2,
        &["frame.png", "a single picture"],
    );
}

#[test]
fn another_codec_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut mp4 = Mp4::new(SIZE, moving_square(SIZE, 2));
    mp4.codec = *b"mp4v";
    check(
        open_error(&write(&dir, "old.mp4", &mp4.bytes())),
        2,
        &["old.mp4", "H.264", "mp4v"],
    );
    let mut mp4 = Mp4::new(SIZE, moving_square(SIZE, 2));
    mp4.profile = Some(122);
    let error = open_error(&write(&dir, "chroma.mp4", &mp4.bytes()));
    check(error, 2, &["chroma.mp4", "profile 122"]);
}

#[test]
fn a_cut_mp4_is_damaged_wherever_it_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut mp4 = Mp4::new(SIZE, moving_square(SIZE, 8));
    for index_first in [false, true] {
        mp4.index_first = index_first;
        let bytes = mp4.bytes();
        for n_bytes in [40, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
            let path = write(&dir, "cut.mp4", &bytes[..n_bytes]);
            check(first_error(&path), 3, &["cut.mp4"]);
        }
    }
}

/// The frames before the first error, and the error.
fn frames_and_fault(path: &Path) -> (Vec<VideoFrame>, Error) {
    let mut frames = Vec::new();
    for frame in VideoReader::open(path).unwrap() {
        match frame {
            Ok(frame) => frames.push(frame),
            Err(error) => return (frames, error),
        }
    }
    panic!("no fault after {} frames", frames.len());
}

#[test]
fn a_video_that_is_cut_gives_the_frames_before_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut mp4 = Mp4::new(SIZE, moving_square(SIZE, 12));
    mp4.index_first = true;
    let bytes = mp4.bytes();
    let path = write(&dir, "cut.mp4", &bytes[..bytes.len() - 1]);
    let (frames, fault) = frames_and_fault(&path);
    check(fault, 3, &["cut.mp4", "end of the file in sample 11"]);
    let lefts: Vec<usize> = frames
        .iter()
        .map(|frame| square_left(&frame.image))
        .collect();
    assert_eq!(lefts.len(), 11);
    assert!(lefts.windows(2).all(|pair| pair[0] < pair[1]), "{lefts:?}");
}

#[test]
fn zeros_in_the_place_of_the_last_pictures_cost_those_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut samples = moving_square(SIZE, 12);
    for sample in &mut samples[10..] {
        sample.fill(0);
    }
    let path = write(&dir, "zeros.mp4", &Mp4::new(SIZE, samples).bytes());
    let (frames, fault) = frames_and_fault(&path);
    check(fault, 3, &["zeros.mp4", "sample 10"]);
    assert_eq!(frames.len(), 10);
}

#[test]
fn bytes_after_the_last_box_and_covers_of_any_kind_are_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut mp4 = Mp4::new(SIZE, moving_square(SIZE, 3));
    let n_frames = |bytes: &[u8]| {
        let path = write(&dir, "whole.mp4", bytes);
        VideoReader::open(&path)
            .unwrap()
            .map(Result::unwrap)
            .count()
    };
    for trailing in [&b"19 bytes and no box"[..], b"abc", &[0; 40][..]] {
        assert_eq!(n_frames(&[&mp4.bytes()[..], trailing].concat()), 3);
    }
    // A cover in a format that the parser does not know, and one whose boxes lead nowhere.
    mp4.description =
        b"\0\0\0\x28meta\0\0\0\0\0\0\0\x1cilst\0\0\0\x14covr\0\0\0\x0cdata\0\0\0\x63".to_vec();
    assert_eq!(n_frames(&mp4.bytes()), 3);
    mp4.description = b"\0\0\0\0nowhere".to_vec();
    assert_eq!(n_frames(&mp4.bytes()), 3);
}

#[test]
fn an_edit_list_hides_frames_at_both_ends_and_moves_the_times() {
    let dir = tempfile::tempdir().unwrap();
    let mut mp4 = Mp4::new(SIZE, moving_square(SIZE, 8));
    mp4.edit = Some([400, 200]);
    let path = write(&dir, "edit.mp4", &mp4.bytes());
    let video = VideoReader::open(&path).unwrap();
    assert_eq!(video.info().n_frames_expected, 4);
    let frames: Vec<VideoFrame> = video.map(Result::unwrap).collect();
    let lefts = frames.iter().map(|frame| square_left(&frame.image));
    let expected = (2..6).map(|at| 4 + 3 * at);
    assert!(
        lefts
            .zip(expected)
            .all(|(left, expected)| left.abs_diff(expected) <= 1)
    );
    let times: Vec<f64> = frames.iter().map(|frame| frame.time).collect();
    assert_eq!(times, [0.0, 0.1, 0.2, 0.3]);
    assert_eq!(frames[3].index, 3);
}

#[test]
fn a_track_that_is_turned_comes_upright() {
    let dir = tempfile::tempdir().unwrap();
    let mut mp4 = Mp4::new(SIZE, moving_square(SIZE, 1));
    mp4.orientation = [0, 1, -1, 0];
    let path = write(&dir, "turned.mp4", &mp4.bytes());
    let mut video = VideoReader::open(&path).unwrap();
    assert_eq!((video.info().width, video.info().height), (48, 64));
    let image = video.next().unwrap().unwrap().image;
    assert_eq!((image.width, image.height), (48, 64));
    // A quarter clockwise: what lay at the left lies at the top.
    let is_bright = |y: &usize| image.pixels[(y * 48 + 24) * 3] > 150;
    assert!((0..64).find(is_bright).unwrap().abs_diff(4) <= 1);
}

/// `make_video_fixtures.sh` beside the files made them: a left and a right half, whose values FFmpeg reads as these.
#[test]
fn colours_and_grays_are_those_that_ffmpeg_reads() {
    for (name, expected) in [
        ("limited_709.mp4", [[254, 0, 0], [0, 0, 254]]),
        ("full_601.mp4", [[254, 0, 0], [0, 0, 254]]),
        ("gray.mp4", [[32, 32, 32], [208, 208, 208]]),
    ] {
        let frames: Vec<VideoFrame> = VideoReader::open(&fixture(name))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(frames.len(), 4, "{name}");
        for (x, expected) in [8, 56].into_iter().zip(expected) {
            let found = &frames[3].image.pixels[(8 * 64 + x) * 3..][..3];
            let is_near = found.iter().zip(expected).all(|(a, b)| a.abs_diff(b) <= 2);
            assert!(is_near, "{name}: {found:?} {expected:?}");
        }
    }
}

#[test]
fn interlaced_video_and_a_gif_are_called_what_they_are() {
    check(
        open_error(&fixture("interlaced.mp4")),
        2,
        &["progressive", "interlaced"],
    );
    let dir = tempfile::tempdir().unwrap();
    let path = write(&dir, "moving.mp4", b"GIF89a and more");
    check(open_error(&path), 2, &["a GIF"]);
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

#[test]
fn damaged_pictures_inside_an_mp4_are_an_error_and_not_a_shorter_video() {
    let dir = tempfile::tempdir().unwrap();
    let mut samples = moving_square(SIZE, 6);
    let n_bytes = samples[3].len();
    samples[3][5..].fill(0);
    assert!(n_bytes > 8);
    let path = write(&dir, "damaged.mp4", &Mp4::new(SIZE, samples).bytes());
    check(first_error(&path), 3, &["damaged.mp4"]);
}

#[test]
fn frames_lost_in_decoding_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut samples = moving_square(SIZE, 6);
    // An access unit with nothing to show: a filler NAL.
    samples[5] = vec![0, 0, 0, 3, 12, 0xff, 0x80];
    let path = write(&dir, "short.mp4", &Mp4::new(SIZE, samples).bytes());
    check(
        first_error(&path),
        3,
        &["short.mp4", "6 frames", "5 decoded"],
    );
}

#[test]
fn no_table_of_an_mp4_makes_the_reader_panic_or_hang() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = Mp4::new(SIZE, moving_square(SIZE, 3)).bytes();
    let index = bytes
        .windows(4)
        .position(|window| window == b"stbl")
        .unwrap();
    for at in index..bytes.len().min(index + 320) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        let path = write(&dir, "damaged.mp4", &damaged);
        if let Ok(video) = VideoReader::open(&path) {
            assert!(video.take(64).count() <= 64);
        }
    }
}

#[test]
fn a_box_that_leads_back_to_itself_is_damage_and_no_hang() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = Mp4::new(SIZE, moving_square(SIZE, 2)).bytes();
    let avcc = bytes.windows(4).position(|window| window == b"avcC");
    let avcc = avcc.unwrap();
    bytes[avcc - 4..avcc + 4].copy_from_slice(b"\0\0\0\0free");
    let path = write(&dir, "circle.mp4", &bytes);
    check(open_error(&path), 3, &["circle.mp4", "lead in a circle"]);
}

#[test]
fn samples_that_make_a_long_video_of_a_small_file_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut mp4 = Mp4::new(SIZE, moving_square(SIZE, 100));
    mp4.shared = true;
    let path = write(&dir, "shared.mp4", &mp4.bytes());
    check(open_error(&path), 3, &["shared.mp4", "at most 16 times"]);
}

#[test]
fn a_directory_without_one_kind_of_pictures_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    check(open_error(dir.path()), 2, &["no pictures"]);
    write(&dir, "notes.txt", b"text");
    check(open_error(dir.path()), 2, &["no pictures", "1 other file"]);
    write(&dir, "a.png", &png(4, 4, 1));
    write(&dir, "a.bmp", b"BM");
    check(open_error(dir.path()), 2, &["one format", "bmp", "png"]);
}

#[test]
fn a_frame_of_another_size_or_a_damaged_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "1.png", &png(6, 4, 1));
    write(&dir, "2.png", &png(4, 6, 1));
    check(first_error(dir.path()), 2, &["2.png", "6 × 4", "4 × 6"]);
    write(&dir, "2.png", &png(6, 4, 1)[..40]);
    check(first_error(dir.path()), 3, &["2.png"]);
}

#[test]
fn nothing_comes_after_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, "1.png", &png(6, 4, 1));
    write(&dir, "2.png", b"not a picture");
    write(&dir, "3.png", &png(6, 4, 1));
    let results: Vec<bool> = VideoReader::open(dir.path())
        .unwrap()
        .map(|frame| frame.is_ok())
        .collect();
    assert_eq!(results, [true, false]);
}

#[test]
fn a_reader_can_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<VideoReader>();
}

#[test]
fn a_surveillance_video_gives_its_795_frames() {
    let Some(dir) = std::env::var_os("LAVIDA_DATA_DIR") else {
        eprintln!("skipped: LAVIDA_DATA_DIR is not set");
        return;
    };
    let video = VideoReader::open(&Path::new(&dir).join("surveillance/vtest_h264.mp4")).unwrap();
    let info = video.info();
    assert_eq!(
        (info.width, info.height, info.n_frames_expected),
        (768, 576, 795)
    );
    let mut last: Option<VideoFrame> = None;
    let mut n_frames = 0;
    for frame in video.map(Result::unwrap) {
        assert_eq!(frame.index, n_frames);
        assert!(
            (frame.time - n_frames as f64 / 10.0).abs() < 1e-6,
            "10 frames a second"
        );
        if let Some(last) = &last {
            // Neighbours in time look alike; frames out of order would not.
            let pairs = last.image.pixels.iter().zip(&frame.image.pixels);
            let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = sum as f64 / last.image.pixels.len() as f64;
            assert!(
                mean > 0.0 && mean < 8.0,
                "frame {n_frames} differs by {mean}"
            );
        }
        last = Some(frame);
        n_frames += 1;
    }
    assert_eq!(n_frames, 795);
}

//! Videos: boxes of an mp4, and H.264 inside.

use std::path::Path;
use std::sync::LazyLock;

use lavida_data::video::VideoReader;

use super::{file, must_blame_the_input};

#[path = "../../../crates/lavida-data/src/video/test_mp4.rs"]
#[allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    reason = "a helper of lavida-data's tests"
)]
mod test_mp4;

use test_mp4::{Mp4, moving_square};

const SIZE: (usize, usize) = (32, 32);

/// A whole mp4 file.
pub fn mp4(bytes: &[u8]) {
    read(&file("a.mp4", bytes));
}

/// What a sample of an otherwise whole mp4 holds: NAL units, each after its length in four bytes. It stands between two
/// samples of a moving square.
pub fn h264(bytes: &[u8]) {
    read(&file("b.mp4", &video_of(bytes)));
}

/// Samples of a moving square, as [`h264`] takes them.
pub fn samples() -> Vec<Vec<u8>> {
    moving_square(SIZE, 3)
}

/// The mp4 that [`h264`] reads.
pub fn video_of(sample: &[u8]) -> Vec<u8> {
    static SAMPLES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| moving_square(SIZE, 2));
    let [first, last] = &SAMPLES[..] else {
        unreachable!("two samples were asked for")
    };
    let samples = vec![first.clone(), sample.to_vec(), last.clone()];
    Mp4::new(SIZE, samples).bytes()
}

fn read(path: &Path) {
    let video = match VideoReader::open(path) {
        Ok(video) => video,
        Err(error) => return must_blame_the_input(&error),
    };
    let info = video.info();
    let mut n_frames = 0;
    let mut last_time = f64::NEG_INFINITY;
    for frame in video {
        match frame {
            Ok(frame) => {
                assert_eq!(frame.index, n_frames);
                assert_eq!(
                    (frame.image.width, frame.image.height),
                    (info.width, info.height)
                );
                assert!(frame.time >= last_time, "times rise");
                last_time = frame.time;
                n_frames += 1;
            }
            Err(error) => return must_blame_the_input(&error),
        }
    }
    assert_eq!(
        n_frames, info.n_frames_expected,
        "a video that ends without an error is whole"
    );
}

//! H.264 in mp4, without system libraries: `re_mp4` finds the samples, `openh264` decodes them.
//!
//! The decoder holds frames back to put them into display order. It must not be flushed between samples (its default): a
//! stream with B-frames dies after a few frames then. What it still holds is fetched once, after the last sample.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use openh264::decoder::{DecodeOptions, DecodedYUV, Decoder, Flush};
use openh264::formats::YUVSource;
use re_mp4::{Avc1Box, Mp4, Sample, StsdBoxContent};

use crate::caught::caught;
use crate::clips::frame::RgbFrame;
use crate::{Error, Result};

use crate::video::Media;
use crate::video::boxes;
use crate::video::info::{VideoInfo, unreadable};

/// Starts every NAL unit of a byte stream.
const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// How many samples a byte of a file may belong to on average.
const MOST_SHARED: u64 = 16;

pub(super) struct H264Source {
    path: PathBuf,
    file: BufReader<Box<dyn Media>>,
    info: VideoInfo,
    /// In decoding order: offset and size in bytes.
    samples: std::vec::IntoIter<(u64, u64)>,
    /// Rising presentation times in seconds, one a sample; the n-th frame out has the n-th.
    times: Vec<f64>,
    n_length_bytes: usize,
    /// SPS and PPS as a byte stream, to be decoded before the first sample.
    parameter_sets: Option<Vec<u8>>,
    decoder: Decoder,
    ready: VecDeque<RgbFrame>,
    n_samples_read: usize,
    n_frames_out: usize,
    is_flushed: bool,
}

impl H264Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| unreadable(path, &error))?;
        let n_bytes = file
            .metadata()
            .map_err(|error| unreadable(path, &error))?
            .len();
        Self::read(path, Box::new(file), n_bytes)
    }

    /// The mp4 file of `n_bytes` that `media` gives; `path` names it in messages.
    pub(super) fn read(path: &Path, media: Box<dyn Media>, n_bytes: u64) -> Result<Self> {
        let mut file = BufReader::new(media);
        refuse_other_files(path, &mut file)?;
        let mp4 = parse(path, &mut file, n_bytes)?;
        let (samples, avc1) = video_track(path, &mp4)?;
        check_profile(path, &avc1)?;
        if samples.is_empty() {
            return Err(Error::corrupt(
                path.display(),
                "at least one frame",
                "a video track without samples",
            ));
        }
        if let Some(index) = samples
            .iter()
            .position(|sample| sample.offset.saturating_add(sample.size) > n_bytes)
        {
            return Err(Error::corrupt(
                path.display(),
                format!("{} samples", samples.len()),
                format!("the end of the file in sample {index}"),
            ));
        }
        // Samples may share bytes, but a table that makes of a small file a long one is no video.
        let n_sample_bytes = samples
            .iter()
            .fold(0u64, |sum, sample| sum.saturating_add(sample.size));
        if n_sample_bytes > n_bytes.saturating_mul(MOST_SHARED) {
            return Err(Error::corrupt(
                path.display(),
                format!("samples of at most {MOST_SHARED} times the file's {n_bytes} bytes"),
                format!("{} of {n_sample_bytes} bytes together", samples.len()),
            ));
        }
        let mut times: Vec<f64> = samples
            .iter()
            .map(|sample| sample.composition_timestamp as f64 / sample.timescale.max(1) as f64)
            .collect();
        times.sort_by(f64::total_cmp);
        let first = times[0];
        times.iter_mut().for_each(|time| *time -= first);
        let decoder =
            Decoder::new().map_err(|error| Error::Internal(format!("openh264: {error}")))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            info: VideoInfo {
                width: u32::from(avc1.width),
                height: u32::from(avc1.height),
                fps: mean_fps(&times),
                n_frames_expected: samples.len(),
            },
            samples: samples
                .iter()
                .map(|sample| (sample.offset, sample.size))
                .collect::<Vec<_>>()
                .into_iter(),
            times,
            n_length_bytes: usize::from(avc1.avcc.length_size_minus_one) + 1,
            parameter_sets: Some(parameter_sets(&avc1)),
            decoder,
            ready: VecDeque::new(),
            n_samples_read: 0,
            n_frames_out: 0,
            is_flushed: false,
        })
    }

    pub(super) fn info(&self) -> VideoInfo {
        self.info
    }

    pub(super) fn next_frame(&mut self) -> Result<Option<(f64, RgbFrame)>> {
        if let Some(parameter_sets) = self.parameter_sets.take() {
            self.decode(&parameter_sets)?;
        }
        while self.ready.is_empty() {
            if let Some((offset, n_bytes)) = self.samples.next() {
                let packet = self.read_sample(offset, n_bytes)?;
                self.decode(&packet)?;
                self.n_samples_read += 1;
            } else if !self.is_flushed {
                self.flush()?;
            } else {
                break;
            }
        }
        let n_expected = self.info.n_frames_expected;
        let Some(image) = self.ready.pop_front() else {
            if self.n_frames_out == n_expected {
                return Ok(None);
            }
            return Err(self.miscounted(self.n_frames_out.to_string()));
        };
        let Some(time) = self.times.get(self.n_frames_out) else {
            return Err(self.miscounted(format!("more than {n_expected}")));
        };
        self.n_frames_out += 1;
        Ok(Some((*time, image)))
    }

    fn miscounted(&self, n_decoded: String) -> Error {
        Error::corrupt(
            self.path.display(),
            format!(
                "{} frames, as the file declares",
                self.info.n_frames_expected
            ),
            format!("{n_decoded} decoded"),
        )
    }

    /// One sample as a byte stream: lengths before NAL units become start codes.
    fn read_sample(&mut self, offset: u64, n_bytes: u64) -> Result<Vec<u8>> {
        let mut sample = vec![0; n_bytes as usize];
        self.file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.file.read_exact(&mut sample))
            .map_err(|error| unreadable(&self.path, &error))?;
        let mut packet = Vec::with_capacity(sample.len() + 16);
        let mut rest = &sample[..];
        while !rest.is_empty() {
            let length = rest
                .split_at_checked(self.n_length_bytes)
                .map(|(length, after)| {
                    (
                        length
                            .iter()
                            .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
                        after,
                    )
                });
            let Some((unit, after)) =
                length.and_then(|(length, after)| after.split_at_checked(length))
            else {
                return Err(Error::corrupt(
                    self.path.display(),
                    format!("whole NAL units in sample {}", self.n_samples_read),
                    "one that is longer than its sample",
                ));
            };
            packet.extend_from_slice(&START_CODE);
            packet.extend_from_slice(unit);
            rest = after;
        }
        Ok(packet)
    }

    fn decode(&mut self, packet: &[u8]) -> Result<()> {
        let options = DecodeOptions::new().flush_after_decode(Flush::NoFlush);
        let decoded = self
            .decoder
            .decode_with_options(packet, options)
            .map(|frame| frame.map(|frame| to_rgb(&frame)));
        match decoded {
            Ok(frame) => self.keep(frame),
            Err(error) => Err(damaged(&self.path, self.n_samples_read, &error)),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.is_flushed = true;
        let frames = match self.decoder.flush_remaining() {
            Ok(frames) => frames.iter().map(to_rgb).collect::<Vec<_>>(),
            Err(error) => return Err(damaged(&self.path, self.n_samples_read, &error)),
        };
        frames
            .into_iter()
            .try_for_each(|frame| self.keep(Some(frame)))
    }

    fn keep(&mut self, frame: Option<RgbFrame>) -> Result<()> {
        let Some(frame) = frame else { return Ok(()) };
        let (width, height) = (self.info.width, self.info.height);
        if (frame.width, frame.height) != (width, height) {
            return Err(Error::corrupt(
                self.path.display(),
                format!("frames of {width} × {height} px, as the file declares"),
                format!(
                    "{} × {} px near sample {}",
                    frame.width, frame.height, self.n_samples_read
                ),
            ));
        }
        self.ready.push_back(frame);
        Ok(())
    }
}

fn to_rgb(frame: &DecodedYUV<'_>) -> RgbFrame {
    let (width, height) = frame.dimensions();
    let mut pixels = vec![0; width * height * 3];
    frame.write_rgb8(&mut pixels);
    RgbFrame {
        width: width as u32,
        height: height as u32,
        pixels,
    }
}

fn damaged(path: &Path, sample_idx: usize, error: &openh264::Error) -> Error {
    Error::corrupt(
        path.display(),
        "H.264 that decodes",
        format!("sample {sample_idx} that does not ({error})"),
    )
}

/// Says what a file is that is no mp4, from its first bytes.
fn refuse_other_files(path: &Path, file: &mut BufReader<Box<dyn Media>>) -> Result<()> {
    let mut head = Vec::new();
    file.by_ref()
        .take(12)
        .read_to_end(&mut head)
        .and_then(|_| file.rewind())
        .map_err(|error| unreadable(path, &error))?;
    let found = match &head[..] {
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => return Ok(()),
        [] => "an empty file",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', ..] => "an AVI file",
        [0x1a, 0x45, 0xdf, 0xa3, ..] => "a Matroska or WebM file",
        [b'F', b'L', b'V', ..] => "a Flash video",
        [0, 0, 1, 0xba | 0xb3, ..] | [0x47, _, _, _, ..] => "an MPEG program or transport stream",
        [0, 0, 0, 1, ..] | [0, 0, 1, ..] => "a bare H.264 or H.265 stream without mp4 around it",
        [0xff, 0xd8, 0xff, ..] | [0x89, b'P', b'N', b'G', ..] => "a single picture",
        _ => "something else",
    };
    Err(Error::invalid(
        path.display(),
        "an mp4 file with H.264 video, or a directory of frames",
        found,
    ))
}

fn parse(path: &Path, file: &mut BufReader<Box<dyn Media>>, n_bytes: u64) -> Result<Mp4> {
    let damaged = |reason: String| Error::corrupt(path.display(), "a whole mp4 file", reason);
    boxes::check(file, n_bytes).map_err(|error| damaged(error.to_string()))?;
    // re_mp4 0.5 indexes its sample tables unchecked, so tables that contradict each other make it panic.
    let file = boxes::Patient::new(file, n_bytes);
    match caught(|| Mp4::read(file, n_bytes)) {
        Ok(parsed) => parsed.map_err(|error| damaged(error.to_string())),
        Err(_) => Err(damaged("tables that contradict each other".into())),
    }
}

/// Samples in decoding order and the description of the first H.264 track.
fn video_track(path: &Path, mp4: &Mp4) -> Result<(Vec<Sample>, Avc1Box)> {
    let mut other_codec = None;
    for (track_id, track) in mp4.tracks() {
        let Some(trak) = mp4
            .moov
            .traks
            .iter()
            .find(|trak| trak.tkhd.track_id == *track_id)
        else {
            continue;
        };
        match &trak.mdia.minf.stbl.stsd.contents {
            StsdBoxContent::Avc1(avc1) => return Ok((track.samples.clone(), avc1.clone())),
            contents if trak.mdia.hdlr.handler_type.value == *b"vide" => {
                other_codec = Some(match contents {
                    StsdBoxContent::Unknown(code) => {
                        String::from_utf8_lossy(&code.value).into_owned()
                    }
                    known => known
                        .codec_string()
                        .unwrap_or_else(|| "an unnamed codec".into()),
                });
            }
            _ => {}
        }
    }
    let found = other_codec.map_or("no video track".into(), |codec| format!("codec {codec}"));
    Err(Error::invalid(path.display(), "H.264 video (avc1)", found))
}

fn check_profile(path: &Path, avc1: &Avc1Box) -> Result<()> {
    // High 10, High 4:2:2, High 4:4:4 Predictive and the intra profiles on top of them.
    let profile = avc1.avcc.avc_profile_indication;
    if [110, 122, 244, 44].contains(&profile) {
        return Err(Error::invalid(
            path.display(),
            "H.264 with 8 bits and 4:2:0 colour",
            format!("profile {profile}"),
        ));
    }
    Ok(())
}

fn parameter_sets(avc1: &Avc1Box) -> Vec<u8> {
    let sets = avc1
        .avcc
        .sequence_parameter_sets
        .iter()
        .chain(&avc1.avcc.picture_parameter_sets);
    sets.flat_map(|set| START_CODE.iter().chain(&set.bytes))
        .copied()
        .collect()
}

/// Frames by the time between the first and the last.
fn mean_fps(times: &[f64]) -> Option<f64> {
    let span = times.last()? - times.first()?;
    (span > 0.0).then(|| (times.len() - 1) as f64 / span)
}

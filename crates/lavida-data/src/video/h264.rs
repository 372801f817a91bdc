//! H.264 in mp4, without system libraries: `re_mp4` finds the samples, `openh264` decodes them.
//!
//! The decoder holds frames back to put them into display order. It must not be flushed between samples (its default): a
//! stream with B-frames dies after a few frames then. What it still holds is fetched once, after the last sample.
//!
//! A file that is cut or damaged gives every frame before the fault, in display order, and then the fault as its last item.
//! Frames that the edit list hides are decoded, since others may need them, and not given.

use std::collections::VecDeque;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use openh264::decoder::{DecodeOptions, Decoder, Flush};
use re_mp4::{Avc1Box, Mp4, Sample, StsdBoxContent, TrakBox};

use crate::caught::caught;
use crate::clips::frame::RgbFrame;
use crate::{Error, Result};

use crate::video::Media;
use crate::video::boxes;
use crate::video::colour::{Colours, Orientation};
use crate::video::info::{VideoInfo, unreadable};
use crate::video::sps::SequenceParameters;

/// Starts every NAL unit of a byte stream.
const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// How many samples a byte of a file may belong to on average.
const MOST_SHARED: u64 = 16;

/// What marks a track as one to be shown.
const TRACK_ENABLED: u32 = 1;

pub(super) struct H264Source {
    path: PathBuf,
    file: BufReader<Box<dyn Media>>,
    info: VideoInfo,
    /// Size of a decoded frame, before it is turned.
    size: (u32, u32),
    colours: Colours,
    orientation: Orientation,
    /// In decoding order: offset and size in bytes.
    samples: std::vec::IntoIter<(u64, u64)>,
    /// By number of the frame that comes out of the decoder: its place in decoding order and when it is shown, in seconds;
    /// `None` for one that the edit list hides.
    shown: Vec<(usize, Option<f64>)>,
    n_length_bytes: usize,
    /// SPS and PPS as a byte stream, to be decoded before the first sample.
    parameter_sets: Option<Vec<u8>>,
    decoder: Decoder,
    ready: VecDeque<RgbFrame>,
    n_samples_read: usize,
    /// Frames that came out of the decoder and were given or hidden.
    n_frames_out: usize,
    is_flushed: bool,
    /// What is the matter after the last sample that the file holds.
    cut: Option<Error>,
    /// What ended the decoding, and after how many frames.
    fault: Option<(Error, usize)>,
}

impl H264Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = lavida_files::open(path).map_err(|error| unreadable(path, &error))?;
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
        let Track {
            mut samples,
            avc1,
            trak,
        } = video_track(path, &mp4)?;
        let set = check_pictures(path, &avc1)?;
        if samples.is_empty() {
            return Err(Error::corrupt(
                path.display(),
                "at least one frame",
                "a video track without samples",
            ));
        }
        let shown = shown(path, &samples, trak, &mp4);
        let is_past_the_end = |sample: &Sample| sample.offset.saturating_add(sample.size) > n_bytes;
        let n_samples = samples.len();
        let cut = samples.iter().position(is_past_the_end).map(|index| {
            let expected = format!("{n_samples} samples");
            let found = format!("the end of the file in sample {index}");
            (index, Error::corrupt(path.display(), expected, found))
        });
        let cut = match cut {
            Some((0, error)) => return Err(error),
            Some((index, error)) => {
                samples.truncate(index);
                Some(error)
            }
            None => None,
        };
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
        let colours = Colours::of(set);
        if let Some(what) = colours.not_followed() {
            tracing::warn!("{}: {what}", path.display());
        }
        let size = (u32::from(avc1.width), u32::from(avc1.height));
        let orientation = orientation(path, trak);
        let (width, height) = orientation.size(size);
        let times: Vec<f64> = shown.iter().filter_map(|(_, time)| *time).collect();
        let decoder =
            Decoder::new().map_err(|error| Error::Internal(format!("openh264: {error}")))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            info: VideoInfo {
                width,
                height,
                fps: mean_fps(&times),
                n_frames_expected: times.len(),
            },
            size,
            colours,
            orientation,
            samples: samples
                .iter()
                .map(|sample| (sample.offset, sample.size))
                .collect::<Vec<_>>()
                .into_iter(),
            shown,
            n_length_bytes: usize::from(avc1.avcc.length_size_minus_one) + 1,
            parameter_sets: Some(parameter_sets(&avc1)),
            decoder,
            ready: VecDeque::new(),
            n_samples_read: 0,
            n_frames_out: 0,
            is_flushed: false,
            cut,
            fault: None,
        })
    }

    pub(super) fn info(&self) -> VideoInfo {
        self.info
    }

    pub(super) fn next_frame(&mut self) -> Result<Option<(f64, RgbFrame)>> {
        if let Some(parameter_sets) = self.parameter_sets.take() {
            self.decode(&parameter_sets)?;
        }
        loop {
            let is_at_fault = |n_good: usize| self.n_frames_out >= n_good || self.ready.is_empty();
            if let Some((error, _)) = self.fault.take_if(|(_, n_good)| is_at_fault(*n_good)) {
                return Err(error);
            }
            if let Some(image) = self.ready.pop_front() {
                let Some((_, time)) = self.shown.get(self.n_frames_out) else {
                    return Err(self.miscounted(format!("more than {}", self.shown.len())));
                };
                self.n_frames_out += 1;
                if let Some(time) = *time {
                    return Ok(Some((time, self.orientation.turn(image))));
                }
            } else if self.is_flushed {
                if self.n_frames_out == self.shown.len() {
                    return Ok(None);
                }
                return Err(self.miscounted(self.n_frames_out.to_string()));
            } else if let Err(error) = self.advance() {
                self.end_at(error);
            }
        }
    }

    /// Decodes one more sample, or gets what the decoder still holds.
    fn advance(&mut self) -> Result<()> {
        if let Some((offset, n_bytes)) = self.samples.next() {
            let packet = self.read_sample(offset, n_bytes)?;
            self.decode(&packet)?;
            self.n_samples_read += 1;
            return Ok(());
        }
        match self.cut.take() {
            Some(cut) => Err(cut),
            None => self.flush(),
        }
    }

    /// Ends with `error` after the frames before it. Those that the decoder holds back are given as long as none is missing
    /// between them: the frames before the first, in display order, whose sample was not decoded.
    fn end_at(&mut self, error: Error) {
        if self.fault.is_some() {
            return;
        }
        let n_read = self.n_samples_read;
        let n_good = self
            .shown
            .iter()
            .take_while(|(sample, _)| *sample < n_read)
            .count();
        self.fault = Some((error, n_good));
        // What cannot be got any more is not given; the fault is said anyway.
        let _ = self.flush();
    }

    fn miscounted(&self, n_decoded: String) -> Error {
        Error::corrupt(
            self.path.display(),
            format!("{} frames, as the file declares", self.shown.len()),
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
            .map(|frame| frame.map(|frame| self.colours.to_rgb(&frame)));
        match decoded {
            Ok(frame) => self.keep(frame),
            Err(error) => Err(damaged(&self.path, self.n_samples_read, &error)),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.is_flushed = true;
        let frames = match self.decoder.flush_remaining() {
            Ok(frames) => frames
                .iter()
                .map(|frame| self.colours.to_rgb(frame))
                .collect::<Vec<_>>(),
            Err(error) => return Err(damaged(&self.path, self.n_samples_read, &error)),
        };
        frames
            .into_iter()
            .try_for_each(|frame| self.keep(Some(frame)))
    }

    fn keep(&mut self, frame: Option<RgbFrame>) -> Result<()> {
        let Some(frame) = frame else { return Ok(()) };
        let (width, height) = self.size;
        if (frame.width, frame.height) == (width, height) {
            self.ready.push_back(frame);
            return Ok(());
        }
        let error = Error::corrupt(
            self.path.display(),
            format!("frames of {width} × {height} px, as the file declares"),
            format!(
                "{} × {} px near sample {}, where the size changes",
                frame.width, frame.height, self.n_samples_read
            ),
        );
        if self.fault.is_none() {
            self.fault = Some((error, self.n_frames_out + self.ready.len()));
            self.is_flushed = true;
        }
        Ok(())
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
        [b'G', b'I', b'F', b'8', ..] => "a GIF",
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
    let layout = boxes::check(file, n_bytes).map_err(|error| damaged(error.to_string()))?;
    if layout.n_trailing > 0 {
        tracing::warn!(
            "{}: {} bytes after the last box are left out",
            path.display(),
            layout.n_trailing
        );
    }
    // re_mp4 0.5 indexes its sample tables unchecked, so tables that contradict each other make it panic.
    let end = layout.end;
    let file =
        boxes::Patient::new(file, n_bytes, &layout).map_err(|error| unreadable(path, &error))?;
    match caught(|| Mp4::read(file, end)) {
        Ok(parsed) => parsed.map_err(|error| damaged(error.to_string())),
        Err(_) => Err(damaged("tables that contradict each other".into())),
    }
}

/// An H.264 track.
struct Track<'a> {
    /// In decoding order.
    samples: Vec<Sample>,
    avc1: Avc1Box,
    trak: &'a TrakBox,
}

/// The H.264 track to show: the first that is enabled, or the first where none is.
fn video_track<'a>(path: &Path, mp4: &'a Mp4) -> Result<Track<'a>> {
    let mut other_codec = None;
    let mut disabled = None;
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
            StsdBoxContent::Avc1(avc1) => {
                let found = Track {
                    samples: track.samples.clone(),
                    avc1: avc1.clone(),
                    trak,
                };
                if trak.tkhd.flags & TRACK_ENABLED != 0 {
                    return Ok(found);
                }
                disabled.get_or_insert(found);
            }
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
    disabled.ok_or_else(|| Error::invalid(path.display(), "H.264 video (avc1)", found))
}

/// That the decoder can decode such pictures rightly; what their sequence parameter set says of them, where it can be read.
fn check_pictures(path: &Path, avc1: &Avc1Box) -> Result<Option<SequenceParameters>> {
    let refuse = |found: String| {
        let expected = "progressive H.264 with 8 bits and 4:2:0 colour, or gray";
        Err(Error::invalid(path.display(), expected, found))
    };
    // High 10, High 4:2:2, High 4:4:4 Predictive and the intra profiles on top of them.
    let profile = avc1.avcc.avc_profile_indication;
    if [110, 122, 244, 44].contains(&profile) {
        return refuse(format!("profile {profile}"));
    }
    let sets = &avc1.avcc.sequence_parameter_sets;
    let Some(set) = sets
        .first()
        .and_then(|set| SequenceParameters::parse(&set.bytes))
    else {
        return Ok(None);
    };
    if !set.is_progressive {
        return refuse("interlaced H.264 (pictures of two fields)".to_owned());
    }
    if set.chroma_format > 1 || set.bit_depth != 8 {
        return refuse(format!(
            "chroma format {}, {} bits",
            set.chroma_format, set.bit_depth
        ));
    }
    Ok(Some(set))
}

/// How a track is turned; a matrix that is no turn is warned of.
fn orientation(path: &Path, trak: &TrakBox) -> Orientation {
    let matrix = &trak.tkhd.matrix;
    let of = [matrix.a, matrix.b, matrix.c, matrix.d];
    Orientation::of(of).unwrap_or_else(|| {
        tracing::warn!(
            "{}: the track's matrix {of:?} is no turn and is not followed",
            path.display()
        );
        Orientation::UPRIGHT
    })
}

/// The samples in display order, each with its place in decoding order and its time from the first shown, in seconds; `None`
/// where the edit list hides it.
fn shown(path: &Path, samples: &[Sample], trak: &TrakBox, mp4: &Mp4) -> Vec<(usize, Option<f64>)> {
    // re_mp4 lets the first presented sample begin at 0; edits count from where decoding begins.
    let begin = samples.first().map_or(0, |sample| sample.decode_timestamp);
    let edits = trak.edts.as_ref().and_then(|edts| edts.elst.as_ref());
    let edits = edits.map(|list| &list.entries[..]).unwrap_or_default();
    let is_empty = |time: u64| time == u64::from(u32::MAX) || time == u64::MAX;
    let edits: Vec<_> = edits
        .iter()
        .filter(|edit| !is_empty(edit.media_time))
        .collect();
    let range = match &edits[..] {
        [only] if mp4.moofs.is_empty() => {
            let ticks = u64::from(trak.mdia.mdhd.timescale);
            let of_film = u64::from(mp4.moov.mvhd.timescale).max(1);
            let length =
                u128::from(only.segment_duration) * u128::from(ticks) / u128::from(of_film);
            let from = i64::try_from(only.media_time).unwrap_or(i64::MAX);
            let length = i64::try_from(length).unwrap_or(i64::MAX);
            let end = if length == 0 {
                i64::MAX
            } else {
                from.saturating_add(length)
            };
            from..end
        }
        [] | [_] => i64::MIN..i64::MAX,
        several => {
            let n_parts = several.len();
            tracing::warn!(
                "{}: an edit list of {n_parts} parts is not followed: all frames are read",
                path.display()
            );
            i64::MIN..i64::MAX
        }
    };
    let mut order: Vec<(i64, usize)> = samples
        .iter()
        .enumerate()
        .map(|(at, sample)| (sample.composition_timestamp.saturating_sub(begin), at))
        .collect();
    order.sort_unstable();
    let ticks = samples.first().map_or(1, |sample| sample.timescale.max(1)) as f64;
    let is_shown = |time: &i64| range.contains(time);
    let mut times = order.iter().map(|(time, _)| time);
    let Some(first) = times.find(|time| is_shown(time)).copied() else {
        tracing::warn!(
            "{}: the edit list hides every frame and is not followed",
            path.display()
        );
        let first = order.first().map_or(0, |(time, _)| *time);
        let seconds = |time: i64| (time - first) as f64 / ticks;
        return order
            .into_iter()
            .map(|(time, at)| (at, Some(seconds(time))))
            .collect();
    };
    let seconds = |time: i64| (time - first) as f64 / ticks;
    let places = order
        .into_iter()
        .map(|(time, at)| (at, is_shown(&time).then(|| seconds(time))));
    places.collect()
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

//! A minimal mp4 writer for tests: one track, one chunk, openh264's encoder.

use openh264::OpenH264API;
use openh264::encoder::{Encoder, EncoderConfig, RateControlMode};
use openh264::formats::YUVBuffer;

/// What to write; damage the fields to test a reader.
pub struct Mp4 {
    size: (usize, usize),
    samples: Vec<Vec<u8>>,
    sps: Vec<u8>,
    pps: Vec<u8>,
    /// Code of the sample description.
    pub codec: [u8; 4],
    /// Overwrites the profile that the description declares.
    pub profile: Option<u8>,
    /// A `ctts` table, one offset a sample.
    pub composition_offsets: Option<Vec<u32>>,
    /// The tables before the pictures.
    pub index_first: bool,
    /// What an edit list shows: its length in thousandths of a second, and where it begins.
    pub edit: Option<[u32; 2]>,
    /// `a b / c d` of the track's matrix, each -1, 0 or 1.
    pub orientation: [i32; 4],
    /// Bytes of a box `udta`.
    pub description: Vec<u8>,
    /// Each sample in a chunk of its own, and every one is said to be all of the pictures.
    pub shared: bool,
}

/// Samples of a bright square that moves 3 px to the right each frame, NAL units behind four length bytes.
pub fn moving_square((width, height): (usize, usize), n_frames: usize) -> Vec<Vec<u8>> {
    let config = EncoderConfig::new().rate_control_mode(RateControlMode::Off);
    let mut encoder = Encoder::with_api_config(OpenH264API::from_source(), config).unwrap();
    (0..n_frames)
        .map(|frame| {
            let left = 4 + 3 * frame;
            let mut planes = vec![128u8; width * height * 3 / 2];
            for (at, luma) in planes[..width * height].iter_mut().enumerate() {
                let (x, y) = (at % width, at / width);
                let inside =
                    (left..left + 12).contains(&x) && (height / 3..2 * height / 3).contains(&y);
                *luma = if inside { 220 } else { 50 + (x % 7) as u8 };
            }
            let yuv = YUVBuffer::from_vec(planes, width, height);
            units(&encoder.encode(&yuv).unwrap().to_vec())
                .flat_map(|unit| [(unit.len() as u32).to_be_bytes().as_slice(), unit].concat())
                .collect()
        })
        .collect()
}

/// NAL units of a byte stream, without start codes.
fn units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    openh264::nal_units(stream).map(|unit| {
        let start = unit.iter().position(|byte| *byte == 1).unwrap();
        &unit[start + 1..]
    })
}

impl Mp4 {
    pub fn new(size: (usize, usize), samples: Vec<Vec<u8>>) -> Self {
        let unit = |kind: u8| {
            let mut rest = &samples[0][..];
            loop {
                let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
                let (unit, after) = rest[4..].split_at(length);
                if unit[0] & 0x1f == kind {
                    return unit.to_vec();
                }
                rest = after;
            }
        };
        Self {
            size,
            sps: unit(7),
            pps: unit(8),
            samples,
            codec: *b"avc1",
            profile: None,
            composition_offsets: None,
            index_first: false,
            edit: None,
            orientation: [1, 0, 0, 1],
            description: Vec::new(),
            shared: false,
        }
    }

    /// Its sequence parameter set.
    pub fn sps(&self) -> &[u8] {
        &self.sps
    }

    pub fn bytes(&self) -> Vec<u8> {
        let ftyp = boxed(
            b"ftyp",
            &[b"isom".as_slice(), &words(&[512]), b"isomavc1"].concat(),
        );
        let mdat = boxed(b"mdat", &self.samples.concat());
        let n_index = self.moov(0).len();
        if self.index_first {
            [ftyp.clone(), self.moov(ftyp.len() + n_index + 8), mdat].concat()
        } else {
            let moov = self.moov(ftyp.len() + 8);
            [ftyp, mdat, moov].concat()
        }
    }

    /// The tables, for pictures that start `first_byte` bytes into the file. 1,000 ticks a second, 10 frames a second.
    fn moov(&self, first_byte: usize) -> Vec<u8> {
        let n_samples = self.samples.len() as u32;
        let duration = 100 * n_samples;
        let unity: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];
        let turn = self.orientation.map(|step| (step << 16) as u32);
        let (width, height) = (self.size.0 as u32, self.size.1 as u32);
        let mvhd = [
            &[0, 0, 0, 1000, duration, 0x1_0000, 0x0100_0000, 0, 0],
            &unity[..],
            &[0; 6],
            &[2],
        ]
        .concat();
        let tkhd = [
            &[7, 0, 0, 1, 0, duration, 0, 0, 0, 0],
            &[turn[0], turn[1], 0, turn[2], turn[3], 0, 0, 0, 0x4000_0000][..],
            &[width << 16, height << 16],
        ]
        .concat();
        let hdlr = [words(&[0, 0]), b"vide".to_vec(), words(&[0, 0, 0]), vec![0]].concat();
        let dref = [words(&[0, 1]), boxed(b"url ", &words(&[1]))].concat();
        let mut sizes: Vec<u32> = self
            .samples
            .iter()
            .map(|sample| sample.len() as u32)
            .collect();
        let (mut n_per_chunk, mut chunks) = (n_samples, vec![first_byte as u32]);
        if self.shared {
            n_per_chunk = 1;
            chunks = vec![first_byte as u32; sizes.len()];
            sizes = vec![sizes.iter().sum(); sizes.len()];
        }
        let mut tables = [
            boxed(
                b"stsd",
                &[words(&[0, 1]), self.sample_description()].concat(),
            ),
            boxed(b"stts", &words(&[0, 1, n_samples, 100])),
            boxed(b"stsc", &words(&[0, 1, 1, n_per_chunk, 1])),
            boxed(
                b"stsz",
                &[words(&[0, 0, n_samples]), words(&sizes)].concat(),
            ),
            boxed(
                b"stco",
                &[words(&[0, chunks.len() as u32]), words(&chunks)].concat(),
            ),
        ]
        .concat();
        if let Some(offsets) = &self.composition_offsets {
            let entries: Vec<u32> = offsets.iter().flat_map(|offset| [1, *offset]).collect();
            tables.extend(boxed(
                b"ctts",
                &[words(&[0, offsets.len() as u32]), words(&entries)].concat(),
            ));
        }
        let minf = [
            boxed(b"vmhd", &words(&[1, 0, 0])),
            boxed(b"dinf", &boxed(b"dref", &dref)),
            boxed(b"stbl", &tables),
        ]
        .concat();
        let mdia = [
            boxed(b"mdhd", &words(&[0, 0, 0, 1000, duration, 0x55c4_0000])),
            boxed(b"hdlr", &hdlr),
            boxed(b"minf", &minf),
        ]
        .concat();
        let edits = self.edit.map(|[duration, begin]| {
            let list = words(&[0, 1, duration, begin, 0x1_0000]);
            boxed(b"edts", &boxed(b"elst", &list))
        });
        let trak = [
            boxed(b"tkhd", &words(&tkhd)),
            edits.unwrap_or_default(),
            boxed(b"mdia", &mdia),
        ]
        .concat();
        let udta = boxed(b"udta", &self.description);
        let parts = [boxed(b"mvhd", &words(&mvhd)), boxed(b"trak", &trak), udta];
        boxed(b"moov", &parts.concat())
    }

    fn sample_description(&self) -> Vec<u8> {
        let profile = self.profile.unwrap_or(self.sps[1]);
        let set = |set: &[u8]| [&[1], &(set.len() as u16).to_be_bytes()[..], set].concat();
        let mut avcc = vec![1, profile, self.sps[2], self.sps[3], 0xff];
        avcc.extend(set(&self.sps));
        avcc[5] |= 0xe0;
        avcc.extend(set(&self.pps));
        let size = ((self.size.0 as u32) << 16) | self.size.1 as u32;
        let fields = words(&[0, 1, 0, 0, 0, 0, size, 0x48_0000, 0x48_0000, 0, 1 << 16]);
        // Compressor name, depth, pre-defined.
        let tail = [vec![0; 30], vec![0, 0x18, 0xff, 0xff]].concat();
        boxed(&self.codec, &[fields, tail, boxed(b"avcC", &avcc)].concat())
    }
}

fn boxed(kind: &[u8; 4], payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32 + 8).to_be_bytes()[..], kind, payload].concat()
}

fn words(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

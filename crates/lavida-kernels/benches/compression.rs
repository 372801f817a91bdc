//! CPU time of token compression, for `benches/compression.sh` at the root of the repository to put beside PyTorch's.
//!
//! Prints one line of JSON: median, least and all CPU seconds (user and system, all threads) and wall seconds of the
//! runs after a first that is not counted. `--write FILE` leaves the tokens as raw little-endian f32 for another
//! program to compress.
//!
//! Usage: `compression [--tokens L] [--width D] [--keep RATIO] [--neighbors K] [--threads N] [--runs N] [--kind video|noise]
//! [--density reachability|knn] [--plain] [--write FILE]`

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a program that measures time and prints it"
)]

use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use lavida_kernels::compression::{CompressionConfig, Density, KeepRatio, compress, plain};

struct Options {
    n_tokens: usize,
    d_token: usize,
    config: CompressionConfig,
    n_threads: usize,
    n_runs: usize,
    video: bool,
    plain: bool,
    write: Option<String>,
}

fn options() -> Options {
    let mut options = Options {
        n_tokens: 1564,
        d_token: 3584,
        config: CompressionConfig {
            keep_ratio: KeepRatio::new(0.2).unwrap(),
            ..CompressionConfig::default()
        },
        n_threads: 0,
        n_runs: 5,
        video: true,
        plain: false,
        write: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .unwrap_or_else(|| panic!("{name} needs a value"))
        };
        match name.as_str() {
            "--tokens" => options.n_tokens = value().parse().unwrap(),
            "--width" => options.d_token = value().parse().unwrap(),
            "--keep" => {
                options.config.keep_ratio = KeepRatio::new(value().parse().unwrap()).unwrap()
            }
            "--neighbors" => options.config.n_neighbors = value().parse().unwrap(),
            "--threads" => options.n_threads = value().parse().unwrap(),
            "--runs" => options.n_runs = value().parse().unwrap(),
            "--kind" => options.video = value() == "video",
            "--density" if value() == "knn" => options.config.density = Density::Knn,
            "--density" => options.config.density = Density::Reachability,
            "--plain" => options.plain = true,
            "--write" => options.write = Some(value()),
            "--bench" => {} // cargo adds it
            other => panic!("unknown option {other}"),
        }
    }
    options
}

/// Uniform draws in ±1 that repeat (splitmix64).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Noise; or eight frames of a scene whose patches share an offset (as hidden states do) and stay much the same, but
/// for one in ten, which is new in each frame.
fn tokens(options: &Options) -> Vec<f32> {
    let Options {
        n_tokens, d_token, ..
    } = *options;
    let mut draws = Draws(1);
    if !options.video {
        return (0..n_tokens * d_token).map(|_| draws.next()).collect();
    }
    let per_frame = n_tokens.div_ceil(8);
    let offset: Vec<f32> = (0..d_token)
        .map(|d| draws.next() * if d % 97 == 0 { 20.0 } else { 1.0 })
        .collect();
    let scene: Vec<f32> = (0..per_frame * d_token).map(|_| draws.next()).collect();
    let mut values = Vec::with_capacity(n_tokens * d_token);
    for token in 0..n_tokens {
        let patch = &scene[token % per_frame * d_token..][..d_token];
        let moves = (token + token / per_frame) % 10 == 0;
        for (value, offset) in patch.iter().zip(&offset) {
            let noise = draws.next();
            values.push(offset + if moves { noise } else { value + 0.1 * noise });
        }
    }
    values
}

/// User and system seconds of this process, all threads.
fn cpu_seconds() -> f64 {
    // SAFETY: an all-zero `rusage` is valid, and `getrusage` fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn main() {
    let options = options();
    if options.n_threads > 0 {
        rayon::ThreadPoolBuilder::new()
            .num_threads(options.n_threads)
            .build_global()
            .unwrap();
    }
    let values = tokens(&options);
    if let Some(file) = &options.write {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(file, bytes).unwrap();
    }
    let shape = [options.n_tokens, options.d_token];
    let tokens = Tensor::<2>::from_data(TensorData::new(values, shape), &Device::flex());
    let (mut cpu, mut wall) = (Vec::new(), Vec::new());
    for _ in 0..=options.n_runs {
        let (before, start) = (cpu_seconds(), Instant::now());
        if options.plain {
            let batch = tokens.clone().unsqueeze_dim(0);
            std::hint::black_box(plain::compress_batch(batch, &options.config).unwrap());
        } else {
            std::hint::black_box(compress(tokens.clone(), &options.config).unwrap());
        }
        cpu.push(cpu_seconds() - before);
        wall.push(start.elapsed().as_secs_f64());
    }
    let (cpu, wall) = (&cpu[1..], &wall[1..]);
    println!(
        "{{\"what\": \"lavida{}\", \"tokens\": {}, \"width\": {}, \"threads\": {}, \"cpu_median\": {:.4}, \"cpu_least\": {:.4}, \"wall_median\": {:.4}, \"cpu\": {cpu:.4?}}}",
        if options.plain { " plain" } else { "" },
        options.n_tokens,
        options.d_token,
        rayon::current_num_threads(),
        median(cpu),
        cpu.iter().copied().fold(f64::INFINITY, f64::min),
        median(wall),
    );
}

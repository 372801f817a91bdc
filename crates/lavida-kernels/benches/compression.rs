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

mod measure;

use measure::{cpu_seconds, median, tokens};

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

fn main() {
    let options = options();
    if options.n_threads > 0 {
        rayon::ThreadPoolBuilder::new()
            .num_threads(options.n_threads)
            .build_global()
            .unwrap();
    }
    let values = tokens(options.n_tokens, options.d_token, options.video);
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

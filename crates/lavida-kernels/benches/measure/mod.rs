//! What is compressed where its time is measured, and the measure.

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
pub fn tokens(n_tokens: usize, d_token: usize, video: bool) -> Vec<f32> {
    let mut draws = Draws(1);
    if !video {
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
        let moves = (token + token / per_frame).is_multiple_of(10);
        for (value, offset) in patch.iter().zip(&offset) {
            let noise = draws.next();
            values.push(offset + if moves { noise } else { value + 0.1 * noise });
        }
    }
    values
}

/// User and system seconds of this process, all threads.
pub fn cpu_seconds() -> f64 {
    // SAFETY: an all-zero `rusage` is valid, and `getrusage` fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

//! Numbers as people say them, the same in every command.

use std::time::Duration;

/// A duration in whole seconds: `59 s`, `4 min 05 s`, `1 h 01 min`.
pub fn minutes(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

/// As [`minutes`], below a minute with tenths of a second: `2.1 s`.
pub fn tenths(seconds: f64) -> String {
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        minutes(Duration::from_secs_f64(seconds.round()))
    }
}

/// `1 tensor`, `3 tensors`.
pub fn counted(n: usize, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {what}{plural}")
}

/// Bytes in whole MiB, without the unit.
pub fn mib(bytes: u64) -> String {
    format!("{:.0}", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_times_have_tenths_of_a_second_and_long_ones_minutes() {
        assert_eq!(
            [0.25, 59.94, 245.2, 3_700.0].map(tenths),
            ["0.2 s", "59.9 s", "4 min 05 s", "1 h 01 min"]
        );
    }

    #[test]
    fn one_is_singular() {
        assert_eq!(
            [0, 1, 2].map(|n| counted(n, "tensor")),
            ["0 tensors", "1 tensor", "2 tensors"]
        );
    }
}

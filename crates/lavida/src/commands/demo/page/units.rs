//! Counts, sizes and times as people say them.

/// `12,345`
pub(super) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `3.4 MiB`
pub(super) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// `4 min 05 s` or `2.1 s`
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (minutes, seconds) = (whole / 60, whole % 60);
    if minutes < 60 {
        format!("{minutes} min {seconds:02} s")
    } else {
        format!("{} h {:02} min", minutes / 60, minutes % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_as_people_say_them() {
        assert_eq!(
            [0, 999, 1_536, 5 << 20].map(size),
            ["0 B", "999 B", "1.5 KiB", "5.0 MiB"]
        );
        assert_eq!(
            [0.25, 59.94, 245.0, 3_700.0].map(duration),
            ["0.2 s", "59.9 s", "4 min 05 s", "1 h 01 min"]
        );
        assert_eq!(
            [7, 1_000, 12_345_678].map(grouped),
            ["7", "1,000", "12,345,678"]
        );
    }
}

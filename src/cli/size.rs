//! Sizes for people, with four significant digits as docker shows them.

/// In units of 1000, as docker shows an image's size.
pub fn decimal(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// In units of 1024, as docker shows memory.
pub fn binary(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

fn scaled(bytes: u64, base: f64, units: &[&str]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut value = bytes as f64;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for next in units {
        if value < base {
            break;
        }
        value /= base;
        unit = next;
    }
    let digits = match value {
        value if value >= 1000.0 => 0,
        value if value >= 100.0 => 1,
        value if value >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_sizes_are_docker_s() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_261_550, "4.262MB"),
            (117_000_000, "117MB"),
            (123_456_789, "123.5MB"),
            (12_345_678_901, "12.35GB"),
        ] {
            assert_eq!(decimal(bytes), text);
        }
    }

    #[test]
    fn binary_sizes_are_docker_s() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1536, "1.5KiB"),
            (512 << 20, "512MiB"),
            (1 << 50, "1PiB"),
            (u64::MAX, "16384PiB"),
        ] {
            assert_eq!(binary(bytes), text);
        }
    }
}

//! Rates and times as people write them.

use std::time::Duration;

/// More than any wire carries: what is asked for beyond is a slip of the pen.
const MOST: f64 = 10e9;

/// Packets a second: `100kpps`, `1.5Mpps`, `2e6`.
pub fn rate(text: &str) -> Result<f64, String> {
    let trimmed = text.trim().trim_end_matches("pps").trim_end();
    let (number, factor) = match trimmed.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&trimmed[..at], 1e3),
        Some((at, 'M' | 'm')) => (&trimmed[..at], 1e6),
        Some((at, 'G' | 'g')) => (&trimmed[..at], 1e9),
        _ => (trimmed, 1.0),
    };
    match number.trim().parse::<f64>().map(|value| value * factor) {
        Ok(rate) if rate > MOST => Err(format!("{text}: more than 10 Gpps")),
        Ok(rate) if rate > 0.0 => Ok(rate),
        _ => Err(format!("{text}: packets a second above 0, as 250000, 250k or 1.5Mpps")),
    }
}

/// A time: `1ms`, `250us`, `1.5s`, `10m`; a number alone is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text}: a time, as 250us, 1ms, 1.5s, 10m or 1h");
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic() || c == 'µ').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let seconds: f64 = number.trim().parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(seconds * factor).map_err(|_| wrong())
}

/// A rate with three digits that matter: `1.25 Mpps`.
pub fn show_rate(pps: f64) -> String {
    let (value, unit) = match pps {
        pps if pps >= 999_500.0 => (pps / 1e6, "Mpps"),
        pps if pps >= 999.5 => (pps / 1e3, "kpps"),
        pps => (pps, "pps"),
    };
    format!("{} {unit}", digits(value))
}

/// Connections a second with three digits that matter: `12.5 k/s`.
pub fn show_per_second(rate: f64) -> String {
    show_rate(rate).replace("pps", "/s")
}

/// Nanoseconds with three digits that matter: `12.5 µs`.
pub fn show_time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        t if t >= 999.5e6 => (t / 1e9, "s"),
        t if t >= 999.5e3 => (t / 1e6, "ms"),
        t if t >= 999.5 => (t / 1e3, "µs"),
        t => (t, "ns"),
    };
    format!("{} {unit}", digits(value))
}

/// A count with its digits in groups of three.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A small share: `3.3e-9`, or 0.
pub fn ratio(share: f64) -> String {
    if share == 0.0 { "0".into() } else { format!("{share:.1e}") }
}

/// Three digits that matter.
pub fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_times_are_read_as_people_write_them() {
        assert_eq!(rate("100kpps"), Ok(1e5));
        assert_eq!(rate("1.5M"), Ok(1.5e6));
        assert_eq!(rate("2e6"), Ok(2e6));
        for wrong in ["1e30pps", "11Gpps", "inf"] {
            assert!(rate(wrong).unwrap_err().contains("more than"), "{wrong}");
        }
        assert!(rate("NaN").is_err());
        assert_eq!(duration("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(duration("250 us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        for wrong in ["", "k", "-1", "0", "-inf", "NaN", "1x"] {
            assert!(rate(wrong).unwrap_err().starts_with(wrong), "{wrong}");
        }
        for wrong in ["", "ms", "-1s", "1y", "infs", "1e300h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn three_digits_are_shown() {
        assert_eq!(show_rate(1_234_567.0), "1.23 Mpps");
        assert_eq!(show_rate(999_900.0), "1.00 Mpps");
        assert_eq!(show_rate(12_345.0), "12.3 kpps");
        assert_eq!(show_time(12_345.0), "12.3 µs");
        assert_eq!(show_time(7.0), "7.00 ns");
        assert_eq!(
            (count(0), count(999), count(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        assert_eq!((ratio(0.0), ratio(3.3e-9)), ("0".into(), "3.3e-9".into()));
    }
}

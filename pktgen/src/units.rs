//! Quantities as people write them: rates, durations, counts; and what a frame takes on the wire.
//!
//! A frame's size is counted with its FCS, as RFC 2544 counts it: "64" is 60 bytes handed to the kernel. On the wire
//! each frame takes 20 bytes more: 7 of preamble, 1 of start delimiter, 12 of gap (IEEE 802.3).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Bytes of the frame check sequence, which the device makes and nobody here sees.
pub const FCS: usize = 4;
/// Bytes that a frame takes on the wire beside itself.
pub const PREAMBLE_AND_GAP: usize = 20;

/// The greatest rate that may be asked for, in packets and in bits a second.
const MOST_PPS: f64 = 1e10;
const MOST_BPS: f64 = 1e14;

/// How much to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As much as possible.
    Max,
    /// Packets a second.
    Packets(f64),
    /// Bits a second of frames with FCS.
    Layer2(f64),
    /// Bits a second with preamble and gap too.
    Layer1(f64),
    /// Per cent of the line rate, at layer 1.
    Line(f64),
}

/// What is wrong with a quantity; its words are the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

impl Rate {
    /// Nanoseconds from one packet of `size` bytes (with FCS) to the next; 0 at [`Rate::Max`].
    ///
    /// `line` is the line rate in bit/s, which [`Rate::Line`] alone needs: without it the answer is `None`.
    pub fn gap_ns(self, size: f64, line: Option<f64>) -> Option<f64> {
        let l2 = size * 8.0;
        let l1 = (size + PREAMBLE_AND_GAP as f64) * 8.0;
        Some(match self {
            Self::Max => 0.0,
            Self::Packets(pps) => 1e9 / pps,
            Self::Layer2(bits) => l2 * 1e9 / bits,
            Self::Layer1(bits) => l1 * 1e9 / bits,
            Self::Line(percent) => l1 * 1e9 / (line? * percent / 100.0),
        })
    }

    /// Packets a second of frames of `size` bytes in the mean; `None` at [`Rate::Max`] and without a line rate.
    pub fn packets(self, size: f64, line: Option<f64>) -> Option<f64> {
        self.gap_ns(size, line).filter(|gap| *gap > 0.0).map(|gap| 1e9 / gap)
    }

    /// The same rate, `factor` times as much.
    pub fn scaled(self, factor: f64) -> Self {
        match self {
            Self::Max => Self::Max,
            Self::Packets(n) => Self::Packets(n * factor),
            Self::Layer2(n) => Self::Layer2(n * factor),
            Self::Layer1(n) => Self::Layer1(n * factor),
            Self::Line(n) => Self::Line(n * factor),
        }
    }

    /// The rate that is `part` (0 to 1) of the way to `other`, if both are in the same unit.
    pub fn between(self, other: Self, part: f64) -> Option<Self> {
        let mix = |a: f64, b: f64| a + (b - a) * part;
        Some(match (self, other) {
            (Self::Packets(a), Self::Packets(b)) => Self::Packets(mix(a, b)),
            (Self::Layer2(a), Self::Layer2(b)) => Self::Layer2(mix(a, b)),
            (Self::Layer1(a), Self::Layer1(b)) => Self::Layer1(mix(a, b)),
            (Self::Line(a), Self::Line(b)) => Self::Line(mix(a, b)),
            _ => return None,
        })
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    /// `max`, `50%`, `100kpps`, `1.5gbps` (layer 2), `l1:10gbps`, `l2:10gbps`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        const FORMS: &str = "say `max`, `50%`, `100kpps`, `1gbps` (frames with FCS) or `l1:1gbps` (with preamble and gap)";
        let wrong = || UnitError(format!("rate {text:?}: {FORMS}"));
        let lower = text.trim().to_ascii_lowercase();
        if lower == "max" {
            return Ok(Self::Max);
        }
        let (layer, rest) = match lower.split_once(':') {
            Some(("l1", rest)) => (1, rest),
            Some(("l2", rest)) => (2, rest),
            Some(_) => return Err(wrong()),
            None => (0, lower.as_str()),
        };
        let at = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_');
        let (number, unit) = rest.split_at(at.ok_or_else(wrong)?);
        let number: f64 = number.replace('_', "").parse().map_err(|_| wrong())?;
        let (factor, unit) = prefix(unit.trim());
        let value = number * factor;
        if !value.is_finite() || value <= 0.0 {
            return Err(UnitError(format!("rate {text:?}: it has to be more than nothing")));
        }
        // Beyond, packets are due faster than they can be counted as given up.
        let most = if unit == "pps" { MOST_PPS } else { MOST_BPS };
        if value > most {
            let most = Short(most);
            return Err(UnitError(format!(
                "rate {text:?}: at most {most}{unit}; `max` is all that goes"
            )));
        }
        match (layer, unit) {
            (0, "pps") => Ok(Self::Packets(value)),
            (0, "%") if value <= 100.0 => Ok(Self::Line(value)),
            (0, "%") => Err(UnitError(format!("rate {text:?}: a line carries no more than 100%"))),
            (0 | 2, "bps" | "bit/s") => Ok(Self::Layer2(value)),
            (1, "bps" | "bit/s") => Ok(Self::Layer1(value)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => write!(f, "max"),
            Self::Packets(n) => write!(f, "{}pps", Short(*n)),
            Self::Layer2(n) => write!(f, "{}bps", Short(*n)),
            Self::Layer1(n) => write!(f, "l1:{}bps", Short(*n)),
            Self::Line(n) => write!(f, "{n}%"),
        }
    }
}

/// A number with `k`, `m` or `g`, in lower case as [`Rate`] reads it.
pub struct Short(pub f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0.abs() {
            n if n >= 1e9 => (self.0 / 1e9, "g"),
            n if n >= 1e6 => (self.0 / 1e6, "m"),
            n if n >= 1e3 => (self.0 / 1e3, "k"),
            _ => (self.0, ""),
        };
        match f.precision() {
            Some(digits) => write!(f, "{value:.digits$}{unit}"),
            None => write!(f, "{value}{unit}"),
        }
    }
}

/// Reads `10s`, `500ms`, `100us`, `2m`, `1h`; a number alone is seconds.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let wrong =
        || UnitError(format!("duration {text:?}: say `10s`, `500ms`, `100us`, `2m` or `1h`"));
    let trimmed = text.trim();
    let at = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(at);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let factor = match unit.trim() {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        "ns" => 1e-9,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * factor).map_err(|_| wrong())
}

/// Reads a count: `1000`, `10k`, `2.5m`, `1_000_000`.
pub fn count(text: &str) -> Result<u64, UnitError> {
    let wrong = || UnitError(format!("count {text:?}: say `1000`, `10k` or `1m`"));
    let lower = text.trim().to_ascii_lowercase().replace('_', "");
    let at = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(at);
    let (factor, "") = prefix(unit) else { return Err(wrong()) };
    if factor == 1.0 {
        return number.parse().map_err(|_| wrong());
    }
    let value = number.parse::<f64>().map_err(|_| wrong())? * factor;
    if !(0.0..1e18).contains(&value) {
        return Err(wrong());
    }
    Ok(value.round() as u64)
}

fn prefix(unit: &str) -> (f64, &str) {
    for (letter, factor) in [("k", 1e3), ("m", 1e6), ("g", 1e9)] {
        if let Some(rest) = unit.strip_prefix(letter) {
            return (factor, rest);
        }
    }
    (1.0, unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_in_all_their_forms() {
        let cases = [
            ("max", Rate::Max),
            ("50%", Rate::Line(50.0)),
            ("100kpps", Rate::Packets(1e5)),
            ("1.5 mpps", Rate::Packets(1.5e6)),
            ("1_000pps", Rate::Packets(1e3)),
            ("1gbps", Rate::Layer2(1e9)),
            ("L2:10Gbps", Rate::Layer2(1e10)),
            ("l1:10gbps", Rate::Layer1(1e10)),
        ];
        for (text, rate) in cases {
            assert_eq!(text.parse(), Ok(rate), "{text}");
            assert_eq!(rate.to_string().parse(), Ok(rate), "{rate}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused_with_its_text() {
        for text in [
            "",
            "fast",
            "10",
            "0pps",
            "-1pps",
            "101%",
            "l1:10kpps",
            "l3:1gbps",
            "1e9pps",
            "nanpps",
            "1e300gpps",
            "11gpps",
            "l1:200000gbps",
            &format!("1{}gpps", "0".repeat(305)),
        ] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_ten_gigabit_line_carries_14_88_million_smallest_frames() {
        let pps = Rate::Line(100.0).packets(64.0, Some(1e10)).unwrap();
        assert!((pps - 14_880_952.38).abs() < 0.01, "{pps}");
        let pps = Rate::Layer1(1e10).packets(1518.0, None).unwrap();
        assert!((pps - 812_743.82).abs() < 0.01, "{pps}");
        let pps = Rate::Layer2(1e9).packets(64.0, None).unwrap();
        assert!((pps - 1_953_125.0).abs() < 0.01, "{pps}");
        assert_eq!(Rate::Line(50.0).packets(64.0, None), None);
        assert_eq!(Rate::Max.packets(64.0, None), None);
    }

    #[test]
    fn durations_and_counts_are_read() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("soon").is_err() && duration("-1s").is_err() && duration("1d").is_err());
        assert_eq!(count("10k"), Ok(10_000));
        assert_eq!(count("2.5m"), Ok(2_500_000));
        assert_eq!(count("18446744073709551615"), Ok(u64::MAX));
        assert!(count("many").is_err() && count("1kb").is_err() && count("-1").is_err());
    }
}

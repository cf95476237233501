//! The lines of a history: objects come and go, time passes, packets are sent, tables are shown.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::flow::{Ask, BadLine};

/// An object to remove.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gone {
    /// `EndpointSlice`.
    pub kind: String,
    /// Its namespace, where it has one.
    #[serde(default)]
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Show {
    /// Every frontend with its backends.
    Frontends,
    /// Every tracked connection.
    Conntrack,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// Create or replace.
    Objects(Vec<Value>),
    /// Remove.
    Delete(Vec<Gone>),
    /// Send.
    Flow(Ask),
    /// Let time pass.
    Advance(Duration),
    /// Answer with a table.
    Show(Show),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    objects: Option<Vec<Value>>,
    delete: Option<Vec<Gone>>,
    flow: Option<Value>,
    advance: Option<String>,
    show: Option<Show>,
}

impl Line {
    /// Checks one line.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let bad = |error: String| BadLine { id: Value::Null, error };
        let raw: Raw = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        match raw {
            Raw { objects: Some(objects), delete: None, flow: None, advance: None, show: None } => {
                Ok(Self::Objects(objects))
            }
            Raw { objects: None, delete: Some(gone), flow: None, advance: None, show: None } => {
                Ok(Self::Delete(gone))
            }
            Raw { objects: None, delete: None, flow: Some(flow), advance: None, show: None } => {
                Ask::from_value(flow).map(Self::Flow)
            }
            Raw { objects: None, delete: None, flow: None, advance: Some(text), show: None } => {
                duration(&text).map(Self::Advance).map_err(bad)
            }
            Raw { objects: None, delete: None, flow: None, advance: None, show: Some(show) } => {
                Ok(Self::Show(show))
            }
            _ => Err(bad("a line has exactly one of objects, delete, flow, advance, show".into())),
        }
    }
}

/// Reads `30s`, `1m30s`, `100ms`, `2h`, as Kubernetes writes durations.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("advance: \"{text}\": write it like 30s, 1m30s or 100ms");
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(bad()),
        };
        let step = number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(bad)?;
        total = total.checked_add(step).ok_or_else(bad)?;
        rest = tail;
    }
    // More would run over the clock's nanoseconds; nobody waits a century.
    if total > Duration::from_secs(100 * 366 * 24 * 3600) { Err(bad()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_is_read() {
        assert!(
            matches!(Line::parse(r#"{"objects":[{"kind":"Service"}]}"#), Ok(Line::Objects(o)) if o.len() == 1)
        );
        let gone = Gone {
            kind: "EndpointSlice".into(),
            namespace: "default".into(),
            name: "web-1".into(),
        };
        let text = r#"{"delete":[{"kind":"EndpointSlice","namespace":"default","name":"web-1"}]}"#;
        assert_eq!(Line::parse(text), Ok(Line::Delete(vec![gone])));
        assert_eq!(Line::parse(r#"{"show":"conntrack"}"#), Ok(Line::Show(Show::Conntrack)));
        assert_eq!(
            Line::parse(r#"{"advance":"1m30s"}"#),
            Ok(Line::Advance(Duration::from_secs(90)))
        );
        assert!(matches!(
            Line::parse(r#"{"flow":{"id":"a","reverse":true}}"#),
            Ok(Line::Flow(Ask::Reverse { .. }))
        ));
    }

    #[test]
    fn a_line_that_says_two_things_or_none_is_refused() {
        for text in [
            "{}",
            r#"{"advance":"1s","show":"conntrack"}"#,
            r#"{"wait":"1s"}"#,
            "[]",
            r#"{"show":"x"}"#,
        ] {
            assert!(Line::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_as_kubernetes_writes_them() {
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("2h1s"), Ok(Duration::from_secs(7201)));
        for text in
            ["", "5", "s", "1d", "-1s", "99999999999999999999s", "18446744073709551615h", "1.5s"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}

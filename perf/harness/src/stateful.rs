//! Devices that remember: how many connections a second they take on, and how they forward with many sessions open.
//!
//! Connections are real ones: pktgen's `tcp` and `udp` against a server of the receiver's kernel, at a rate that MLRsearch searches.
//! Sessions are UDP, each with a source address and port of its own, and everything that comes out is sent back (XDP), so that a
//! session is one only if its packet came through the device both ways. A step of the ladder has two phases: the ramp sends one
//! packet for each session, again and slower until a whole pass comes back, and the device, where it can be asked, tracks them all;
//! only then the sustain phase is measured. A step whose ramp was never complete has no figures, and says why.

pub mod connections;
pub mod serve;
pub mod sessions;

use crate::ends::Ends;
use crate::results::{Judged, Limit, MARGIN, Percentiles, Trial, Unit};
use crate::services::Protocol;
use serde::{Deserialize, Deserializer, Serialize};
use std::time::Duration;

/// What of it is asked for: `[stateful]` of a scenario.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// Whose connections a second are searched.
    pub protocols: Vec<Protocol>,
    /// Most connections open at once.
    pub concurrent: usize,
    /// A connection that takes longer has failed: a retransmission is no success.
    #[serde(deserialize_with = "crate::scenario::time")]
    pub timeout: Duration,
    /// Steps of the ladder: sessions, smallest first.
    #[serde(deserialize_with = "steps")]
    pub sessions: Vec<u64>,
    /// Packets a second of the ramp's first pass.
    #[serde(deserialize_with = "crate::scenario::rate")]
    pub ramp: f64,
    /// Packets a second of the sustain phase.
    #[serde(deserialize_with = "crate::scenario::rate")]
    pub rate: f64,
    /// How long the sustain phase is.
    #[serde(deserialize_with = "crate::scenario::time")]
    pub sustain: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            concurrent: 256,
            timeout: Duration::from_millis(500),
            sessions: vec![1 << 16, 1 << 18, 1 << 20],
            ramp: 100_000.0,
            rate: 100_000.0,
            sustain: Duration::from_secs(10),
        }
    }
}

/// Most sessions of a step: what the addresses of the generator's network and the engine's table have room for.
const MOST: u64 = 1 << 24;

impl Plan {
    /// Fails naming the field that makes no sense.
    pub fn check(&self) -> Result<(), String> {
        for sessions in &self.sessions {
            let whole = *sessions <= sessions::PORTS || sessions.is_multiple_of(sessions::PORTS);
            if *sessions == 0 || *sessions > MOST || !whole {
                return Err(format!(
                    "stateful.sessions has {sessions}: from 1 to 16m, and above 32k a multiple of that (k is 1024, m 1024²)"
                ));
            }
        }
        if self.sessions.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err("stateful.sessions: each step has more than the one before".into());
        }
        if self.concurrent == 0 || self.concurrent > 10_000 {
            return Err(format!("stateful.concurrent = {}: from 1 to 10000", self.concurrent));
        }
        let hour = Duration::from_secs(3600);
        for (time, what) in [(self.timeout, "timeout"), (self.sustain, "sustain")] {
            if time < Duration::from_millis(10) || time > hour {
                return Err(format!("stateful.{what}: from 10ms to an hour"));
            }
        }
        Ok(())
    }
}

/// A number of sessions: `64k` is 65,536, `1m` 1,048,576.
pub fn sessions(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (number, factor) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        _ => (text, 1),
    };
    let number: Option<u64> = number.trim().parse().ok();
    number
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| format!("{text}: sessions, as 1000, 64k (65,536) or 1m (1,048,576)"))
}

fn steps<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Number(u64),
        Text(String),
    }
    let steps = Vec::<Number>::deserialize(input)?.into_iter().map(|step| match step {
        Number::Number(number) => Ok(number),
        Number::Text(text) => sessions(&text).map_err(serde::de::Error::custom),
    });
    steps.collect()
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Stateful {
    /// Connections a second, by protocol.
    pub connections: Vec<Connections>,
    /// The ladder of sessions.
    pub ladder: Vec<Step>,
}

/// Connections a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Connections {
    /// Their protocol.
    pub protocol: Protocol,
    /// The highest rate at which all but the goal's share are begun in time and finished.
    pub bounds: Judged,
    /// What generator and server do without a device: connections a second. Not there where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<f64>,
    /// With this device, as many at once as allowed, one after the other: connections a second.
    pub closed_loop: f64,
    /// Time to be established (over UDP: to the answer) at half of the rate that was found.
    pub setup_time: Option<Percentiles>,
    /// Every trial: connections due, and those that came to their proper end.
    pub trials: Vec<Trial>,
}

impl Stateful {
    /// The figures, each with its unit, its value and whether it is not known to be the device's.
    pub(crate) fn figures(&self, add: &mut impl FnMut(String, Unit, f64, bool)) {
        for connections in &self.connections {
            let Judged { bounds, limit } = &connections.bounds;
            if let Some(lower) = bounds.lower {
                let foreign = !matches!(limit, Limit::Device);
                add(bounds.goal.name.clone(), Unit::Connections, lower, foreign);
            }
        }
        for step in &self.ladder {
            let Some(sustain) = &step.sustain else { continue };
            let sessions = show_sessions(step.sessions);
            // Where nobody knows what the generator does alone, it may be its limit.
            let near = sustain.alone.is_none_or(|alone| sustain.most >= alone * (1.0 - MARGIN));
            add(format!("{sessions} sessions"), Unit::Rate, sustain.most, near);
            if let Some(times) = sustain.round_trip.filter(|_| sustain.kept) {
                let p99 = times.p99_ns as f64;
                add(format!("p99 with {sessions} sessions"), Unit::Time, p99, false);
            }
        }
    }
}

/// A step of the ladder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Step {
    /// Sessions.
    pub sessions: u64,
    /// How they were opened.
    pub ramp: Ramp,
    /// What was measured once all were open; none if they never were.
    pub sustain: Option<Sustain>,
    /// Why nothing was measured.
    pub failed: Option<String>,
}

/// The ramp of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Ramp {
    /// Passes over all sessions.
    pub passes: u32,
    /// Packets a second of the last pass.
    pub rate: f64,
    /// Packets of the last pass: one for each session.
    pub sent: u64,
    /// Sessions whose packet came back in the last pass.
    pub answered: u64,
    /// Seconds of all passes.
    pub seconds: f64,
    /// Sessions that the device tracked afterwards, where it can be asked.
    pub tracked: Option<u64>,
    /// Whether all were open.
    pub complete: bool,
}

/// The sustain phase of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sustain {
    /// Packets a second.
    pub rate: f64,
    /// Seconds.
    pub seconds: f64,
    /// Packets sent, over all sessions in turn.
    pub sent: u64,
    /// Those that came back.
    pub answered: u64,
    /// Whether the generator kept to the rate: else the loss may be the generator's.
    pub kept: bool,
    /// Time from the packet's due moment to its return.
    pub round_trip: Option<Percentiles>,
    /// Round trips a second under the highest load: median of the trials.
    pub most: f64,
    /// The same without a device. Not there where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<f64>,
    /// Sessions that the device tracked at the end.
    pub tracked: Option<u64>,
}

/// `64 k`, `1 M`: sessions as the ladder's steps are called.
pub fn show_sessions(sessions: u64) -> String {
    const K: u64 = 1 << 10;
    match sessions {
        n if n >= K * K && n.is_multiple_of(K * K) => format!("{} M", n / K / K),
        n if n >= K && n.is_multiple_of(K) => format!("{} k", n / K),
        n => n.to_string(),
    }
}

/// Who can be asked: packets have to come back.
pub fn is_two_way(kind: &str) -> bool {
    !matches!(kind, "bare" | "impair")
}

/// A generator's end and the receiver's, as both tests use them.
fn netns(ends: &Ends) -> Option<&str> {
    ends.generator.netns.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_in_powers_of_two() {
        assert_eq!(sessions("64k"), Ok(65_536));
        assert_eq!(sessions("16M"), Ok(MOST));
        assert_eq!(sessions(" 1000 "), Ok(1000));
        for wrong in ["", "k", "-1", "1.5m", "99999999999999999999", "18446744073709551615k"] {
            assert!(sessions(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            [1000, 65_536, 1 << 20, 3 << 19].map(show_sessions),
            ["1000", "64 k", "1 M", "1536 k"]
        );
    }

    #[test]
    fn a_plan_that_makes_no_sense_is_refused_by_name() {
        let with = |change: fn(&mut Plan)| {
            let mut plan = Plan::default();
            change(&mut plan);
            plan.check()
        };
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(with(|p| p.sessions = vec![]), Ok(()));
        for (change, word) in [
            ((|p| p.sessions = vec![0]) as fn(&mut Plan), "sessions"),
            (|p| p.sessions = vec![40_000], "40000"),
            (|p| p.sessions = vec![1 << 25], "16m"),
            (|p| p.sessions = vec![1 << 16, 1 << 16], "before"),
            (|p| p.concurrent = 0, "concurrent"),
            (|p| p.sustain = Duration::ZERO, "sustain"),
        ] {
            let error = with(change).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}

//! A certificate as a table for a terminal.

use crate::results::{Certificate, Figure, Unit};
use crate::spread::Spread;
use crate::stateful::{Stateful, show_sessions};
use crate::statistics::variation;
use crate::units::{count, ratio, show_per_second, show_rate, show_time};
use std::fmt::Write;

/// Lines for people.
pub fn of(certificate: &Certificate) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", certificate.scenario);
    for device in &certificate.devices {
        let path = &device.path;
        let _ = writeln!(
            text,
            "\n{} ({}, {} mode, {} queue{}, {})",
            device.name,
            path.link,
            path.mode,
            path.queues,
            if path.queues == 1 { "" } else { "s" },
            path.drivers
        );
        for point in &device.points {
            let many = point.rounds.len() > 1;
            for round in &point.rounds {
                for judged in &round.bounds {
                    let _ = writeln!(text, "  {:>4} B  {}", point.frame, judged.in_words());
                }
                if let Some(soak) = &round.soak {
                    let _ = writeln!(
                        text,
                        "  {:>4} B  soak at {}: {} of {} lost, ratio from {} to {} ({} % each way), {} {}",
                        point.frame,
                        show_rate(soak.rate),
                        count(soak.lost),
                        count(soak.sent),
                        ratio(soak.lower),
                        ratio(soak.upper),
                        soak.confidence * 100.0,
                        ratio(soak.target),
                        match soak.verdict {
                            crate::soak::Verdict::Met => "is met",
                            crate::soak::Verdict::Missed => "is missed",
                            crate::soak::Verdict::Undecided => "is undecided: more packets decide",
                        }
                    );
                }
                if let Some(reconf) = &round.reconf {
                    let _ = writeln!(
                        text,
                        "  {:>4} B  {} changes{} in {:.1} s at {}: {} of {} lost; {}",
                        point.frame,
                        reconf.changes,
                        if reconf.confirmed { " (confirmed)" } else { "" },
                        reconf.seconds,
                        show_rate(reconf.rate),
                        count(reconf.lost),
                        count(reconf.sent),
                        reconf.in_words()
                    );
                }
            }
            for round in &point.rounds {
                if let Some(stateful) = &round.stateful {
                    text += &of_stateful(point.frame, stateful);
                }
            }
            let figures = certificate.figures();
            let own = figures.iter().filter(|f| f.device == device.name && f.frame == point.frame);
            let shown = |f: &&Figure| match f.unit {
                Unit::Rate | Unit::Connections => many || f.what == "MRR",
                Unit::Time => {
                    many || !(f.what.starts_with("blocked") || f.what.ends_with("sessions"))
                }
            };
            for figure in own.filter(shown) {
                let Some(spread) = Spread::of(&figure.values) else { continue };
                let show = |value| figure.unit.show(value);
                let _ = write!(
                    text,
                    "  {:>4} B  {}: {}",
                    point.frame,
                    figure.what,
                    show(spread.median)
                );
                if figure.values.len() > 1 {
                    let cv = variation(&figure.values).unwrap_or(0.0) * 100.0;
                    let _ = write!(
                        text,
                        " ({} to {}, CV {cv:.1} %)",
                        show(spread.min),
                        show(spread.max)
                    );
                } else if many {
                    let _ = write!(text, " (of 1 round)");
                }
                let _ = writeln!(text);
            }
        }
    }
    for calibration in &certificate.calibration {
        let (frame, limit) = (calibration.frame, show_rate(calibration.limit));
        let _ = writeln!(text, "\nThe generator alone, {frame} B: {limit}");
    }
    for warning in &certificate.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

fn of_stateful(frame: u32, stateful: &Stateful) -> String {
    let mut text = String::new();
    for connections in &stateful.connections {
        let _ = write!(text, "  {}", connections.bounds.in_words());
        if let Some(times) = &connections.setup_time {
            let (p50, p99) = (show_time(times.p50_ns as f64), show_time(times.p99_ns as f64));
            let _ = write!(text, "; established in {p50} (p50), {p99} (p99) at half of it");
        }
        let _ = match connections.alone {
            Some(alone) => writeln!(text, "; without a device {}", show_per_second(alone)),
            None => writeln!(text, "; without a device: not known"),
        };
    }
    for step in &stateful.ladder {
        let sessions = show_sessions(step.sessions);
        let tracked =
            step.ramp.tracked.map_or(String::new(), |n| format!(", {} tracked", count(n)));
        let _ = write!(
            text,
            "  {frame:>4} B  {sessions} sessions: {} of {} open after {:.1} s{tracked}; ",
            count(step.ramp.answered),
            count(step.sessions),
            step.ramp.seconds
        );
        let _ = match (&step.sustain, &step.failed) {
            (Some(sustain), _) => {
                let times = sustain.round_trip.filter(|_| sustain.kept);
                let times = times
                    .map_or(String::new(), |t| format!(", p99 {}", show_time(t.p99_ns as f64)));
                writeln!(
                    text,
                    "sustained {} for {:.0} s: {} of {} lost{}{times}; at most {} (without a device {})",
                    show_rate(sustain.rate),
                    sustain.seconds,
                    count(sustain.sent.saturating_sub(sustain.answered)),
                    count(sustain.sent),
                    if sustain.kept { "" } else { ", and the generator fell short" },
                    show_rate(sustain.most),
                    sustain.alone.map_or("not known".into(), show_rate)
                )
            }
            (None, why) => writeln!(text, "{}", why.as_deref().unwrap_or("not measured")),
        };
    }
    text
}

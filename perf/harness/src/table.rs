//! A certificate as a table for a terminal.

use crate::results::{Certificate, Figure, Unit};
use crate::spread::Spread;
use crate::statistics::variation;
use crate::units::{count, ratio, show_rate, show_time};
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
            let figures = certificate.figures();
            let own = figures.iter().filter(|f| f.device == device.name && f.frame == point.frame);
            let shown = |f: &&Figure| match f.unit {
                Unit::Rate => many || f.what == "MRR",
                Unit::Time => many || !f.what.starts_with("blocked"),
            };
            for figure in own.filter(shown) {
                let Some(spread) = Spread::of(&figure.values) else { continue };
                let show = match figure.unit {
                    Unit::Rate => show_rate,
                    Unit::Time => show_time,
                };
                let _ = write!(
                    text,
                    "  {:>4} B  {}: {}",
                    point.frame,
                    figure.what,
                    show(spread.median)
                );
                if many {
                    let cv = variation(&figure.values).unwrap_or(0.0) * 100.0;
                    let _ = write!(
                        text,
                        " ({} to {}, CV {cv:.1} %)",
                        show(spread.min),
                        show(spread.max)
                    );
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

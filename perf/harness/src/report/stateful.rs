//! Connections and sessions in the report.

use crate::results::{Certificate, Limit};
use crate::stateful::show_sessions;
use crate::units::{count, show_per_second, show_rate, show_time};
use std::fmt::Write;

use super::svg::escape;

/// Tables of both, a row a device, frame size and round; nothing where neither was measured.
pub fn write(body: &mut String, certificate: &Certificate) {
    let rounds = certificate.devices.iter().flat_map(|device| {
        let rounds =
            device.points.iter().flat_map(|p| p.rounds.iter().enumerate().map(|r| (p.frame, r)));
        rounds.filter_map(move |(frame, (number, round))| {
            Some((device, number + 1, frame, round.stateful.as_ref()?))
        })
    });
    let (mut connections, mut ladder) = (String::new(), String::new());
    for (device, round, frame, stateful) in rounds {
        for found in &stateful.connections {
            let bounds = &found.bounds.bounds;
            let sign = if found.bounds.limit == Limit::Device { "" } else { "≥ " };
            let rate = bounds
                .lower
                .map_or("none".into(), |lower| format!("{sign}{}", show_per_second(lower)));
            let time = found.setup_time.map_or(("–".into(), "–".into()), |t| {
                (show_time(t.p50_ns as f64), show_time(t.p99_ns as f64))
            });
            let _ = writeln!(
                connections,
                "<tr><td>{}</td><td class=\"n\">{round}</td><td>{}</td><td class=\"n\">{rate}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                escape(&device.name),
                found.protocol.name().to_uppercase(),
                show_per_second(found.closed_loop),
                found.alone.map_or("not known".into(), show_per_second),
                time.0,
                time.1
            );
        }
        for step in &stateful.ladder {
            let _ = write!(
                ladder,
                "<tr><td>{}</td><td class=\"n\">{round}</td><td class=\"n\">{frame} B</td><td class=\"n\">{}</td><td class=\"n\">{:.1} s</td>\
                 <td class=\"n\">{}</td>",
                escape(&device.name),
                show_sessions(step.sessions),
                step.ramp.seconds,
                step.ramp.tracked.map_or("–".into(), count)
            );
            let _ = match &step.sustain {
                Some(sustain) => {
                    let lost = sustain.sent.saturating_sub(sustain.answered);
                    let times = sustain.round_trip.filter(|_| sustain.kept);
                    writeln!(
                        ladder,
                        "<td class=\"n\">{} of {}{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                        count(lost),
                        count(sustain.sent),
                        if sustain.kept { "" } else { " (the generator fell short)" },
                        times.map_or("–".into(), |t| show_time(t.p99_ns as f64)),
                        show_rate(sustain.most)
                    )
                }
                None => writeln!(
                    ladder,
                    "<td colspan=\"3\">{}</td></tr>",
                    escape(step.failed.as_deref().unwrap_or("not measured"))
                ),
            };
        }
    }
    if !connections.is_empty() {
        let _ = writeln!(
            body,
            "<h2>Connections a second</h2>\n<p>Real connections to a server behind the device: opened, one request and its answer, \
             closed. Searched is the highest rate at which they are begun in time and finished.</p>\n\
             <div class=\"wide\"><table><thead><tr><th>Device</th><th class=\"n\">Round</th><th>Protocol</th><th class=\"n\">Searched</th>\
             <th class=\"n\">One after the other</th><th class=\"n\">Without a device</th><th class=\"n\">Established, p50</th>\
             <th class=\"n\">p99</th></tr></thead><tbody>\n{connections}</tbody></table></div>"
        );
    }
    if !ladder.is_empty() {
        let _ = writeln!(
            body,
            "<h2>Sessions</h2>\n<p>Each session sends a packet that comes back; only when all have, and the device tracks them all, is \
             the sustain phase measured.</p>\n<div class=\"wide\"><table><thead><tr><th>Device</th><th class=\"n\">Round</th><th class=\"n\">Frame</th>\
             <th class=\"n\">Sessions</th><th class=\"n\">Ramp</th><th class=\"n\">Tracked</th><th class=\"n\">Lost while sustained</th>\
             <th class=\"n\">Round trip, p99</th><th class=\"n\">At most</th></tr></thead><tbody>\n{ladder}</tbody></table></div>"
        );
    }
}

//! A sweep as one HTML file: a heat map in SVG, the advice, and all figures; it loads nothing from elsewhere.

use super::{Advice, Cell, Row};
use std::collections::BTreeSet;
use std::fmt::Write;

const WIDE: usize = 132;
const HIGH: usize = 46;
const LEFT: usize = 150;
const TOP: usize = 58;

/// The file. `about` is what was measured, and on what.
pub fn html(rows: &[Row], advice: &Advice, in_use: &Cell, about: &[(String, String)]) -> String {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>millrace sweep</title><style>\n\
         body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:75em;padding:0 1em;color:#1c2733;background:#fff}\n\
         h1{font-size:1.5em}table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #dde3ea}\n\
         th{text-align:left}.advice{border-left:4px solid #2364aa;padding:.5em 1em;background:#f2f6fb}svg{max-width:100%;height:auto}\n\
         svg text{font:13px system-ui,sans-serif}</style></head><body>\n<h1>Sweep of AF_XDP settings</h1>\n",
    );
    let _ = writeln!(page, "<p class=\"advice\"><b>{}</b></p>", escape(&advice.to_string()));
    page += "<p>Millions of packets a second that arrived, the median of a cell's trials; below it the spread, and how much of \
             one CPU the forwarder took. Darker is more. The settings in use are outlined.</p>\n";
    page += &map(rows, in_use);
    page += "\n<table><tr><th>settings</th><th>trials</th><th>Mpps min</th><th>median</th><th>max</th><th>CPU %</th><th>W</th></tr>\n";
    for row in rows {
        let name = escape(&row.cell.to_string());
        let _ = match (&row.failed, row.pps, row.cpu) {
            (None, Some(pps), Some(cpu)) => writeln!(
                page,
                "<tr><th>{name}</th><td>{}</td><td>{:.3}</td><td>{:.3}</td><td>{:.3}</td><td>{:.0}</td><td>{}</td></tr>",
                row.trials.len(),
                pps.min / 1e6,
                pps.median / 1e6,
                pps.max / 1e6,
                cpu.median,
                row.watts.map_or("–".into(), |watts| format!("{:.1}", watts.median))
            ),
            (failed, ..) => {
                let why = failed.as_deref().unwrap_or("not measured");
                writeln!(page, "<tr><th>{name}</th><td colspan=\"6\">{}</td></tr>", escape(why))
            }
        };
    }
    page += "</table>\n<table>\n";
    for (name, value) in about {
        let _ = writeln!(page, "<tr><th>{}</th><td>{}</td></tr>", escape(name), escape(value));
    }
    page += "</table>\n</body></html>\n";
    page
}

/// Columns are queues, busy-poll and need-wakeup; lines are ring and burst.
fn map(rows: &[Row], in_use: &Cell) -> String {
    let column = |cell: &Cell| (cell.queues, cell.busy_poll, cell.need_wakeup);
    let line = |cell: &Cell| (cell.ring, cell.burst);
    let columns: Vec<_> =
        rows.iter().map(|row| column(&row.cell)).collect::<BTreeSet<_>>().into_iter().collect();
    let lines: Vec<_> =
        rows.iter().map(|row| line(&row.cell)).collect::<BTreeSet<_>>().into_iter().collect();
    let rates: Vec<f64> = rows.iter().filter_map(|row| row.pps.map(|pps| pps.median)).collect();
    let (low, high) =
        rates.iter().fold((f64::MAX, 0_f64), |(low, high), rate| (low.min(*rate), high.max(*rate)));
    let (width, height) = (LEFT + columns.len() * WIDE + 10, TOP + lines.len() * HIGH + 10);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" role=\"img\" aria-label=\"rate by settings\">\n"
    );
    for (index, (queues, busy, wakeup)) in columns.iter().enumerate() {
        let x = LEFT + index * WIDE + WIDE / 2;
        let on = |on: &bool| if *on { "on" } else { "off" };
        let plural = if *queues == 1 { "queue" } else { "queues" };
        for (y, text) in [
            (16, format!("{queues} {plural}")),
            (33, format!("busy-poll {}", on(busy))),
            (50, format!("need-wakeup {}", on(wakeup))),
        ] {
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#45525f\">{text}</text>"
            );
        }
    }
    for (index, (ring, burst)) in lines.iter().enumerate() {
        let y = TOP + index * HIGH + HIGH / 2 + 5;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\" fill=\"#45525f\">ring {ring}, burst {burst}</text>",
            LEFT - 10
        );
    }
    for row in rows {
        let place = columns
            .iter()
            .position(|c| *c == column(&row.cell))
            .zip(lines.iter().position(|l| *l == line(&row.cell)));
        let Some((x, y)) = place.map(|(x, y)| (LEFT + x * WIDE, TOP + y * HIGH)) else { continue };
        let share = row
            .pps
            .map_or(0.0, |pps| if high > low { (pps.median - low) / (high - low) } else { 0.5 });
        let (fill, ink) = color(share);
        let (fill, ink) = if row.pps.is_some() && row.failed.is_none() {
            (fill, ink)
        } else {
            ("#eceff2".into(), "#8a2b2b")
        };
        let (edge, thick) = if row.cell == *in_use { ("#d1495b", 3) } else { ("#fff", 1) };
        let _ = writeln!(
            svg,
            "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"3\" fill=\"{fill}\" stroke=\"{edge}\" stroke-width=\"{thick}\"/>",
            escape(&row.cell.to_string()),
            WIDE - 4,
            HIGH - 4
        );
        let middle = x + WIDE / 2 - 2;
        let texts = match (row.pps, row.cpu, &row.failed) {
            (Some(pps), Some(cpu), None) => [
                format!("{:.3}", pps.median / 1e6),
                format!("{:.2} to {:.2}, {:.0} %", pps.min / 1e6, pps.max / 1e6, cpu.median),
            ],
            _ => ["failed".into(), String::new()],
        };
        for (line, text) in texts.iter().enumerate() {
            let (size, y) = if line == 0 { (15, y + 18) } else { (11, y + 34) };
            let _ = writeln!(
                svg,
                "<text x=\"{middle}\" y=\"{y}\" text-anchor=\"middle\" fill=\"{ink}\" style=\"font-size:{size}px\">{text}</text>"
            );
        }
        svg += "</g>\n";
    }
    svg + "</svg>"
}

/// From a light to a dark blue, and the color of text that is read on it.
fn color(share: f64) -> (String, &'static str) {
    let mix = |from: f64, to: f64| (from + (to - from) * share.clamp(0.0, 1.0)).round() as u8;
    let fill =
        format!("#{:02x}{:02x}{:02x}", mix(222.0, 16.0), mix(235.0, 66.0), mix(247.0, 122.0));
    // Where the two meet each has a contrast of 4.4 at least.
    (fill, if share > 0.68 { "#fff" } else { "#000" })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::{Matrix, Measured, advise, run};

    #[test]
    fn every_cell_is_in_the_picture_and_no_text_breaks_out() {
        let matrix = Matrix {
            queues: vec![1, 2],
            rings: vec![512],
            bursts: vec![16, 64],
            busy_poll: vec![false, true],
            need_wakeup: vec![true],
        };
        let rows = run(&matrix, 3, 1, |cell, _| match cell.queues {
            1 => Ok(Measured { pps: 1e6 + f64::from(cell.burst), cpu: 50.0, watts: Some(31.5) }),
            _ => Err("<script>alert(1)</script>".into()),
        });
        let in_use = rows[0].cell;
        let about = [("kernel".into(), "a & b".into())];
        let page = html(&rows, &advise(&rows, &in_use), &in_use, &about);
        assert_eq!(page.matches("<rect").count(), 8);
        assert_eq!(page.matches(">failed<").count(), 4);
        assert_eq!(page.matches("#d1495b").count(), 1);
        assert_eq!(page.matches("<td>31.5</td>").count(), 4);
        assert!(!page.contains("<script") && page.contains("a &amp; b"));
        for tag in ["svg", "g", "table", "tr", "text", "title"] {
            let opened = page.matches(&format!("<{tag}>")).count()
                + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}

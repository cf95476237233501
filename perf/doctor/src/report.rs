//! Findings for people and for programs.

use crate::checks::{Wanted, status};
use crate::finding::{Finding, Severity};
use crate::nic::{Link, Nic};
use serde::Serialize;
use std::fmt::Write;

/// Findings as JSON: `millrace-doctor/1`. Fields are added, never renamed or removed, while that name stays.
#[derive(Serialize)]
pub struct Report<'a> {
    /// Which shape this is.
    pub schema: &'static str,
    /// The interface.
    pub interface: &'a str,
    /// The exit status: 0 nothing or notes, 1 something costs, 2 something blocks.
    pub status: u8,
    /// What was assumed to be wanted.
    pub wanted: &'a Wanted,
    /// What was found, the worst first.
    pub findings: &'a [Finding],
    /// What was observed.
    pub nic: &'a Nic,
}

impl<'a> Report<'a> {
    /// Of one interface.
    pub fn new(nic: &'a Nic, wanted: &'a Wanted, findings: &'a [Finding]) -> Self {
        let schema = "millrace-doctor/1";
        Self { schema, interface: nic.name(), status: status(findings), wanted, findings, nic }
    }
}

/// How to print.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Colors, for a terminal.
    pub color: bool,
    /// Characters in a line.
    pub width: usize,
}

impl Style {
    fn paint(&self, severity: Severity, text: &str) -> String {
        let code = match severity {
            Severity::Blocks => "1;31",
            Severity::Costs => "33",
            Severity::Note => "36",
        };
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    fn bold(&self, text: &str) -> String {
        if self.color { format!("\x1b[1m{text}\x1b[0m") } else { text.into() }
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Blocks => "blocks",
        Severity::Costs => "costs",
        Severity::Note => "note",
    }
}

/// Findings as a table for people.
pub fn table(nic: &Nic, findings: &[Finding], style: Style) -> String {
    let mut text = heading(nic, style);
    for finding in findings {
        let label = format!("{:<7} {:<19}", word(finding.severity), finding.id);
        let seen = wrap(&printable(&finding.seen), style.width, 28);
        let _ = writeln!(text, "\n{} {}", style.paint(finding.severity, &label), style.bold(&seen));
        let mut line = |name: &str, content: &str| {
            let content = wrap(&printable(content), style.width, 15);
            let _ = writeln!(text, "        {name:<6} {content}");
        };
        line("why", &finding.why);
        for command in &finding.change {
            line("change", command);
        }
        for command in &finding.undo {
            line("undo", command);
        }
        line("source", finding.source);
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let _ = writeln!(
        text,
        "\n{} block, {} cost, {} notes",
        count(Severity::Blocks),
        count(Severity::Costs),
        count(Severity::Note)
    );
    for gap in &nic.answers.gaps {
        let _ = writeln!(text, "not known: {}", printable(gap));
    }
    let names: Vec<_> = findings.iter().filter(|f| f.automatic).map(|f| f.id).collect();
    if !names.is_empty() {
        let name = nic.name();
        let _ = writeln!(text, "`tune {name} --apply` changes, and can undo: {}", names.join(", "));
    }
    text
}

fn heading(nic: &Nic, style: Style) -> String {
    let link = &nic.answers.link;
    let mut facts = vec![format!("MTU {}", link.mtu), format!("{} queues", nic.queues())];
    if let Some(speed) = nic.device.speed {
        facts.insert(0, format!("{speed} Mbit/s"));
    }
    if let Some(rings) = nic.answers.rings {
        facts.push(format!("rings {} rx, {} tx", rings.rx, rings.tx));
    }
    if let Some(node) = nic.device.node {
        facts.push(format!("NUMA node {node}"));
    }
    let can = match (&nic.answers.xdp, nic.can("basic"), nic.can("xsk-zerocopy")) {
        (None, ..) => "XDP abilities not told by this kernel",
        (_, Some(true), Some(true)) => "native XDP, zero-copy",
        (_, Some(true), _) => "native XDP, copy mode only",
        _ => "no native XDP",
    };
    facts.push(can.into());
    facts.push(format!("Linux {}", nic.host.kernel));
    let title = printable(&format!("{}: {}", nic.name(), nic.driver()));
    let facts = wrap(&printable(&facts.join(", ")), style.width, 2);
    format!("{}\n  {facts}\n", style.bold(&title))
}

/// Interfaces in a table.
pub fn interfaces(rows: &[(Link, String, u32)], style: Style) -> String {
    let mut text = String::new();
    let head = format!(
        "{:<16} {:<12} {:>6} {:>6} {:<6} XDP program",
        "interface", "driver", "queues", "MTU", "state"
    );
    let _ = writeln!(text, "{}", style.bold(&head));
    for (link, driver, queues) in rows {
        let state = if !link.up {
            "down"
        } else if link.carrier {
            "up"
        } else {
            "no link"
        };
        let program = link.program.as_ref().map_or("-".into(), |program| {
            format!("{} ({})", program.name.as_deref().unwrap_or("?"), program.mode)
        });
        let line = format!(
            "{:<16} {driver:<12} {queues:>6} {:>6} {state:<6} {program}",
            link.name, link.mtu
        );
        let _ = writeln!(text, "{}", printable(&line));
    }
    text
}

/// Text from outside without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Breaks at spaces; lines after the first begin with `indent` spaces, which the first has already.
fn wrap(text: &str, width: usize, indent: usize) -> String {
    let room = width.saturating_sub(indent).max(20);
    let mut out = String::new();
    let mut used = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            used = 0;
        } else if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_broken_at_spaces() {
        let text = wrap("one two three four five six seven", 24, 4);
        assert_eq!(text, "one two three four\n    five six seven");
        assert_eq!(wrap("", 10, 2), "");
    }

    #[test]
    fn what_a_terminal_obeys_is_not_printed() {
        assert_eq!(printable("a\x1b[31mb"), "a?[31mb");
    }
}

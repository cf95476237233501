//! What is seen while a run lasts, and the report for people at its end.
//!
//! On a terminal three lines that are written over each second; otherwise a line a second; JSON lines where they are asked for. All
//! but JSON goes to standard error, so that standard output is the report alone.

use crate::cli::Show;
use crate::report::{Percentiles, Report, Second};
use crate::units::{FCS, PREAMBLE_AND_GAP, Short};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// Shows a run's progress.
pub struct Live {
    style: Style,
    title: String,
    lines: usize,
    received: bool,
    total: Second,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Nothing,
    Lines,
    Redraw,
    Json,
}

impl Live {
    /// As `show` asks for it; `received` says whether there is a receiver.
    pub fn new(show: &Show, title: String, received: bool) -> Self {
        let style = match () {
            () if show.json_lines => Style::Json,
            () if show.quiet => Style::Nothing,
            () if io::stderr().is_terminal() => Style::Redraw,
            () => Style::Lines,
        };
        Self { style, title, lines: 0, received, total: Second::default() }
    }

    /// A second is over.
    pub fn second(&mut self, second: &Second) {
        self.total.asked += second.asked;
        self.total.completed += second.completed;
        self.total.received += second.received;
        match self.style {
            Style::Nothing => {}
            Style::Json => {
                #[derive(serde::Serialize)]
                struct Line<'a> {
                    second: &'a Second,
                }
                print_json(&Line { second });
            }
            Style::Lines => self.say(&line(second, self.received)),
            Style::Redraw => {
                let text = self.panel(second);
                // Back to the panel's first line, and everything below it gone.
                let up = if self.lines > 0 {
                    format!("\x1b[{}F\x1b[J", self.lines)
                } else {
                    String::new()
                };
                self.lines = text.lines().count();
                // Not wrapped: a line that took two would leave the way back too short.
                self.say(&format!("{up}\x1b[?7l{}\x1b[?7h", text.trim_end()));
            }
        }
    }

    /// The run is over.
    pub fn end(&mut self) {
        self.lines = 0;
    }

    fn say(&self, text: &str) {
        // A closed standard error is no reason to end a run.
        let _closed = writeln!(io::stderr().lock(), "{text}");
    }

    fn panel(&self, second: &Second) -> String {
        let mut text = format!("{}   {:.0} s\n", self.title, second.at_s);
        let per = |n: u64| Short(n as f64 / second.length_s.max(1e-3));
        let l1 = |packets: u64, bytes: u64| {
            Short(
                (bytes + packets * PREAMBLE_AND_GAP as u64) as f64 * 8.0
                    / second.length_s.max(1e-3),
            )
        };
        let _infallible = writeln!(
            text,
            "  tx {:>9.2}pps {:>9.2}bit/s l1   total {:>12}   unsent in this second {}",
            per(second.completed),
            l1(second.queued, second.queued_bytes),
            self.total.completed,
            second.asked - second.queued.min(second.asked),
        );
        if self.received {
            let missing = self.total.completed.saturating_sub(self.total.received);
            let _infallible = writeln!(
                text,
                "  rx {:>9.2}pps {:>9.2}bit/s l1   total {:>12}   missing so far {missing}",
                per(second.received),
                l1(second.received, second.received_bytes),
                self.total.received,
            );
            let _infallible = writeln!(
                text,
                "  latency p50 {}  p99 {}  max {}   duplicated {}  reordered {}  corrupted {}",
                Time(second.p50_ns),
                Time(second.p99_ns),
                Time(second.max_ns),
                second.duplicated,
                second.reordered,
                second.corrupted,
            );
        }
        text
    }
}

fn line(second: &Second, received: bool) -> String {
    let per = |n: u64| Short(n as f64 / second.length_s.max(1e-3));
    let mut text = format!("{:>6.1} s", second.at_s);
    if second.asked > 0 {
        let unsent = second.asked - second.queued.min(second.asked);
        let _infallible = write!(text, "  tx {:.2}pps", per(second.completed));
        if unsent > 0 {
            let _infallible = write!(text, " unsent {unsent}");
        }
    }
    if received {
        let _infallible = write!(text, "  rx {:.2}pps", per(second.received));
    }
    if second.max_ns > 0 {
        let _infallible = write!(
            text,
            "  p50 {}  p99 {}  max {}",
            Time(second.p50_ns),
            Time(second.p99_ns),
            Time(second.max_ns)
        );
    }
    for (name, n) in [
        ("dup", second.duplicated),
        ("reordered", second.reordered),
        ("corrupted", second.corrupted),
    ] {
        if n > 0 {
            let _infallible = write!(text, "  {name} {n}");
        }
    }
    text
}

/// A time as people read it.
struct Time(u64);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            n if n < 1_000 => write!(f, "{n} ns"),
            n if n < 1_000_000 => write!(f, "{:.1} µs", n as f64 / 1e3),
            n if n < 1_000_000_000 => write!(f, "{:.2} ms", n as f64 / 1e6),
            n => write!(f, "{:.2} s", n as f64 / 1e9),
        }
    }
}

/// One JSON value on a line of standard output.
pub fn print_json(value: &impl serde::Serialize) {
    let mut out = io::stdout().lock();
    // A reader that has gone wants no more; the report's file, if any, is written anyway.
    let _gone = serde_json::to_writer(&mut out, value)
        .map_err(io::Error::from)
        .and_then(|()| writeln!(out));
}

/// Writes the report where `show` wants it.
pub fn present(report: &Report, show: &Show) -> io::Result<()> {
    if show.json_lines {
        #[derive(serde::Serialize)]
        struct Line<'a> {
            report: &'a Report,
        }
        print_json(&Line { report });
    } else if show.json {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string_pretty(report)?)?;
    } else {
        writeln!(io::stdout().lock(), "{}", text(report).trim_end())?;
    }
    // After it was shown: a file that can't be written takes nothing else away.
    if let Some(file) = &show.output {
        let text = serde_json::to_string_pretty(report)? + "\n";
        std::fs::write(file, text)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", file.display())))?;
    }
    Ok(())
}

/// Whether the report's file, if any, can be written: said before a run, not after it.
pub fn check_output(show: &Show) -> io::Result<()> {
    let Some(file) = &show.output else { return Ok(()) };
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
    let why = |e: io::Error| io::Error::new(e.kind(), format!("--output {}: {e}", file.display()));
    opened.map(drop).map_err(why)
}

/// The report for people.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    let mut put = |line: String| {
        out.push_str(&line);
        out.push('\n');
    };
    let c = &report.total;
    let sends = report.setup.tx.is_some() && report.other.is_none();
    if sends {
        put(format!(
            "sent      {} of {} asked ({} unsent) in {:.3} s: {:.3}pps, {:.3}bit/s l2, {:.3}bit/s l1",
            c.completed,
            c.asked,
            c.unsent,
            report.elapsed_s,
            Short(report.rates.tx.pps),
            Short(report.rates.tx.l2_bps),
            Short(report.rates.tx.l1_bps)
        ));
    }
    if sends && report.setup.rx.is_some() {
        put(format!("received  {}: {:.3}pps", c.received, Short(report.rates.rx.pps)));
        // Packets without a signature can't be told from others', nor missed.
        if report.streams.iter().any(|s| s.signature) {
            put(format!(
                "lost      {} ({:.6} %)   duplicated {}   reordered {}   corrupted {}",
                c.lost,
                report.rates.loss_ratio * 100.0,
                c.duplicated,
                c.reordered,
                c.corrupted
            ));
        }
    }
    let spread = |name: &str, p: &Option<Percentiles>| {
        p.map(|p| {
            format!(
                "{name:<9} p50 {}  p90 {}  p99 {}  p99.9 {}  p99.99 {}  max {}",
                Time(p.p50_ns),
                Time(p.p90_ns),
                Time(p.p99_ns),
                Time(p.p99_9_ns),
                Time(p.p99_99_ns),
                Time(p.max_ns)
            )
        })
    };
    [("latency", &report.latency), ("jitter", &report.jitter), ("lag", &report.generator.lag)]
        .into_iter()
        .filter_map(|(name, p)| spread(name, p))
        .for_each(&mut put);
    if let Some(o) = &report.other {
        put(format!(
            "frames    {} ({} bytes with FCS of {FCS}) in {:.3} s",
            o.frames, o.bytes, report.elapsed_s
        ));
        put(format!(
            "answered  ARP {}  ND {}  echo {}   reflected {}",
            o.arp, o.nd, o.echo, o.reflected
        ));
        if o.opened > 0 {
            put(format!(
                "opened    {}   established {}   finished {}   reset {}   timed out {}   at once {}",
                o.opened, o.established, o.finished, o.reset, o.timed_out, o.concurrent_max
            ));
            put(format!(
                "          {:.1} a second   {} bytes sent   {} received",
                o.per_second, o.sent_bytes, o.received_bytes
            ));
        }
        [("setup", &o.setup_time), ("life", &o.life_time)]
            .into_iter()
            .filter_map(|(name, p)| spread(name, p))
            .for_each(&mut put);
    }
    if report.streams.len() > 1 {
        put(format!(
            "{:<24} {:>12} {:>12} {:>10} {:>8} {:>8} {:>10} {:>10}",
            "stream", "sent", "received", "lost", "dup", "reord", "p50 µs", "p99 µs"
        ));
        for s in report.streams.iter().take(40) {
            let p = s.latency.unwrap_or_default();
            put(format!(
                "{:<24} {:>12} {:>12} {:>10} {:>8} {:>8} {:>10.1} {:>10.1}",
                s.name,
                s.counts.completed,
                s.counts.received,
                s.counts.lost,
                s.counts.duplicated,
                s.counts.reordered,
                p.p50_ns as f64 / 1e3,
                p.p99_ns as f64 / 1e3
            ));
        }
        if report.streams.len() > 40 {
            put(format!("… and {} more: --json has all", report.streams.len() - 40));
        }
    }
    for warning in &report.warnings {
        put(format!("warning   {warning}"));
    }
    out
}

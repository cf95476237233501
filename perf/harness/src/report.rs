//! One HTML file with pictures from results, and the results themselves in it. No script, nothing loaded from elsewhere, readable in
//! light and dark.

mod plots;
mod stateful;
mod style;
pub mod svg;
#[cfg(test)]
mod tests;

use crate::commands::write as write_file;
use crate::compare::{self, Comparison, Verdict};
use crate::results::{Certificate, Unit};
use crate::spread::Spread;
use crate::statistics::{median, variation};
use crate::units::{count, ratio, show_rate};
use clap::Args;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use svg::escape;

/// Arguments of `report`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Results (millrace-perf run --output); of exactly two the second is compared with the first
    #[arg(required = true)]
    pub results: Vec<PathBuf>,
    /// The HTML file
    #[arg(long, short, default_value = "report.html")]
    pub output: PathBuf,
    /// Device that ratios are taken to; the first one without it
    #[arg(long)]
    pub base: Option<String>,
}

/// Writes the file.
pub fn write(options: &Options) -> Result<(), String> {
    let certificates: Result<Vec<Certificate>, String> =
        options.results.iter().map(|path| compare::read(path)).collect();
    let certificates = certificates?;
    if let Some(base) = &options.base
        && !certificates.iter().flat_map(|c| &c.devices).any(|d| d.name == *base)
    {
        return Err(format!("--base {base}: no device of that name"));
    }
    let html = html(&certificates, options.base.as_deref())?;
    write_file(&options.output, &html)?;
    eprintln!("millrace-perf: {} written", options.output.display());
    Ok(())
}

/// The page.
pub fn html(certificates: &[Certificate], base: Option<&str>) -> Result<String, String> {
    let mut body = String::new();
    let title = certificates.first().map_or("no results", |c| c.scenario.as_str());
    for certificate in certificates {
        section(&mut body, certificate, base);
    }
    if let [a, b] = certificates {
        comparison(&mut body, &compare::compare(a, b, 0.03, false));
    }
    let data = serde_json::to_string(certificates).map_err(|e| e.to_string())?;
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title} · Millrace perf</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n{body}\
         <p class=\"end\"><a download=\"results.json\" href=\"data:application/json;base64,{data}\">The results as JSON</a></p>\n\
         </main>\n</body>\n</html>\n",
        title = escape(title),
        style = style::CSS,
        data = base64(data.as_bytes()),
    ))
}

fn section(body: &mut String, certificate: &Certificate, base: Option<&str>) {
    let _ = writeln!(body, "<h1>{}</h1>", escape(&certificate.scenario));
    let print = &certificate.fingerprint;
    let _ = writeln!(
        body,
        "<p class=\"lead\">{}, {} CPU{}, Linux {}. {}</p>",
        escape(&print.cpu.model),
        print.cpu.count,
        if print.cpu.count == 1 { "" } else { "s" },
        escape(print.kernel.split(' ').next().unwrap_or_default()),
        date(certificate.started_unix),
    );
    if !certificate.complete {
        body.push_str("<p class=\"note bad\">Interrupted: not everything was measured.</p>\n");
    }
    if !certificate.warnings.is_empty() {
        let words: Vec<String> = certificate.warnings.iter().map(|words| escape(words)).collect();
        let _ = writeln!(body, "<p class=\"note\">{}</p>", words.join("<br>"));
    }
    legend(body, certificate);
    summary(body, certificate);
    let mut frames: Vec<u32> =
        certificate.devices.iter().flat_map(|d| &d.points).map(|p| p.frame).collect();
    frames.sort_unstable();
    frames.dedup();
    let mut picture = |heading: &str, words: &str, svg: Option<String>| {
        if let Some(svg) = svg {
            let _ = writeln!(
                body,
                "<section>\n<h2>{}</h2>\n<p>{}</p>\n<figure>{svg}</figure>\n</section>",
                escape(heading),
                escape(words)
            );
        }
    };
    for what in ["NDR", "PDR", "MRR"] {
        picture(
            &format!("{what} by frame size"),
            "Median of the rounds; the vertical lines go from the lowest to the highest round.",
            plots::by_size(certificate, what),
        );
    }
    // Of many sizes the two ends; those between are in the pictures by size.
    let ends = [frames.first(), frames.last()];
    for frame in frames.iter().filter(|f| frames.len() <= 3 || ends.contains(&Some(*f))) {
        picture(
            &format!("Rates, {frame}-byte frames"),
            "Bars: median of the rounds; thin lines: lowest to highest. An open bar is not known to be the device's own limit.",
            plots::rates(certificate, *frame),
        );
    }
    let first = certificate.devices.first().map(|d| d.name.as_str()).unwrap_or_default();
    let base = base.filter(|b| certificate.devices.iter().any(|d| d.name == *b)).unwrap_or(first);
    picture(
        &format!("Beside {base}"),
        "Each round's rate over that of the round next to it in time: what a busy machine does to both cancels out.",
        plots::ratios(certificate, base, frames.len() <= 3),
    );
    for frame in &frames {
        let points =
            certificate.devices.iter().flat_map(|d| &d.points).filter(|p| p.frame == *frame);
        let mut shares: Vec<f64> =
            points.flat_map(|p| &p.rounds).flat_map(|r| &r.latency).map(|l| l.share).collect();
        shares.sort_by(f64::total_cmp);
        shares.dedup();
        for share in shares {
            picture(
                &format!("Latency at {:.0} % load, {frame}-byte frames", share * 100.0),
                "From when a packet was due to when it came, so that a stall counts for all that it delayed. Each device at its own rate.",
                plots::latency(certificate, *frame, share),
            );
        }
    }
    for frame in &frames {
        picture(
            &format!("Loss by load, {frame}-byte frames"),
            "Every trial of the searches is a dot; the line goes through the median of each load.",
            plots::loss(certificate, *frame),
        );
    }
    all_figures(body, certificate);
    details(body, certificate);
}

fn legend(body: &mut String, certificate: &Certificate) {
    body.push_str("<ul class=\"legend\">\n");
    for (n, device) in certificate.devices.iter().enumerate() {
        let path = &device.path;
        let _ = writeln!(
            body,
            "<li><span class=\"key {}\"></span>{} <small>{}, {} mode, {} queue{}</small></li>",
            plots::color(n),
            escape(&device.name),
            escape(&path.link),
            escape(&path.mode),
            path.queues,
            if path.queues == 1 { "" } else { "s" }
        );
    }
    body.push_str("</ul>\n");
}

/// The rates, a row a device and frame size.
fn summary(body: &mut String, certificate: &Certificate) {
    let figures = certificate.figures();
    let mut names: Vec<&str> = Vec::new();
    for figure in figures.iter().filter(|figure| figure.unit != Unit::Time) {
        if !names.contains(&figure.what.as_str()) {
            names.push(&figure.what);
        }
    }
    if !names.is_empty() {
        body.push_str(
            "<div class=\"wide\"><table>\n<thead><tr><th>Device</th><th class=\"n\">Frame</th>",
        );
        for name in &names {
            let _ = write!(body, "<th class=\"n\">{}</th>", escape(name));
        }
        body.push_str("</tr></thead>\n<tbody>\n");
        for device in &certificate.devices {
            for point in &device.points {
                let of = |what: &&str| {
                    let mut all = figures.iter();
                    all.find(|f| {
                        f.device == device.name && f.frame == point.frame && f.what == *what
                    })
                };
                if names.iter().all(|name| of(name).is_none()) {
                    continue;
                }
                let _ = write!(
                    body,
                    "<tr><td>{}</td><td class=\"n\">{} B</td>",
                    escape(&device.name),
                    point.frame
                );
                for name in &names {
                    let cell = of(name).and_then(|figure| {
                        let sign = if figure.not_the_devices { "≥ " } else { "" };
                        let cv = variation(&figure.values).map_or(String::new(), |cv| {
                            format!(" <small>CV {:.1} %</small>", cv * 100.0)
                        });
                        median(&figure.values).map(|m| format!("{sign}{}{cv}", figure.unit.show(m)))
                    });
                    let _ = write!(body, "<td class=\"n\">{}</td>", cell.unwrap_or("–".into()));
                }
                body.push_str("</tr>\n");
            }
        }
        body.push_str("</tbody></table></div>\n");
    }
    if figures.iter().any(|figure| figure.not_the_devices) {
        body.push_str(
            "<p class=\"note\">≥: within 5 % of what the generator does alone, or nobody knows what it does alone, or the highest rate \
             allowed, or the search ran out of time. The device does at least that; its own limit is not known.</p>\n",
        );
    }
    stateful::write(body, certificate);
    longer(body, certificate);
}

/// Every figure with its spread, folded.
fn all_figures(body: &mut String, certificate: &Certificate) {
    let figures = certificate.figures();
    if figures.is_empty() {
        return;
    }
    body.push_str(
        "<details><summary>All figures</summary>\n<div class=\"wide\"><table>\n<thead><tr><th>Device</th><th class=\"n\">Frame</th>\
         <th>Figure</th><th class=\"n\">Median</th><th class=\"n\">Lowest</th><th class=\"n\">Highest</th><th class=\"n\">CV</th>\
         <th class=\"n\">Rounds</th></tr></thead>\n<tbody>\n",
    );
    for figure in &figures {
        let Some(spread) = Spread::of(&figure.values) else { continue };
        let show = |value| figure.unit.show(value);
        let cv =
            variation(&figure.values).map_or("–".into(), |cv| format!("{:.1} %", cv * 100.0));
        let _ = writeln!(
            body,
            "<tr><td>{}</td><td class=\"n\">{} B</td><td>{}</td><td class=\"n\">{}{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{cv}</td><td class=\"n\">{}</td></tr>",
            escape(&figure.device),
            figure.frame,
            escape(&figure.what),
            if figure.not_the_devices { "≥ " } else { "" },
            show(spread.median),
            show(spread.min),
            show(spread.max),
            figure.values.len()
        );
    }
    body.push_str("</tbody></table></div></details>\n");
}

/// Soak and reconf, in words.
fn longer(body: &mut String, certificate: &Certificate) {
    for device in &certificate.devices {
        for (frame, round) in
            device.points.iter().flat_map(|p| p.rounds.iter().map(|r| (p.frame, r)))
        {
            if let Some(soak) = &round.soak {
                let verdict = match soak.verdict {
                    crate::soak::Verdict::Met => "met",
                    crate::soak::Verdict::Missed => "missed",
                    crate::soak::Verdict::Undecided => "not decided: more packets are needed",
                };
                let _ = writeln!(
                    body,
                    "<p>{}, {frame} B, soak of {:.0} s at {}: {} of {} packets lost. The loss ratio is between {} and {} \
                     ({:.0} % confidence each way); the target {} is {verdict}.</p>",
                    escape(&device.name),
                    soak.seconds,
                    show_rate(soak.rate),
                    count(soak.lost),
                    count(soak.sent),
                    ratio(soak.lower),
                    ratio(soak.upper),
                    soak.confidence * 100.0,
                    ratio(soak.target)
                );
            }
            if let Some(reconf) = &round.reconf {
                let _ = writeln!(
                    body,
                    "<p>{}, {frame} B, {} changes{} in {:.1} s at {}: {} of {} packets lost; without changes {} of them would have \
                     been. It was {}.</p>",
                    escape(&device.name),
                    count(reconf.changes),
                    if reconf.confirmed { " (the device has them)" } else { "" },
                    reconf.seconds,
                    show_rate(reconf.rate),
                    count(reconf.lost),
                    count(reconf.sent),
                    match reconf.loss_ratio_without {
                        0.0 => "none".into(),
                        share => format!("a share of {}", ratio(share)),
                    },
                    reconf.in_words()
                );
            }
        }
    }
}

/// Machine and method, folded.
fn details(body: &mut String, certificate: &Certificate) {
    let print = &certificate.fingerprint;
    let mut rows = vec![
        ("Kernel".to_owned(), print.kernel.clone()),
        ("Architecture".into(), print.architecture.clone()),
        ("Boot parameters".into(), print.boot.join(" ")),
        ("CPU".into(), format!("{} × {}", print.cpu.count, print.cpu.model)),
        ("Microcode".into(), print.cpu.microcode.clone()),
        ("Governor".into(), print.cpu.governor.clone()),
        ("SMT".into(), print.cpu.smt.clone()),
        ("NUMA nodes".into(), print.cpu.nodes.clone()),
        ("Virtual machine".into(), if print.cpu.virtual_machine { "yes" } else { "no" }.into()),
        ("Memory".into(), format!("{} MiB", print.memory_mib)),
        ("Clock source".into(), print.clock.clone()),
    ];
    let maps: [(&str, &BTreeMap<String, String>); 6] = [
        ("Huge pages", &print.huge_pages),
        ("Transparent huge pages", &print.transparent_huge_pages),
        ("Setting", &print.settings),
        ("Mitigation", &print.mitigations),
        ("Version", &print.versions),
        ("Method", &certificate.method),
    ];
    for (name, map) in maps {
        rows.extend(map.iter().map(|(key, value)| (format!("{name}: {key}"), value.clone())));
    }
    for calibration in &certificate.calibration {
        rows.push((
            format!("Generator alone, {} B", calibration.frame),
            format!(
                "{} (median of {} trials)",
                show_rate(calibration.limit),
                calibration.trials.len()
            ),
        ));
    }
    body.push_str("<details><summary>Machine and method</summary>\n<div class=\"wide\"><table class=\"plain\">\n");
    for (key, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(body, "<tr><th>{}</th><td>{}</td></tr>", escape(key), escape(value));
    }
    body.push_str("</table></div></details>\n");
}

/// A second result beside the first.
fn comparison(body: &mut String, comparison: &Comparison) {
    body.push_str("<h1>Second result beside the first</h1>\n");
    if !comparison.comparable {
        body.push_str("<p class=\"note bad\">Not comparable:</p>\n");
    }
    if !comparison.differences.is_empty() {
        body.push_str("<ul>\n");
        for difference in &comparison.differences {
            let _ = writeln!(body, "<li>{}</li>", escape(&difference.to_string()));
        }
        body.push_str("</ul>\n");
    }
    if comparison.figures.is_empty() {
        return;
    }
    body.push_str(
        "<div class=\"wide\"><table><thead><tr><th>Device</th><th>Frame</th><th>Figure</th><th class=\"n\">First</th><th class=\"n\">Second</th>\
         <th class=\"n\">Ratio (95 %)</th><th class=\"n\">p</th><th>Verdict</th></tr></thead><tbody>\n",
    );
    for figure in &comparison.figures {
        let show = |value| figure.unit.unwrap_or(Unit::Rate).show(value);
        let value = |values: &[f64]| median(values).map_or("–".into(), show);
        let ratio = match (figure.ratio, figure.interval) {
            (Some(ratio), Some((low, high))) => format!("{ratio:.3} ({low:.3} to {high:.3})"),
            (Some(ratio), None) => format!("{ratio:.3}"),
            _ => "–".into(),
        };
        let (verdict, class) = match figure.verdict {
            Verdict::Better => ("better", "good"),
            Verdict::Worse => ("worse", "bad"),
            Verdict::Same => ("same", ""),
            Verdict::Inconclusive => ("inconclusive", ""),
            Verdict::Refused => ("refused", ""),
        };
        let why = figure
            .why
            .as_deref()
            .map_or(String::new(), |why| format!("<br><small>{}</small>", escape(why)));
        let _ = writeln!(
            body,
            "<tr><td>{}</td><td>{} B</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{ratio}</td>\
             <td class=\"n\">{}</td><td class=\"{class}\">{verdict}{why}</td></tr>",
            escape(&figure.device),
            figure.frame,
            escape(&figure.what),
            value(&figure.a),
            value(&figure.b),
            figure.p.map_or("–".into(), |p| format!("{p:.3}"))
        );
    }
    body.push_str(
        "</tbody></table></div>\n<p>Mann-Whitney test, two-sided, on the rounds; the interval is a bootstrap of the medians' ratio. Differences up \
         to 3 % are called none.</p>\n",
    );
}

/// A day and a time of it, UTC (Howard Hinnant's civil_from_days).
fn date(unix: u64) -> String {
    let (days, seconds) = ((unix / 86_400) as i64, unix % 86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60)
}

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |n: usize| u32::from(group.get(n).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for n in 0..4 {
            let sextet = (bits >> (18 - 6 * n)) & 63;
            let letter = ALPHABET.get(sextet as usize).copied().unwrap_or(b'=');
            out.push(if n <= group.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

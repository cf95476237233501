//! The pictures of a report: rates, ratios, latency, loss.

use super::svg::{Anchor, Picture, Scale};
use crate::results::{Certificate, Figure, Percentiles, Unit};
use crate::spread::Spread;
use crate::units::{show_rate, show_time};

/// Width of a picture.
const WIDTH: f64 = 760.0;
/// Room for names on the left.
const LEFT: f64 = 160.0;
/// Room for values on the right.
const RIGHT: f64 = 150.0;

/// The color of the nth device.
pub fn color(n: usize) -> String {
    format!("c{}", n % 8)
}

/// Which device's color.
fn color_of(certificate: &Certificate, device: &str) -> String {
    color(certificate.devices.iter().position(|d| d.name == device).unwrap_or(0))
}

/// The unit for rates up to this: its size and its words.
fn unit(most: f64) -> (f64, &'static str) {
    match most {
        most if most >= 1e6 => (1e6, "million packets a second"),
        most if most >= 1e3 => (1e3, "thousand packets a second"),
        _ => (1.0, "packets a second"),
    }
}

/// A tick's number, without noise in its last digits.
fn tick(value: f64) -> String {
    format!("{}", (value * 1e4).round() / 1e4)
}

/// A name cut to fit.
fn short(name: &str) -> String {
    const MOST: usize = 20;
    match name.chars().count() > MOST {
        true => name.chars().take(MOST - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}

/// Rates of all devices at one frame size: a bar for each of NDR, PDR and MRR, with minimum and maximum of the rounds.
pub fn rates(certificate: &Certificate, frame: u32) -> Option<String> {
    let figures: Vec<Figure> = certificate
        .figures()
        .into_iter()
        .filter(|f| f.unit == Unit::Rate && f.frame == frame)
        .collect();
    if figures.is_empty() {
        return None;
    }
    const BAR: f64 = 18.0;
    const STEP: f64 = 24.0;
    const GAP: f64 = 14.0;
    let devices: Vec<&str> = certificate
        .devices
        .iter()
        .map(|d| d.name.as_str())
        .filter(|name| figures.iter().any(|f| f.device == *name))
        .collect();
    let bars = STEP * figures.len() as f64 + GAP * devices.len() as f64;
    let height = 24.0 + bars + 40.0;
    let limit = certificate.calibration.iter().find(|c| c.frame == frame).map(|c| c.limit);
    let most = figures.iter().flat_map(|f| &f.values).copied().fold(0.0, f64::max);
    // A generator far above all devices would press them to the left: then it is said in words.
    let near = limit.filter(|limit| *limit < most * 2.5);
    let (scale, ticks) = Scale::linear(
        figures.iter().flat_map(|f| f.values.clone()).chain(near),
        LEFT,
        WIDTH - RIGHT,
    );
    let mut picture = Picture::new(WIDTH, height, &format!("Rates at {frame}-byte frames"));
    let bottom = height - 40.0;
    let (size, words) = unit(ticks.last().copied().unwrap_or(0.0));
    for mark in &ticks {
        let x = scale.at(*mark);
        picture.line((x, 20.0), (x, bottom), "grid");
        picture.text(x, bottom + 16.0, Anchor::Middle, "tick", &tick(mark / size));
    }
    picture.text(LEFT, height - 4.0, Anchor::Start, "axis", words);
    if let Some(near) = near {
        let x = scale.at(near);
        picture.line((x, 16.0), (x, bottom), "limit");
        picture.text(x, 12.0, Anchor::Middle, "tick", "generator alone");
    }
    let mut y = 24.0;
    for device in devices {
        let color = color_of(certificate, device);
        let mut named = false;
        for figure in figures.iter().filter(|f| f.device == device) {
            let Some(spread) = Spread::of(&figure.values) else { continue };
            if !named {
                picture.text(LEFT - 10.0, y + 13.0, Anchor::End, "name", &short(device));
                named = true;
            }
            let title = format!(
                "{device}, {}: {} ({} to {}, {} rounds)",
                figure.what,
                show_rate(spread.median),
                show_rate(spread.min),
                show_rate(spread.max),
                figure.values.len()
            );
            let doubtful = if figure.not_the_devices { " open" } else { "" };
            let end = scale.at(spread.median);
            picture.bar((LEFT, y), (end - LEFT, BAR), &format!("fill {color}{doubtful}"), &title);
            let middle = y + BAR / 2.0;
            picture.line((scale.at(spread.min), middle), (scale.at(spread.max), middle), "whisker");
            let sign = if figure.not_the_devices { "≥ " } else { "" };
            let words = format!("{} {sign}{}", figure.what, show_rate(spread.median));
            picture.text(scale.at(spread.max) + 6.0, y + 13.0, Anchor::Start, "value", &words);
            y += STEP;
        }
        y += GAP;
    }
    Some(picture.finish())
}

/// One goal's rate by frame size, a line a device.
pub fn by_size(certificate: &Certificate, what: &str) -> Option<String> {
    let figures: Vec<Figure> = certificate
        .figures()
        .into_iter()
        .filter(|f| f.what == what && f.unit == Unit::Rate)
        .collect();
    let mut frames: Vec<u32> = figures.iter().map(|f| f.frame).collect();
    frames.sort_unstable();
    frames.dedup();
    if frames.len() < 2 {
        return None;
    }
    const HEIGHT: f64 = 320.0;
    let (left, right, bottom) = (60.0, WIDTH - RIGHT, HEIGHT - 44.0);
    let (scale, ticks) = Scale::linear(figures.iter().flat_map(|f| f.values.clone()), bottom, 14.0);
    let mut picture = Picture::new(WIDTH, HEIGHT, &format!("{what} by frame size"));
    let (size, words) = unit(ticks.last().copied().unwrap_or(0.0));
    for mark in &ticks {
        let y = scale.at(*mark);
        picture.line((left, y), (right, y), "grid");
        picture.text(left - 8.0, y + 4.0, Anchor::End, "tick", &tick(mark / size));
    }
    let step = (right - left - 60.0) / (frames.len() - 1) as f64;
    let x_of = |frame: u32| {
        let n = frames.iter().position(|f| *f == frame).unwrap_or(0);
        left + 30.0 + step * n as f64
    };
    for frame in &frames {
        picture.text(x_of(*frame), bottom + 18.0, Anchor::Middle, "tick", &frame.to_string());
    }
    let label = format!("{what} in {words}, by frame size in bytes");
    picture.text(left, HEIGHT - 6.0, Anchor::Start, "axis", &label);
    let mut names = Vec::new();
    for device in &certificate.devices {
        let color = color_of(certificate, &device.name);
        let mut points = Vec::new();
        for frame in &frames {
            let figure = figures.iter().find(|f| f.device == device.name && f.frame == *frame);
            let Some(spread) = figure.and_then(|f| Spread::of(&f.values)) else { continue };
            let x = x_of(*frame);
            points.push((x, scale.at(spread.median)));
            let (low, high) = (scale.at(spread.min), scale.at(spread.max));
            picture.line((x, low), (x, high), &format!("line {color}"));
            let title = format!("{}, {frame} bytes: {}", device.name, show_rate(spread.median));
            picture.dot((x, scale.at(spread.median)), 4.0, &format!("fill {color}"), &title);
        }
        picture.path(&points, &format!("line {color}"));
        if let Some((_, y)) = points.last() {
            names.push((*y, device.name.clone(), color));
        }
    }
    beside(&mut picture, right - 20.0, names, bottom);
    Some(picture.finish())
}

/// Names beside the ends of their lines, moved apart.
fn beside(picture: &mut Picture, x: f64, mut names: Vec<(f64, String, String)>, bottom: f64) {
    const APART: f64 = 16.0;
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut last = f64::NEG_INFINITY;
    for (y, ..) in &mut names {
        *y = y.max(last + APART);
        last = *y;
    }
    // Pushed out at the bottom: up again, the last one first.
    let mut most = bottom;
    for (y, ..) in names.iter_mut().rev() {
        *y = y.min(most);
        most = *y - APART;
    }
    for (y, name, color) in names {
        picture.text(x, y + 4.0, Anchor::Start, &format!("name text {color}"), &short(&name));
    }
}

/// Each device's rate over the base's, round by round: median, minimum and maximum. None with a single device. Not all: of the
/// smallest and the largest frames only.
pub fn ratios(certificate: &Certificate, base: &str, all: bool) -> Option<String> {
    let figures: Vec<Figure> =
        certificate.figures().into_iter().filter(|f| f.unit == Unit::Rate).collect();
    let mut rows = Vec::new();
    for figure in figures.iter().filter(|f| f.device != base) {
        let other = figures
            .iter()
            .find(|f| f.device == base && f.frame == figure.frame && f.what == figure.what);
        let Some(other) = other else { continue };
        let sizes = || figures.iter().map(|f| f.frame);
        if !all && Some(figure.frame) != sizes().min() && Some(figure.frame) != sizes().max() {
            continue;
        }
        let values = figure.over(other);
        let Some(spread) = Spread::of(&values) else { continue };
        let doubtful = figure.not_the_devices || other.not_the_devices;
        rows.push((figure, spread, values.len(), doubtful));
    }
    if rows.is_empty() {
        return None;
    }
    const STEP: f64 = 26.0;
    let left = LEFT + 90.0;
    let height = 20.0 + STEP * rows.len() as f64 + 40.0;
    let bottom = height - 40.0;
    let ends = rows.iter().flat_map(|(_, s, ..)| [s.min, s.max]);
    let (low, high) = ends.fold((1.0_f64, 1.0_f64), |(l, h), v| (l.min(v), h.max(v)));
    let (scale, ticks) = Scale::between(low * 0.98, high * 1.02, left, WIDTH - RIGHT);
    let mut picture =
        Picture::new(WIDTH, height, &format!("Rates as multiples of those of {base}"));
    for mark in &ticks {
        let x = scale.at(*mark);
        picture.line((x, 10.0), (x, bottom), "grid");
        picture.text(x, bottom + 16.0, Anchor::Middle, "tick", &tick(*mark));
    }
    picture.line((scale.at(1.0), 10.0), (scale.at(1.0), bottom), "limit");
    let words = format!("multiple of {}, pair by pair; line: lowest to highest round", short(base));
    picture.text(LEFT, height - 4.0, Anchor::Start, "axis", &words);
    let mut y = 20.0 + STEP / 2.0;
    for (figure, spread, rounds, doubtful) in rows {
        let color = color_of(certificate, &figure.device);
        let name = format!("{}, {} {} B", short(&figure.device), figure.what, figure.frame);
        picture.text(left - 10.0, y + 4.0, Anchor::End, "name", &name);
        picture.line(
            (scale.at(spread.min), y),
            (scale.at(spread.max), y),
            &format!("line thick {color}"),
        );
        let title =
            format!("{name}: {:.3} ({:.3} to {:.3})", spread.median, spread.min, spread.max);
        let class = if doubtful { format!("fill {color} open") } else { format!("fill {color}") };
        picture.dot((scale.at(spread.median), y), 5.0, &class, &title);
        let value = match rounds {
            1 => format!("{:.2}, 1 round", spread.median),
            _ => format!("{:.2} ({:.2} to {:.2})", spread.median, spread.min, spread.max),
        };
        picture.text(WIDTH - RIGHT + 8.0, y + 4.0, Anchor::Start, "value", &value);
        y += STEP;
    }
    Some(picture.finish())
}

/// A percentile's name, and where it is.
type Named = (&'static str, fn(&Percentiles) -> u64);

/// The percentiles on the axis.
const PERCENTILES: [Named; 6] = [
    ("50", |p| p.p50_ns),
    ("90", |p| p.p90_ns),
    ("99", |p| p.p99_ns),
    ("99.9", |p| p.p99_9_ns),
    ("99.99", |p| p.p99_99_ns),
    ("max", |p| p.max_ns),
];

/// Latency percentiles at a share of the found rate, a line a device; of several rounds the median of each percentile.
pub fn latency(certificate: &Certificate, frame: u32, share: f64) -> Option<String> {
    let mut lines = Vec::new();
    let mut all = Vec::new();
    for device in &certificate.devices {
        for point in device.points.iter().filter(|p| p.frame == frame) {
            let at = point.rounds.iter().flat_map(|r| &r.latency);
            // Pictures of all shares have the same axis.
            let known: Vec<&Percentiles> =
                at.clone().filter_map(|l| l.percentiles.as_ref()).collect();
            all.extend(known.iter().flat_map(|p| [p.p50_ns as f64, p.max_ns as f64]));
            let own: Vec<&Percentiles> = at
                .filter(|l| (l.share - share).abs() < 1e-9)
                .filter_map(|l| l.percentiles.as_ref())
                .collect();
            let medians: Option<Vec<f64>> = PERCENTILES
                .iter()
                .map(|(_, of)| {
                    let values: Vec<f64> = own.iter().map(|p| of(p) as f64).collect();
                    crate::statistics::median(&values)
                })
                .collect();
            if let Some(medians) = medians {
                lines.push((device.name.as_str(), medians));
            }
        }
    }
    if lines.is_empty() {
        return None;
    }
    const HEIGHT: f64 = 300.0;
    let (left, right, bottom) = (70.0, WIDTH - RIGHT, HEIGHT - 46.0);
    let (scale, ticks) = Scale::log(all, bottom, 14.0);
    let label = format!("Latency at {:.0} % of the rate found, {frame}-byte frames", share * 100.0);
    let mut picture = Picture::new(WIDTH, HEIGHT, &label);
    for tick in &ticks {
        let y = scale.at(*tick);
        picture.line((left, y), (right, y), "grid");
        picture.text(left - 8.0, y + 4.0, Anchor::End, "tick", &plain_time(*tick));
    }
    let step = (right - left - 60.0) / (PERCENTILES.len() - 1) as f64;
    let x_of = |n: usize| left + 30.0 + step * n as f64;
    for (n, (name, _)) in PERCENTILES.iter().enumerate() {
        picture.text(x_of(n), bottom + 18.0, Anchor::Middle, "tick", name);
    }
    let words = format!("percentile; load {:.0} % of the rate found", share * 100.0);
    picture.text(left, HEIGHT - 6.0, Anchor::Start, "axis", &words);
    let mut names = Vec::new();
    for (device, medians) in lines {
        let color = color_of(certificate, device);
        let points: Vec<(f64, f64)> =
            medians.iter().enumerate().map(|(n, v)| (x_of(n), scale.at(*v))).collect();
        picture.path(&points, &format!("line {color}"));
        for ((point, value), (name, _)) in points.iter().zip(&medians).zip(&PERCENTILES) {
            let title = format!("{device}, percentile {name}: {}", show_time(*value));
            picture.dot(*point, 3.5, &format!("fill {color}"), &title);
        }
        if let Some((_, y)) = points.last() {
            names.push((*y, device.to_owned(), color));
        }
    }
    beside(&mut picture, right - 20.0, names, bottom);
    Some(picture.finish())
}

/// Powers of ten as people say them.
fn plain_time(nanoseconds: f64) -> String {
    let text = show_time(nanoseconds);
    text.replace(".00 ", " ").replace(".0 ", " ")
}

/// Share lost at each load tried: all trials as dots, the median of each load as a line.
pub fn loss(certificate: &Certificate, frame: u32) -> Option<String> {
    let mut lines = Vec::new();
    for device in &certificate.devices {
        let rounds = device.points.iter().filter(|p| p.frame == frame).flat_map(|p| &p.rounds);
        let mut trials: Vec<(f64, f64)> = rounds
            .flat_map(|r| &r.trials)
            .filter(|t| t.sent > 0)
            .map(|t| (t.load, t.sent.saturating_sub(t.received) as f64 / t.sent as f64))
            .collect();
        trials.sort_by(|a, b| a.0.total_cmp(&b.0));
        if !trials.is_empty() {
            lines.push((device.name.as_str(), trials));
        }
    }
    if lines.is_empty() {
        return None;
    }
    const HEIGHT: f64 = 320.0;
    let (left, right, bottom) = (70.0, WIDTH - RIGHT, HEIGHT - 72.0);
    let positive = lines.iter().flat_map(|(_, t)| t).map(|(_, loss)| *loss).filter(|l| *l > 0.0);
    let positive: Vec<f64> = positive.collect();
    let (scale, ticks) = Scale::log(positive.iter().copied().chain([1.0]), bottom, 14.0);
    let zero = bottom + 24.0;
    // Trials far above the others (the first, at the highest load) would press the rest together.
    let mut loads: Vec<f64> = lines.iter().flat_map(|(_, t)| t).map(|(load, _)| *load).collect();
    loads.sort_by(f64::total_cmp);
    let typical = loads.get(loads.len() * 95 / 100).copied().unwrap_or(1.0);
    let most = loads.last().copied().unwrap_or(1.0).min(typical * 1.3);
    let least = loads.first().copied().unwrap_or(0.0);
    let (across, marks) =
        Scale::between(least.min(most), most.max(least * 1.001 + 1.0), left, right);
    let (size, words) = unit(marks.last().copied().unwrap_or(0.0));
    let mut picture = Picture::new(WIDTH, HEIGHT, &format!("Loss by load, {frame}-byte frames"));
    for tick in &ticks {
        let y = scale.at(*tick);
        picture.line((left, y), (right, y), "grid");
        picture.text(left - 8.0, y + 4.0, Anchor::End, "tick", &percent(*tick));
    }
    picture.line((left, zero), (right, zero), "grid strong");
    picture.text(left - 8.0, zero + 4.0, Anchor::End, "tick", "none");
    for mark in &marks {
        picture.text(across.at(*mark), zero + 18.0, Anchor::Middle, "tick", &tick(mark / size));
    }
    let words = format!("share lost, by load in {words}");
    picture.text(left, HEIGHT - 4.0, Anchor::Start, "axis", &words);
    let place = |loss: f64| if loss > 0.0 { scale.at(loss) } else { zero };
    let mut names = Vec::new();
    for (device, trials) in lines {
        let color = color_of(certificate, device);
        let mut medians = Vec::new();
        for same in trials.chunk_by(|a, b| a.0 == b.0) {
            let losses: Vec<f64> = same.iter().map(|(_, loss)| *loss).collect();
            let (Some((load, _)), Some(median)) =
                (same.first(), crate::statistics::median(&losses))
            else {
                continue;
            };
            if *load <= most {
                medians.push((across.at(*load), place(median)));
                for loss in losses {
                    let title = format!("{device} at {}: {} lost", show_rate(*load), percent(loss));
                    picture.dot(
                        (across.at(*load), place(loss)),
                        2.0,
                        &format!("fill faint {color}"),
                        &title,
                    );
                }
            }
        }
        picture.path(&medians, &format!("line {color}"));
        if let Some((_, y)) = medians.last() {
            names.push((*y, device.to_owned(), color));
        }
    }
    beside(&mut picture, right + 8.0, names, bottom);
    Some(picture.finish())
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        p if p >= 0.01 || p == 0.0 => format!("{} %", (p * 100.0).round() / 100.0),
        p => format!("{p:.0e} %"),
    }
}

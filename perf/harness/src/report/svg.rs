//! A small SVG writer: axes, lines, points, whiskers, bars. Colors are CSS classes, so that the page's light and dark schemes apply.

use std::fmt::Write;

/// Text as XML has it.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Control characters are not allowed in XML at all.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Where values lie on an axis.
#[derive(Clone, Debug)]
pub struct Scale {
    /// From where on the axis, in pixels.
    pub from: f64,
    /// To where.
    pub to: f64,
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    /// Equal steps, from 0 or below to above the highest.
    pub fn linear(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> (Self, Vec<f64>) {
        let high = values.into_iter().filter(|v| v.is_finite()).fold(0.0, f64::max);
        let high = if high > 0.0 { high } else { 1.0 };
        Self::between(0.0, high, from, to)
    }

    /// Equal steps between two values, widened to whole ones.
    pub fn between(low: f64, high: f64, from: f64, to: f64) -> (Self, Vec<f64>) {
        let rough = ((high - low) / 5.0).max(f64::MIN_POSITIVE);
        let power = 10_f64.powf(rough.log10().floor());
        let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
        let step = factors.iter().map(|f| f * power).find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(rough);
        let (low, high) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        let count = ((high - low) / step).round() as usize;
        let ticks = (0..=count).map(|n| low + n as f64 * step).collect();
        (Self { from, to, low, high, log: false }, ticks)
    }

    /// Equal factors, by decades. Values of 0 and below lie at the low end.
    pub fn log(values: impl IntoIterator<Item = f64>, from: f64, to: f64) -> (Self, Vec<f64>) {
        let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
        for value in values.into_iter().filter(|v| *v > 0.0 && v.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        if high == 0.0 {
            (low, high) = (1.0, 10.0);
        }
        let (first, mut last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        if first == last {
            last += 1;
        }
        let ticks = (first..=last).map(|power| 10_f64.powi(power)).collect();
        (Self { from, to, low: 10_f64.powi(first), high: 10_f64.powi(last), log: true }, ticks)
    }

    /// The place of a value, in pixels, inside of the axis.
    pub fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            let value = value.max(self.low);
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        self.from + (self.to - self.from) * share
    }
}

/// Which way a text goes from its place.
#[derive(Clone, Copy, Debug)]
pub enum Anchor {
    /// To the right.
    Start,
    /// Both ways.
    Middle,
    /// To the left.
    End,
}

/// A picture being drawn.
#[derive(Debug)]
pub struct Picture {
    width: f64,
    height: f64,
    label: String,
    body: String,
}

impl Picture {
    /// An empty one; `label` is read to those who don't see it.
    pub fn new(width: f64, height: f64, label: &str) -> Self {
        Self { width, height, label: escape(label), body: String::new() }
    }

    /// A text.
    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{}</text>",
            escape(text)
        );
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" class=\"{class}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    /// A line through points.
    pub fn path(&mut self, points: &[(f64, f64)], class: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ =
            writeln!(self.body, "<polyline points=\"{}\" class=\"{class}\"/>", points.join(" "));
    }

    /// A dot, which says `title` when pointed at.
    pub fn dot(&mut self, (x, y): (f64, f64), radius: f64, class: &str, title: &str) {
        let _ = writeln!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" class=\"{class}\"><title>{}</title></circle>",
            escape(title)
        );
    }

    /// A bar, which says `title` when pointed at.
    pub fn bar(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        class: &str,
        title: &str,
    ) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" rx=\"2\" class=\"{class}\"><title>{}</title></rect>",
            width.max(0.5),
            escape(title)
        );
    }

    /// The whole.
    pub fn finish(self) -> String {
        format!(
            "<svg viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-label=\"{}\" xmlns=\"http://www.w3.org/2000/svg\">\n{}</svg>\n",
            self.width, self.height, self.label, self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_around_all_values() {
        let (scale, ticks) = Scale::linear([3.0, 870_000.0], 0.0, 100.0);
        assert_eq!(ticks, [0.0, 200_000.0, 400_000.0, 600_000.0, 800_000.0, 1_000_000.0]);
        assert_eq!((scale.at(0.0), scale.at(500_000.0), scale.at(1e9)), (0.0, 50.0, 100.0));
        let (_, ticks) = Scale::linear([], 0.0, 1.0);
        assert!(ticks.len() > 2 && ticks.iter().all(|t| t.is_finite()));
        let (_, ticks) = Scale::between(0.93, 1.21, 0.0, 1.0);
        assert!(ticks.len() < 8 && ticks[0] <= 0.93 && *ticks.last().unwrap() >= 1.21, "{ticks:?}");
    }

    #[test]
    fn decades_enclose_all_values_and_zero_is_at_the_low_end() {
        let (scale, ticks) = Scale::log([12.0, 900.0, 0.0], 0.0, 100.0);
        assert_eq!(ticks, [10.0, 100.0, 1000.0]);
        assert_eq!((scale.at(0.0), scale.at(100.0)), (0.0, 50.0));
        assert_eq!(scale.at(f64::NAN), 0.0);
        let (_, ticks) = Scale::log([10.0], 0.0, 1.0);
        assert_eq!(ticks, [10.0, 100.0]);
    }

    #[test]
    fn no_text_can_leave_its_element() {
        let mut picture = Picture::new(10.0, 10.0, "\"><script>");
        picture.text(0.0, 0.0, Anchor::Start, "t", "</text><script>alert(1)</script>\u{0}");
        picture.dot((0.0, 0.0), 1.0, "d", "</title>");
        let svg = picture.finish();
        assert!(!svg.contains("<script") && !svg.contains('\u{0}'), "{svg}");
        assert_eq!(svg.matches("</title>").count(), 1);
    }
}

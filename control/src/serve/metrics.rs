//! Metrics as Prometheus text (exposition format 0.0.4). Names in base units; one line of help each.

use std::{fmt::Write, sync::atomic::Ordering};

use super::Status;
use crate::{
    receipts::{Latency, Receipts},
    reflect::kube::{Health, KindHealth},
};

pub(super) fn text(status: &Status, receipts: &Receipts, api: Option<&Health>) -> String {
    let mut out = Text(String::new());
    let flag = |on: bool| f64::from(u8::from(on));
    out.gauge(
        "healthy",
        "Whether packets are handled as the objects say",
        flag(status.is_healthy()),
    );
    out.gauge("engine_connected", "Whether an engine is connected", flag(status.connected));
    out.gauge(
        "generation_published",
        "Generation of the tables published last",
        status.published.0 as f64,
    );
    out.gauge(
        "generation_applied",
        "Generation that every worker uses",
        status.acknowledged as f64,
    );
    out.gauge("refused_parts", "Parts of objects that are refused", status.refused as f64);
    out.gauge("refused_rows", "Rows that the tables have no room for", status.refused_rows as f64);
    out.head("objects", "gauge", "Objects in force");
    for (kind, count) in &status.objects {
        out.line("objects", &format!("kind=\"{kind}\""), *count as f64);
    }
    out.latency(
        "propagation",
        "From the first word of an object to its use by every worker",
        receipts.propagation(),
    );
    out.latency(
        "network_programming",
        "From the change that a controller saw to its use by every worker",
        receipts.programming(),
    );
    if let Some(api) = api {
        out.api(api);
    }
    out.0
}

struct Text(String);

/// One counter of a kind: name, help and how to read it.
type Counter = (&'static str, &'static str, fn(&KindHealth) -> u64);

impl Text {
    fn head(&mut self, name: &str, of: &str, help: &str) {
        let _ = writeln!(
            self.0,
            "# HELP millrace_control_{name} {help}.\n# TYPE millrace_control_{name} {of}"
        );
    }

    fn line(&mut self, name: &str, labels: &str, value: f64) {
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        let _ = writeln!(self.0, "millrace_control_{name}{open}{labels}{close} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, "gauge", help);
        self.line(name, "", value);
    }

    /// A histogram since the start, and quantiles of the latest changes, which need no estimating.
    fn latency(&mut self, name: &str, help: &str, latency: &Latency) {
        let (count, sum) = latency.total();
        let histogram = format!("{name}_seconds");
        self.head(&histogram, "histogram", help);
        for (bound, below) in latency.cumulative() {
            self.line(&format!("{histogram}_bucket"), &format!("le=\"{bound}\""), below as f64);
        }
        self.line(&format!("{histogram}_bucket"), "le=\"+Inf\"", count as f64);
        self.line(&format!("{histogram}_sum"), "", sum.as_secs_f64());
        self.line(&format!("{histogram}_count"), "", count as f64);
        let recent = format!("{name}_recent_seconds");
        self.head(&recent, "gauge", &format!("{help}: quantiles of the latest 1024"));
        for share in [0.5, 0.9, 0.99] {
            if let Some(value) = latency.quantile(share) {
                self.line(&recent, &format!("quantile=\"{share}\""), value.as_secs_f64());
            }
        }
    }

    fn api(&mut self, api: &Health) {
        let counters: [Counter; 5] = [
            ("lists_total", "Complete lists", |kind| kind.lists.load(Ordering::Relaxed)),
            ("watches_total", "Watches begun", |kind| kind.watches.load(Ordering::Relaxed)),
            ("heard_total", "Objects heard of", |kind| kind.objects.load(Ordering::Relaxed)),
            ("stale_total", "Words passed over because they came late", |kind| {
                kind.stale.load(Ordering::Relaxed)
            }),
            ("faults_total", "Requests that failed, and watches that broke", |kind| {
                kind.faults.load(Ordering::Relaxed)
            }),
        ];
        for (name, help, read) in counters {
            let name = format!("api_{name}");
            self.head(&name, "counter", help);
            for (kind, health) in api.kinds() {
                self.line(&name, &format!("kind=\"{kind}\""), read(health) as f64);
            }
        }
        self.head("api_silence_seconds", "gauge", "Since anything was heard, bookmarks included");
        for (kind, health) in api.kinds() {
            let silence = api.silence(health).as_secs_f64();
            self.line("api_silence_seconds", &format!("kind=\"{kind}\""), silence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_comment_or_a_name_with_a_number_and_no_name_has_two_heads() {
        let api = Health::new([crate::Kind::Service].into_iter());
        let mut status = Status::default();
        status.objects.insert("Service", 3);
        let text = text(&status, &Receipts::default(), Some(&api));
        let mut heads = std::collections::BTreeSet::new();
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# TYPE ") {
                assert!(heads.insert(head.to_owned()), "{line}");
            } else if !line.starts_with("# HELP ") {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(name.starts_with("millrace_control_"), "{line}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        assert!(text.contains("millrace_control_objects{kind=\"Service\"} 3\n"));
        assert!(text.contains("millrace_control_propagation_seconds_bucket{le=\"+Inf\"} 0\n"));
        assert!(text.contains("millrace_control_api_faults_total{kind=\"Service\"} 0\n"));
    }
}

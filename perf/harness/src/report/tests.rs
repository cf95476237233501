//! The page as text; `tests/browser.rs` looks at it in a browser.

use super::*;
use crate::results::tests::certificate;
use crate::results::{Calibration, LatencyAt, Percentiles, Trial};

/// Two devices, two frame sizes, three rounds, everything measured.
fn full() -> Certificate {
    let mut whole = certificate(&[1.0e6, 1.1e6, 1.05e6]);
    let mut second = whole.devices[0].clone();
    second.name = "a <b>bold</b> & \"quoted\" device with a long name".into();
    whole.devices.push(second);
    for device in &mut whole.devices {
        let mut large = device.points[0].clone();
        large.frame = 1518;
        for round in device.points[0].rounds.iter_mut().chain(&mut large.rounds) {
            for (n, share) in [0.1, 0.5, 0.9].into_iter().enumerate() {
                let base = 10_000 << n;
                let percentiles = Percentiles {
                    count: 1000,
                    min_ns: base / 2,
                    mean_ns: base as f64,
                    p50_ns: base,
                    p90_ns: base * 2,
                    p99_ns: base * 4,
                    p99_9_ns: base * 9,
                    p99_99_ns: base * 40,
                    max_ns: base * 90,
                };
                round.latency.push(LatencyAt {
                    of: "NDR".into(),
                    share,
                    rate: 1e6 * share,
                    loss_ratio: 0.0,
                    percentiles: Some(percentiles),
                });
            }
            for load in [0.5e6, 0.9e6, 1.0e6, 1.2e6, 4e6] {
                let received = (load as u64).min(1_000_000);
                round.trials.push(Trial { load, duration: 1.0, sent: load as u64, received });
            }
            round.mrr = vec![0.9e6, 1.0e6];
        }
        device.points.push(large);
    }
    whole.calibration.push(Calibration { frame: 64, limit: 1.6e6, trials: vec![1.6e6] });
    whole.warnings.push("</p><script>alert(1)</script>".into());
    whole
}

#[test]
fn every_picture_is_there_and_nothing_is_loaded_or_run() {
    let page = html(&[full()], None).unwrap();
    for heading in [
        "NDR by frame size",
        "MRR by frame size",
        "Rates, 64-byte frames",
        "Rates, 1518-byte frames",
        "Beside bare",
        "Latency at 10 % load, 64-byte frames",
        "Latency at 90 % load, 1518-byte frames",
        "Loss by load, 64-byte frames",
    ] {
        assert!(page.contains(&format!("<h2>{heading}</h2>")), "{heading}");
    }
    assert_eq!(page.matches("<svg").count(), 13);
    assert!(page.contains("generator alone"));
    for word in ["NaN", "inf", "<script", "<b>bold", "src=", "url(", "@import"] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(page.contains("&lt;b&gt;bold&lt;/b&gt; &amp; &quot;quoted&quot;"));
    assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org/2000/svg").count());
}

#[test]
fn an_empty_result_makes_a_page_without_pictures() {
    let mut empty = full();
    empty.devices.clear();
    empty.complete = false;
    let page = html(&[empty], None).unwrap();
    assert!(!page.contains("<svg") && page.contains("Interrupted"));
    assert!(html(&[], None).unwrap().contains("no results"));
}

#[test]
fn of_two_results_the_second_is_compared_and_unlike_machines_are_named() {
    let (a, mut b) = (full(), full());
    assert!(html(&[a.clone(), b.clone()], None).unwrap().contains("Mann-Whitney"));
    b.fingerprint.kernel = "5.10".into();
    let page = html(&[a, b], None).unwrap();
    assert!(page.contains("Not comparable") && page.contains("<li>kernel: "), "{page}");
}

#[test]
fn the_generator_s_limit_is_marked() {
    let mut near = full();
    near.devices[0].points[0].rounds[0].bounds[0].limit = crate::results::Limit::Generator;
    let page = html(&[near], None).unwrap();
    assert!(page.contains("NDR ≥ 1.05 Mpps") && page.contains("its own limit is not known"));
}

#[test]
fn dates_and_base64_are_right() {
    assert_eq!(date(0), "1970-01-01 00:00 UTC");
    assert_eq!(date(951_782_400), "2000-02-29 00:00 UTC");
    assert_eq!(date(1_795_292_460), "2026-11-21 20:21 UTC");
    for (text, coded) in
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
    {
        assert_eq!(base64(text.as_bytes()), coded);
    }
}

/// A row of connections or sessions says of which round it is, and one that has no figures why.
#[test]
fn rows_of_rounds_are_told_apart() {
    let text = include_str!("../../tests/data/stateful.json");
    let page = html(&[crate::results::Certificate::parse(text).unwrap()], None).unwrap();
    for row in [
        "<td>iptables</td><td class=\"n\">1</td><td>TCP</td>",
        "<td>iptables</td><td class=\"n\">2</td><td>TCP</td>",
        "<td>millrace</td><td class=\"n\">2</td><td class=\"n\">64 B</td><td class=\"n\">64 k</td>",
    ] {
        assert!(page.contains(row), "{row}");
    }
    assert!(page.contains("<td colspan=\"3\">the ramp was not complete after 4 passes"));
}

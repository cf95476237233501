//! Runs that end before their time, and interfaces that go away under them.

use super::*;

#[test]
fn a_signal_ends_a_run_with_its_whole_report() {
    if !privileged() {
        return;
    }
    let _cpus = beside();
    let wire = Wire::new();
    let mut arguments = vec!["run".to_owned()];
    arguments.extend(wire.both());
    let rest = "--src 10.0.0.1 --dst 10.0.0.2 --dst-mac 02:00:00:00:00:09 --rate 2kpps --duration 60s --json-lines";
    arguments.extend(rest.split_whitespace().map(str::to_owned));
    let mut child = start(&arguments);
    // The first line is the first second's.
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert!(number(&first, "/second/asked") > 0);
    signal(&child);
    let last = lines.map(Result::unwrap).last().unwrap();
    assert!(child.wait().unwrap().success());
    let report = serde_json::from_str::<Value>(&last).unwrap()["report"].take();
    schema::check(&report);
    assert_eq!(report["ended"], "interrupted");
    assert_all_arrived(&report);
    assert!(number(&report, "/total/asked") < 100_000);
}

/// Takes away the sending interface in the middle of a run, as `ip link WORDS` does it; the exit status and the report.
fn disturbed(wire: &Wire, duration: &str, words: &[&str]) -> (Option<i32>, Value) {
    let mut arguments = vec!["run".to_owned()];
    arguments.extend(wire.both());
    let rest = "--src 10.0.0.1 --dst 10.0.0.2 --dst-mac 02:00:00:00:00:09 --rate 2kpps --json-lines --duration";
    arguments.extend(rest.split_whitespace().chain([duration]).map(str::to_owned));
    let mut child = start(&arguments);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert!(number(&first, "/second/asked") > 0);
    netns::ip(&[&["-n", wire.left.name(), "link"], words].concat()).unwrap();
    let last = lines.map(Result::unwrap).last().unwrap();
    let status = child.wait().unwrap().code();
    let report = serde_json::from_str::<Value>(&last).unwrap()["report"].take();
    schema::check(&report);
    assert!(number(&report, "/total/received") > 0);
    (status, report)
}

#[test]
fn an_interface_that_is_gone_ends_the_run_with_what_was_counted_and_why() {
    if !privileged() {
        return;
    }
    let _cpus = beside();
    let wire = Wire::new();
    let began = std::time::Instant::now();
    let (status, report) = disturbed(&wire, "60s", &["del", "l0"]);
    assert!(status == Some(1) && began.elapsed() < Duration::from_secs(30));
    assert_eq!(report["ended"], "failed");
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("ended early: No such device"), "{warnings}");
}

/// A link that is down is an outage: the run goes on, and what the kernel has kept for good keeps it from no end.
#[test]
fn an_interface_that_goes_down_is_no_loss_and_no_hang() {
    if !privileged() {
        return;
    }
    let _cpus = beside();
    let wire = Wire::new();
    let began = std::time::Instant::now();
    let (status, report) = disturbed(&wire, "3s", &["set", "l0", "down"]);
    assert!(status == Some(0) && began.elapsed() < Duration::from_secs(30));
    let total = &report["total"];
    assert_eq!(report["ended"], "duration", "{total}");
    // What the kernel had completed may have been on its way through the veth, a ring at most; not what it never took.
    assert!(number(total, "/lost") <= 64, "{total}");
    assert!(number(total, "/queued") > number(total, "/completed") + 64, "{total}");
    assert!(report["warnings"].to_string().contains("never completed"), "{}", report["warnings"]);
}

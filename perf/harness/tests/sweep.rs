//! A small sweep on veth, from the command to its report and plot.

use std::process::Command;

#[test]
fn a_small_matrix_is_measured_on_veth() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("MILLRACE_PRIVILEGED").is_none(), "this is not root");
        eprintln!("SKIP sweep: network namespaces and AF_XDP need root");
        return;
    }
    let html = std::env::temp_dir().join(format!("millrace-sweep-{}.html", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-harness"));
    command.args(["sweep", "--ring", "512,2048", "--burst", "64", "--busy-poll", "off,on"]);
    command.args(["--need-wakeup", "on", "--rounds", "1", "--seconds", "0.4", "--warm-up", "0.1"]);
    command.args(["--rate", "100000", "--json", "--html"]).arg(&html);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "millrace-sweep/1");
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    for row in rows {
        assert_eq!(row["failed"], serde_json::Value::Null, "{row}");
        assert!(row["pps"]["median"].as_f64().unwrap() > 0.0, "{row}");
    }
    // One round is no ground for advice.
    assert!(report["advice"]["keep"].is_object(), "{}", report["advice"]);
    let page = std::fs::read_to_string(&html).unwrap();
    std::fs::remove_file(&html).unwrap();
    assert_eq!(page.matches("<rect").count(), 4);
    let namespaces = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let left = String::from_utf8_lossy(&namespaces.stdout).into_owned();
    let pid = format!("millrace-perf-{}-", output_pid(&report));
    assert!(!left.contains(&pid), "{left}");
}

/// The process that made namespaces named them with its number.
fn output_pid(report: &serde_json::Value) -> u64 {
    report["process"].as_u64().unwrap()
}

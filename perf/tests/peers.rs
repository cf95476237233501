//! `peers --veth` on a device whose answers get lost: it has no row. Needs root, nft, and the programs beside this one.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PERF: &str = env!("CARGO_BIN_EXE_millrace-perf");

fn ip(words: &str) -> (bool, String) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_device_whose_answers_do_not_come_back_has_no_row() {
    let tools = ["nft", "ethtool", "iptables-legacy-restore"];
    let missing = tools.iter().find(|tool| Command::new(tool).arg("-V").output().is_err());
    if !rustix::process::geteuid().is_root() || missing.is_some() {
        assert!(std::env::var_os("MILLRACE_PRIVILEGED").is_none(), "needs root and {tools:?}");
        eprintln!("skipped: needs root and {tools:?}");
        return;
    }
    let mut command = Command::new(PERF);
    command.args([
        "peers",
        "--veth",
        "--device",
        "nftables,linux",
        "--services",
        "10",
        "--rounds",
        "1",
    ]);
    command
        .args(["--seconds", "0.2", "--no-ndr", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let dut = format!("millrace-perf-{}-nftables-10-dut", child.id());
    // Once it is set up: what its clients' addresses lead to is gone.
    let deadline = Instant::now() + Duration::from_secs(30);
    while !ip(&format!("-n {dut} route show")).1.contains("10.64.0.0/10") {
        assert!(Instant::now() < deadline, "it was not set up");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(ip(&format!("-n {dut} route replace blackhole 10.200.0.0/16")).0);
    let _ = ip(&format!("-n {dut} route del 10.200.0.0/16 via 10.0.1.2"));
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("not established"), "{said}");
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = |name: &str| {
        let rows = rows.as_array().unwrap();
        rows.iter().find(|row| row["device"].as_str().unwrap().starts_with(name)).unwrap().clone()
    };
    assert!(row("nftables")["refused"].as_str().unwrap().contains("answers came back"));
    assert!(row("nftables").get("mpps").is_none());
    // The others go on, and have no ratios without ours.
    assert!(row("Linux")["mpps"]["median"].as_f64().unwrap() > 0.0);
    assert!(row("Linux").get("ours_over").is_none());
    assert!(!ip("netns list").1.contains(&dut));
}

//! What the command says: the bench's figures, and what is asked wrongly.

use super::*;
use std::fmt::Write as _;

#[test]
fn the_bench_compares_the_loops_pair_by_pair() {
    if !privileged() {
        return;
    }
    let _cpus = alone();
    let wire = Wire::new();
    let mut command = Command::new(PKTGEN);
    command.args(["bench", "--tx", "l0:2", "--netns-tx", wire.left.name(), "--json"]);
    let output = command.args(["--rounds", "2", "--round", "50ms"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    for name in ["bare_pps", "generator_pps", "all_queues_pps"] {
        let rounds = figures[name].as_array().unwrap();
        assert!(
            rounds.len() == 2 && rounds.iter().all(|r| r.as_f64().unwrap() > 0.0),
            "{figures:#}"
        );
    }
    assert!(figures["ratio"]["min"].as_f64() <= figures["ratio"]["max"].as_f64());
    assert!(figures["queues_ratio"]["median"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_is_asked_wrongly_is_said_before_anything_is_sent() {
    let cases = [
        ("run", "stream: there is none"),
        ("run --src 10.0.0.1 --dst 10.0.0.2", "no interface is named"),
        ("run --src 10.0.0.1 --dst fd00::1 --tx l0", "stream[0].dst"),
        ("run --src 10.0.0.1 --dst 10.0.0.2 --tx l0 --netns-tx millrace-none", "millrace-none"),
        ("run --profile /nowhere.toml", "/nowhere.toml"),
        ("replay /nowhere.pcap --tx l0", "/nowhere.pcap"),
        ("tcp --tx l0 --address 10.0.0.1/24 --server 10.0.9.1:80", "--gateway"),
        ("tcp --tx l0 --address fd00::1/64 --server 10.0.9.1:80", "--address"),
        ("udp --tx l0 --address 10.0.0.1/24 --server 10.0.0.9:53 --request 0", "--request: 0"),
        (
            "udp --tx l0 --address 10.0.0.1/24 --server 10.0.0.9:53 --request 2000",
            "--request: 2000",
        ),
        ("tcp --tx l0 --address 10.0.0.9/24 --server 10.0.0.9:53", "--address: it is the server's"),
        (
            "tcp --tx l0 --address 10.0.0.1/24 --server 10.0.0.9:80 --cpu 1024",
            "--cpu: there is no CPU 1024",
        ),
        ("sink --rx millrace-none", "millrace-none"),
        ("bench --tx millrace-none", "millrace-none"),
        ("bench --tx millrace-none --rounds 0", "--rounds"),
        ("bench --tx millrace-none --size 20", "--size: 20"),
        ("sink --rx millrace-none --cpus-rx 4096", "rx.cpus: there is no CPU 4096"),
        ("run --src 10.0.0.1 --dst 10.0.0.2 --tx l0 --output /nowhere/report", "/nowhere/report"),
        ("run --size 128 --tx l0", "stream[0].src: it is needed (--src)"),
    ];
    for (command, expected) in cases {
        let output = Command::new(PKTGEN).args(command.split_whitespace()).output().unwrap();
        let mut said = String::new();
        let _infallible = write!(said, "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && output.stdout.is_empty(), "{command}");
        assert!(
            said.starts_with("millrace-pktgen: ") && said.contains(expected),
            "{command}: {said}"
        );
    }
}

//! The fuzz target `wire` without a fuzzer: its corpus, and a fixed number of mutated inputs (see `dataplane/fuzz/README.md`).

#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[path = "../../fuzz/src/wire.rs"]
mod wire;

use millrace_wire::Protocol;
use std::collections::BTreeSet;
use std::path::Path;

fn corpus() -> Vec<replay::Input> {
    replay::corpus(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/wire"))
}

/// What must be reached, or the inputs test less than they seem to.
const REACHED: [Protocol; 6] =
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6, Protocol::ESP];

#[test]
fn the_corpus_holds_and_reaches_every_protocol() {
    let reached: BTreeSet<_> =
        corpus().iter().filter_map(|(_, bytes)| wire::check(bytes)).collect();
    assert!(REACHED.iter().all(|protocol| reached.contains(protocol)), "{reached:?}");
}

#[test]
fn hostile_frames_lead_to_no_transport_header() {
    // Of these the headers are whole; it is for the pipeline to refuse them.
    let whole = [
        "hostile-ipv6-routing-segments-left",
        "hostile-ipv4-option-length-zero",
        "hostile-sctp-chunk-length-zero",
        "hostile-nd-option-length-zero",
    ];
    for (name, bytes) in corpus().iter().filter(|(name, _)| name.starts_with("hostile-")) {
        assert_eq!(wire::check(bytes).is_some(), whole.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn mutated_frames_hold_and_reach_every_protocol() {
    let mut reached = BTreeSet::new();
    replay::mutations(&corpus(), 0x6d69_6c6c, 200_000, |bytes| reached.extend(wire::check(bytes)));
    assert!(REACHED.iter().all(|protocol| reached.contains(protocol)), "{reached:?}");
}

#[test]
fn random_bytes_hold() {
    let nothing = [
        ("nothing".into(), Vec::new()),
        ("zeros".into(), vec![0; 64]),
        ("ones".into(), vec![0xff; 64]),
    ];
    replay::mutations(&nothing, 0x7261_6365, 100_000, |bytes| {
        wire::check(bytes);
    });
}

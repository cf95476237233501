//! The fuzz target `forward` without a fuzzer: its corpus, and a fixed number of mutated inputs (see `dataplane/fuzz/README.md`).

#[path = "../fuzz/src/forward.rs"]
mod forward;
#[path = "path/packets.rs"]
#[allow(dead_code)]
mod packets;
#[path = "../fuzz/src/replay.rs"]
mod replay;

use packets::{Ip, Link, arp, between, nd, on};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const CLIENT: [u8; 6] = [2, 0, 0, 0, 1, 0x12];
const BACKEND: [u8; 6] = [2, 0, 0, 0, 1, 0x22];
const UP: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
const DOWN: [u8; 6] = [2, 0, 0, 0, 0, 0x20];
const VIP: &str = "172.30.0.41";
const VIP6: &str = "fd00:30::41";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/forward")
}

/// A frame from the client (0) or the backend (1), `later` as the target counts it.
fn frame(from: u8, later: u8, bytes: &[u8]) -> Vec<u8> {
    let len = (bytes.len() as u16).to_le_bytes();
    [&[from | later << 4, len[0], len[1]], bytes].concat()
}

fn up(packet: Vec<u8>) -> Vec<u8> {
    frame(0, 2, &on(&Link::new(CLIENT, UP), packet))
}

fn down(packet: Vec<u8>) -> Vec<u8> {
    frame(1, 2, &on(&Link::new(BACKEND, DOWN), packet))
}

/// Conversations, named after what they are.
fn conversations() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let to_vip = || between("10.0.1.2", VIP);
    let to_vip6 = || between("2001:db8:1::2", VIP6);
    let back = || between("10.0.2.10", "10.0.1.2");
    let back6 = || between("2001:db8:2::10", "2001:db8:1::2");
    let answer = |ip: Ip| ip.tcp(8080, 4000, |h| (h.syn, h.ack) = (true, true), b"");
    let quoted = between("10.0.1.2", "10.0.2.10").udp(4000, 8080, b"question");
    let mut first = between("10.0.1.2", "10.0.2.10");
    first.fragment = Some((0, true));
    let mut second = between("10.0.1.2", "10.0.2.10");
    second.fragment = Some((64, false));
    let mut options = to_vip();
    options.options = vec![7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut chain = to_vip6();
    chain.extensions = vec![
        (0, vec![0, 0, 5, 2, 0, 0, 1, 0]),
        (60, vec![0, 0, 1, 4, 0, 0, 0, 0]),
        (44, vec![0, 0, 0, 0, 1, 2, 3, 4]),
    ];
    let everyone = Link::new(CLIENT, [0xff; 6]);
    let group = Link::new(CLIENT, [0x33, 0x33, 0xff, 0, 0, 1]);
    vec![
        (
            "tcp",
            vec![
                up(to_vip().syn(4000, 80)),
                down(answer(back())),
                up(to_vip().tcp(4000, 80, |h| h.ack = true, b"GET /")),
                down(back().tcp(8080, 4000, |h| (h.ack, h.fin) = (true, true), b"200")),
                up(to_vip().tcp(4000, 80, |h| h.rst = true, b"")),
            ],
        ),
        ("tcp-ipv6", vec![up(to_vip6().syn(4000, 80)), down(answer(back6()))]),
        (
            "udp-and-its-error",
            vec![
                up(to_vip().udp(4000, 53, b"question")),
                down(back().udp(8080, 4000, b"answer")),
                down(back().icmp(3, 3, 0, &quoted)),
            ],
        ),
        ("sctp", vec![up(to_vip().sctp(4000, 9, &[1, 0, 0, 8, 1, 2, 3, 4]))]),
        (
            "no-endpoints",
            vec![
                up(between("10.0.1.2", "172.30.0.42").syn(4000, 80)),
                up(between("10.0.1.2", "172.30.0.42").udp(4000, 53, b"x")),
            ],
        ),
        (
            "routed",
            vec![
                up(between("10.0.1.2", "10.0.2.10").udp(1, 2, b"x")),
                down(between("10.0.2.10", "198.51.100.7").udp(2, 1, b"x")),
                up(between("10.0.1.2", "10.0.2.10").ttl(1).udp(1, 2, b"")),
                up(between("10.0.1.2", "192.0.2.1").udp(1, 2, b"")),
                up(between("10.0.1.2", "203.0.113.1").udp(1, 2, b"")),
            ],
        ),
        (
            "nobody-known",
            vec![
                up(between("10.0.1.2", "10.0.2.77").udp(1, 2, b"x")),
                frame(
                    1,
                    2,
                    &arp(
                        &Link::new([2, 0, 0, 0, 1, 77], DOWN),
                        2,
                        ([2, 0, 0, 0, 1, 77], "10.0.2.77"),
                        (DOWN, "10.0.2.1"),
                    ),
                ),
            ],
        ),
        (
            "ping-us",
            vec![
                up(between("10.0.1.2", "10.0.1.1").icmp(8, 0, 7, b"ping")),
                up(between("2001:db8:1::2", "2001:db8:1::1").icmp(128, 0, 7, b"ping")),
                up(between("10.0.1.2", "10.0.1.1").syn(1, 2)),
            ],
        ),
        ("arp", vec![frame(0, 0, &arp(&everyone, 1, (CLIENT, "10.0.1.2"), ([0; 6], "10.0.1.1")))]),
        (
            "nd",
            vec![frame(
                0,
                0,
                &on(
                    &group,
                    nd(
                        "2001:db8:1::2",
                        "ff02::1:ff00:1",
                        135,
                        0,
                        "2001:db8:1::1",
                        Some((1, CLIENT)),
                    ),
                ),
            )],
        ),
        ("fragments", vec![up(first.udp(1, 2, &[0; 56])), up(second.packet(17, &[0; 32]))]),
        ("too-big", vec![up(between("10.0.1.2", "10.0.2.10").udp(1, 2, &[0; 1430]))]),
        ("options", vec![up(options.syn(4000, 80))]),
        ("extensions", vec![up(chain.syn(4000, 80))]),
        (
            "tags",
            vec![frame(0, 0, &on(&Link::new(CLIENT, UP).tagged(&[7, 8]), to_vip().syn(4000, 80)))],
        ),
    ]
}

/// Rewrites the corpus: `cargo test -p millrace-dataplane --test any_bytes -- --ignored write_the_corpus`.
#[test]
#[ignore = "writes files: after a change of the conversations above"]
fn write_the_corpus() {
    std::fs::create_dir_all(folder()).unwrap();
    for (name, frames) in conversations() {
        std::fs::write(folder().join(name), frames.concat()).unwrap();
    }
}

#[test]
fn the_corpus_reaches_every_kind_of_verdict() {
    let mut reached = BTreeSet::new();
    for (name, frames) in conversations() {
        let bytes = std::fs::read(folder().join(name)).unwrap();
        assert_eq!(bytes, frames.concat(), "{name}: see write_the_corpus");
        reached.extend(forward::check(&bytes));
    }
    println!("{reached:?}");
    for kind in ["transmit", "hold"] {
        assert!(reached.contains(kind), "{kind} is not among {reached:?}");
    }
    assert!(reached.len() >= 12, "{reached:?}");
}

#[test]
fn mutated_conversations_get_verdicts() {
    let corpus = replay::corpus(&folder());
    let mut reached = BTreeSet::new();
    replay::mutations(&corpus, 0x666f_7277, 10_000, |bytes| reached.extend(forward::check(bytes)));
    assert!(reached.len() >= 25, "{reached:?}");
}

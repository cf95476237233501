//! What a profile may say, and that every error names its key.

use super::*;

fn build(text: &str) -> Result<Plan, ProfileError> {
    Plan::build(Plan::parse(text)?, &Load::default())
}

const STREAM: &str = "[[stream]]\nsrc = \"10.0.0.1\"\ndst = \"10.0.1.1\"\n";

#[test]
fn every_error_names_its_key() {
    let cases = [
        ("rate = \"fast\"", "rate: "),
        ("rate = 5", "rate: "),
        ("speed = 5", "speed: unknown field"),
        ("duration = \"soon\"", "duration: "),
        ("duration = \"1s\"\ncount = \"5\"", "count: "),
        ("burst = 0", "burst: "),
        ("rate = \"1kpps\"\n[ramp]\nfrom = \"1gbps\"\nover = \"1s\"", "ramp.from: "),
        ("[ramp]\nfrom = \"1kpps\"", "ramp: missing field `over`"),
        ("[tx]\naddresses = [\"10.0.0.1/33\"]", "tx.addresses: "),
        ("[tx]\nmac = \"zz\"", "tx.mac: "),
        ("[tx]\ngateway = \"fd00::1\"", "tx.gateway: "),
        ("[rx]\nqueues = 0", "rx.queues: "),
        ("[rx]\nline_rate = \"5kpps\"", "rx.line_rate: "),
        ("[receive]\nverify = 1", "receive.verify: "),
        ("[[stream]]\ndst = \"10.0.0.1\"", "stream[0].src: it is needed"),
        ("[[stream]]\nsrc = \"10.0.0.1\"\ndst = \"fd00::1\"", "stream[0].dst: "),
        ("[[stream]]\nsrc = \"10.0.0.1-fd00::1\"\ndst = \"fd00::1\"", "stream[0].src: "),
        ("[[stream]]\nsrc = \"10.0.0.9-10.0.0.1\"\ndst = \"10.0.0.1\"", "stream[0].src: "),
    ];
    for (text, expected) in cases {
        let with_stream =
            if text.contains("[[stream]]") { text.to_owned() } else { format!("{text}\n{STREAM}") };
        let error = build(&with_stream).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}: {error}");
    }
    let of_stream = [
        ("protocol = \"gre\"", "protocol"),
        ("src_port = 65536", "src_port"),
        ("src_port = \"5-x\"", "src_port"),
        ("src_port = { range = \"1-5\", setp = 1 }", "src_port.setp"),
        ("src_port = { range = \"1-5\", step = 0 }", "src_port.step"),
        ("src_port = { random = \"1-5\", step = 2 }", "src_port.step"),
        ("src_port = { list = [1, 2], every = 2 }", "src_port.every"),
        ("src_port = { sequence = [] }", "src_port.sequence"),
        ("src_port = { }", "src_port"),
        ("src_port = true", "src_port"),
        ("size = 63", "size"),
        ("size = 3841", "size"),
        ("size = { imix = [[64]] }", "size.imix"),
        ("protocol = \"tcp\"\nsize = 64", "size"),
        ("vlan = 4095", "vlan"),
        ("vlan = [1, 2, 3]", "vlan"),
        ("vlan = { id = 1, prio = 2 }", "vlan.prio"),
        ("dscp = 64", "dscp"),
        ("ttl = 256", "ttl"),
        ("weight = 0", "weight"),
        ("flags = \"sny\"", "flags"),
        ("payload = \"hex:0\"", "payload"),
        ("dst_mac = \"2:0\"", "dst_mac"),
        ("colour = 1", "colour"),
        ("[stream.vxlan]\nvni = 16777216\nsrc = \"10.0.0.1\"\ndst = \"10.0.0.2\"", "vxlan.vni"),
        ("[stream.vxlan]\nvni = 1\nsrc = \"10.0.0.1\"\ndst = \"fd00::2\"", "vxlan.dst"),
    ];
    for (line, key) in of_stream {
        let error = build(&format!("{STREAM}{STREAM}{line}\n")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("stream[1].{key}: ")), "{line}: {error}");
    }
    assert_eq!(build("").unwrap_err().key, "stream");
    // What isn't TOML has no key, but a line.
    for (text, line) in [("rate = \n", "line 1: "), ("seed = 1\n\nrate\n", "line 3: ")] {
        let error = build(text).unwrap_err().to_string();
        assert!(error.starts_with(line), "{error}");
    }
}

#[test]
fn the_least_size_says_what_it_would_be() {
    let error = build("[[stream]]\nsrc = \"fd00::1\"\ndst = \"fd00::2\"").unwrap_err().to_string();
    assert!(error.contains("64") && error.contains("84"), "{error}");
    assert!(build("[[stream]]\nsrc = \"fd00::1\"\ndst = \"fd00::2\"\nsize = 84").is_ok());
    assert!(build("[[stream]]\nsrc = \"10.0.0.1\"\ndst = \"10.0.0.2\"\nprotocol = \"tcp\"\nsignature = false").is_ok());
}

#[test]
fn the_command_line_is_over_the_file() {
    let raw =
        Plan::parse(&format!("rate = \"5kpps\"\nduration = \"1s\"\nseed = 3\n{STREAM}")).unwrap();
    let load = Load {
        rate: Some(Rate::Max),
        count: Some(7),
        seed: Some(9),
        drain: Some(Duration::ZERO),
        duration: None,
    };
    let plan = Plan::build(raw, &load).unwrap();
    assert_eq!((plan.rate, plan.length, plan.seed), (Rate::Max, Length::Packets(7), 9));
    assert_eq!(plan.drain, Duration::ZERO);
}

#[test]
fn a_stream_s_options_are_every_stream_s_of_the_file() {
    use crate::cli::{Ends, StreamArgs};
    let mut raw = Plan::parse(&format!("{STREAM}weight = 3\n{STREAM}size = 128")).unwrap();
    let given = StreamArgs {
        size: Some("256".into()),
        vlan: vec![7],
        dst_mac: Some("02:00:00:00:00:09".into()),
        ..StreamArgs::default()
    };
    raw.overlay(&Ends::default(), &given);
    let plan = Plan::build(raw, &Load::default()).unwrap();
    assert_eq!(plan.streams.iter().map(|s| s.weight).collect::<Vec<_>>(), [3, 1]);
    for stream in &plan.streams {
        assert_eq!((&stream.size, stream.vlans.len()), (&Spec::Fixed(256), 1));
        assert_eq!(stream.dst_mac, Some(Mac([2, 0, 0, 0, 0, 9])));
    }
    // Without a file they are of one stream, which needs its addresses.
    let mut raw = RawProfile::default();
    raw.overlay(&Ends::default(), &given);
    let error = Plan::build(raw, &Load::default()).unwrap_err();
    assert_eq!((error.key.as_str(), error.why.as_str()), ("stream[0].src", "it is needed (--src)"));
}

#[test]
fn the_mean_size_counts_weights_and_rounding() {
    let text = format!("{STREAM}size = 64\nweight = 3\n{STREAM}size = \"imix\"\nweight = 1");
    let imix = (7.0 * 64.0 + 4.0 * 594.0 + 1518.0) / 12.0;
    assert!((build(&text).unwrap().mean_size() - (3.0 * 64.0 + imix) / 4.0).abs() < 1e-9);
    // 14 + 20 bytes before a packet of SCTP, which is rounded from 62 to 64 bytes.
    let text = format!("{STREAM}protocol = \"sctp\"\nsize = 100");
    assert_eq!(build(&text).unwrap().mean_size(), 102.0);
}

#[test]
fn the_readme_s_profile_is_right() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("```toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let plan = build(text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((plan.streams.len(), plan.tx.port.and_then(|p| p.queues)), (1, Some(2)));
}

#[test]
fn the_profiles_that_come_along_are_right() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/profiles");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        build(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        count += 1;
    }
    assert_eq!(count, 3);
}

//! What a configuration may say, and how it is told that it may not.

use super::*;

const ROUTER: &str = r#"
    mode = "router"
    [workers]
    cpus = [0, 1]
    [[interface]]
    name = "eth0"
    addresses = ["192.0.2.1/24", "2001:db8::1/64"]
    [[interface]]
    name = "eth1"
    addresses = ["198.51.100.1/31"]
    zero_copy = "never"
"#;

#[test]
fn a_router_with_two_interfaces_is_read() {
    let config = Config::parse(ROUTER).unwrap();
    assert_eq!(config.cpus, [0, 1]);
    assert_eq!(config.idle, Idle::Adaptive);
    assert_eq!(config.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!(config.interfaces[0].addresses.len(), 2);
    assert_eq!(config.interfaces[1].driver, Driver::Xsk { zero_copy: ZeroCopy::Never });
    assert!(!config.is_pcap());
}

const PROXY: &str = r#"
    mode = "service-proxy"
    [[interface]]
    name = "eth0"
"#;

#[test]
fn beside_a_kernel_the_trunk_and_the_source_ports_have_usual_values() {
    let config = Config::parse(PROXY).unwrap();
    assert_eq!((config.mode, &config.trunk), (Mode::ServiceProxy, &kernel::Settings::default()));
    assert_eq!((config.snat_ports.nth(0), config.snat_ports.count()), (61_000, 4536));
    let overflow: Vec<_> = config.overflow_ports.unwrap().ranges().collect();
    assert_eq!(overflow, [(1024, 29_999), (32_768, 60_999)]);
    assert_eq!(config.trunk_ports.count(), 61_744);
    let all = format!("{PROXY}\n[snat]\nports = [\"1024-65535\"]");
    assert_eq!(Config::parse(&all).unwrap().overflow_ports, None);
    let trunk = |lines: &str| Config::parse(&format!("{PROXY}\n[trunk]\n{lines}"));
    let other = trunk("name = \"mr0\"\naddresses = [\"10.7.7.1/30\"]\nmark = 0x80").unwrap().trunk;
    assert_eq!((other.name.as_str(), other.addresses.len(), other.mark), ("mr0", 1, 0x80));
    for wrong in [
        "name = \"a\\\"b\"",
        "addresses = []",
        "addresses = [\"10.7.7.1/24\"]",
        "addresses = [\"10.7.7.1/30\", \"10.8.7.1/30\"]",
        "mark = 0",
        "mark = 3",
        "colour = 1",
    ] {
        assert!(trunk(wrong).is_err(), "{wrong}");
    }
    for (text, needle) in [
        (format!("{PROXY}addresses = [\"192.0.2.1/24\"]"), "eth0 addresses"),
        (format!("{PROXY}driver = \"pcap\""), "eth0 driver"),
        (format!("{ROUTER}\n[trunk]\nname = \"x\""), "[trunk]"),
    ] {
        let error = Config::parse(&text).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    }
}

#[test]
fn a_capture_interface_has_a_mac_and_mtu_without_being_told() {
    let text =
        "mode = \"router\"\n[[interface]]\nname = \"a\"\ndriver = \"pcap\"\nread = \"in.pcap\"";
    let config = Config::parse(text).unwrap();
    let Driver::Pcap { mac, mtu, write, .. } = &config.interfaces[0].driver else { panic!() };
    assert_eq!((mac.0, *mtu, write), ([2, 0, 0, 0, 0, 1], 1500, &None));
    assert!(config.is_pcap());
}

#[test]
fn source_ports_are_unprivileged_and_no_node_ports_unless_told() {
    let snat = |lines: &str| Config::parse(&format!("{ROUTER}\n[snat]\n{lines}"));
    assert_eq!(Config::parse(ROUTER).unwrap().snat_ports, Ports::default());
    let few = snat("ports = [\"61000-61009\", \"500\"]\nnode_ports = \"61005-62000\"").unwrap();
    assert_eq!(
        (few.snat_ports.count(), few.snat_ports.nth(0), few.snat_ports.nth(5)),
        (6, 500, 61_004)
    );
    for wrong in [
        "ports = [\"0-9\"]",
        "ports = [\"9-1\"]",
        "ports = [\"1-70000\"]",
        "ports = []",
        "ports = [\"30000\"]",
        "node_ports = \"1-65535\"",
        "node_ports = \"x\"",
    ] {
        let error = snat(wrong).unwrap_err().to_string();
        assert!(error.contains("[snat]"), "{wrong}: {error}");
    }
}

#[test]
fn timeouts_and_the_bound_on_handshakes_are_linux_like_unless_told() {
    let config = Config::parse(ROUTER).unwrap();
    assert_eq!(config.conntrack_timeouts, Timeouts::default());
    assert_eq!(config.conntrack_half_open, 1 << 18);
    let conntrack =
        "[conntrack]\nentries = 4096\nhalf_open = 100\ntimeouts = { udp = 5, tcp_close = 1 }";
    let config = Config::parse(&format!("{ROUTER}\n{conntrack}")).unwrap();
    let wanted = Timeouts { udp: 5, tcp_close: 1, ..Timeouts::default() };
    assert_eq!((config.conntrack_timeouts, config.conntrack_half_open), (wanted, 100));
    for (wrong, named) in [
        ("entries = 4096\nhalf_open = 5000", "half_open"),
        ("timeouts = { udp = 0 }", "udp = 0"),
        ("timeouts = { tcp_established = 99999999 }", "tcp_established"),
        ("timeouts = { upd = 3 }", "upd"),
    ] {
        let error = Config::parse(&format!("{ROUTER}\n[conntrack]\n{wrong}")).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_entry() {
    let cases = [
        ("", "mode"),
        ("mode = \"bridge\"", "\"bridge\""),
        ("mode = \"router\"", "[[interface]]"),
        ("mode = \"router\"\nfoo = 1", "foo"),
        (
            "mode = \"router\"\n[workers]\ncpus = [1, 1]\n[[interface]]\nname = \"a\"",
            "[workers] cpus",
        ),
        ("mode = \"router\"\n[umem]\nchunk = 1024\n[[interface]]\nname = \"a\"", "[umem] chunk"),
        ("mode = \"router\"\n[[interface]]\nname = \"a/b\"", "a/b"),
        ("mode = \"router\"\n[[interface]]\nname = \"a\"\n[[interface]]\nname = \"a\"", "twice"),
        (
            "mode = \"router\"\n[[interface]]\nname = \"a\"\naddresses = [\"10.0.0.1\"]",
            "192.0.2.1/24",
        ),
        (
            "mode = \"router\"\n[[interface]]\nname = \"a\"\naddresses = [\"10.0.0.0/24\"]",
            "network itself",
        ),
        (
            "mode = \"router\"\n[[interface]]\nname = \"a\"\naddresses = [\"010.0.0.1/24\"]",
            "010.0.0.1",
        ),
        (
            "mode = \"router\"\n[[interface]]\nname = \"a\"\naddresses = [\"224.0.0.1/24\"]",
            "224.0.0.1",
        ),
        ("mode = \"router\"\n[[interface]]\nname = \"a\"\nmac = \"02:00:00:00:00:01\"", "pcap"),
        ("mode = \"router\"\n[[interface]]\nname = \"a\"\ndriver = \"dpdk\"", "dpdk"),
        (
            "mode = \"router\"\n[[interface]]\nname = \"a\"\ndriver = \"pcap\"\n[[interface]]\nname = \"b\"",
            "mixed",
        ),
    ];
    for (text, needle) in cases {
        let error = Config::parse(text).unwrap_err().to_string();
        assert!(error.contains(needle), "{text:?} answered {error:?}");
    }
}

//! Streams of every sort, to the other end, to a kernel, through a router, to a reflector; and a responder.

use super::netns::{End, Namespace, veth};
use super::*;
use std::net::UdpSocket;

const EVERYTHING: &str = r#"
name = "everything"
rate = "20kpps"
count = "10k"
max_lag = "1s"

[[stream]]
name = "udp"
src = "10.0.0.1"
dst = "10.0.1.0/28"
size = "imix"
dst_mac = "02:00:00:00:00:09"

[[stream]]
name = "tcp over v6, tagged twice"
protocol = "tcp"
src = "fd00::1"
dst = "random fd01::/64"
size = "random 128-1500"
vlan = [5, 6]
weight = 3
payload = "random"
dst_mac = "02:00:00:00:00:09"

[[stream]]
name = "sctp"
protocol = "sctp"
src = "10.0.0.1"
dst = "10.0.1.1"
size = 100
dst_mac = "02:00:00:00:00:09"

[[stream]]
name = "echo in vxlan"
protocol = "icmp"
src = "10.0.0.1"
dst = "10.0.1.1"
size = 200
dst_mac = "02:00:00:00:00:09"
[stream.vxlan]
vni = 7
src = "192.0.2.1"
dst = "192.0.2.2"
src_port = "random 49152-65535"
"#;

#[test]
fn every_sort_of_packet_arrives_whole_and_once_on_one_queue_and_on_two() {
    if !privileged() {
        return;
    }
    let _cpus = beside();
    let wire = Wire::new();
    let profile = Scratch::new("everything.toml", EVERYTHING);
    let one = report("run", &wire.both(), &format!("--profile {}", profile.text()));
    assert_all_arrived(&one);
    assert_eq!(number(&one, "/total/asked"), 10_000);
    let names: Vec<_> =
        (0..4).map(|i| number(&one, &format!("/streams/{i}/counts/asked"))).collect();
    assert_eq!(names.iter().sum::<u64>(), 10_000);
    assert!(names[1].abs_diff(5_000) < 5 && names[0].abs_diff(1_667) < 5, "{names:?}");
    let mut ends = wire.both();
    ends[1] = "l0:2".into();
    ends[5] = "r0:2".into();
    let two = report("run", &ends, &format!("--profile {}", profile.text()));
    assert_all_arrived(&two);
    assert_eq!(number(&two, "/total/asked"), 10_000);
    assert_eq!(number(&two, "/setup/rx/queues"), 2);
}

const TO_A_KERNEL: &str = r#"
rate = "10kpps"
count = "6k"
max_lag = "2s"
[tx]
addresses = ["10.0.0.1/24", "fd00::1/64"]
[[stream]]
src = "10.0.0.1"
dst = "10.0.0.2"
src_port = "random 1024-65535"
dst_port = 5000
size = "imix"
payload = "random"
[[stream]]
src = "fd00::1"
dst = "fd00::2"
src_port = "1024-65535"
dst_port = 5000
size = "random 84-1518"
[[stream]]
protocol = "icmp"
src = "10.0.0.1"
dst = "10.0.0.2"
size = "64-300"
[[stream]]
protocol = "icmp"
src = "fd00::1"
dst = "fd00::2"
size = "84-300"
[[stream]]
protocol = "tcp"
src = "10.0.0.1"
dst = "10.0.0.2"
size = "80-300"
flags = "rst"
[[stream]]
protocol = "sctp"
src = "10.0.0.1"
dst = "10.0.0.2"
size = "84-300"
"#;

#[test]
fn a_kernel_finds_no_wrong_checksum_and_is_found_without_static_neighbors() {
    if !privileged() {
        return;
    }
    let _cpus = beside();
    let wire = Wire::with_kernel();
    let sockets =
        wire.right.run(|| ["10.0.0.2:5000", "[fd00::2]:5000"].map(|a| UdpSocket::bind(a).unwrap()));
    let profile = Scratch::new("kernel.toml", TO_A_KERNEL);
    let report = report("run", &wire.ends(), &format!("--profile {}", profile.text()));
    assert_eq!(number(&report, "/total/completed"), 6_000, "{report:#}");
    let right = &wire.right;
    // The kernel counts a datagram when it is read.
    for socket in &sockets {
        socket.set_nonblocking(true).unwrap();
        while socket.recv(&mut [0; 2000]).is_ok() {}
    }
    // Some may find a full socket buffer; none may find a wrong checksum.
    let udp = snmp(right, "Udp", "InDatagrams") + snmp(right, "Udp", "RcvbufErrors");
    assert_eq!((udp, snmp(right, "Udp", "InCsumErrors")), (1_000, 0));
    let udp6 = snmp6(right, "Udp6InDatagrams") + snmp6(right, "Udp6RcvbufErrors");
    assert_eq!((udp6, snmp6(right, "Udp6InCsumErrors")), (1_000, 0));
    assert_eq!((snmp(right, "Icmp", "InEchos"), snmp(right, "Icmp", "InCsumErrors")), (1_000, 0));
    assert_eq!((snmp6(right, "Icmp6InEchos"), snmp6(right, "Icmp6InCsumErrors")), (1_000, 0));
    assert_eq!((snmp(right, "Tcp", "InSegs"), snmp(right, "Tcp", "InCsumErrors")), (1_000, 0));
    assert_eq!(snmp(right, "Ip", "InHdrErrors"), 0);
}

#[test]
fn through_a_router_nothing_is_lost_from_the_first_packet_on() {
    if !privileged() {
        return;
    }
    let _cpus = beside();
    let (left, right, router) =
        (Namespace::new("left"), Namespace::new("right"), Namespace::new("router"));
    for (namespace, device, near) in [(&left, "l0", "d0"), (&right, "r0", "d1")] {
        let (a, b) = (End { namespace, device }, End { namespace: &router, device: near });
        veth(&a, &b, 1, 1500);
    }
    router.address("d0", "10.0.0.254/24");
    router.address("d1", "10.0.1.254/24");
    router.sysctl("net/ipv4/ip_forward", "1");
    let ends = ["--tx", "l0", "--netns-tx", left.name(), "--rx", "r0", "--netns-rx", right.name()];
    let report = report(
        "run",
        &ends.map(str::to_owned),
        "--tx-address 10.0.0.1/24 --gateway 10.0.0.254 --rx-address 10.0.1.1/24 --rx-gateway 10.0.1.254 \
         --src 10.0.0.1 --dst 10.0.1.1 --src-port 1000-1099 --rate 5kpps --count 5000",
    );
    assert_all_arrived(&report);
    assert_eq!(snmp(&router, "Ip", "InHdrErrors"), 0);
    assert!(number(&report, "/latency/count") > 0);
}

#[test]
fn what_is_reflected_comes_back_to_where_it_was_sent() {
    if !privileged() {
        return;
    }
    let _cpus = beside();
    let wire = Wire::new();
    let mut listen = vec!["reflect".to_owned(), "--rx".into(), "r0".into(), "--netns-rx".into()];
    listen.extend([wire.right.name().to_owned(), "--address".into(), "10.0.0.2/24".into()]);
    listen.extend(["--duration".into(), "60s".into(), "--json".into()]);
    let reflector = start(&listen);
    let mut ends = wire.ends();
    ends.extend(["--rx", "l0", "--netns-rx", wire.left.name()].map(str::to_owned));
    let rest = "--tx-address 10.0.0.1/24 --src 10.0.0.1 --dst 10.0.0.2 --rate 5kpps --count 2000";
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut arguments = vec!["run".to_owned()];
    arguments.extend(ends.clone());
    arguments.extend(rest.split_whitespace().map(str::to_owned));
    arguments.extend(["--json".to_owned(), "--quiet".to_owned()]);
    // The reflector may not be there yet: nobody answers then, and it is asked again.
    let report = loop {
        let output = start(&arguments).wait_with_output().unwrap();
        if output.status.success() {
            break serde_json::from_slice::<Value>(&output.stdout).unwrap();
        }
        assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&output.stderr));
    };
    schema::check(&report);
    signal(&reflector);
    let reflected = finish(reflector);
    assert_all_arrived(&report);
    assert_eq!(number(&report, "/total/asked"), 2_000);
    assert_eq!(number(&reflected, "/other/reflected"), number(&report, "/total/completed"));
    assert!(number(&reflected, "/other/arp") >= 1);
}

#[test]
fn a_responder_is_there_for_a_kernels_ping() {
    if !privileged() {
        return;
    }
    let _cpus = beside();
    let wire = Wire::new();
    wire.left.address("l0", "10.0.0.1/16");
    wire.left.address("l0", "fd00::1/64");
    let arguments = format!(
        "respond --rx r0:2 --netns-rx {} --address 10.0.0.2/16 --address fd00::2/64 --answer-for 10.0.9.0/24 --duration 60s --json",
        wire.right.name()
    );
    let responder = start(&arguments.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    for target in ["10.0.0.2", "10.0.9.77", "fd00::2"] {
        let ping = || {
            let mut ping = wire.left.command("ping");
            ping.args(["-c", "2", "-i", "0.2", "-W", "2", target])
                .output()
                .unwrap()
                .status
                .success()
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !ping() {
            assert!(Instant::now() < deadline, "{target} doesn't answer");
        }
    }
    // What isn't its own isn't answered for.
    let mut ping = wire.left.command("ping");
    assert!(!ping.args(["-c", "1", "-W", "1", "10.0.0.3"]).output().unwrap().status.success());
    signal(&responder);
    let report = finish(responder);
    assert_eq!(report["ended"], "interrupted");
    assert!(
        number(&report, "/other/echo") >= 6 && number(&report, "/other/arp") >= 2,
        "{report:#}"
    );
    assert!(number(&report, "/other/nd") >= 1, "{report:#}");
}

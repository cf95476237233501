//! Interfaces that were there before, handed over by name: what is measured over them, and that nothing is left changed.

mod bench;

use bench::{HARNESS, is_busy, turn};
use millrace_harness::folder::Folder;
use millrace_harness::programs;
use millrace_harness::results::{Certificate, Limit};
use millrace_harness::topology::{End, Namespace, join};
use std::path::PathBuf;
use std::process::{Command, Output};

/// Three namespaces, wired, with names and MACs that no code here knows.
struct Wired {
    tx: Namespace,
    device: Namespace,
    rx: Namespace,
    folder: Folder,
}

impl Wired {
    fn new(role: &str) -> Self {
        let namespace = |end: &str| Namespace::create(&format!("{role}-{end}")).unwrap();
        let folder = Folder::create(role).unwrap();
        let it = Self { tx: namespace("a"), device: namespace("b"), rx: namespace("c"), folder };
        let end = |namespace, name, mac| End { namespace, name, mac };
        let (tx, left) = (
            end(&it.tx, "load", "02:17:00:00:00:0a"),
            end(&it.device, "left", "02:17:00:00:00:0b"),
        );
        join(tx, left, 1).unwrap();
        let (right, rx) = (
            end(&it.device, "right", "02:17:00:00:00:0c"),
            end(&it.rx, "host", "02:17:00:00:00:0d"),
        );
        join(right, rx, 1).unwrap();
        it
    }

    fn scenario(&self, devices: &str) -> PathBuf {
        let file = self.folder.path().join("scenario.toml");
        let (tx, device, rx) = (self.tx.name(), self.device.name(), self.rx.name());
        let text = format!(
            r#"name = "named"
rounds = 2
[topology]
kind = "nics"
tx = "load"
device_in = "left"
device_out = "right"
rx = "host"
netns_tx = "{tx}"
netns_device = "{device}"
netns_rx = "{rx}"
[measure]
duration_sum = "200ms"
initial_trial = "200ms"
final_trial = "200ms"
width = 0.2
[stateful]
protocols = ["tcp"]
sessions = [1000]
ramp = "20kpps"
rate = "5kpps"
sustain = "300ms"
{devices}"#
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    /// All that a measurement may change, as text.
    fn state(&self) -> String {
        let mut text = String::new();
        for (namespace, interfaces) in
            [(&self.tx, &["load"][..]), (&self.device, &["left", "right"]), (&self.rx, &["host"])]
        {
            for what in ["addr show scope global", "route show", "neigh show nud permanent"] {
                // Of an interface without addresses only its state is shown, which settles later.
                let shown = namespace.ip(what).unwrap();
                let lines = shown.lines().filter(|line| !line.contains(" mtu "));
                lines.for_each(|line| text += &format!("{line}\n"));
            }
            let mut read = String::from(
                "nft list ruleset; iptables-legacy-save | grep -v '^#' | sed 's/ \\[.*//' ; cat /proc/sys/net/ipv4/ip_forward \
                 /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/tcp_max_syn_backlog \
                 /proc/sys/net/netfilter/nf_conntrack_udp_timeout*;",
            );
            for interface in interfaces {
                read += &format!(
                    "ethtool -k {interface}; cat /sys/class/net/{interface}/queues/rx-0/rps_cpus;"
                );
            }
            let shown =
                programs::finish(namespace.command("sh").args(["-c", &read]), None).unwrap();
            text += &shown;
        }
        text
    }
}

/// Fails with the lines in which they differ.
fn assert_same(before: &str, after: &str) {
    let (one, two): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let only = |these: &[&str], those: &[&str]| -> Vec<String> {
        these.iter().filter(|line| !those.contains(line)).map(|line| line.to_string()).collect()
    };
    let (gone, new) = (only(&one, &two), only(&two, &one));
    assert!(one == two, "gone: {gone:?}, new: {new:?}");
}

fn pids(namespace: &Namespace) -> String {
    programs::finish(Command::new("ip").args(["netns", "pids", namespace.name()]), None).unwrap()
}

fn stateful(file: &std::path::Path, flags: &[&str]) -> Output {
    let mut command = Command::new(HARNESS);
    command.args(["stateful", "--json", "--quiet"]).args(flags).arg(file).output().unwrap()
}

/// A router of the user's, and Linux with both kinds of rules: two rounds each, so that each finds what the one before has put back.
#[test]
fn connections_and_sessions_go_through_interfaces_that_were_there() {
    let Some(_turn) = turn() else { return };
    if ["nft", "iptables-legacy-restore"].iter().any(|program| programs::find(program).is_err()) {
        eprintln!("skipped: nft or iptables-legacy is not there");
        return;
    }
    let wired = Wired::new("named");
    // A rule of the namespace's owner, which gives way for the measurement and comes back.
    // A table is there for good once somebody has looked at it.
    let rule = "iptables-legacy -t nat -A POSTROUTING -s 192.0.2.1 -j MASQUERADE; iptables-legacy -t filter -S >/dev/null";
    programs::finish(wired.device.command("sh").args(["-c", rule]), None).unwrap();
    let router = r#"
[[device]]
kind = "nftables"
[[device]]
kind = "iptables"
[[device]]
name = "a router of one's own"
kind = "command"
command = ["sh", "-c", """
ip addr add 10.0.1.1/24 dev $0; ip addr add 10.0.2.1/24 dev $1; ip route add 10.200.0.0/16 via 10.0.1.2
ip route add 10.64.0.0/10 via 10.0.2.2; echo 1 > /proc/sys/net/ipv4/ip_forward; ethtool -K $0 gro on; ethtool -K $1 gro on
ip neigh replace 10.0.1.2 lladdr $2 dev $0 nud permanent; ip neigh replace 10.0.2.2 lladdr $3 dev $1 nud permanent
trap 'ip neigh del 10.0.1.2 dev $0; ip neigh del 10.0.2.2 dev $1; ip route flush 10.200.0.0/16; ip route flush 10.64.0.0/10; ip addr flush dev $0; ip addr flush dev $1
  ethtool -K $0 gro off; ethtool -K $1 gro off; echo 0 > /proc/sys/net/ipv4/ip_forward; exit 0' TERM
sleep 1000 & wait
""", "{in}", "{out}", "{tx_mac}", "{rx_mac}"]
"#;
    let file = wired.scenario(router);
    let before = wired.state();
    let output = stateful(&file, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_same(&before, &wired.state());
    let certificate = Certificate::parse(&String::from_utf8_lossy(&output.stdout)).unwrap();
    assert!(
        certificate.warnings.iter().any(|w| w.contains("not known")),
        "{:?}",
        certificate.warnings
    );
    assert_eq!(certificate.devices.len(), 3);
    for device in &certificate.devices {
        let rounds = &device.points[0].rounds;
        assert_eq!((rounds.len(), device.path.link.as_str()), (2, "veth"), "{}", device.name);
        for found in rounds.iter().map(|round| round.stateful.as_ref().unwrap()) {
            let tcp = &found.connections[0];
            assert!(tcp.closed_loop > 0.0 && tcp.alone.is_none(), "{tcp:?}");
            assert!(tcp.bounds.limit != Limit::Device, "{tcp:?}");
            let step = &found.ladder[0];
            if !step.ramp.complete && is_busy() {
                continue;
            }
            assert!(step.ramp.complete, "{}: {step:?}", device.name);
            let sustain = step.sustain.as_ref().unwrap();
            assert!(sustain.most > 0.0 && sustain.alone.is_none());
            // Each round began without flows: no more are tracked than this one has opened, and the one that was tried first.
            let tracked = step.ramp.tracked.is_none_or(|n| (1000..1100).contains(&n));
            assert!(
                tracked && (step.ramp.tracked.is_some() || device.kind == "command"),
                "{step:?}"
            );
        }
    }
    assert!(
        certificate
            .figures()
            .iter()
            .all(|figure| figure.not_the_devices || figure.what.starts_with("p99"))
    );
}

/// Killed in the middle: `tidy` ends its programs and puts back what it changed on interfaces that stay.
#[test]
fn what_a_run_that_was_killed_has_left_is_tidied() {
    let Some(_turn) = turn() else { return };
    let wired = Wired::new("killed");
    let file = wired.scenario("[[device]]\nkind = \"linux\"\n");
    let before = wired.state();
    let mut command = Command::new(HARNESS);
    let null = std::process::Stdio::null;
    command
        .args(["stateful", "--quiet", "--no-connections"])
        .arg(&file)
        .stdout(null())
        .stderr(null());
    let mut child = command.spawn().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    // Something of it runs there, and it has begun to change things.
    while pids(&wired.rx).is_empty() || wired.state() == before {
        assert!(std::time::Instant::now() < deadline, "it did not begin");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The next one says so.
    let output = Command::new(HARNESS).args(["ndr", "--device", "nothing"]).output().unwrap();
    assert!(!output.status.success());
    let output = Command::new(HARNESS).arg("tidy").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left = || pids(&wired.rx) + &pids(&wired.device);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !left().is_empty() {
        assert!(std::time::Instant::now() < deadline, "{}", left());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_same(&before, &wired.state());
}

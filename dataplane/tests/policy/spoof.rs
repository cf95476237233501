//! Anti-spoofing by packets: a pod's kernel that has taken another's address, or another's MAC, speaks to nobody; and whose interface that was is said.

use serde_json::Value;

use crate::cases::{everyone, name};
use crate::common::peers::probe::{self, Kind, Probe};
use crate::common::pods::{Pods, addresses, mac};

/// Who poses as whom.
const FORGER: usize = 3;
const VICTIM: usize = 4;

struct Scene<'a> {
    pods: &'a Pods,
}

impl Scene<'_> {
    /// Asks from the forger's interface, with the addresses of `owner`; answers how many packets were called forged.
    #[track_caller]
    fn ask(&self, owner: usize, expected: bool) -> u64 {
        let before = self.pods.drops("pod3", "spoofed");
        let mut probes = Vec::new();
        for (src, dst) in addresses(owner).into_iter().zip(addresses(7)) {
            for (kind, port) in
                [(Kind::Udp, 53), (Kind::Tcp, 80), (Kind::Sctp, 80), (Kind::Echo, 0)]
            {
                probes.push(Probe { host: FORGER, src, dst, kind, port, expected });
            }
        }
        let wrong = probe::mistaken(&self.pods.hosts(), &probes);
        assert!(wrong.is_empty(), "with the addresses of {}: {wrong:?}", name(owner));
        self.pods.drops("pod3", "spoofed") - before
    }

    /// The victim and everyone else go on.
    #[track_caller]
    fn others_go_on(&self) {
        let mut probes = Vec::new();
        for (host, to) in [(VICTIM, 7), (7, VICTIM), (0, VICTIM), (VICTIM, 0)] {
            for (src, dst) in addresses(host).into_iter().zip(addresses(to)) {
                for (kind, port) in [(Kind::Udp, 53), (Kind::Tcp, 80)] {
                    probes.push(Probe { host, src, dst, kind, port, expected: true });
                }
            }
        }
        let wrong = probe::mistaken(&self.pods.hosts(), &probes);
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    fn forger(&self, commands: &str) {
        self.pods.hosts()[FORGER].ip_batch(commands);
    }
}

fn colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

pub fn run(pods: &mut Pods) {
    // No policy: guards are a thing of their own.
    pods.set(&everyone());
    let gateway = pods.router.ip("-o link show pod3");
    let gateway =
        gateway.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let scene = Scene { pods };
    assert_eq!(scene.ask(FORGER, true), 0, "an honest pod");
    scene.others_go_on();

    // With another's addresses, its kernel first asks for its gateway's MAC in their name.
    let [v4, v6] = addresses(VICTIM);
    scene.forger(&format!(
        "addr add {v4}/32 dev eth0\naddr add {v6}/128 dev eth0 nodad\nneigh flush dev eth0\n"
    ));
    let found = scene.ask(VICTIM, false);
    assert!(found >= 2, "ARP and neighbor discovery in another's name: {found} dropped");
    scene.others_go_on();
    // Now it knows it: each packet is one with another's address, and each is counted.
    scene.forger(&format!(
        "neigh replace 10.255.3.1 lladdr {gateway} nud permanent dev eth0\n\
         neigh replace fd00:ff:3::1 lladdr {gateway} nud permanent dev eth0\n"
    ));
    // TCP sends one SYN, the others two packets each, in both families.
    assert!(scene.ask(VICTIM, false) >= 14);
    assert!(scene.ask(FORGER, true) < 14, "its own address is as good as before");
    scene.others_go_on();

    // Its own addresses behind another's MAC.
    scene.forger(&format!(
        "addr del {v4}/32 dev eth0\naddr del {v6}/128 dev eth0\nlink set eth0 address {}\n",
        colons(mac(VICTIM))
    ));
    restore_routes(&scene);
    assert!(scene.ask(FORGER, false) >= 14);
    scene.others_go_on();
    scene.forger(&format!("link set eth0 address {}\n", colons(mac(FORGER))));
    restore_routes(&scene);
    scene.ask(FORGER, true);

    let counters = scene.pods.show("counters");
    let of = |interface: &str| -> Value {
        let rows = counters["interfaces"].as_array().unwrap();
        rows.iter().find(|row| row["interface"] == interface).unwrap().clone()
    };
    assert_eq!(of("pod3")["pod"], "Pod y/a", "{}", of("pod3"));
    assert!(of("pod3")["drops"]["spoofed"].as_u64().unwrap() >= 30);
    assert_eq!(
        (&of("pod4")["pod"], &of("pod4")["drops"]["spoofed"]),
        (&"Pod y/b".into(), &Value::Null)
    );
    assert_eq!(of("uplink")["pod"], Value::Null);
    scene.pods.check_ledger();
}

/// A changed MAC takes neighbors away, and IPv6 routes with them.
fn restore_routes(scene: &Scene<'_>) {
    let gateway = scene.pods.router.ip("-o link show pod3");
    let gateway =
        gateway.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    scene.forger(&format!(
        "route replace default via 10.255.3.1 dev eth0 onlink\n\
         route replace default via fd00:ff:3::1 dev eth0 onlink\n\
         neigh replace 10.255.3.1 lladdr {gateway} nud permanent dev eth0\n\
         neigh replace fd00:ff:3::1 lladdr {gateway} nud permanent dev eth0\n"
    ));
}

//! Anti-spoofing: what comes from a guarded interface comes from its pod, or ends there (feature A8).

use millrace_dataplane::verdict::{DropReason, Verdict};
use millrace_tables::{GuardSpec, InterfaceId};
use millrace_wire::Mac;

use crate::packets::{Link, arp, between, nd, on};
use crate::world::*;

const POD: &str = "10.0.2.10";
const POD6: &str = "2001:db8:2::10";
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 2, 99];

fn guarded() -> World {
    let mut world = World::new();
    let guard = GuardSpec {
        name: "Pod default/web-0".into(),
        mac: Mac(BACKEND_MAC),
        addresses: vec![addr(POD), addr(POD6)],
    };
    world.writer.set_guard(InterfaceId(DOWN), &guard).unwrap();
    world.writer.publish().unwrap();
    world
}

impl World {
    #[track_caller]
    fn forged(&mut self, bytes: &[u8]) {
        let mut before = self.counters();
        self.send(DOWN, bytes);
        assert_eq!(self.verdicts(), [Verdict::Drop(DropReason::Spoofed)], "{:#?}", self.steps);
        for name in ["down0 rx_packets", "down0 drops spoofed"] {
            *before.entry(name.to_owned()).or_default() += 1;
        }
        assert_eq!(self.counters().get("down0 rx_packets"), before.get("down0 rx_packets"));
        assert_eq!(self.counters().values().sum::<u64>(), before.values().sum::<u64>());
    }

    #[track_caller]
    fn honest(&mut self, bytes: &[u8]) {
        self.send(DOWN, bytes);
        let verdicts = self.verdicts();
        assert_ne!(verdicts, [Verdict::Drop(DropReason::Spoofed)], "{:#?}", self.steps);
    }
}

#[test]
fn a_pod_sends_from_its_own_mac_and_addresses_alone() {
    let mut world = guarded();
    for (pod, other, client) in
        [(POD, "10.0.2.11", "10.0.1.2"), (POD6, "2001:db8:2::11", "2001:db8:1::2")]
    {
        let mine = between(pod, client);
        world.honest(&on(&backend_link(), mine.syn(4000, 80)));
        assert!(matches!(world.verdicts()[0], Verdict::Transmit { .. }));
        world.forged(&on(&backend_link(), between(other, client).syn(4000, 80)));
        world.forged(&on(&backend_link(), between(other, client).udp(4000, 53, b"q")));
        world.forged(&on(&Link::new(OTHER_MAC, DOWN_MAC), mine.syn(4000, 80)));
        // Another's address in what an error quotes is no claim; in the error itself it is.
        let quoted = between(client, other).syn(4000, 80);
        let kind = if pod == POD { 3 } else { 1 };
        world.honest(&on(&backend_link(), mine.icmp(kind, 1, 0, &quoted)));
        let quoted = between(client, pod).syn(4000, 80);
        world.forged(&on(&backend_link(), between(other, client).icmp(kind, 1, 0, &quoted)));
    }
    // A fragment is a packet too.
    let mut fragment = between("10.0.2.11", "10.0.1.2");
    fragment.fragment = Some((64, true));
    world.forged(&on(&backend_link(), fragment.packet(17, &[0; 64])));
    // Others may.
    world.send(UP, &on(&client_link(), between("198.51.100.7", POD).syn(4000, 80)));
    assert!(matches!(world.verdicts()[0], Verdict::Transmit { .. }));
}

#[test]
fn a_pod_speaks_for_itself_in_arp() {
    let mut world = guarded();
    let everyone = Link::new(BACKEND_MAC, [0xff; 6]);
    let ask = |mac, from| arp(&everyone, 1, (mac, from), ([0; 6], "10.0.2.1"));
    world.honest(&ask(BACKEND_MAC, POD));
    world.honest(&ask(BACKEND_MAC, "0.0.0.0"));
    world.forged(&ask(BACKEND_MAC, "10.0.2.11"));
    world.forged(&ask(OTHER_MAC, POD));
    world.forged(&arp(&backend_link(), 2, (BACKEND_MAC, "10.0.2.1"), (DOWN_MAC, "10.0.2.1")));
}

#[test]
fn a_pod_speaks_for_itself_in_neighbor_discovery() {
    let mut world = guarded();
    let link = backend_link();
    let group = Link::new(BACKEND_MAC, [0x33, 0x33, 0xff, 0, 0, 1]);
    let (local, us) = ("fe80::10", "2001:db8:2::1");
    let solicit = |from: &str, option| nd(from, "ff02::1:ff00:1", 135, 0, us, option);
    world.honest(&on(&group, solicit(POD6, Some((1, BACKEND_MAC)))));
    world.honest(&on(&group, solicit(local, Some((1, BACKEND_MAC)))));
    world.honest(&on(&group, solicit("::", None)));
    world.forged(&on(&group, solicit("2001:db8:2::11", Some((1, BACKEND_MAC)))));
    world.forged(&on(&group, solicit(POD6, Some((1, OTHER_MAC)))));
    let advertise = |target: &str, mac| nd(local, us, 136, 1 << 30, target, Some((2, mac)));
    world.honest(&on(&link, advertise(POD6, BACKEND_MAC)));
    world.honest(&on(&link, advertise(local, BACKEND_MAC)));
    world.forged(&on(&link, advertise("2001:db8:2::11", BACKEND_MAC)));
    world.forged(&on(&link, advertise(POD6, OTHER_MAC)));
    // A router's word, and anything but discovery from a link-local address.
    world.forged(&on(&link, between(local, "ff02::1").ttl(255).icmp(134, 0, 0, &[0; 8])));
    world.forged(&on(&link, between(local, "2001:db8:1::2").udp(4000, 53, b"q")));
    world.forged(&on(&link, between(local, "2001:db8:1::2").icmp(128, 0, 1, b"")));
    world.honest(&on(&link, between(local, "ff02::16").ttl(1).icmp(143, 0, 1, &[0; 20])));
}

//! The short line against the line: what nearly every packet is, in any order. The comparison is [`World`]'s twin.

use millrace_dataplane::clock::SECOND;
use millrace_tables::PortMapId;
use proptest::prelude::*;

use crate::packets::{between, on};
use crate::rules::{ALLOW, DENY_ALL, SHADOW};
use crate::world::*;

/// One packet of a conversation.
#[derive(Clone, Debug)]
struct Step {
    v6: bool,
    tcp: bool,
    /// From the backend's side.
    back: bool,
    /// To or from the service's address, or past it.
    service: bool,
    /// Behind the client's router instead of the client itself.
    beyond: bool,
    sport: u16,
    flags: u8,
    ttl: u8,
    len: usize,
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        6 => Just(0x10u8),
        2 => Just(0x02),
        1 => Just(0x12),
        1 => Just(0x11),
        1 => Just(0x14),
        1 => Just(0x18),
    ];
    let ttl = prop_oneof![8 => Just(64u8), 1 => 0..4u8];
    let len = prop_oneof![12 => 20..80usize, 1 => 1350..1400usize];
    let kind = (any::<bool>(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.8));
    (kind, prop::bool::weighted(0.2), 4000..4003u16, flags, ttl, len).prop_map(
        |((v6, tcp, back, service), beyond, sport, flags, ttl, len)| Step {
            v6,
            tcp,
            back,
            service,
            beyond,
            sport,
            flags,
            ttl,
            len,
        },
    )
}

impl Step {
    /// Where it comes in, and its bytes.
    fn packet(&self) -> (u16, Vec<u8>) {
        let [client, beyond, vip, backend] = if self.v6 {
            ["2001:db8:1::2", "2001:db8:100::7", VIP6, "2001:db8:2::10"]
        } else {
            ["10.0.1.2", "198.51.100.7", VIP, "10.0.2.10"]
        };
        let client = if self.beyond { beyond } else { client };
        let port = if self.tcp { 80 } else { 53 };
        let (ip, from, sport, dport) = match (self.back, self.service) {
            (false, true) => (between(client, vip), UP, self.sport, port),
            (false, false) => (between(client, backend), UP, self.sport, 9999),
            (true, true) => (between(backend, client), DOWN, 8080, self.sport),
            (true, false) => (between(backend, client), DOWN, 9999, self.sport),
        };
        let ip = ip.ttl(self.ttl);
        let data = vec![7; self.len];
        let packet = if self.tcp {
            ip.tcp(
                sport,
                dport,
                |header| {
                    header.fin = self.flags & 1 != 0;
                    header.syn = self.flags & 2 != 0;
                    header.rst = self.flags & 4 != 0;
                    header.psh = self.flags & 8 != 0;
                    header.ack = self.flags & 16 != 0;
                },
                &data,
            )
        } else {
            ip.udp(sport, dport, &data)
        };
        let link = if from == UP { client_link() } else { backend_link() };
        (from, on(&link, packet))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Bursts of conversations, some seconds apart, on interfaces that may be virtual, while tables change.
    #[test]
    fn both_lines_send_and_count_the_same(
        partial: bool,
        bursts in prop::collection::vec((prop::collection::vec(step(), 1..12), 0..320u64, prop::bool::weighted(0.1)), 1..12),
    ) {
        let mut world = if partial { World::virtual_interfaces() } else { World::new() };
        for (steps, seconds, change) in bursts {
            for from in [UP, DOWN] {
                let packets: Vec<Vec<u8>> = steps
                    .iter()
                    .map(Step::packet)
                    .filter(|(interface, _)| *interface == from)
                    .map(|(_, bytes)| bytes)
                    .collect();
                if !packets.is_empty() {
                    world.send_all(0, from, &packets);
                }
            }
            if change {
                world.writer.set_route("100.64.0.0/10".parse().unwrap(), &millrace_tables::RouteSpec::Blackhole).unwrap();
                world.writer.publish().unwrap();
            }
            world.tick(seconds * SECOND / 8);
        }
    }

    /// The same while policies come, change and go.
    #[test]
    fn both_lines_judge_the_same(
        keep: bool,
        bursts in prop::collection::vec((prop::collection::vec(step(), 1..12), 0..320u64, rules()), 1..12),
    ) {
        let mut world = World::with_rules();
        if keep {
            world.keep_flows();
        }
        for (steps, seconds, rules) in bursts {
            if let Some((ingress, egress)) = rules {
                world.isolate(ingress.map(PortMapId), egress.map(PortMapId));
            }
            for from in [UP, DOWN] {
                let packets: Vec<Vec<u8>> = steps
                    .iter()
                    .map(Step::packet)
                    .filter(|(interface, _)| *interface == from)
                    .map(|(_, bytes)| bytes)
                    .collect();
                if !packets.is_empty() {
                    world.send_all(0, from, &packets);
                }
            }
            for policy in [DENY_ALL, ALLOW, SHADOW] {
                world.policy_counts(policy);
            }
            world.tick(seconds * SECOND / 8);
        }
    }
}

/// Nothing new, or maps for who may reach the backend and for whom it may reach.
fn rules() -> impl Strategy<Value = Option<(Option<u32>, Option<u32>)>> {
    let map = || prop::option::of(0u32..5);
    prop::option::weighted(0.4, (map(), map()))
}

#[test]
fn the_second_packet_of_a_flow_and_its_answer_are_translated_like_the_first() {
    for tcp in [false, true] {
        let mut world = World::new();
        let step = |back| Step {
            v6: false,
            tcp,
            back,
            service: true,
            beyond: false,
            sport: 4000,
            flags: 0x10,
            ttl: 64,
            len: 40,
        };
        let mut out = Vec::new();
        for back in [false, true, false, true, false, true] {
            let (from, bytes) = step(back).packet();
            let sent = world.send(from, &bytes);
            assert_eq!(sent.len(), 1, "{sent:?}");
            out.push(sent[0].bytes.clone());
        }
        assert_eq!((&out[0], &out[1]), (&out[2], &out[3]));
        assert_eq!((&out[0], &out[1]), (&out[4], &out[5]));
    }
}

#[test]
fn an_answer_in_the_burst_that_began_the_flow_is_translated() {
    let mut world = World::new();
    let vip = "172.30.0.42";
    let hairpin = service("default/back:dns", &[frontend(vip, 53, 17)], &[("198.51.100.7", 8080)]);
    world.writer.set_service("default/back", &hairpin).unwrap();
    world.writer.publish().unwrap();
    let question = on(&client_link(), between("10.0.1.2", vip).udp(4000, 53, &[7; 40]));
    let answer = on(&client_link(), between("198.51.100.7", "10.0.1.2").udp(8080, 4000, &[7; 40]));
    // So that the neighbor is met, and nothing else stands in the short line's way.
    world.send(UP, &on(&client_link(), between("10.0.1.2", "198.51.100.9").udp(1, 2, &[7; 40])));
    world.send(UP, &on(&client_link(), between("10.0.1.2", "10.0.1.2").udp(1, 2, &[7; 40])));
    let sent = world.send_all(0, UP, &[question, answer]);
    let out = on(&to_client(), between(vip, "10.0.1.2").ttl(63).udp(53, 4000, &[7; 40]));
    assert_eq!(sent[1].bytes, out);
}

//! Two workers at once over one conntrack and neighbor table (feature E11).

use std::collections::BTreeMap;
use std::thread;

use crate::packets::{between, on};
use crate::world::*;

/// Both workers see the first packet of the same flows at the same time: one choice holds for both, nothing is lost.
#[test]
fn two_workers_that_meet_the_same_new_flows_agree() {
    let mut world = World::two_workers();
    let backends: Vec<String> = (0..5).map(|n| format!("10.0.2.{}", 10 + n)).collect();
    let all: Vec<(&str, u16)> = backends.iter().map(|ip| (ip.as_str(), 8080)).collect();
    world
        .writer
        .set_service("default/web", &service("default/web:http", &[frontend(VIP, 53, 17)], &all))
        .unwrap();
    let via = millrace_tables::NextHop {
        interface: millrace_tables::InterfaceId(DOWN),
        gateway: Some(addr("10.0.2.10")),
    };
    world
        .writer
        .set_route(
            "10.0.2.0/24".parse().unwrap(),
            &millrace_tables::RouteSpec::Forward(vec![(via, 1)]),
        )
        .unwrap();
    world.writer.publish().unwrap();
    let packets: Vec<Vec<u8>> = (0..2000)
        .map(|n| on(&client_link(), between("10.0.1.2", VIP).udp(1024 + n, 53, b"x")))
        .collect();
    let (tables, now) = (world.writer.tables(), world.now);
    let outs: Vec<BTreeMap<u16, Vec<u8>>> = thread::scope(|scope| {
        let threads: Vec<_> = world
            .workers
            .iter_mut()
            .map(|worker| {
                let (tables, packets) = (&tables, &packets);
                scope.spawn(move || {
                    let mut out = BTreeMap::new();
                    for (chunk, first) in packets.chunks(8).zip((1024u16..).step_by(8)) {
                        for (at, sent) in
                            worker.burst(UP, chunk, tables, now).into_iter().enumerate()
                        {
                            out.insert(first + at as u16, sent.bytes);
                        }
                    }
                    out
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outs[0].len(), packets.len());
    assert_eq!(outs[0], outs[1], "the same packet leaves, whoever was first");
    for (port, bytes) in &outs[0] {
        assert_eq!(bytes[34..36], port.to_be_bytes(), "nobody needed another port");
    }
    let counters = world.counters();
    assert_eq!(counters["up0 tx_packets"] as usize, 2 * packets.len());
}

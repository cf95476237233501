//! The released binaries with real hosts on both sides: TCP and UDP through a VIP, whatever happens to control.
//!
//! Needs root and `target/release` (`make build`), or the folder that `MILLRACE_BIN` names.

mod common;

use common::peers::Server;
use common::peers::tcp::{self, Direction};
use common::peers::udp::{self, Load, Outcome};
use common::rig::{self, ECHO, Rig, TRANSFER, VIP4, VIP6, at, backend, target};
use common::updater::Updater;
use std::time::Duration;

const MEGABYTE: u64 = 1 << 20;
const NAMES: [&str; rig::BACKENDS] = ["backend-1", "backend-2", "backend-3"];

fn serve(rig: &Rig) -> Vec<Server> {
    let mut servers = Vec::new();
    for (index, namespace) in rig.backends.iter().enumerate() {
        for address in backend(index + 1) {
            servers.push(tcp::serve_transfers(namespace, at(&address, target(TRANSFER))));
            servers.push(udp::serve_echo(namespace, at(&address, target(ECHO)), NAMES[index]));
        }
    }
    servers
}

/// 100 MB each way on one connection, and smaller ones beside it that spread over the workers.
fn transfer_both_ways(mtu: u32) {
    let mut rig = Rig::new(mtu);
    let _servers = serve(&rig);
    rig.start_control(&[1, 2]);
    rig.wait_for(&[VIP4, VIP6]);
    for (vip, direction) in [
        (VIP4, Direction::Up),
        (VIP6, Direction::Down),
        (VIP4, Direction::Down),
        (VIP6, Direction::Up),
    ] {
        let vip = at(vip, TRANSFER);
        rig.client.run(|| tcp::transfer(vip, direction, 100 * MEGABYTE)).unwrap();
    }
    let beside: Vec<_> = (0..8)
        .map(|_| {
            rig.client.spawn(|| tcp::transfer(at(VIP4, TRANSFER), Direction::Up, 4 * MEGABYTE))
        })
        .collect();
    for transfer in beside {
        transfer.join().unwrap().unwrap();
    }
    rig.check_ledger();
    rig.check_both_workers();
}

#[test]
fn a_hundred_megabytes_each_way_arrive_intact_through_a_vip() {
    require_binaries!();
    transfer_both_ways(1500);
}

#[test]
fn the_same_at_mtu_9000() {
    require_binaries!();
    transfer_both_ways(9000);
}

fn assert_nothing_lost(outcome: &Outcome, at_least: u64) {
    println!("{outcome:?}");
    assert!(outcome.sent >= at_least, "too little load to say anything: {outcome:?}");
    assert_eq!((outcome.lost, outcome.doubled), (0, 0), "{outcome:?}");
}

#[test]
fn killing_control_under_load_loses_no_packet_and_its_successor_takes_over() {
    require_binaries!();
    let mut rig = Rig::new(1500);
    let _servers = serve(&rig);
    rig.start_control(&[1, 2]);
    rig.wait_for(&[VIP4, VIP6]);
    // New flows all the time: each needs the tables.
    let load = Load::start(&rig.client, at(VIP4, ECHO), 4, 1000, Some(50));
    std::thread::sleep(Duration::from_millis(500));
    rig.kill_control();
    std::thread::sleep(Duration::from_secs(1));
    rig.start_control(&[1, 2]);
    std::thread::sleep(Duration::from_secs(1));
    let outcome = load.finish();
    assert_nothing_lost(&outcome, 5000);
    assert!(outcome.by_name.keys().eq(["backend-1", "backend-2"]), "{outcome:?}");

    rig.set_endpoints(&[3]);
    common::eventually("the successor's change", Duration::from_secs(5), || {
        let ask = || udp::ask(at(VIP4, ECHO), "who?");
        rig.client.run(ask).is_ok_and(|answer| answer.starts_with("backend-3"))
    });
    rig.check_ledger();
}

#[test]
fn ten_thousand_updates_under_load_lose_no_packet_and_send_none_astray() {
    require_binaries!();
    let rig = Rig::new(1500);
    let _servers = serve(&rig);
    let mut updater = Updater::connect(&rig.socket());
    // Each host is asked once: the queue for a neighbor that isn't known yet is bounded, and this isn't its test.
    for endpoint in [1, 2] {
        updater.publish(&[endpoint]);
        rig.wait_for(&[VIP4]);
    }
    updater.publish(&[1, 2]);
    let first = updater.wait(Duration::from_secs(5));
    let load = Load::start(&rig.client, at(VIP4, ECHO), 4, 1000, Some(50));
    // Backend 3 is never listed: nothing may reach it, whatever a worker reads in between.
    let sets: [&[usize]; 3] = [&[1], &[2], &[1, 2]];
    for update in 0..10_000 {
        updater.publish(sets[update % sets.len()]);
        if update % 5 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let last = updater.wait(Duration::from_secs(5));
    assert_eq!(last - first, 10_000);
    let outcome = load.finish();
    assert_nothing_lost(&outcome, 4000);
    assert!(outcome.by_name.keys().eq(["backend-1", "backend-2"]), "{outcome:?}");
    rig.check_ledger();
}

#[test]
fn an_idle_engine_sleeps() {
    require_binaries!();
    let mut rig = Rig::new(1500);
    let _servers = serve(&rig);
    rig.start_control(&[1, 2]);
    rig.wait_for(&[VIP4, VIP6]);
    // The hosts' last questions about their neighbors, and the workers' way to sleep.
    std::thread::sleep(Duration::from_secs(2));
    let window = Duration::from_secs(4);
    let before = rig.engine_cpu();
    std::thread::sleep(window);
    let used = Duration::from_nanos(rig.engine_cpu() - before);
    assert!(used < window / 50, "{used:?} of {window:?}, more than 2 % of a core");
}

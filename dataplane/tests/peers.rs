//! The witnesses of the other tests, on a plain wire between two kernels: they lose nothing and miss no loss.

mod common;

use common::netns::{End, Namespace, veth};
use common::peers::tcp::{self, Direction};
use common::peers::udp::{self, Load};
use common::rig::at;
use std::time::Duration;

fn hosts() -> (Namespace, Namespace) {
    let (left, right) = (Namespace::new("left"), Namespace::new("right"));
    veth(
        &End { namespace: &left, device: "wire" },
        &End { namespace: &right, device: "wire" },
        2,
        1500,
    );
    left.address("wire", "10.9.0.1/24");
    right.address("wire", "10.9.0.2/24");
    (left, right)
}

#[test]
fn a_load_on_a_plain_wire_loses_nothing_and_says_who_answered() {
    require_root!();
    let (left, right) = hosts();
    let _server = udp::serve_echo(&right, at("10.9.0.2", 7), "right");
    let load = Load::start(&left, at("10.9.0.2", 7), 4, 1000, Some(100));
    std::thread::sleep(Duration::from_secs(1));
    let outcome = load.finish();
    assert!(outcome.sent > 500 && outcome.lost == 0 && outcome.doubled == 0, "{outcome:?}");
    assert_eq!(outcome.by_name.get("right"), Some(&outcome.sent));
}

#[test]
fn a_load_sees_what_a_broken_wire_lost() {
    require_root!();
    let (left, right) = hosts();
    let _server = udp::serve_echo(&right, at("10.9.0.2", 7), "right");
    let load = Load::start(&left, at("10.9.0.2", 7), 1, 1000, None);
    std::thread::sleep(Duration::from_millis(200));
    right.ip("link set wire down");
    std::thread::sleep(Duration::from_millis(200));
    right.ip("link set wire up");
    std::thread::sleep(Duration::from_millis(200));
    let outcome = load.finish();
    assert!(outcome.lost > 0 && outcome.lost < outcome.sent, "{outcome:?}");
}

#[test]
fn transfers_arrive_whole_and_a_server_that_is_gone_is_an_error() {
    require_root!();
    let (left, right) = hosts();
    let server = tcp::serve_transfers(&right, at("10.9.0.2", 80));
    for direction in [Direction::Up, Direction::Down] {
        left.run(|| tcp::transfer(at("10.9.0.2", 80), direction, 3 << 20)).unwrap();
    }
    drop(server);
    assert!(left.run(|| tcp::transfer(at("10.9.0.2", 80), Direction::Up, 1)).is_err());
    let _http = tcp::serve_http(&right, at("10.9.0.2", 80), "hello");
    assert_eq!(left.run(|| tcp::get(at("10.9.0.2", 80))).unwrap(), "hello");
}

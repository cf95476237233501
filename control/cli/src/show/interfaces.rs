//! Interfaces: what the engine drives, and what went through each.
//!
//! The counters are sums over the workers. `rx` is what came in by the interface, `tx` what left by it, whoever
//! it came from; the ledger (`show counters`) books the other way, on the interface that a packet came in by.

use millrace_dataplane::counters::{Counter, Place};
use millrace_tables::InterfaceId;
use serde_json::json;

use super::{NONE, Part, View};
use crate::live::Engine;

pub(super) fn view(engine: &Engine) -> View {
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for interface in &engine.interfaces {
        let sum = |counter: Counter| {
            let of_worker =
                |worker| engine.state.counter(worker, InterfaceId(interface.id), counter.place());
            (0..engine.state.sizes().workers).map(of_worker).fold(0, u64::wrapping_add)
        };
        let [rx, rx_bytes, tx, tx_bytes] =
            [Counter::Rx, Counter::RxBytes, Counter::Out, Counter::OutBytes].map(sum);
        // Where they are the kernel's, the tables have them as control last saw them.
        let mut addresses = interface.addresses.clone();
        if addresses.is_empty() {
            let row = engine.tables.snapshot().interface(InterfaceId(interface.id));
            addresses = row.map(|row| row.addresses).unwrap_or_default();
        }
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let mut value = json!({
            "name": interface.name, "id": interface.id, "index": interface.index, "kind": interface.kind,
            "mac": interface.mac.to_string(), "mtu": interface.mtu, "addresses": addresses,
            "mode": interface.mode, "rx_packets": rx, "rx_bytes": rx_bytes, "tx_packets": tx, "tx_bytes": tx_bytes,
        });
        let owner = engine.owner(InterfaceId(interface.id));
        if let Some(owner) = &owner {
            value["pod"] = json!(owner);
        }
        values.push(value);
        rows.push(vec![
            interface.name.clone(),
            owner.unwrap_or_else(|| interface.kind.clone()),
            interface.mac.to_string(),
            interface.mtu.to_string(),
            rx.to_string(),
            rx_bytes.to_string(),
            tx.to_string(),
            tx_bytes.to_string(),
            if addresses.is_empty() { NONE.to_owned() } else { addresses.join("\n") },
        ]);
    }
    let headers = &["NAME", "KIND", "MAC", "MTU", "RX", "RX BYTES", "TX", "TX BYTES", "ADDRESSES"];
    View { parts: vec![Part::Grid { headers, rows, prose: false }], json: values.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::fixture::Fixture;

    #[test]
    fn addresses_that_are_the_kernels_come_from_the_tables() {
        let mut fixture = Fixture::new();
        fixture.engine.interfaces[1].addresses.clear();
        assert_eq!(view(&fixture.engine).json[1]["addresses"], json!(["198.51.100.7/24"]));
    }

    #[test]
    fn a_pods_own_interface_names_the_pod() {
        let mut fixture = Fixture::new();
        fixture.guard(1, "Pod default/web-0");
        let view = view(&fixture.engine);
        assert_eq!(view.json[1]["pod"], "Pod default/web-0");
        assert!(view.json[0].get("pod").is_none());
        let text = view.text();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert!(words.windows(3).any(|three| three == ["eth1", "Pod", "default/web-0"]), "{text}");
    }

    #[test]
    fn what_came_in_and_what_left_is_summed_over_the_workers() {
        let fixture = Fixture::new();
        for worker in 0..2 {
            let counters = fixture.segment.counters(worker).unwrap();
            let eth1 = counters.interface(InterfaceId(1));
            for (counter, n) in [
                (Counter::Rx, 3),
                (Counter::RxBytes, 300),
                (Counter::Tx, 7),
                (Counter::Out, 4),
                (Counter::OutBytes, 500),
            ] {
                eth1.add(counter.place(), n);
            }
        }
        let view = view(&fixture.engine);
        assert_eq!(
            view.json[1],
            json!({"name": "eth1", "id": 1, "index": 8, "kind": "uplink", "mac": "02:00:00:00:00:f1", "mtu": 9000,
                "mode": "copy",
                "addresses": ["192.168.1.2/24"], "rx_packets": 6, "rx_bytes": 600, "tx_packets": 8, "tx_bytes": 1000})
        );
        assert_eq!(view.json[0]["rx_packets"], 0);
        let text = view.text();
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        let last: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(
            last,
            [
                "eth1",
                "uplink",
                "02:00:00:00:00:f1",
                "9000",
                "6",
                "600",
                "8",
                "1000",
                "192.168.1.2/24"
            ]
        );
        assert_eq!(text.lines().nth(2).map(str::trim), Some("fd00:192::2/64"), "{text}");
    }
}

//! The drop ledger: what became of every packet received, and whether that adds up.
//!
//! `rx = tx + replies + punts + held + Σ drops`, for each worker and interface. A packet is booked on the interface
//! that it came in by, whatever became of it.

use std::collections::BTreeMap;

use millrace_dataplane::counters::{COUNTERS, Kind, Ledger, describe};
use millrace_tables::InterfaceId;
use serde_json::{Map, Value, json};

use super::ledger::{self, Reading};
use super::{Part, View};
use crate::live::Engine;

pub(super) fn view(engine: &Engine) -> View {
    let readings = ledger::read(&engine.state);
    let ids: Vec<InterfaceId> = (0..engine.state.sizes().interfaces)
        .filter_map(|id| u16::try_from(id).ok())
        .map(InterfaceId)
        .collect();

    let total = readings.iter().map(Reading::total).fold(Ledger::default(), Ledger::and);
    let mut by_worker: Vec<_> = readings
        .iter()
        .zip(0..)
        .map(|(reading, worker): (_, usize)| cells(worker.to_string(), &reading.total()))
        .collect();
    if readings.len() > 1 {
        by_worker.push(cells("total".to_owned(), &total));
    }

    let (mut by_interface, mut reasons) = (Vec::new(), Vec::new());
    let (mut interfaces, mut dropped) = (Vec::new(), BTreeMap::<&str, u64>::new());
    for id in ids {
        let name = engine.interface_name(id);
        let ledger =
            readings.iter().map(|reading| reading.ledger(id)).fold(Ledger::default(), Ledger::and);
        let owner = engine.owner(id);
        let mut value = Map::new();
        value.insert("interface".to_owned(), json!(name));
        let name = match owner {
            None => name,
            Some(owner) => {
                let shown = format!("{name} ({owner})");
                value.insert("pod".to_owned(), json!(owner));
                shown
            }
        };
        by_interface.push(cells(name.clone(), &ledger));
        value.insert("imbalance".to_owned(), json!(ledger.imbalance()));
        let mut groups = [("replies", Map::new()), ("punts", Map::new()), ("drops", Map::new())];
        for place in 0..COUNTERS {
            let Some(counter) = describe(place) else { continue };
            let count = readings
                .iter()
                .map(|reading| reading.counter(id, place))
                .fold(0, u64::wrapping_add);
            let (group, what) = match counter.kind {
                Kind::Counter => {
                    value.insert(counter.name.to_owned(), json!(count));
                    continue;
                }
                Kind::Reply => (0, "reply"),
                Kind::Punt => (1, "punt"),
                Kind::Drop => (2, "drop"),
            };
            if count == 0 {
                continue;
            }
            groups[group].1.insert(counter.name.to_owned(), json!(count));
            reasons.push(vec![
                name.clone(),
                what.into(),
                counter.name.into(),
                count.to_string(),
                counter.help.into(),
            ]);
            if counter.kind == Kind::Drop {
                let sum = dropped.entry(counter.name).or_default();
                *sum = sum.wrapping_add(count);
            }
        }
        value.extend(groups.map(|(key, counts)| (key.to_owned(), Value::from(counts))));
        interfaces.push(Value::from(value));
    }

    let of_worker = |(reading, worker): (&Reading, usize)| {
        let mut value = json_of(&reading.total());
        value["worker"] = json!(worker);
        value["settled"] = json!(reading.settled);
        value
    };
    let json = json!({
        "balanced": readings.iter().all(Reading::is_balanced),
        "workers": readings.iter().zip(0..).map(of_worker).collect::<Vec<_>>(),
        "total": json_of(&total),
        "interfaces": interfaces,
        "drops": dropped,
    });
    let grid = |headers, rows| Part::Grid { headers, rows, prose: false };
    let mut parts = vec![
        grid(&["WORKER", "RX", "TX", "REPLIES", "PUNTS", "HELD", "DROPS"], by_worker),
        Part::Note(verdict(&readings)),
        grid(&["INTERFACE", "RX", "TX", "REPLIES", "PUNTS", "HELD", "DROPS"], by_interface),
    ];
    if !reasons.is_empty() {
        let headers = &["INTERFACE", "BECAME", "NAME", "COUNT", "MEANING"];
        parts.push(Part::Grid { headers, rows: reasons, prose: true });
    }
    View { parts, json }
}

/// One line that says whether the ledger balances, and if not, where.
fn verdict(readings: &[Reading]) -> String {
    let wrong: Vec<String> = readings
        .iter()
        .zip(0..)
        .filter(|(reading, _): &(_, usize)| !reading.is_balanced())
        .map(|(reading, worker)| {
            let why = if reading.settled { "at rest" } else { "read while it was busy" };
            match reading.total().imbalance() {
                0 => format!("worker {worker} has booked packets on the wrong interface ({why})"),
                n if n < 0 => format!(
                    "worker {worker} accounts for {} more packets than it received ({why})",
                    n.unsigned_abs()
                ),
                n => format!("worker {worker} does not account for {n} packets ({why})"),
            }
        })
        .collect();
    if wrong.is_empty() {
        "ledger: balanced (rx = tx + replies + punts + held + drops)".to_owned()
    } else {
        format!("ledger: NOT balanced: {}", wrong.join("; "))
    }
}

fn cells(name: String, ledger: &Ledger) -> Vec<String> {
    let Ledger { rx, tx, replies, punts, held, drops } = ledger;
    let numbers = [rx, tx, replies, punts, held, drops].map(ToString::to_string);
    std::iter::once(name).chain(numbers).collect()
}

fn json_of(ledger: &Ledger) -> Value {
    json!({
        "rx": ledger.rx, "tx": ledger.tx, "replies": ledger.replies, "punts": ledger.punts,
        "held": ledger.held, "drops": ledger.drops, "imbalance": ledger.imbalance(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::fixture::Fixture;
    use millrace_dataplane::counters::{Counter, Place};
    use millrace_dataplane::verdict::{DropReason, PuntReason, ReplyKind};

    /// Two workers whose ledgers balance.
    fn busy() -> Fixture {
        let fixture = Fixture::new();
        for (worker, interface, booked) in [
            (
                0,
                0,
                [
                    (Counter::Rx.place(), 10),
                    (Counter::Tx.place(), 4),
                    (ReplyKind::Arp.place(), 1),
                    (PuntReason::Multicast.place(), 2),
                    (DropReason::NoRoute.place(), 3),
                ],
            ),
            (
                0,
                1,
                [
                    (Counter::Rx.place(), 6),
                    (Counter::Held.place(), 1),
                    (DropReason::NoRoute.place(), 2),
                    (DropReason::TtlExceeded.place(), 3),
                    (Counter::Originated.place(), 5),
                ],
            ),
            (
                1,
                0,
                [
                    (Counter::Rx.place(), 5),
                    (Counter::Tx.place(), 5),
                    (Counter::Out.place(), 5),
                    (Counter::RxBytes.place(), 320),
                    (Counter::OutBytes.place(), 320),
                ],
            ),
        ] {
            let counters = fixture.segment.counters(worker).unwrap();
            for (place, n) in booked {
                counters.interface(InterfaceId(interface)).add(place, n);
            }
        }
        fixture
    }

    #[test]
    fn the_ledger_is_shown_by_worker_by_interface_and_by_reason() {
        let json = view(&busy().engine).json;
        assert_eq!(json["balanced"], true);
        assert_eq!(
            json["workers"],
            json!([
                {"worker": 0, "rx": 16, "tx": 4, "replies": 1, "punts": 2, "held": 1, "drops": 8, "imbalance": 0, "settled": true},
                {"worker": 1, "rx": 5, "tx": 5, "replies": 0, "punts": 0, "held": 0, "drops": 0, "imbalance": 0, "settled": true},
            ])
        );
        let total = json!({"rx": 21, "tx": 9, "replies": 1, "punts": 2, "held": 1, "drops": 8, "imbalance": 0});
        assert_eq!(json["total"], total);
        assert_eq!(
            json["interfaces"][0],
            json!({"interface": "eth0", "rx_packets": 15, "rx_bytes": 320, "tx_packets": 9, "held_packets": 0,
                "originated_packets": 0, "out_packets": 5, "out_bytes": 320, "imbalance": 0,
                "replies": {"arp-reply": 1}, "punts": {"multicast": 2}, "drops": {"no_route": 3}})
        );
        assert_eq!(json["interfaces"][1]["drops"], json!({"no_route": 2, "ttl_exceeded": 3}));
        assert_eq!(json["drops"], json!({"no_route": 5, "ttl_exceeded": 3}));
    }

    #[test]
    fn what_a_pods_interface_dropped_names_the_pod() {
        let mut fixture = Fixture::new();
        let counters = fixture.segment.counters(0).unwrap();
        for counter in [Counter::Rx.place(), DropReason::Spoofed.place()] {
            counters.interface(InterfaceId(1)).add(counter, 3);
        }
        fixture.guard(1, "Pod default/web-0");
        let view = view(&fixture.engine);
        assert_eq!(view.json["interfaces"][1]["pod"], "Pod default/web-0");
        assert_eq!(view.json["interfaces"][1]["drops"], json!({"spoofed": 3}));
        assert!(view.json["interfaces"][0].get("pod").is_none());
        let text = view.text();
        let words = text.split_whitespace().collect::<Vec<&str>>().join(" ");
        assert!(words.contains("eth1 (Pod default/web-0)"), "{text}");
    }

    #[test]
    fn people_see_the_sums_the_reasons_and_what_they_mean() {
        let text = view(&busy().engine).text();
        let lines: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines[..4],
            [
                "WORKER RX TX REPLIES PUNTS HELD DROPS",
                "0 16 4 1 2 1 8",
                "1 5 5 0 0 0 0",
                "total 21 9 1 2 1 8"
            ]
        );
        assert_eq!(lines[5], "ledger: balanced (rx = tx + replies + punts + held + drops)");
        assert!(lines.contains(&"eth1 6 0 0 0 1 5".to_owned()), "{text}");
        let all = lines.join(" ");
        assert!(
            all.contains("eth1 drop ttl_exceeded 3 The TTL or hop limit ran out here"),
            "{text}"
        );
        assert!(all.contains("eth0 punt multicast 2 To a group."), "{text}");
        assert!(!text.contains("blackhole"), "only what happened is listed: {text}");
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
    }

    #[test]
    fn a_packet_that_nothing_accounts_for_is_reported() {
        let fixture = busy();
        fixture.segment.counters(1).unwrap().interface(InterfaceId(1)).add(Counter::Rx.place(), 2);
        let view = view(&fixture.engine);
        assert_eq!(view.json["balanced"], false);
        assert_eq!(
            (&view.json["workers"][0]["imbalance"], &view.json["workers"][1]["imbalance"]),
            (&json!(0), &json!(2))
        );
        assert_eq!(view.json["interfaces"][1]["imbalance"], 2);
        assert!(
            view.text().contains(
                "ledger: NOT balanced: worker 1 does not account for 2 packets (at rest)"
            )
        );
    }

    #[test]
    fn a_packet_that_is_accounted_for_twice_is_reported_and_so_is_one_on_the_wrong_interface() {
        let fixture = busy();
        let counters = fixture.segment.counters(1).unwrap();
        counters.interface(InterfaceId(1)).add(Counter::Tx.place(), 1);
        let shown = view(&fixture.engine);
        assert!(
            shown.text().contains("worker 1 accounts for 1 more packets than it received"),
            "{}",
            shown.text()
        );
        counters.interface(InterfaceId(0)).add(Counter::Rx.place(), 1);
        let shown = view(&fixture.engine);
        assert_eq!(
            (&shown.json["balanced"], &shown.json["total"]["imbalance"]),
            (&json!(false), &json!(0))
        );
        assert!(
            shown.text().contains("worker 1 has booked packets on the wrong interface"),
            "{}",
            shown.text()
        );
    }
}

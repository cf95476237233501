//! Neighbors: the stations on each link and what is known of them.
//!
//! The age is the time since the last confirmation, or since the row was made. When a neighbor was last used is not
//! shown: the table dates a row that was learned unasked back, so that it is the first to be evicted.

use millrace_dataplane::clock;
use serde_json::json;

use super::{Part, View, or_none, seconds};
use crate::live::Engine;

pub(super) fn view(engine: &Engine) -> Result<View, String> {
    let (mut neighbors, occupancy) =
        engine.state.neighbors(clock::now()).map_err(|e| e.to_string())?;
    neighbors.sort_by_key(|neighbor| (neighbor.interface, neighbor.addr));
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for neighbor in neighbors {
        let interface = engine.interface_name(neighbor.interface);
        let (address, mac) = (neighbor.addr.to_ip(), neighbor.mac.map(|mac| mac.to_string()));
        let age = seconds(neighbor.confirmed);
        let state = neighbor.state.name();
        values.push(json!({
            "interface": interface, "address": address, "mac": mac, "state": state, "age": age,
        }));
        rows.push(vec![interface, address.to_string(), or_none(mac), state.to_owned(), age]);
    }
    let headers = &["INTERFACE", "ADDRESS", "MAC", "STATE", "AGE"];
    let note = format!(
        "{} of {} neighbors, {} being asked for; {} evicted and {} refused since the start",
        occupancy.live,
        engine.state.sizes().neighbor_entries,
        occupancy.incomplete,
        occupancy.evicted,
        occupancy.refused,
    );
    let table = Part::Grid { headers, rows, prose: false };
    Ok(View { parts: vec![table, Part::Note(note)], json: values.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::fixture::{Fixture, addr, mac};
    use millrace_dataplane::clock::SECOND;
    use millrace_dataplane::state::neighbor::Learn;
    use millrace_tables::InterfaceId;

    #[test]
    fn neighbors_are_listed_by_interface_and_address_known_or_not() {
        let fixture = Fixture::new();
        let table = fixture.segment.neighbors(&fixture.settings).unwrap();
        let now = clock::now();
        let before = now.saturating_sub(90 * SECOND);
        table.resolve(InterfaceId(1), &addr("192.168.1.1"), now);
        for last in [9, 1] {
            let station = addr(&format!("192.168.0.{last}"));
            table.resolve(InterfaceId(0), &station, before);
            table.learn(InterfaceId(0), &station, mac(last), Learn::Reply, before);
        }
        let view = view(&fixture.engine).unwrap();
        let rows = view.json.as_array().unwrap();
        let short = |key: &str| rows.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
        assert_eq!(short("address"), ["192.168.0.1", "192.168.0.9", "192.168.1.1"]);
        assert_eq!(short("interface"), ["eth0", "eth0", "eth1"]);
        assert_eq!(
            short("mac"),
            [json!("02:00:00:00:00:01"), json!("02:00:00:00:00:09"), json!(null)]
        );
        assert_eq!(short("state"), ["REACHABLE", "REACHABLE", "INCOMPLETE"]);
        assert_eq!(rows[0]["age"], "1m30s");
        let text = view.text();
        assert!(text.lines().nth(3).is_some_and(|line| line.contains(" -  ")), "{text}");
        assert!(
            text.ends_with(
                "\n\n3 of 64 neighbors, 1 being asked for; 0 evicted and 0 refused since the start"
            ),
            "{text}"
        );
    }
}

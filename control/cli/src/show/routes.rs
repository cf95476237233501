//! Routes: each prefix, what the longest match means, and where it leads.

use millrace_tables::{NextHop, Route};
use serde_json::json;

use super::{NONE, Part, View};
use crate::live::Engine;

pub(super) fn view(engine: &Engine) -> View {
    let snapshot = engine.tables.snapshot();
    let mut routes: Vec<_> = snapshot.routes().collect();
    routes.sort_unstable_by_key(|(prefix, _)| *prefix);
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for (prefix, route) in routes {
        let (kind, hops) = match route {
            Route::Blackhole => ("blackhole", Vec::new()),
            Route::Unreachable => ("unreachable", Vec::new()),
            Route::Local => ("local", Vec::new()),
            Route::Vip => ("vip", Vec::new()),
            Route::Forward(group) => ("forward", snapshot.next_hops(group)),
        };
        // All cells of a route have as many lines as it has next hops.
        let column = |cell: &dyn Fn(&NextHop, u16) -> String| match hops.as_slice() {
            [] => NONE.to_owned(),
            some => {
                some.iter().map(|(hop, weight)| cell(hop, *weight)).collect::<Vec<_>>().join("\n")
            }
        };
        let gateway = |hop: &NextHop| hop.gateway.map(|gateway| gateway.to_ip());
        rows.push(vec![
            prefix.to_string(),
            kind.to_owned(),
            column(&|hop, _| {
                gateway(hop).map_or_else(|| "on-link".to_owned(), |ip| ip.to_string())
            }),
            column(&|hop, _| engine.interface_name(hop.interface)),
            column(&|_, weight| weight.to_string()),
        ]);
        let hop = |(hop, weight): &(NextHop, u16)| json!({ "gateway": gateway(hop), "interface": engine.interface_name(hop.interface), "weight": weight });
        values.push(json!({ "prefix": prefix, "kind": kind, "next_hops": hops.iter().map(hop).collect::<Vec<_>>() }));
    }
    let table = Part::Grid {
        headers: &["PREFIX", "KIND", "NEXT HOP", "INTERFACE", "WEIGHT"],
        rows,
        prose: false,
    };
    View { parts: vec![table], json: values.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::fixture::Fixture;

    #[test]
    fn routes_come_in_order_with_every_next_hop_and_its_weight() {
        let view = view(&Fixture::new().engine);
        let text = view.text();
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["PREFIX", "KIND", "NEXT", "HOP", "INTERFACE", "WEIGHT"]);
        assert_eq!(lines[1], ["0.0.0.0/0", "forward", "192.168.0.1", "eth0", "3"]);
        assert_eq!(lines[2], ["192.168.1.1", "eth1", "1"]);
        assert!(lines.contains(&vec!["172.30.0.41/32", "vip", "-", "-", "-"]));
        assert!(lines.contains(&vec!["192.168.0.0/24", "forward", "on-link", "eth0", "1"]));
        assert!(lines.contains(&vec!["198.51.100.0/24", "blackhole", "-", "-", "-"]));
        assert_eq!(*lines.last().unwrap(), ["fd00:30::41/128", "vip", "-", "-", "-"]);
        assert_eq!(
            view.json[0],
            json!({"prefix": "0.0.0.0/0", "kind": "forward", "next_hops": [
                {"gateway": "192.168.0.1", "interface": "eth0", "weight": 3},
                {"gateway": "192.168.1.1", "interface": "eth1", "weight": 1},
            ]})
        );
        let rows = view.json.as_array().unwrap();
        let link = rows.iter().find(|row| row["prefix"] == "192.168.0.0/24").unwrap();
        assert_eq!(link["next_hops"][0]["gateway"], json!(null));
    }
}

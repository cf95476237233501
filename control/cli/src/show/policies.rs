//! Policies: how many pods each selects, and what it has decided since it has been there.

use millrace_dataplane::state::policy::PolicyCounts;
use millrace_tables::PolicyRow;
use serde_json::{Value, json};

use super::{Part, View};
use crate::live::Engine;

pub(super) fn view(engine: &Engine) -> Result<View, String> {
    let snapshot = engine.tables.snapshot();
    let book = engine.state.policies().map_err(|e| e.to_string())?;
    let mut rows: Vec<(PolicyRow, PolicyCounts)> = snapshot
        .policies()
        .map(|row| {
            let counts = book.counts(row.id, row.fingerprint);
            (row, counts)
        })
        .collect();
    rows.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let headers = &["POLICY", "PODS", "MODE", "ALLOWED", "DENIED", "WOULD DENY"];
    let cells = |(row, counts): &(PolicyRow, PolicyCounts)| {
        vec![
            row.name.clone(),
            row.pods.to_string(),
            mode(row).to_owned(),
            counts.allowed.to_string(),
            counts.denied.to_string(),
            counts.shadow.to_string(),
        ]
    };
    let grid = Part::Grid { headers, rows: rows.iter().map(cells).collect(), prose: false };
    Ok(View { parts: vec![grid], json: rows.iter().map(json_of).collect() })
}

fn mode(row: &PolicyRow) -> &'static str {
    if row.shadow { "shadow" } else { "enforce" }
}

fn json_of((row, counts): &(PolicyRow, PolicyCounts)) -> Value {
    json!({
        "policy": row.name, "pods": row.pods, "mode": mode(row), "allowed": counts.allowed,
        "denied": counts.denied, "would_deny": counts.shadow,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::fixture::Fixture;
    use millrace_dataplane::state::policy::Count;
    use millrace_tables::PolicyId;

    #[test]
    fn a_policy_shows_its_pods_and_what_all_workers_counted() {
        let fixture = Fixture::new();
        let snapshot = fixture.engine.tables.snapshot();
        fixture.segment.view().policies().unwrap().label(snapshot.policy_fingerprints());
        for worker in 0..2 {
            let counters = fixture.segment.counters(worker).unwrap().policies;
            counters.add(PolicyId(0), Count::Allowed);
            counters.add(PolicyId(0), Count::Denied);
            counters.add(PolicyId(3), Count::Shadow);
        }
        let view = view(&fixture.engine).unwrap();
        assert_eq!(
            view.json,
            json!([
                {"policy": "ClusterNetworkPolicy watch", "pods": 40, "mode": "shadow", "allowed": 0, "denied": 0, "would_deny": 2},
                {"policy": "NetworkPolicy default/web", "pods": 3, "mode": "enforce", "allowed": 2, "denied": 2, "would_deny": 0},
            ])
        );
        let text = view.text();
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["POLICY", "PODS", "MODE", "ALLOWED", "DENIED", "WOULD", "DENY"]);
        assert_eq!(lines[2], ["NetworkPolicy", "default/web", "3", "enforce", "2", "2", "0"]);
    }
}

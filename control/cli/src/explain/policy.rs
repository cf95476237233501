//! What policies decided, in words: who refused, who had a say.
//!
//! A rule is named with its policy and its number; a default deny with the policies that isolate the endpoint, since no rule decided.

use millrace_dataplane::trace::Step;
use millrace_tables::{Decision, PolicyId, Snapshot};
use millrace_wire::Addr;

fn direction(ingress: bool) -> &'static str {
    if ingress { "ingress" } else { "egress" }
}

/// `NetworkPolicy default/web`.
fn name(id: PolicyId, tables: Snapshot<'_>) -> String {
    tables.policy(id).map_or_else(|| format!("policy {}", id.0), |row| row.name)
}

/// `NetworkPolicy default/web (ingress) rule 2`, `NetworkPolicy default/deny-all (ingress)`.
fn by(id: PolicyId, rule: Option<u16>, ingress: bool, tables: Snapshot<'_>) -> String {
    let rule = rule.map_or(String::new(), |rule| format!(" rule {rule}"));
    format!("{} ({}){rule}", name(id, tables), direction(ingress))
}

/// The object that refused a flow: that of the first refusal, which is egress' where both ends refuse.
pub fn refuser(steps: &[Step], tables: Snapshot<'_>) -> Option<String> {
    steps.iter().find_map(|step| match step {
        Step::Closed { endpoint } => Some(closed(endpoint, tables)),
        Step::Judged { ingress, decision } if !decision.is_allowed() => {
            decision.policy().map(|id| by(id, decision.rule(), *ingress, tables))
        }
        _ => None,
    })
}

/// Every policy that decided about the flow, once each, in the order in which they did.
pub fn deciders(steps: &[Step], tables: Snapshot<'_>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for step in steps {
        if let Step::Judged { decision, .. } = step {
            let names = tables.deciders(decision, false).map(|id| name(id, tables));
            for name in names {
                if !all.contains(&name) {
                    all.push(name);
                }
            }
        }
    }
    all
}

/// Of an address whose policies are not known yet, or that several pods say they have.
pub fn closed(endpoint: &Addr, tables: Snapshot<'_>) -> String {
    let names = tables.endpoint_name(&tables.policy_endpoint(endpoint)).unwrap_or_default();
    let why = match names.is_empty() {
        true => "nothing is known yet of who may reach it".to_owned(),
        false => format!("pods {names} all have it, and policies treat them differently"),
    };
    format!("{}: {why}", endpoint.to_ip())
}

/// A decision.
pub fn words(decision: &Decision, ingress: bool, tables: Snapshot<'_>) -> String {
    let side = direction(ingress);
    let rule = |id, rule| by(id, rule, ingress, tables);
    let all = |shadow| {
        let names: Vec<String> =
            tables.deciders(decision, shadow).map(|id| name(id, tables)).collect();
        names.join(", ")
    };
    let mut said = match (decision.policy(), decision.rule(), decision.is_allowed()) {
        (Some(id), number @ Some(_), true) => format!("allowed by {}", rule(id, number)),
        (Some(id), number @ Some(_), false) => format!("denied by {}", rule(id, number)),
        (Some(_), None, true) => format!("allowed ({side}) by {}", all(false)),
        (Some(_), None, false) => {
            format!("default deny ({side}) because selected by {}", all(false))
        }
        (None, _, true) => format!("allowed ({side}): no rule is about it"),
        (None, _, false) => format!("denied ({side}): the tables have no rules for it"),
    };
    if decision.would_be_denied() {
        let why = match (decision.shadow_policy(), decision.shadow_rule()) {
            (Some(id), number @ Some(_)) => rule(id, number),
            _ => format!("{} ({side})", all(true)),
        };
        said.push_str(&format!("; in shadow mode, would be denied by {why}"));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_tables::{
        ByPolicies, ClassId, DecisionId, DecisionSpec, PolicySpec, PortMapId, PortMapSpec,
        SegmentConfig, SubjectId, Writer,
    };

    /// Port n of TCP has decision n.
    fn writer(decisions: &[DecisionSpec]) -> Writer {
        let mut writer =
            Writer::create(&SegmentConfig { bytes: 4 << 20, ..SegmentConfig::default() }).unwrap();
        for (id, name) in [
            "NetworkPolicy default/deny-all",
            "NetworkPolicy default/web",
            "ClusterNetworkPolicy edge",
        ]
        .into_iter()
        .enumerate()
        {
            let spec = PolicySpec { name: name.into(), ..PolicySpec::default() };
            writer.set_policy(PolicyId(id as u32), &spec).unwrap();
        }
        let mut map = PortMapSpec::all(DecisionId(0));
        map.tcp = (0..decisions.len()).map(|n| (n as u16, DecisionId(n as u32))).collect();
        writer.set_port_map(PortMapId(0), &map).unwrap();
        writer.set_subject(SubjectId(0), PortMapId(0)).unwrap();
        for (id, spec) in decisions.iter().enumerate() {
            writer.set_decision(DecisionId(id as u32), spec).unwrap();
        }
        writer.publish().unwrap();
        writer
    }

    fn by(policies: &[u32], rule: Option<u16>) -> ByPolicies {
        ByPolicies { policies: policies.iter().map(|id| PolicyId(*id)).collect(), rule }
    }

    #[test]
    fn decisions_name_the_policy_and_the_rule_or_who_isolates() {
        let spec = |allow, by, shadow| DecisionSpec { allow, by, shadow };
        let writer = writer(&[
            spec(false, by(&[0, 1], None), None),
            spec(true, by(&[1], Some(2)), Some(by(&[2], Some(1)))),
            spec(false, by(&[2], Some(3)), None),
            spec(true, by(&[], None), Some(by(&[0], None))),
        ]);
        let tables = writer.tables();
        let tables = tables.snapshot();
        let decision = |port| tables.judge(SubjectId(0), ClassId(0), 6, port);
        let said = |port| words(&decision(port), true, tables);
        assert_eq!(
            said(0),
            "default deny (ingress) because selected by NetworkPolicy default/deny-all, NetworkPolicy default/web"
        );
        assert_eq!(
            said(1),
            "allowed by NetworkPolicy default/web (ingress) rule 2; in shadow mode, would be denied by ClusterNetworkPolicy edge (ingress) rule 1"
        );
        assert_eq!(said(2), "denied by ClusterNetworkPolicy edge (ingress) rule 3");
        assert_eq!(
            said(3),
            "allowed (ingress): no rule is about it; in shadow mode, would be denied by NetworkPolicy default/deny-all (ingress)"
        );
        let steps = |port| [Step::Judged { ingress: true, decision: decision(port) }];
        assert_eq!(
            refuser(&steps(0), tables).as_deref(),
            Some("NetworkPolicy default/deny-all (ingress)")
        );
        assert_eq!(refuser(&steps(1), tables), None);
        assert_eq!(
            refuser(&steps(2), tables).as_deref(),
            Some("ClusterNetworkPolicy edge (ingress) rule 3")
        );
        let both = [
            Step::Judged { ingress: false, decision: decision(2) },
            Step::Judged { ingress: true, decision: decision(0) },
        ];
        assert_eq!(
            refuser(&both, tables).as_deref(),
            Some("ClusterNetworkPolicy edge (egress) rule 3")
        );
        assert_eq!(
            deciders(&steps(0), tables),
            ["NetworkPolicy default/deny-all", "NetworkPolicy default/web"]
        );
    }
}

//! Policies: what the tables say of flows, against a model, against themselves, and in words.

mod combinations;
mod malformed;
mod memory;
mod model;
mod random;
mod worlds;

use millrace_tables::{Decision, Snapshot};
use millrace_wire::Addr;

/// Whether a flow may begin, as the engine judges it (`dataplane/src/pipeline/policy.rs`), and the decisions: of the source's rules, and
/// of the destination's.
pub fn judge(
    snapshot: Snapshot<'_>,
    from: Addr,
    to: Addr,
    protocol: u8,
    port: u16,
) -> (bool, Option<Decision>, Option<Decision>) {
    let (source, destination) = (snapshot.policy_endpoint(&from), snapshot.policy_endpoint(&to));
    // By way of a service: other packets of a pod to itself don't leave it.
    if from == to && !source.is_node() {
        let [egress, ingress] = snapshot.judge_itself(&source, protocol, port);
        let allowed = [egress, ingress].iter().flatten().all(Decision::is_allowed);
        return (allowed, egress, ingress);
    }
    let unfenced = destination.is_node() && !source.is_fenced();
    if !snapshot.has_policies() || source.is_node() || unfenced || from == to {
        return (true, None, None);
    }
    let egress =
        source.egress().map(|subject| snapshot.judge(subject, destination.class, protocol, port));
    let ingress =
        destination.ingress().map(|subject| snapshot.judge(subject, source.class, protocol, port));
    let closed = (source.is_closed() || destination.is_closed()) && !destination.is_node();
    let allowed = !closed && [egress, ingress].iter().flatten().all(Decision::is_allowed);
    (allowed, egress, ingress)
}

/// The same in words: `allow` or `deny`, by whom, and what shadow policies would do.
pub fn said(snapshot: Snapshot<'_>, from: Addr, to: Addr, protocol: u8, port: u16) -> String {
    let (allowed, egress, ingress) = judge(snapshot, from, to, protocol, port);
    let mut line = String::from(if allowed { "allow" } else { "deny" });
    for (decision, direction) in [(egress, "egress"), (ingress, "ingress")] {
        let Some(decision) = decision else { continue };
        assert!(!decision.is_missing(), "the tables have no decision");
        let who = |shadow: bool| {
            let names = snapshot.deciders(&decision, shadow);
            let names = names.map(|id| snapshot.policy(id).expect("a policy that decides").name);
            names.collect::<Vec<String>>().join(", ")
        };
        let by = |names: String, rule: Option<u16>| {
            let rule = rule.map(|rule| format!(" rule {rule}")).unwrap_or_default();
            format!(" {names} ({direction}){rule}")
        };
        // Of a denial only who denies.
        if decision.is_allowed() == allowed && decision.policy().is_some() {
            line = line + " by" + &by(who(false), decision.rule());
        }
        if decision.would_be_denied() {
            line = line + " shadow by" + &by(who(true), decision.shadow_rule());
        }
    }
    if !allowed && egress.is_none_or(|d| d.is_allowed()) && ingress.is_none_or(|d| d.is_allowed()) {
        line += " closed";
    }
    line
}
